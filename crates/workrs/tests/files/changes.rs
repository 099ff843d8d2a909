//! Changes of files, made from outside as the job would make them.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt, lchown, symlink},
    path::{Path, PathBuf},
};

use proptest::prelude::*;
use rustix::fs::{AtFlags, FallocateFlags, FileType, Mode, OFlags, Timespec, Timestamps, XattrFlags};

/// Few names, so that changes meet the same files again and again.
const NAMES: [&str; 10] =
    ["a", "b", "c", "folder", "folder/d", "folder/e", "folder/below", "folder/below/f", "name with ümläut", "z"];

/// One change. A change that does not fit the files that are there does nothing.
#[derive(Debug, Clone)]
pub enum Change {
    /// Bytes that do not compress, at a place that may lie beyond the end.
    Write {
        name: usize,
        at: u64,
        len: usize,
        seed: u64,
    },
    /// A file of zeros that are really written.
    Zeros {
        name: usize,
        len: usize,
    },
    Truncate {
        name: usize,
        len: u64,
    },
    PunchHole {
        name: usize,
        at: u64,
        len: u64,
    },
    Folder {
        name: usize,
    },
    Pipe {
        name: usize,
    },
    SoftLink {
        name: usize,
        target: usize,
    },
    HardLink {
        name: usize,
        target: usize,
    },
    Rename {
        name: usize,
        to: usize,
    },
    Remove {
        name: usize,
    },
    Mode {
        name: usize,
        mode: u32,
    },
    Owner {
        name: usize,
        id: u32,
    },
    Times {
        name: usize,
        seconds: i64,
        nanoseconds: i64,
    },
    Attribute {
        name: usize,
        value: Vec<u8>,
    },
    /// So many that the folder needs blocks of its own for them.
    ManyFiles {
        name: usize,
        number: usize,
    },
}

pub fn change() -> impl Strategy<Value = Change> {
    let name = || 0..NAMES.len();
    let place = || prop_oneof![0u64..10_000, Just(4096), Just(65_536), 0u64..3_000_000];
    prop_oneof![
        6 => (name(), place(), prop_oneof![1usize..200, 4096usize..300_000], any::<u64>())
            .prop_map(|(name, at, len, seed)| Change::Write { name, at, len, seed }),
        1 => (name(), 1usize..500_000).prop_map(|(name, len)| Change::Zeros { name, len }),
        2 => (name(), place()).prop_map(|(name, len)| Change::Truncate { name, len }),
        1 => (name(), place(), 1u64..300_000).prop_map(|(name, at, len)| Change::PunchHole { name, at, len }),
        2 => name().prop_map(|name| Change::Folder { name }),
        1 => name().prop_map(|name| Change::Pipe { name }),
        1 => (name(), name()).prop_map(|(name, target)| Change::SoftLink { name, target }),
        1 => (name(), name()).prop_map(|(name, target)| Change::HardLink { name, target }),
        2 => (name(), name()).prop_map(|(name, to)| Change::Rename { name, to }),
        2 => name().prop_map(|name| Change::Remove { name }),
        1 => (name(), 0u32..0o10_000).prop_map(|(name, mode)| Change::Mode { name, mode }),
        1 => (name(), 0u32..2_000).prop_map(|(name, id)| Change::Owner { name, id }),
        1 => (name(), 0i64..2_000_000_000, 0i64..1_000_000_000)
            .prop_map(|(name, seconds, nanoseconds)| Change::Times { name, seconds, nanoseconds }),
        1 => (name(), prop::collection::vec(any::<u8>(), 0..1_000))
            .prop_map(|(name, value)| Change::Attribute { name, value }),
        1 => (name(), 1usize..400).prop_map(|(name, number)| Change::ManyFiles { name, number }),
    ]
}

/// Makes a change below `root`; ids count from `first_id` as the host sees them.
pub fn make(change: &Change, root: &Path, first_id: u32) {
    // A name that is a folder where a file is needed, or the like: nothing happens, as the shell would say.
    let _does_not_fit = try_make(change, root, first_id);
}

fn try_make(change: &Change, root: &Path, first_id: u32) -> io::Result<()> {
    let path = |name: usize| root.join(NAMES[name]);
    // A pipe that nobody reads must not hold us up.
    let options = OpenOptions::new().write(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed()).clone();
    let open = |name: usize| options.open(path(name));
    let create = |name: usize| options.clone().create(true).truncate(false).open(path(name));
    match change {
        Change::Write { name, at, len, seed } => create(*name)?.write_all_at(&noise(*len, *seed), *at),
        Change::Zeros { name, len } => create(*name)?.write_all_at(&vec![0; *len], 0),
        Change::Truncate { name, len } => open(*name)?.set_len(*len),
        Change::PunchHole { name, at, len } => {
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            Ok(rustix::fs::fallocate(open(*name)?, flags, *at, *len)?)
        }
        Change::Folder { name } => fs::create_dir(path(*name)),
        Change::Pipe { name } => {
            Ok(rustix::fs::mknodat(rustix::fs::CWD, path(*name), FileType::Fifo, Mode::from(0o600), 0)?)
        }
        Change::SoftLink { name, target } => symlink(NAMES[*target], path(*name)),
        Change::HardLink { name, target } => fs::hard_link(path(*target), path(*name)),
        Change::Rename { name, to } => fs::rename(path(*name), path(*to)),
        Change::Remove { name } => {
            let path = path(*name);
            if path.is_dir() && !path.is_symlink() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
        }
        Change::Mode { name, mode } => {
            let path = path(*name);
            if path.is_symlink() { Ok(()) } else { fs::set_permissions(path, fs::Permissions::from_mode(*mode)) }
        }
        Change::Owner { name, id } => lchown(path(*name), Some(first_id + id), Some(first_id + id / 2)),
        Change::Times { name, seconds, nanoseconds } => {
            let time = |plus| Timespec { tv_sec: seconds + plus, tv_nsec: *nanoseconds };
            let times = Timestamps { last_access: time(5), last_modification: time(0) };
            Ok(rustix::fs::utimensat(rustix::fs::CWD, path(*name), &times, AtFlags::SYMLINK_NOFOLLOW)?)
        }
        Change::Attribute { name, value } => {
            Ok(rustix::fs::lsetxattr(path(*name), "user.workrs-test", value, XattrFlags::empty())?)
        }
        Change::ManyFiles { name, number } => {
            let folder = path(*name);
            (0..*number).try_for_each(|file| File::create(many(&folder, file)).map(drop))
        }
    }
}

fn many(folder: &Path, file: usize) -> PathBuf {
    folder.join(format!("one of many files with a long name, number {file}"))
}

/// Bytes that look random and are the same for the same seed.
fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    std::iter::repeat_with(next).take(len).collect()
}
