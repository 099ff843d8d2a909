//! All that can be seen of a folder's files.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt},
    path::Path,
};

use rustix::fs::{OFlags, SeekFrom};

/// What can be seen of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    inode: u64,
    mode: u32,
    owner: (u32, u32),
    links: u64,
    len: u64,
    blocks: u64,
    modified: (i64, i64),
    changed: (i64, i64),
    /// Of files only: the look itself changes that of folders and links.
    accessed: Option<(i64, i64)>,
    target: Option<String>,
    attribute: Option<Vec<u8>>,
    /// Where data lie, and the hash of all content.
    content: Option<(Vec<(u64, u64)>, blake3::Hash)>,
}

/// Every file below a folder, and the folder itself, by path.
pub fn snapshot(root: &Path) -> BTreeMap<String, Seen> {
    // How many blocks a file has is settled only when it is written back.
    rustix::fs::syncfs(fs::File::open(root).unwrap()).unwrap();
    let mut seen = BTreeMap::new();
    visit(root, "", &mut seen);
    seen
}

fn visit(root: &Path, path: &str, seen: &mut BTreeMap<String, Seen>) {
    let full = root.join(path);
    let metadata = fs::symlink_metadata(&full).unwrap();
    let kind = metadata.file_type();
    let mut value = vec![0; 2_000];
    let attribute = rustix::fs::lgetxattr(&full, "user.workrs-test", &mut value[..]).ok();
    seen.insert(
        path.to_owned(),
        Seen {
            inode: metadata.ino(),
            mode: metadata.mode(),
            owner: (metadata.uid(), metadata.gid()),
            links: metadata.nlink(),
            len: metadata.len(),
            blocks: metadata.blocks(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            accessed: kind.is_file().then(|| (metadata.atime(), metadata.atime_nsec())),
            target: kind.is_symlink().then(|| fs::read_link(&full).unwrap().display().to_string()),
            attribute: attribute.map(|len| value[..len].to_vec()),
            content: kind.is_file().then(|| content(&full, metadata.len())),
        },
    );
    if kind.is_dir() {
        let mut names: Vec<_> = fs::read_dir(&full).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        for name in names {
            let name = name.into_string().unwrap();
            visit(root, &if path.is_empty() { name } else { format!("{path}/{name}") }, seen);
        }
    }
}

fn content(path: &Path, len: u64) -> (Vec<(u64, u64)>, blake3::Hash) {
    let no_access_time = OFlags::NOATIME.bits().cast_signed();
    let file = fs::OpenOptions::new().read(true).custom_flags(no_access_time).open(path).unwrap();
    let (mut ranges, mut hasher, mut at) = (Vec::new(), blake3::Hasher::new(), 0);
    while at < len
        && let Ok(data) = rustix::fs::seek(&file, SeekFrom::Data(at))
    {
        let hole = rustix::fs::seek(&file, SeekFrom::Hole(data)).unwrap();
        let mut bytes = vec![0; (hole - data) as usize];
        file.read_exact_at(&mut bytes, data).unwrap();
        hasher.update(&bytes);
        ranges.push((data, hole));
        at = hole;
    }
    (ranges, hasher.finalize())
}

/// The first few differences in words; `None` if there are none.
pub fn difference(before: &BTreeMap<String, Seen>, after: &BTreeMap<String, Seen>) -> Option<String> {
    let paths = before.keys().chain(after.keys()).collect::<std::collections::BTreeSet<_>>();
    let differing: Vec<_> = paths
        .into_iter()
        .filter(|path| before.get(*path) != after.get(*path))
        .map(|path| format!("{path:?} was {:#?}\nand is {:#?}", before.get(path), after.get(path)))
        .take(3)
        .collect();
    (!differing.is_empty()).then(|| differing.join("\n"))
}
