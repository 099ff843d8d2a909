//! Real disks on XFS and btrfs: whatever differs between two clones lies where they are said to differ. Needs root and the
//! tools that make file systems; runs itself in a mount namespace of its own, so that no mount or loop device outlives it.

use std::{
    fs::{self, File},
    io::Write,
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
    process::Command,
};

use workrs_core::ranges::ByteRanges;

use super::{ImageClone, JobDisk, Pool};
use crate::process::Tool;

/// Set for the process in the mount namespace: the empty folder that it may use.
const INSIDE: &str = "WORKRS_TEST_DISK_FOLDER";
const BLOCK: u64 = 4096;
const DISK: u64 = 64 << 20;
const DATA_FILE: u64 = 24 << 20;
/// Room for two disks.
const POOL: u64 = 360 << 20;

#[test]
fn clones_differ_only_where_they_are_said_to() {
    if let Some(folder) = std::env::var_os(INSIDE) {
        return inside(Path::new(&folder));
    }
    if let Some(missing) = missing() {
        let required = ["CI", "WORKRS_REQUIRE_REAL"].iter().any(|name| std::env::var_os(name).is_some());
        assert!(!required, "this host must test disks, but cannot: {missing}");
        let _closed = writeln!(std::io::stderr(), "skipped: {missing}");
        return;
    }
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    let name = std::thread::current().name().unwrap().to_owned();
    let inside = Command::new("unshare")
        .args(["--mount", "--propagation", "slave"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", &name, "--nocapture"])
        .env(INSIDE, folder.path())
        .output()
        .unwrap();
    println!("{}{}", String::from_utf8_lossy(&inside.stdout), String::from_utf8_lossy(&inside.stderr));
    assert!(inside.status.success());
}

fn missing() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("tests of real disks need root".to_owned());
    }
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let installed = |tool: &str| std::env::split_paths(&folders).any(|folder| folder.join(tool).exists());
    let tools = ["mkfs.ext4", "mkfs.xfs", "mkfs.btrfs", "e2fsck", "unshare"];
    tools.into_iter().find(|tool| !installed(tool)).map(|tool| format!("{tool} not found"))
}

fn inside(folder: &Path) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        check(&make_folder(folder, "volume"), Exactness::Close).await;
        full_disks_find_their_space(&make_folder(folder, "full")).await;
        check(&mounted_btrfs(folder, "btrfs", "noatime").await, Exactness::Close).await;
        // The place of what is compressed, as are files that a node has fetched, does not tell that it is the same.
        check(&mounted_btrfs(folder, "compressed", "compress-force=zstd").await, Exactness::Any).await;
    });
}

fn make_folder(folder: &Path, name: &str) -> PathBuf {
    let path = folder.join(name);
    fs::create_dir(&path).unwrap();
    path
}

async fn mounted_btrfs(folder: &Path, name: &str, options: &str) -> PathBuf {
    let image = folder.join(format!("{name}.btrfs"));
    File::create(&image).unwrap().set_len(1 << 30).unwrap();
    Tool::new("mkfs.btrfs").arg("-q").arg(&image).output().await.unwrap();
    let data = make_folder(folder, name);
    crate::mounts::mount_image(&image, "btrfs", options, &data).await.unwrap();
    data
}

/// How close what is said to differ has to be to what does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Exactness {
    Close,
    Any,
}

/// A number generator (an LCG with Knuth's MMIX constants) for writes that look random.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }

    /// Half of it compresses well.
    fn block(&mut self) -> [u8; BLOCK as usize] {
        let mut block = [b'x'; BLOCK as usize];
        for byte in &mut block[..BLOCK as usize / 2] {
            *byte = self.below(256) as u8;
        }
        block
    }
}

/// What a job does to its disk.
fn change(disk: &JobDisk, numbers: &mut Numbers, round: u64) {
    let job = disk.mount_point().join("job");
    let data = File::options().write(true).create(true).truncate(false).open(job.join("data")).unwrap();
    for _ in 0..100 {
        data.write_all_at(&numbers.block(), numbers.below(DATA_FILE)).unwrap();
    }
    rustix::fs::fallocate(
        &data,
        rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE,
        numbers.below(DATA_FILE),
        256 << 10,
    )
    .unwrap();
    // A file comes, an old one goes.
    let mut file = File::create(job.join(format!("round-{round}"))).unwrap();
    (0..64).for_each(|_| file.write_all(&numbers.block()).unwrap());
    if round > 2 {
        fs::remove_file(job.join(format!("round-{}", round - 2))).unwrap();
    }
}

/// Demands that two images differ only in `changed`, and that this is not much more.
fn compare(old: &Path, new: &Path, changed: Option<&ByteRanges>, exactness: Exactness) {
    let changed = changed.expect("it is known where they may differ");
    let (old, new) = (fs::read(old).unwrap(), fs::read(new).unwrap());
    assert_eq!(old.len(), new.len());
    let covered = |at: u64| {
        let parts = changed.iter().map(|range| range.end.min(at + BLOCK).saturating_sub(range.start.max(at)));
        parts.sum::<u64>() == BLOCK
    };
    let blocks = old.chunks(BLOCK as usize).zip(new.chunks(BLOCK as usize));
    let different = (0u64..).zip(blocks).filter(|(_, (one, other))| one != other).map(|(number, _)| number * BLOCK);
    let different = different.inspect(|at| assert!(covered(*at), "the block at {at} differs, and is not said to"));
    let (different, said) = (different.count() as u64 * BLOCK, changed.len_bytes());
    println!("  {different} bytes differ, of {said} it is said, in {} ranges", changed.iter().count());
    assert!(exactness == Exactness::Any || said <= 2 * different + (256 << 10));
}

/// A disk, and what was captured of it last.
struct Subject {
    disk: JobDisk,
    last: PathBuf,
    numbers: Numbers,
    round: u64,
}

impl Subject {
    fn change(&mut self) {
        self.round += 1;
        change(&self.disk, &mut self.numbers, self.round);
    }

    fn clone_image(&self) -> ImageClone {
        self.disk.flush().unwrap();
        self.disk.clone_image().unwrap()
    }

    /// A successful capture, whose clone is where it may be, and is removed.
    fn capture(&mut self, exactness: Exactness) {
        let (clone, changed) = self.disk.captured(self.clone_image());
        compare(&self.last, &clone, changed.as_ref(), exactness);
        fs::copy(&clone, &self.last).unwrap();
        fs::remove_file(&clone).unwrap();
        self.expect_one_clone();
    }

    /// Beside image and mount point there is the reference, and nobody else holds its file.
    fn expect_one_clone(&self) {
        let folder = self.disk.mount_point().parent().unwrap().to_path_buf();
        let mut names: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["image", "mount", "reference"]);
        assert_eq!(fs::metadata(folder.join("reference")).unwrap().nlink(), 1);
    }
}

/// Goes through a disk's life on this data folder. After a resume what is said to differ is `resumed` to what does.
async fn check(data_dir: &Path, resumed: Exactness) {
    println!("{}", data_dir.file_name().unwrap().display());
    let pool = Pool::open(data_dir, POOL).await.unwrap();
    let disk = JobDisk::create(&pool, "first", DISK).await.unwrap();
    let mut subject = Subject { disk, last: data_dir.join("last"), numbers: Numbers(1), round: 0 };
    let data = File::create(subject.disk.mount_point().join("job/data")).unwrap();
    for block in 0..DATA_FILE / BLOCK {
        data.write_all_at(&subject.numbers.block(), block * BLOCK).unwrap();
    }
    // A capture that fails is none, the first one, too.
    drop(subject.clone_image());
    let (first, changed) = subject.disk.captured(subject.clone_image());
    assert_eq!(changed, None, "nothing was captured before");
    fs::copy(&first, &subject.last).unwrap();
    fs::remove_file(first).unwrap();
    subject.capture(Exactness::Close);
    for failures in [0, 1, 2, 0] {
        for _ in 0..failures {
            subject.change();
            drop(subject.clone_image());
            subject.expect_one_clone();
        }
        subject.change();
        subject.capture(Exactness::Close);
    }
    overtaken(&mut subject);

    // Written anew, as by a node that fetches it.
    let fetched = data_dir.join("fetched");
    fs::write(&fetched, fs::read(&subject.last).unwrap()).unwrap();
    subject.disk.remove().unwrap();
    subject.disk = JobDisk::adopt(&pool, "second", &fetched).await.unwrap();
    subject.disk.forget_program().unwrap();
    for _ in 0..2 {
        subject.change();
        subject.capture(resumed);
    }
}

/// The pool has just what is reserved, and the job rewrites its whole disk again and again.
async fn full_disks_find_their_space(data_dir: &Path) {
    let pool = Pool::open(data_dir, 320 << 20).await.unwrap();
    let bytes = pool.capacity() / 2 / BLOCK * BLOCK;
    let disk = JobDisk::create(&pool, "full", bytes).await.unwrap();
    let numbers = &mut Numbers(2);
    for round in 0..4 {
        let data = File::create(disk.mount_point().join("job/data")).unwrap();
        let mut block = numbers.block();
        while data.write_all_at(&block, data.metadata().unwrap().size()).is_ok() {
            block.rotate_left(1);
        }
        assert!(data.metadata().unwrap().size() > bytes / 8 * 7);
        disk.flush().unwrap();
        let clone = disk.clone_image().unwrap();
        let (path, changed) = disk.captured(clone);
        assert_eq!(round == 0, changed.is_none());
        let content = fs::read(disk.mount_point().join("job/data")).unwrap();
        fs::write(disk.mount_point().join("job/data"), content).unwrap();
        disk.flush().unwrap();
        fs::remove_file(path).unwrap();
    }
}

/// A capture that was given up makes its clone while the next one is on its way.
fn overtaken(subject: &mut Subject) {
    let clone = subject.clone_image();
    subject.change();
    drop(subject.clone_image());
    let (path, changed) = subject.disk.captured(clone);
    compare(&subject.last, &path, changed.as_ref(), Exactness::Any);
    let (next, changed) = subject.disk.captured(subject.clone_image());
    assert_eq!(changed, None, "the reference is not what was captured");
    fs::copy(&next, &subject.last).unwrap();
    for clone in [path, next] {
        fs::remove_file(clone).unwrap();
    }
    subject.change();
    subject.capture(Exactness::Close);
}
