//! Where a dump lies until it is stored: in memory if it is small, else on the disk.

use std::path::{Path, PathBuf};

/// A dump has some bytes beside the memory itself, and grows a little between the count and the end.
const MARGIN_BYTES: u64 = 4 << 20;
const MARGIN_SHARE: u64 = 16;

/// The folders for dumps.
#[derive(Debug, Clone)]
pub(super) struct Staging {
    /// On a file system in memory, which has taken its size from the memory for jobs.
    pub(super) memory: Option<PathBuf>,
    /// On a disk.
    pub(super) disk: PathBuf,
}

impl Staging {
    /// The folder for a dump of about this many bytes. What other dumps still take is not free, so dumps that are being
    /// stored send the next one to the disk.
    pub(super) fn choose(&self, dump_bytes: u64) -> &Path {
        let needed = dump_bytes.saturating_add(dump_bytes / MARGIN_SHARE).saturating_add(MARGIN_BYTES);
        match &self.memory {
            Some(memory) if free_bytes(memory) >= needed => memory,
            _ => &self.disk,
        }
    }
}

fn free_bytes(folder: &Path) -> u64 {
    rustix::fs::statvfs(folder).map_or(0, |space| space.f_bavail.saturating_mul(space.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_into_memory_goes_to_the_disk() {
        let folder = tempfile::tempdir().unwrap();
        let staging = Staging { memory: Some(folder.path().to_path_buf()), disk: "/disk".into() };
        let free = free_bytes(folder.path());
        assert_eq!(staging.choose(0), folder.path());
        assert_eq!(staging.choose(free), Path::new("/disk"));
        assert_eq!(staging.choose(u64::MAX), Path::new("/disk"));
        assert_eq!(Staging { memory: None, ..staging.clone() }.choose(0), Path::new("/disk"));
        assert_eq!(Staging { memory: Some("/nowhere".into()), ..staging }.choose(0), Path::new("/disk"));
    }
}
