//! Stores a capture: a blocking task reads, hashes and compresses, and hands packed chunks over a bounded channel
//! to the task that uploads them.

use std::{
    collections::{BTreeMap, HashMap},
    fs::File,
    io,
    path::Path,
};

use bytes::Bytes;
use tokio::sync::mpsc;
use workrs_core::{
    hash::ContentHash,
    keys::BlobNames,
    manifest::{Chunk, Content, FileContent, MANIFEST_VERSION, Manifest, Part},
};

use super::{
    CheckpointError, Checkpoints, MANIFEST, NewCheckpoint, PACK, PartSource, Stored,
    chunks::{self, Packer},
};
use crate::blobs::{BlobError, BlobWriter};

/// Packed chunks between the two tasks.
const CHANNEL: usize = 64;
const MANIFEST_ZSTD_LEVEL: i32 = 3;

impl Checkpoints {
    /// Stores a capture; once this has returned `Ok`, all of it is durable. Memory stays bounded, whatever its size.
    pub async fn store(&self, new: NewCheckpoint<'_>) -> Result<Stored, CheckpointError> {
        let names = BlobNames(new.job);
        let pack = names.checkpoint(new.id, new.operation, PACK);
        let (sender, receiver) = mpsc::channel(CHANNEL);
        let sources = new.parts.to_vec();
        let capture = tokio::task::spawn_blocking(move || Capture::new(sender)?.read(&sources));
        let uploaded = upload(self.blobs.writer(&pack), receiver).await;
        // When the upload failed, the capture ended early, and this error is the cause.
        let (writer, packed_bytes) = uploaded?;
        let parts = match capture.await {
            Ok(Ok(parts)) => parts,
            Ok(Err(error)) => {
                let _ = writer.abort().await;
                return Err(error);
            }
            Err(error) => return Err(CheckpointError::Capture(error.to_string())),
        };
        let packs = if packed_bytes > 0 { vec![writer.finish().await?.name] } else { Vec::new() };
        let manifest = Manifest {
            version: MANIFEST_VERSION,
            job: new.job.clone(),
            id: new.id,
            mode: new.mode,
            needs: new.needs,
            run_ms: new.run_ms,
            log_bytes: new.log_bytes,
            packs,
            parts,
            unknown: BTreeMap::new(),
        };
        manifest.validate(new.job, new.id).map_err(|error| CheckpointError::Capture(error.to_string()))?;
        let size_bytes = manifest.size_bytes();
        let bytes = tokio::task::spawn_blocking(move || encode_manifest(&manifest)).await;
        let bytes =
            bytes.map_err(io::Error::other).flatten().map_err(|error| capture_error(Path::new(MANIFEST), &error))?;
        let blob = self.blobs.put(&names.checkpoint(new.id, new.operation, MANIFEST), bytes).await?;
        Ok(Stored { uploaded_bytes: packed_bytes + blob.len, manifest: blob, size_bytes })
    }
}

async fn upload(mut writer: BlobWriter, mut chunks: mpsc::Receiver<Bytes>) -> Result<(BlobWriter, u64), BlobError> {
    let mut len = 0;
    while let Some(chunk) = chunks.recv().await {
        len += chunk.len() as u64;
        if let Err(error) = writer.write(chunk).await {
            let _ = writer.abort().await;
            return Err(error);
        }
    }
    Ok((writer, len))
}

fn encode_manifest(manifest: &Manifest) -> io::Result<Bytes> {
    let json = serde_json::to_vec(manifest)?;
    Ok(zstd::bulk::compress(&json, MANIFEST_ZSTD_LEVEL)?.into())
}

/// Reads a capture, chunk by chunk. Equal chunks are stored once.
struct Capture {
    sender: mpsc::Sender<Bytes>,
    packer: Packer,
    known: HashMap<ContentHash, (u64, u32)>,
    offset: u64,
}

impl Capture {
    fn new(sender: mpsc::Sender<Bytes>) -> Result<Self, CheckpointError> {
        let packer = Packer::new().map_err(|error| CheckpointError::Capture(error.to_string()))?;
        Ok(Self { sender, packer, known: HashMap::new(), offset: 0 })
    }

    fn read(mut self, sources: &[PartSource]) -> Result<Vec<Part>, CheckpointError> {
        let mut parts = Vec::new();
        for source in sources {
            parts.push(match source {
                PartSource::Folder { name, path } => Part::Folder { name: name.clone(), files: self.folder(path)? },
                PartSource::Image { name, path } => Part::Image { name: name.clone(), content: self.file(path)? },
            });
        }
        Ok(parts)
    }

    fn folder(&mut self, path: &Path) -> Result<Vec<FileContent>, CheckpointError> {
        let failed = |error: io::Error| capture_error(path, &error);
        let mut names = Vec::new();
        for entry in std::fs::read_dir(path).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().into_string();
            names.push(name.map_err(|name| CheckpointError::Capture(format!("{} is not UTF-8", name.display())))?);
        }
        names.sort();
        let file = |name: String| Ok(FileContent { content: self.file(&path.join(&name))?, name });
        names.into_iter().map(file).collect()
    }

    fn file(&mut self, path: &Path) -> Result<Content, CheckpointError> {
        let failed = |error: io::Error| capture_error(path, &error);
        if !std::fs::symlink_metadata(path).map_err(failed)?.is_file() {
            return Err(CheckpointError::Capture(format!("{} is not a regular file", path.display())));
        }
        let file = File::open(path).map_err(failed)?;
        let len = file.metadata().map_err(failed)?.len();
        let mut chunks = Vec::new();
        chunks::cut(&file, len, |at, bytes| {
            chunks.push(self.chunk(at, bytes)?);
            Ok::<_, io::Error>(())
        })
        .map_err(failed)?;
        Ok(Content { len, chunks })
    }

    fn chunk(&mut self, at: u64, bytes: &[u8]) -> io::Result<Chunk> {
        let hash = ContentHash::of(bytes);
        let (offset, stored) = match self.known.get(&hash) {
            Some(place) => *place,
            None => self.send(hash, bytes)?,
        };
        Ok(Chunk { at, len: bytes.len() as u32, hash, pack: 0, offset, stored })
    }

    fn send(&mut self, hash: ContentHash, bytes: &[u8]) -> io::Result<(u64, u32)> {
        let packed = self.packer.pack(bytes)?;
        let place = (self.offset, packed.len() as u32);
        self.sender.blocking_send(packed.into()).map_err(|_| io::Error::other("the upload ended early"))?;
        self.offset += u64::from(place.1);
        self.known.insert(hash, place);
        Ok(place)
    }
}

fn capture_error(path: &Path, error: &io::Error) -> CheckpointError {
    CheckpointError::Capture(format!("{}: {error}", path.display()))
}
