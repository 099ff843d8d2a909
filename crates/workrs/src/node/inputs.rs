//! Puts a job's inputs into its folder, before anything of the job runs.

use std::{
    collections::BTreeSet,
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
};

use futures::StreamExt;
use tokio::io::AsyncWriteExt;
use workrs_core::job::BlobRef;
use workrs_store::blobs::{BlobError, Blobs};

use super::files::{FileIndex, check_path, folder_of};

/// Inputs that are not in place.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// They are not what was handed over, and never will be.
    #[error("an input is lost: {0}")]
    Lost(String),
    /// They do not fit the job's disk.
    #[error("{0}")]
    TooBig(String),
    /// Trying again may help.
    #[error("cannot place the inputs: {0}")]
    Host(String),
}

impl From<BlobError> for InputError {
    fn from(error: BlobError) -> Self {
        if super::finish::is_passing(&error) { Self::Host(error.to_string()) } else { Self::Lost(error.to_string()) }
    }
}

/// Reads the list of a job's files.
pub async fn read_index(blobs: &Blobs, index: &BlobRef) -> Result<FileIndex, BlobError> {
    let bytes = blobs.get(index).await?;
    serde_json::from_slice(&bytes).map_err(|_| BlobError::Mismatch(index.name.clone()))
}

/// Writes all inputs below `folder`, for `user` (user and group id).
pub(super) async fn place(blobs: &Blobs, index: &BlobRef, folder: &Path, user: (u32, u32)) -> Result<(), InputError> {
    let files = read_index(blobs, index).await?.files;
    let mut made = BTreeSet::new();
    for (number, file) in files.iter().enumerate() {
        check_path(&file.path).map_err(|error| InputError::Lost(error.to_string()))?;
        let path = folder.join(&file.path);
        for parent in parents(Path::new(&file.path)) {
            if made.insert(parent.clone()) {
                make_folder(&folder.join(parent), user)?;
            }
        }
        let blob = BlobRef { name: format!("{}{number}", folder_of(&index.name)), hash: file.hash, len: file.len };
        write_file(blobs, &blob, &path).await?;
        let permissions = std::fs::Permissions::from_mode(file.mode & 0o777);
        let finished =
            std::fs::set_permissions(&path, permissions).and_then(|()| chown(&path, Some(user.0), Some(user.1)));
        finished.map_err(|error| host(&path, &error))?;
    }
    Ok(())
}

fn parents(path: &Path) -> Vec<PathBuf> {
    let mut parents: Vec<_> =
        path.ancestors().skip(1).filter(|p| !p.as_os_str().is_empty()).map(Path::to_owned).collect();
    parents.reverse();
    parents
}

fn make_folder(path: &Path, user: (u32, u32)) -> Result<(), InputError> {
    std::fs::create_dir(path)
        .or_else(|error| if error.kind() == std::io::ErrorKind::AlreadyExists { Ok(()) } else { Err(error) })
        .and_then(|()| chown(path, Some(user.0), Some(user.1)))
        .map_err(|error| host(path, &error))
}

async fn write_file(blobs: &Blobs, blob: &BlobRef, path: &Path) -> Result<(), InputError> {
    let mut bytes = blobs.stream(blob).await?;
    let mut file = tokio::fs::File::create_new(path).await.map_err(|error| host(path, &error))?;
    while let Some(piece) = bytes.next().await {
        file.write_all(&piece?).await.map_err(|error| host(path, &error))?;
    }
    file.flush().await.map_err(|error| host(path, &error))
}

fn host(path: &Path, error: &std::io::Error) -> InputError {
    if matches!(error.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded) {
        return InputError::TooBig("the inputs do not fit the job's disk; ask for a larger one with --disk".to_owned());
    }
    InputError::Host(format!("{}: {error}", path.display()))
}
