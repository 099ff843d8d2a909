//! Deletes checkpoints that nothing names any more.

use std::collections::HashSet;

use workrs_core::{
    id::{Epoch, JobId, OperationId},
    job::BlobRef,
    keys::{BlobNames, parse_checkpoint},
};

use super::{Checkpoints, MANIFEST, PACK, fetch::read_manifest};
use crate::blobs::BlobError;

impl Checkpoints {
    /// Deletes the job's checkpoints up to and including `newest_epoch`, but for those in `keep`, the packs that
    /// they name, and what the operation `in_flight` is writing. Gives the number of bytes freed.
    ///
    /// Only the job's holder may do this, while the record names no more than `keep`. While a kept manifest cannot
    /// be read, no pack is deleted.
    pub async fn collect(
        &self,
        job: &JobId,
        keep: &[&BlobRef],
        newest_epoch: Epoch,
        in_flight: Option<&OperationId>,
    ) -> Result<u64, BlobError> {
        let prefix = BlobNames(job).checkpoints();
        let (named, packs_are_known) = self.named(keep).await;
        let in_flight: Vec<String> =
            in_flight.iter().flat_map(|op| [MANIFEST, PACK].map(|p| format!("-{op}.{p}"))).collect();
        let is_in_flight = move |name: &str| in_flight.iter().any(|suffix| name.ends_with(suffix));
        let is_old = move |name: &str| parse_checkpoint(name).is_some_and(|id| id.epoch <= newest_epoch);
        let mut doomed = self.blobs.list(&prefix).await?;
        doomed.retain(|(name, _)| is_old(name) && !is_in_flight(name) && !named.contains(name));
        doomed.retain(|(name, _)| packs_are_known || is_manifest(name));
        // Manifests first: a crash in between leaves no manifest that names a deleted pack.
        doomed.sort_by_key(|(name, _)| !is_manifest(name));
        let mut freed = 0;
        for (name, len) in doomed {
            self.blobs.delete(&name).await?;
            freed += len;
        }
        self.blobs.sweep_unfinished(&prefix, move |name| !is_old(name) || is_in_flight(name)).await?;
        Ok(freed)
    }

    /// All names that must stay, and whether the kept manifests' packs are among them.
    async fn named(&self, keep: &[&BlobRef]) -> (HashSet<String>, bool) {
        let mut named: HashSet<String> = keep.iter().map(|blob| blob.name.clone()).collect();
        let mut packs_are_known = true;
        for blob in keep {
            match read_manifest(&self.blobs, blob).await {
                Ok(manifest) => named.extend(manifest.packs),
                Err(error) => {
                    tracing::warn!(manifest = blob.name, %error, "no pack is deleted: a kept manifest cannot be read");
                    packs_are_known = false;
                }
            }
        }
        (named, packs_are_known)
    }
}

fn is_manifest(name: &str) -> bool {
    name.ends_with(&format!(".{MANIFEST}"))
}
