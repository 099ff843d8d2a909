//! Deletes checkpoints that nothing names any more.

use std::collections::HashSet;

use workrs_core::{
    id::{Epoch, JobId, OperationId},
    job::BlobRef,
    keys::{BlobNames, parse_checkpoint},
};

use super::{Checkpoints, Collected, MANIFEST, PACK, fetch::read_pack_names};
use crate::blobs::BlobError;

impl Checkpoints {
    /// Deletes the job's checkpoints up to and including `newest_epoch`, but for those in `keep`, the packs that
    /// they name, and what the operation `in_flight` is writing.
    ///
    /// Only the job's holder may do this, while the record names no more than `keep`. While a kept manifest cannot
    /// be read, no pack is deleted. It may be cut off anywhere: kept manifests and their packs are never touched,
    /// others lose the manifest before a pack, and the next collection takes the rest.
    pub async fn collect(
        &self,
        job: &JobId,
        keep: &[&BlobRef],
        newest_epoch: Epoch,
        in_flight: Option<&OperationId>,
    ) -> Result<Collected, BlobError> {
        let prefix = BlobNames(job).checkpoints();
        let (named, packs_are_known) = self.named(keep).await;
        let in_flight: Vec<String> =
            in_flight.iter().flat_map(|op| [MANIFEST, PACK].map(|p| format!("-{op}.{p}"))).collect();
        let is_in_flight = move |name: &str| in_flight.iter().any(|suffix| name.ends_with(suffix));
        let is_old = move |name: &str| parse_checkpoint(name).is_some_and(|id| id.epoch <= newest_epoch);
        let mut blobs = self.blobs.list(&prefix).await?;
        blobs.retain(|(name, _)| !is_in_flight(name));
        let is_doomed = |name: &str| is_old(name) && !named.contains(name) && (packs_are_known || is_manifest(name));
        let (doomed, kept): (Vec<_>, Vec<_>) = blobs.into_iter().partition(|(name, _)| is_doomed(name));
        let bytes = |blobs: &[(String, u64)]| blobs.iter().map(|(_, len)| len).sum();
        let collected = Collected { freed_bytes: bytes(&doomed), kept_bytes: bytes(&kept) };
        // Manifests first: a crash in between leaves no manifest that names a deleted pack.
        let (manifests, packs): (Vec<_>, Vec<_>) =
            doomed.iter().map(|(name, _)| name.as_str()).partition(|name| is_manifest(name));
        self.blobs.delete_all(manifests).await?;
        self.blobs.delete_all(packs).await?;
        self.blobs.sweep_unfinished(&prefix, move |name| !is_old(name) || is_in_flight(name)).await?;
        Ok(collected)
    }

    /// All names that must stay, and whether the kept manifests' packs are among them.
    async fn named(&self, keep: &[&BlobRef]) -> (HashSet<String>, bool) {
        let mut named: HashSet<String> = keep.iter().map(|blob| blob.name.clone()).collect();
        let mut packs_are_known = true;
        for blob in keep {
            match read_pack_names(&self.blobs, blob).await {
                Ok(packs) => named.extend(packs),
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
