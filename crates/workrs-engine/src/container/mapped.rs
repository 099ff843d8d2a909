//! Files of the read-only base that a job has mapped. CRIU maps them again at a restore, so they must be the same there.

use std::{
    collections::{BTreeSet, HashMap},
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use rustix::process::Pid;
use workrs_core::{hash::ContentHash, manifest::MappedFile};

use crate::image::HostImage;

/// Hashes of files, by what changes with their content.
#[derive(Debug, Default)]
pub(crate) struct MappedFiles {
    hashes: Mutex<HashMap<Identity, ContentHash>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Identity {
    device: u64,
    inode: u64,
    len: u64,
    modified: (i64, i64),
}

impl MappedFiles {
    /// What of `image` these processes have mapped. Hashing is slow the first time only.
    pub(crate) fn of_processes(&self, image: &HostImage, processes: &[Pid]) -> io::Result<Vec<MappedFile>> {
        let mut paths = BTreeSet::new();
        for process in processes {
            // A process may end meanwhile.
            if let Ok(maps) = fs::read_to_string(format!("/proc/{}/maps", process.as_raw_pid())) {
                paths.extend(maps.lines().filter_map(mapped_path));
            }
        }
        let mut files = Vec::new();
        for path in paths {
            let found = image.resolve(&path);
            if let Ok(metadata) = fs::metadata(&found)
                && metadata.is_file()
            {
                let hash = self.hash(&found, &metadata)?;
                files.push(MappedFile { path: path.to_string_lossy().into_owned(), len: metadata.len(), hash });
            }
        }
        Ok(files)
    }

    /// The first of `wanted` that `image` does not have in the same form, in words.
    pub(crate) fn first_difference(&self, image: &HostImage, wanted: &[MappedFile]) -> Option<String> {
        wanted.iter().find_map(|file| {
            let found = image.resolve(Path::new(&file.path));
            let Ok(metadata) = fs::metadata(&found) else {
                return Some(format!("{} is not here", file.path));
            };
            if metadata.len() != file.len {
                return Some(format!("{} has another length here", file.path));
            }
            match self.hash(&found, &metadata) {
                Ok(hash) if hash == file.hash => None,
                Ok(_) => Some(format!("{} has other contents here", file.path)),
                Err(error) => Some(format!("{}: {error}", file.path)),
            }
        })
    }

    fn hash(&self, path: &Path, metadata: &fs::Metadata) -> io::Result<ContentHash> {
        let identity = Identity {
            device: metadata.dev(),
            inode: metadata.ino(),
            len: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        };
        let known = self.hashes.lock().unwrap_or_else(PoisonError::into_inner).get(&identity).copied();
        if let Some(hash) = known {
            return Ok(hash);
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(File::open(path)?)?;
        let hash = ContentHash::from_bytes(*hasher.finalize().as_bytes());
        self.hashes.lock().unwrap_or_else(PoisonError::into_inner).insert(identity, hash);
        Ok(hash)
    }
}

/// The path in a line of `/proc/<pid>/maps`, as the container sees it: the sixth column, which may have blanks.
fn mapped_path(line: &str) -> Option<PathBuf> {
    let mut rest = line;
    for _ in 0..5 {
        rest = rest.trim_start().split_once(' ')?.1;
    }
    let path = rest.trim_start();
    // Not a file of the base: special regions, and what was deleted, which only the job's own files can be.
    let is_file = path.starts_with('/') && !path.ends_with(" (deleted)");
    is_file.then(|| PathBuf::from(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_name_files_and_other_things() {
        let check = |line: &str, path: Option<&str>| assert_eq!(mapped_path(line), path.map(PathBuf::from), "{line}");
        check("7f00-7f01 r-xp 00001000 fe:00 1234                       /usr/lib/a b.so", Some("/usr/lib/a b.so"));
        check("7f00-7f01 rw-p 00000000 00:00 0                          [heap]", None);
        check("7f00-7f01 rw-p 00000000 00:00 0 ", None);
        check("7f00-7f01 rw-s 00000000 07:01 12                         /tmp/x (deleted)", None);
        check("7f00-7f01 rw-s 00000000 00:01 12                         /memfd:x (deleted)", None);
    }
}
