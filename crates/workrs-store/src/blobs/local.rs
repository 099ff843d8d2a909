//! What the folder of a local blob store needs beyond the object store's own care.

use std::{
    fs::{DirBuilder, File, ReadDir},
    io::{self, ErrorKind},
    os::unix::fs::DirBuilderExt,
    path::Path,
    time::{Duration, SystemTime},
};

/// Creates the root for its owner only, and makes its name durable.
pub(super) fn create(root: &Path) -> io::Result<()> {
    let missing = root.ancestors().take_while(|folder| !folder.exists()).count();
    DirBuilder::new().recursive(true).mode(0o700).create(root)?;
    for folder in root.ancestors().skip(1).take(missing) {
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}

/// Removes files named `<stored name>#<number>` that nothing was written to for `time`: a blob is written under such a name
/// until it is finished.
pub(super) fn sweep_unfinished(
    root: &Path,
    prefix: &str,
    time: Duration,
    keep: impl Fn(&str) -> bool,
) -> io::Result<()> {
    let folder = prefix.rfind('/').map_or("", |end| &prefix[..end]);
    let before = SystemTime::now().checked_sub(time).unwrap_or(SystemTime::UNIX_EPOCH);
    sweep(root, folder, &|name, modified| modified <= before && name.starts_with(prefix) && !keep(name))
}

fn sweep(root: &Path, folder: &str, unwanted: &dyn Fn(&str, SystemTime) -> bool) -> io::Result<()> {
    let Some(entries) = present(std::fs::read_dir(root.join(folder)))? else { return Ok(()) };
    for entry in ReadDir::into_iter(entries) {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let name = if folder.is_empty() { name } else { format!("{folder}/{name}") };
        if present(entry.file_type())?.is_some_and(|kind| kind.is_dir()) {
            sweep(root, &name, unwanted)?;
        } else if let Some(blob) = blob_of_unfinished(&name)
            && let Some(metadata) = present(entry.metadata())?
            && unwanted(blob, metadata.modified()?)
        {
            present(std::fs::remove_file(entry.path()))?;
        }
    }
    // Only an empty folder goes, and nobody needs one.
    if !folder.is_empty() {
        let _ = std::fs::remove_dir(root.join(folder));
    }
    Ok(())
}

fn blob_of_unfinished(name: &str) -> Option<&str> {
    let (stored, number) = name.rsplit_once('#')?;
    (!number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())).then(|| super::plain_name(stored))
}

fn present<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
