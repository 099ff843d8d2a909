//! Lists of files: what a submit brought, and what a job left. Such a list is a blob of its own, named by hash in
//! the record.

use serde::{Deserialize, Serialize};
use workrs_core::hash::ContentHash;

/// The longest path of an input, in bytes.
pub const MAX_PATH_LEN: usize = 1_024;
/// The longest component of a path, in bytes.
pub const MAX_COMPONENT_LEN: usize = 255;

/// A file of a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Its path below `/job`, with `/` between components.
    pub path: String,
    /// Its length.
    pub len: u64,
    /// Its permission bits.
    pub mode: u32,
    /// Its content.
    pub hash: ContentHash,
    /// Where its content begins in the list's archive, if there is one; a blob of its own otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
}

/// A symbolic link that a job left. It is told, never followed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkEntry {
    /// Its path below `/job`.
    pub path: String,
    /// What it says.
    pub target: String,
}

/// The files of a job. The content of `files[n]` is the blob `<folder of this list>/<n>`, unless there is an
/// archive: then it is a range of `<folder of this list>/archive.tar`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileIndex {
    /// The files, by path.
    pub files: Vec<FileEntry>,
    /// Symbolic links.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub links: Vec<LinkEntry>,
    /// What could not be read, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub skipped: Vec<String>,
    /// Length of the archive, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archive_len: Option<u64>,
}

/// The last component of the blob that holds a [`FileIndex`].
pub const INDEX_NAME: &str = "index.json";
/// The last component of the blob that holds an archive.
pub const ARCHIVE_NAME: &str = "archive.tar";

/// The folder part of an index blob's name.
pub fn folder_of(index_name: &str) -> &str {
    index_name.strip_suffix(INDEX_NAME).unwrap_or(index_name)
}

/// A path that an input cannot have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path:?} is not a usable file name: {reason}")]
pub struct InvalidPath {
    /// The path, shortened.
    pub path: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

/// Refuses every path that does not name a file strictly below the job's folder.
pub fn check_path(path: &str) -> Result<(), InvalidPath> {
    let invalid = |reason| Err(InvalidPath { path: path.chars().take(80).collect(), reason });
    if path.is_empty() {
        return invalid("it is empty");
    }
    if path.len() > MAX_PATH_LEN {
        return invalid("it is longer than 1024 bytes");
    }
    if path.starts_with('/') {
        return invalid("it must be relative");
    }
    if path.chars().any(char::is_control) {
        return invalid("it contains a control character");
    }
    if path.contains('\\') {
        return invalid("it contains a backslash");
    }
    for component in path.split('/') {
        match component {
            "" | "." => return invalid("it has an empty or '.' component"),
            ".." => return invalid("it must not leave the job's folder ('..')"),
            component if component.len() > MAX_COMPONENT_LEN => return invalid("a component is longer than 255 bytes"),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_paths_below_the_folder_pass() {
        for good in ["a", "a/b.txt", "..a", "ä/ö", &"x".repeat(255)] {
            assert_eq!(check_path(good), Ok(()), "{good:?}");
        }
        for bad in [
            "",
            "/a",
            "..",
            "../a",
            "a/../b",
            "a//b",
            "a/",
            "./a",
            "a\nb",
            "a\0b",
            "a\\b",
            &"x".repeat(256),
            &"x/".repeat(600),
        ] {
            assert!(check_path(bad).is_err(), "{bad:?}");
        }
    }
}
