//! Reads what a job left in its folder, after its last process has ended, and makes it durable.
//!
//! The folder is the job's: every name in it is opened beneath the folder, without following any link.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use globset::{Glob, GlobSet, GlobSetBuilder};
use rustix::fs::{Dir, FileType, Mode, OFlags, ResolveFlags, open, openat2, readlinkat, statat};
use workrs_core::{hash::ContentHash, id::OperationId, job::BlobRef, keys::BlobNames};
use workrs_store::blobs::{BlobError, Blobs};

use super::{
    files::{ARCHIVE_NAME, FileEntry, FileIndex, INDEX_NAME, LinkEntry},
    inputs::read_index,
    run::{Live, Run},
};
use crate::joblog::{self, LogError, Segment};

/// Above this number of files they are stored as one archive.
const MAX_SINGLE_FILES: usize = 1_000;
/// Above this number of files the rest is told, not kept.
const MAX_FILES: usize = 1_000_000;
const PIECE: usize = 1 << 20;

/// Outputs that are not durable.
#[derive(Debug)]
pub(super) enum OutputError {
    /// The folder cannot be read.
    Host(String),
    /// The blobs cannot be had; the folder stays as it is.
    Blobs(BlobError),
}

impl From<BlobError> for OutputError {
    fn from(error: BlobError) -> Self {
        Self::Blobs(error)
    }
}

/// Makes the rest of the log and every output durable; gives the blob that lists the outputs, and their length.
pub(super) async fn store(
    run: &Run,
    live: &Live,
    log_bytes: u64,
    operation: &OperationId,
) -> Result<(Option<BlobRef>, u64), OutputError> {
    let blobs = &run.shared.blobs;
    let segment = Segment { epoch: run.holder.epoch, from: live.log_stored, to: log_bytes };
    let stored = joblog::store_segment(blobs, &run.record.id, segment, live.pump.path(), live.pump.from()).await;
    stored.map_err(|error| match error {
        LogError::Blobs(error) => OutputError::Blobs(error),
        error => OutputError::Host(error.to_string()),
    })?;
    let inputs = match &run.record.inputs {
        Some(index) => match read_index(blobs, index).await {
            Ok(index) => index.files,
            Err(error) if super::finish::is_passing(&error) => return Err(error.into()),
            // The list is damaged: every file counts as new.
            Err(_) => Vec::new(),
        },
        None => Vec::new(),
    };
    let root = live.container.job_folder().to_owned();
    let globs = output_globs(&run.record.spec.outputs);
    let scanned = tokio::task::spawn_blocking(move || Scan::of(&root, &inputs, globs.as_ref()));
    let host = |error: &dyn std::fmt::Display| OutputError::Host(format!("cannot read the outputs: {error}"));
    let mut scan = scanned.await.map_err(|error| host(&error))?.map_err(|error| host(&error))?;
    if scan.index.files.is_empty() && scan.index.links.is_empty() && scan.index.skipped.is_empty() {
        return Ok((None, 0));
    }
    let folder = BlobNames(&run.record.id).outputs(run.holder.epoch, operation);
    if scan.index.files.len() > MAX_SINGLE_FILES {
        store_archive(blobs, &mut scan, &folder, &run.work_dir).await?;
    } else {
        for (number, file) in scan.index.files.iter_mut().enumerate() {
            let blob = store_file(blobs, &scan.root, &file.path, &format!("{folder}{number}")).await?;
            (file.hash, file.len) = (blob.hash, blob.len);
        }
    }
    let index = serde_json::to_vec(&scan.index).map_err(|error| host(&error))?;
    let output_bytes = scan.index.files.iter().map(|file| file.len).sum();
    Ok((Some(blobs.put(&format!("{folder}{INDEX_NAME}"), index.into()).await?), output_bytes))
}

/// Which files are outputs; `None` means all. The patterns were checked at the submit.
fn output_globs(patterns: &[String]) -> Option<GlobSet> {
    if patterns.is_empty() {
        return None;
    }
    let mut builder = GlobSetBuilder::new();
    patterns.iter().filter_map(|pattern| Glob::new(pattern).ok()).for_each(|glob| {
        builder.add(glob);
    });
    builder.build().ok()
}

async fn store_file(blobs: &Blobs, root: &OwnedFd, path: &str, name: &str) -> Result<BlobRef, OutputError> {
    let file = open_beneath(root, Path::new(path), OFlags::RDONLY).map_err(|error| unreadable(path, &error.into()))?;
    let mut file = tokio::fs::File::from_std(File::from(file));
    let mut writer = blobs.writer(name);
    loop {
        let mut buffer = bytes::BytesMut::with_capacity(PIECE);
        let count = tokio::io::AsyncReadExt::read_buf(&mut file, &mut buffer).await;
        if count.map_err(|error| unreadable(path, &error))? == 0 {
            return Ok(writer.finish().await?);
        }
        writer.write(buffer.freeze()).await?;
    }
}

/// Packs all files into one tar archive, so that the listed ranges give each file by itself.
async fn store_archive(blobs: &Blobs, scan: &mut Scan, folder: &str, work_dir: &Path) -> Result<(), OutputError> {
    let path = work_dir.join(ARCHIVE_NAME);
    let root = scan.root.try_clone().map_err(|error| unreadable("/job", &error))?;
    let mut files = std::mem::take(&mut scan.index.files);
    let target = path.clone();
    let packed = tokio::task::spawn_blocking(move || pack(&root, &mut files, &target).map(|()| files));
    let packed = packed.await.map_err(|error| OutputError::Host(error.to_string()))?;
    scan.index.files = packed.map_err(|error| unreadable("an output", &error))?;
    let mut file = tokio::fs::File::open(&path).await.map_err(|error| unreadable(ARCHIVE_NAME, &error))?;
    let mut writer = blobs.writer(&format!("{folder}{ARCHIVE_NAME}"));
    loop {
        let mut buffer = bytes::BytesMut::with_capacity(PIECE);
        let count = tokio::io::AsyncReadExt::read_buf(&mut file, &mut buffer).await;
        if count.map_err(|error| unreadable(ARCHIVE_NAME, &error))? == 0 {
            break;
        }
        writer.write(Bytes::from(buffer)).await?;
    }
    scan.index.archive_len = Some(writer.finish().await?.len);
    let _ = tokio::fs::remove_file(&path).await;
    Ok(())
}

fn pack(root: &OwnedFd, files: &mut [FileEntry], target: &Path) -> io::Result<()> {
    let mut archive = tar::Builder::new(File::create(target)?);
    for entry in files {
        let file = File::from(open_beneath(root, Path::new(&entry.path), OFlags::RDONLY)?);
        let mut header = tar::Header::new_gnu();
        header.set_size(entry.len);
        header.set_mode(entry.mode);
        let mut reader = HashingReader { inner: file.take(entry.len), hasher: blake3::Hasher::new() };
        archive.append_data(&mut header, &entry.path, &mut reader)?;
        entry.hash = ContentHash::from_bytes(*reader.hasher.finalize().as_bytes());
        let end = archive.get_mut().stream_position()?;
        entry.offset = Some(end - entry.len.next_multiple_of(512));
    }
    archive.into_inner()?.sync_all()
}

struct HashingReader<R> {
    inner: R,
    hasher: blake3::Hasher,
}

impl<R: Read> Read for HashingReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        Ok(count)
    }
}

fn unreadable(what: &str, error: &io::Error) -> OutputError {
    OutputError::Host(format!("cannot read {what}: {error}"))
}

fn open_beneath(root: &OwnedFd, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    openat2(root, path, flags, Mode::empty(), ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS)
}

/// What a job's folder holds beyond its inputs.
struct Scan {
    root: OwnedFd,
    index: FileIndex,
}

impl Scan {
    fn of(folder: &Path, inputs: &[FileEntry], globs: Option<&GlobSet>) -> io::Result<Self> {
        let root =
            open(folder, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
        let inputs: HashMap<_, _> = inputs.iter().map(|file| (file.path.as_str(), file)).collect();
        let mut scan = Self { root, index: FileIndex::default() };
        let mut folders = vec![PathBuf::new()];
        while let Some(folder) = folders.pop() {
            if let Err(error) = scan.folder(&folder, &inputs, globs, &mut folders) {
                scan.index.skipped.push(format!("{}: {error}", folder.display()));
            }
        }
        scan.index.files.sort_by(|a, b| a.path.cmp(&b.path));
        scan.index.links.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(scan)
    }

    fn folder(
        &mut self,
        folder: &Path,
        inputs: &HashMap<&str, &FileEntry>,
        globs: Option<&GlobSet>,
        folders: &mut Vec<PathBuf>,
    ) -> io::Result<()> {
        let opened = if folder.as_os_str().is_empty() {
            rustix::fs::openat(&self.root, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?
        } else {
            open_beneath(&self.root, folder, OFlags::RDONLY | OFlags::DIRECTORY)?
        };
        for entry in Dir::read_from(&opened)? {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let path = folder.join(std::ffi::OsStr::new(&*String::from_utf8_lossy(name.to_bytes())));
            let shown = path.to_string_lossy().into_owned();
            if name.to_str().is_err() {
                self.index.skipped.push(format!("{shown}: its name is not UTF-8"));
                continue;
            }
            let stat = statat(&opened, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)?;
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => folders.push(path),
                FileType::Symlink => {
                    let target = readlinkat(opened.as_fd(), name, Vec::new())?;
                    self.index.links.push(LinkEntry { path: shown, target: target.to_string_lossy().into_owned() });
                }
                FileType::RegularFile if globs.is_none_or(|globs| globs.is_match(&path)) => {
                    self.file(shown, &path, stat.st_size as u64, stat.st_mode & 0o777, inputs)?;
                }
                // Pipes, sockets and devices hold nothing that could be kept.
                _ => {}
            }
        }
        Ok(())
    }

    fn file(
        &mut self,
        shown: String,
        path: &Path,
        len: u64,
        mode: u32,
        inputs: &HashMap<&str, &FileEntry>,
    ) -> io::Result<()> {
        if let Some(input) = inputs.get(shown.as_str())
            && input.len == len
            && input.mode & 0o777 == mode
            && hash_file(File::from(open_beneath(&self.root, path, OFlags::RDONLY)?))? == input.hash
        {
            return Ok(());
        }
        if self.index.files.len() >= MAX_FILES {
            if self.index.files.len() == MAX_FILES && !self.index.skipped.iter().any(|text| text.starts_with("only")) {
                self.index.skipped.push(format!("only the first {MAX_FILES} files were kept"));
            }
            return Ok(());
        }
        let hash = ContentHash::of(b"");
        self.index.files.push(FileEntry { path: shown, len, mode, hash, offset: None });
        Ok(())
    }
}

fn hash_file(mut file: File) -> io::Result<ContentHash> {
    let mut hasher = blake3::Hasher::new();
    file.seek(SeekFrom::Start(0))?;
    io::copy(&mut file, &mut hasher)?;
    Ok(ContentHash::from_bytes(*hasher.finalize().as_bytes()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn entry(path: &str, text: &str) -> FileEntry {
        let hash = ContentHash::of(text.as_bytes());
        FileEntry { path: path.to_owned(), len: text.len() as u64, mode: 0o644, hash, offset: None }
    }

    fn write(folder: &Path, path: &str, text: &str) {
        let path = folder.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    }

    #[test]
    fn new_and_changed_files_are_outputs_and_links_are_never_followed() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), "same.txt", "same");
        write(folder.path(), "changed.txt", "after!");
        write(folder.path(), "deep/er/new.txt", "new");
        symlink("/etc/shadow", folder.path().join("link")).unwrap();
        symlink("/etc", folder.path().join("deep/folder-link")).unwrap();
        let inputs = [entry("same.txt", "same"), entry("changed.txt", "before")];
        let scan = Scan::of(folder.path(), &inputs, None).unwrap();
        let paths: Vec<_> = scan.index.files.iter().map(|file| file.path.as_str()).collect();
        assert_eq!(paths, ["changed.txt", "deep/er/new.txt"]);
        let links: Vec<_> = scan.index.links.iter().map(|link| link.path.as_str()).collect();
        assert_eq!(links, ["deep/folder-link", "link"]);
        assert!(open_beneath(&scan.root, Path::new("deep/folder-link/passwd"), OFlags::RDONLY).is_err());
    }

    #[test]
    fn patterns_choose_outputs() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), "a.csv", "1");
        write(folder.path(), "b.tmp", "2");
        let scan = Scan::of(folder.path(), &[], output_globs(&["*.csv".to_owned()]).as_ref()).unwrap();
        assert_eq!(scan.index.files.len(), 1);
    }

    #[test]
    fn every_file_can_be_cut_out_of_the_archive() {
        let folder = tempfile::tempdir().unwrap();
        let long = format!("{}/{}.txt", "d".repeat(120), "f".repeat(120));
        write(folder.path(), "a.txt", "first");
        write(folder.path(), &long, "second, with a path that needs an extension");
        write(folder.path(), "z", "");
        let scan = Scan::of(folder.path(), &[], None).unwrap();
        let mut files = scan.index.files;
        let target = folder.path().join("out.tar");
        pack(&scan.root, &mut files, &target).unwrap();
        let archive = std::fs::read(&target).unwrap();
        for file in &files {
            let from = usize::try_from(file.offset.unwrap()).unwrap();
            let content = &archive[from..from + usize::try_from(file.len).unwrap()];
            assert_eq!(ContentHash::of(content), file.hash, "{}", file.path);
        }
        assert_eq!(tar::Archive::new(&archive[..]).entries().unwrap().count(), 3);
    }
}
