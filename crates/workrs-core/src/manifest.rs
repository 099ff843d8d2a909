//! What a checkpoint consists of. The record names a manifest by hash, the manifest names every byte by hash,
//! so nothing is restored that does not lead back to the record.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    hash::ContentHash,
    id::JobId,
    image::ImageDigest,
    job::{CheckpointId, CheckpointMode},
};

/// The version of the manifest's form that this code writes.
pub const MANIFEST_VERSION: u32 = 1;

/// The contents of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`MANIFEST_VERSION`].
    pub version: u32,
    /// Whose checkpoint this is.
    pub job: JobId,
    /// Which one.
    pub id: CheckpointId,
    /// What it holds.
    pub mode: CheckpointMode,
    /// What a restore needs of the host.
    pub needs: RestoreNeeds,
    /// How long the job had run, unfrozen.
    pub run_ms: u64,
    /// Length of the log at the cut.
    pub log_bytes: u64,
    /// Blobs that hold the chunks: this checkpoint's own, and those of former ones of which it still needs chunks.
    pub packs: Vec<String>,
    /// Length of each pack, its index included. Empty in manifests of before there was more than one pack.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pack_bytes: Vec<u64>,
    /// The index at the end of each pack. Empty in manifests of before packs had one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pack_indexes: Vec<PackIndex>,
    /// What the engine captured.
    pub parts: Vec<Part>,
    /// Fields that a newer version wrote.
    #[serde(flatten)]
    pub unknown: BTreeMap<String, serde_json::Value>,
}

/// What a host must have for a restore to make sense.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreNeeds {
    /// The engine that captured, and the version of its form.
    pub engine: String,
    /// Version of the engine's form.
    pub format: u32,
    /// The processor architecture.
    pub arch: String,
    /// Files of the read-only base that the job had mapped, by their path within it; they must be the same.
    #[serde(default)]
    pub mapped: Vec<MappedFile>,
    /// The image that the job runs in; `None` is the node's own `/usr`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageDigest>,
    /// What the processor could do beyond the base of its architecture, as the kernel names it, sorted: programs look it up
    /// once and then rely on it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cpu_features: Vec<String>,
    /// The kernel's release. Empty where nobody noted it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub kernel: String,
    /// CRIU's version. Empty where nobody noted it, or for a capture without memory.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub criu: String,
}

/// What the end of a pack holds: length and hash of every chunk in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackIndex {
    /// Number of chunks in the pack.
    pub chunks: u32,
    /// Length of the index, as it is stored.
    pub bytes: u64,
    /// Hash of the index, as it is stored.
    pub hash: ContentHash,
}

/// A file of the read-only base that a job has mapped.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct MappedFile {
    /// Absolute path as the job sees it.
    pub path: String,
    /// Its length.
    pub len: u64,
    /// Its content.
    pub hash: ContentHash,
}

/// One named part of a capture.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Part {
    /// A folder of regular files without subfolders, such as CRIU's images.
    Folder {
        /// Its name among the parts.
        name: String,
        /// Its files.
        files: Vec<FileContent>,
    },
    /// One sparse file, such as the image of the job disk.
    Image {
        /// Its name among the parts.
        name: String,
        /// Its content.
        content: Content,
    },
}

/// A file of a folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileContent {
    /// Its name, without slashes.
    pub name: String,
    /// Its bytes.
    #[serde(flatten)]
    pub content: Content,
}

/// The bytes of a file; what no chunk covers is zero.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    /// Length of the file.
    pub len: u64,
    /// In ascending order, not overlapping.
    pub chunks: Vec<Chunk>,
}

/// A run of bytes and where they are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chunk {
    /// Where the bytes belong in the file.
    pub at: u64,
    /// Their number.
    pub len: u32,
    /// Their hash.
    pub hash: ContentHash,
    /// Index into [`Manifest::packs`].
    pub pack: u32,
    /// Where the compressed bytes begin in the pack.
    pub offset: u64,
    /// The number of compressed bytes.
    pub stored: u32,
}

/// A manifest whose numbers or names cannot be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidManifest {
    /// Written by a newer version.
    #[error("the manifest has version {0}, this version reads {MANIFEST_VERSION}")]
    Version(u32),
    /// Belongs to another checkpoint.
    #[error("the manifest is of checkpoint {0}")]
    OtherCheckpoint(CheckpointId),
    /// A name that is not one path component.
    #[error("{0:?} is not a file name")]
    Name(String),
    /// Packs whose number or lengths cannot be.
    #[error("the packs have impossible lengths")]
    Packs,
    /// Chunks that overlap, run over the end, name no pack or lie beyond its end.
    #[error("the chunks of {0:?} do not fit")]
    Chunks(String),
}

impl Manifest {
    /// Checks all that a restore relies on, before it touches anything.
    pub fn validate(&self, job: &JobId, id: CheckpointId) -> Result<(), InvalidManifest> {
        if self.version != MANIFEST_VERSION {
            return Err(InvalidManifest::Version(self.version));
        }
        if self.job != *job || self.id != id {
            return Err(InvalidManifest::OtherCheckpoint(self.id));
        }
        self.check_packs()?;
        for part in &self.parts {
            match part {
                Part::Folder { name, files } => {
                    check_component(name)?;
                    for file in files {
                        check_component(&file.name)?;
                        self.check_content(&file.name, &file.content)?;
                    }
                }
                Part::Image { name, content } => {
                    check_component(name)?;
                    self.check_content(name, content)?;
                }
            }
        }
        Ok(())
    }

    fn check_packs(&self) -> Result<(), InvalidManifest> {
        let agrees = |len| len == 0 || len == self.packs.len();
        let indexes_fit = self.pack_indexes.is_empty() || self.pack_indexes.len() == self.pack_bytes.len();
        let mut pairs = self.pack_indexes.iter().zip(&self.pack_bytes);
        let fits = agrees(self.pack_bytes.len()) && indexes_fit && pairs.all(|(index, bytes)| index.bytes <= *bytes);
        if fits { Ok(()) } else { Err(InvalidManifest::Packs) }
    }

    /// Where the chunks of a pack end and its index begins, if that is known.
    pub fn chunks_end(&self, pack: usize) -> Option<u64> {
        let index_bytes = self.pack_indexes.get(pack).map_or(0, |index| index.bytes);
        self.pack_bytes.get(pack)?.checked_sub(index_bytes)
    }

    fn check_content(&self, name: &str, content: &Content) -> Result<(), InvalidManifest> {
        let mut end = 0u64;
        for chunk in &content.chunks {
            let stored_end = chunk.offset.checked_add(u64::from(chunk.stored));
            let within = |pack_end| stored_end.is_some_and(|end| end <= pack_end);
            let fits = chunk.at >= end
                && (chunk.pack as usize) < self.packs.len()
                && self.chunks_end(chunk.pack as usize).is_none_or(within);
            end = chunk.at.saturating_add(u64::from(chunk.len));
            if !fits || end > content.len {
                return Err(InvalidManifest::Chunks(name.to_owned()));
            }
        }
        Ok(())
    }

    /// The contents of all files, in order.
    pub fn contents(&self) -> impl Iterator<Item = &Content> {
        self.parts.iter().flat_map(|part| match part {
            Part::Folder { files, .. } => files.iter().map(|file| &file.content).collect::<Vec<_>>(),
            Part::Image { content, .. } => vec![content],
        })
    }

    /// The contents of all files, in order.
    pub fn contents_mut(&mut self) -> impl Iterator<Item = &mut Content> {
        self.parts.iter_mut().flat_map(|part| match part {
            Part::Folder { files, .. } => files.iter_mut().map(|file| &mut file.content).collect::<Vec<_>>(),
            Part::Image { content, .. } => vec![content],
        })
    }

    /// The image of this name.
    pub fn image(&self, wanted: &str) -> Option<&Content> {
        self.parts.iter().find_map(|part| match part {
            Part::Image { name, content } if name == wanted => Some(content),
            _ => None,
        })
    }

    /// Bytes that a restore brings back, without holes.
    pub fn size_bytes(&self) -> u64 {
        self.contents().flat_map(|content| &content.chunks).map(|chunk| u64::from(chunk.len)).sum()
    }
}

fn check_component(name: &str) -> Result<(), InvalidManifest> {
    if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\0']) {
        return Err(InvalidManifest::Name(name.to_owned()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Epoch;

    fn manifest() -> Manifest {
        let chunk = |at| Chunk { at, len: 10, hash: ContentHash::of(b""), pack: 0, offset: 0, stored: 1 };
        let id = CheckpointId { epoch: Epoch(1), seq: 1 };
        Manifest {
            version: MANIFEST_VERSION,
            job: JobId::new("j").unwrap(),
            id,
            mode: CheckpointMode::Full,
            needs: RestoreNeeds { engine: "fake".into(), format: 1, arch: "x86_64".into(), ..RestoreNeeds::default() },
            run_ms: 0,
            log_bytes: 0,
            packs: vec!["p".into()],
            pack_bytes: Vec::new(),
            pack_indexes: Vec::new(),
            parts: vec![Part::Image {
                name: "disk".into(),
                content: Content { len: 40, chunks: vec![chunk(0), chunk(30)] },
            }],
            unknown: BTreeMap::new(),
        }
    }

    fn check(change: impl Fn(&mut Manifest), expect: &Result<(), InvalidManifest>) {
        let mut manifest = manifest();
        change(&mut manifest);
        let id = CheckpointId { epoch: Epoch(1), seq: 1 };
        assert_eq!(manifest.validate(&JobId::new("j").unwrap(), id), *expect);
    }

    fn chunks(manifest: &mut Manifest) -> &mut Vec<Chunk> {
        match &mut manifest.parts[0] {
            Part::Image { content, .. } => &mut content.chunks,
            Part::Folder { .. } => unreachable!(),
        }
    }

    #[test]
    fn impossible_manifests_are_refused_before_anything_is_touched() {
        let bad_chunks = Err(InvalidManifest::Chunks("disk".into()));
        check(|_| (), &Ok(()));
        check(|m| m.version = 9, &Err(InvalidManifest::Version(9)));
        check(|m| chunks(m)[1].at = 5, &bad_chunks);
        check(|m| chunks(m)[1].at = u64::MAX, &bad_chunks);
        check(|m| chunks(m)[0].pack = 1, &bad_chunks);
        let index = |bytes| PackIndex { chunks: 1, bytes, hash: ContentHash::of(b"") };
        let with_packs = |m: &mut Manifest, pack_bytes: &[u64], index_bytes: &[u64]| {
            m.pack_bytes = pack_bytes.to_vec();
            m.pack_indexes = index_bytes.iter().map(|bytes| index(*bytes)).collect();
        };
        check(|m| with_packs(m, &[1], &[]), &Ok(()));
        check(|m| with_packs(m, &[9], &[8]), &Ok(()));
        check(|m| with_packs(m, &[9], &[9]), &bad_chunks);
        check(|m| with_packs(m, &[0], &[]), &bad_chunks);
        check(|m| with_packs(m, &[9], &[10]), &Err(InvalidManifest::Packs));
        check(|m| with_packs(m, &[9, 9], &[]), &Err(InvalidManifest::Packs));
        check(|m| with_packs(m, &[], &[1]), &Err(InvalidManifest::Packs));
        check(|m| (m.pack_bytes, chunks(m)[0].offset) = (vec![9], u64::MAX), &bad_chunks);
        check(
            |m| m.parts = vec![Part::Folder { name: "../x".into(), files: vec![] }],
            &Err(InvalidManifest::Name("../x".into())),
        );
    }
}
