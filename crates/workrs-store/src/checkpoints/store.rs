//! Stores a capture: a thread of low priority reads, hashes and compresses, and hands the pack over a bounded channel
//! to the task that uploads it.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use tokio::sync::mpsc;
use workrs_core::{
    keys::BlobNames,
    manifest::{MANIFEST_VERSION, Manifest},
};

use super::{
    CheckpointError, Checkpoints, MANIFEST, NewCheckpoint, PACK, Stored,
    background::background,
    capture::{self, Captured},
    pack::BATCHES,
};
use crate::blobs::BlobWriter;

impl Checkpoints {
    /// Stores a capture; once this has returned `Ok`, all of it is durable and was read back.
    ///
    /// Memory stays bounded, whatever the size of the capture, but for about 200 bytes for each of its chunks.
    pub async fn store(&self, new: NewCheckpoint<'_>) -> Result<Stored, CheckpointError> {
        let names = BlobNames(new.job);
        let pack = names.checkpoint(new.id, new.operation, PACK);
        let (batches, receiver) = mpsc::channel(BATCHES);
        // A manifest that named another job's packs could not be restored.
        let base = new.base.filter(|base| base.manifest.job == *new.job).cloned();
        let (sources, head, pack_name) = (new.parts.to_vec(), head(&new), pack.clone());
        let capture = background(move || capture::read(&sources, base.as_ref(), head, pack_name, batches));
        let mut upload = Upload { writer: self.blobs.writer(&pack), len: 0, limit_bytes: new.limit_bytes };
        let captured = match upload.take(receiver).await {
            Ok(()) => capture.await.map_err(CheckpointError::Capture).flatten(),
            // The capture ends early, and this is why.
            Err(error) => Err(error),
        };
        let captured = captured.and_then(|captured| upload.check_limit(captured.written.len()).map(|()| captured));
        let Captured { manifest, written, entries } = match captured {
            Ok(captured) => captured,
            Err(error) => {
                let _ = upload.writer.abort().await;
                return Err(error);
            }
        };
        if !entries.is_empty() {
            upload.writer.finish().await?;
            self.read_back(&manifest, entries).await?;
        }
        let blob = self.blobs.put(&names.checkpoint(new.id, new.operation, MANIFEST), written).await?;
        Ok(Stored {
            uploaded_bytes: upload.len + blob.len,
            size_bytes: manifest.size_bytes(),
            manifest: blob,
            contents: Arc::new(manifest),
        })
    }
}

/// What the manifest says besides what was captured.
fn head(new: &NewCheckpoint<'_>) -> Manifest {
    Manifest {
        version: MANIFEST_VERSION,
        job: new.job.clone(),
        id: new.id,
        mode: new.mode,
        needs: new.needs.clone(),
        run_ms: new.run_ms,
        log_bytes: new.log_bytes,
        packs: Vec::new(),
        pack_bytes: Vec::new(),
        pack_indexes: Vec::new(),
        parts: Vec::new(),
        unknown: BTreeMap::new(),
    }
}

/// A pack on its way.
struct Upload {
    writer: BlobWriter,
    len: u64,
    limit_bytes: Option<u64>,
}

impl Upload {
    async fn take(&mut self, mut batches: mpsc::Receiver<Bytes>) -> Result<(), CheckpointError> {
        while let Some(batch) = batches.recv().await {
            self.len += batch.len() as u64;
            self.check_limit(0)?;
            self.writer.write(batch).await?;
        }
        Ok(())
    }

    /// Whether `more` bytes can be written beside the pack.
    fn check_limit(&self, more: usize) -> Result<(), CheckpointError> {
        match self.limit_bytes {
            Some(limit_bytes) if self.len + more as u64 > limit_bytes => {
                Err(CheckpointError::OverLimit { limit_bytes })
            }
            _ => Ok(()),
        }
    }
}
