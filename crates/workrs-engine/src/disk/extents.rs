//! Where two clones of a file may differ, told from where their data lies (FIEMAP) without reading it: data in the same
//! place is the same data, as a file system writes a block that it shares somewhere else. This holds while neither
//! file is written to and both exist, so that no place is given to other data. What is not known to be the same counts as
//! different; so does what the file system moved between the looks at the two files.

use std::{fs::File, io, ops::Range, os::unix::fs::MetadataExt, path::Path};

use rustix::ioctl::{Opcode, Updater, opcode};
use workrs_core::ranges::ByteRanges;

/// `FS_IOC_FIEMAP`; Linux, Documentation/filesystems/fiemap.rst and include/uapi/linux/fiemap.h, as all below.
const FIEMAP: Opcode = opcode::read_write::<Header>(b'f', 11);
/// `FIEMAP_FLAG_SYNC`: writes the file back first.
const SYNC: u32 = 0x1;
/// `FIEMAP_EXTENT_LAST`.
const LAST: u32 = 0x1;
/// `FIEMAP_EXTENT_UNWRITTEN`: space without data, which reads as zeros.
const UNWRITTEN: u32 = 0x800;
/// `FIEMAP_EXTENT_MERGED` and `FIEMAP_EXTENT_SHARED`.
const MERGED_OR_SHARED: u32 = 0x1000 | 0x2000;
/// The flags with which an extent's place tells what it holds. Others say that the place is not known or not final
/// (`UNKNOWN`, `DELALLOC`), or that it is that of more than this data (`ENCODED`, such as compressed; `NOT_ALIGNED`,
/// `DATA_INLINE`, `DATA_TAIL`): btrfs gives all parts of a compressed extent its beginning.
const PLAIN: u32 = LAST | UNWRITTEN | MERGED_OR_SHARED;
/// How many extents are asked for at once (14 KiB).
const BATCH: usize = 256;

/// `struct fiemap`.
#[repr(C)]
#[derive(Default)]
struct Header {
    start: u64,
    length: u64,
    flags: u32,
    mapped: u32,
    room: u32,
    reserved: u32,
}

/// `struct fiemap_extent`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Extent {
    logical: u64,
    physical: u64,
    length: u64,
    reserved: [u64; 2],
    flags: u32,
    more_reserved: [u32; 3],
}

/// The header, and the room behind it that it names.
#[repr(C)]
struct Request {
    header: Header,
    extents: [Extent; BATCH],
}

/// The extents of `file` from `start` to `end`, as many as there is room for.
fn fiemap(file: &File, start: u64, end: u64, request: &mut Request) -> io::Result<()> {
    request.header = Header { start, length: end - start, flags: SYNC, room: BATCH as u32, ..Header::default() };
    #[expect(unsafe_code, reason = "there is no safe call for FIEMAP")]
    // SAFETY: the kernel reads and writes a `struct fiemap` and at most `room` `struct fiemap_extent`s behind it, all of
    // which lie in `Request`; the types have their layout, and any bits are valid values of them.
    unsafe {
        rustix::ioctl::ioctl(file, Updater::<FIEMAP, Request>::new(request))?;
    }
    Ok(())
}

/// A range of a file that has data.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Run {
    bytes: Range<u64>,
    /// Where the data lies; `None`: the place does not tell.
    place: Option<u64>,
}

impl Run {
    fn place_at(&self, at: u64) -> Option<u64> {
        self.place.map(|place| place + (at - self.bytes.start))
    }
}

/// The data of a file, in ascending order.
struct Runs<'a> {
    file: &'a File,
    len: u64,
    request: Box<Request>,
    next: usize,
    /// Everything up to here was given.
    done: u64,
    last_seen: bool,
}

impl<'a> Runs<'a> {
    fn new(file: &'a File, len: u64) -> Self {
        let request = Box::new(Request { header: Header::default(), extents: [Extent::default(); BATCH] });
        Self { file, len, request, next: 0, done: 0, last_seen: false }
    }

    fn next_extent(&mut self) -> io::Result<Option<Extent>> {
        if self.next == self.request.header.mapped as usize {
            if self.last_seen || self.done >= self.len {
                return Ok(None);
            }
            fiemap(self.file, self.done, self.len, &mut self.request)?;
            self.next = 0;
        }
        let mapped = &self.request.extents[..self.request.header.mapped as usize];
        let Some(extent) = mapped.get(self.next).copied() else {
            self.last_seen = true;
            return Ok(None);
        };
        self.next += 1;
        self.last_seen = extent.flags & LAST != 0;
        let end = extent.logical.checked_add(extent.length).filter(|end| *end > extent.logical);
        match end {
            Some(end) if extent.logical >= self.done => self.done = end,
            _ => return Err(io::Error::new(io::ErrorKind::InvalidData, "its extents are not in order")),
        }
        Ok(Some(extent))
    }
}

impl Iterator for Runs<'_> {
    type Item = io::Result<Run>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let extent = match self.next_extent() {
                Ok(extent) => extent?,
                Err(error) => return Some(Err(error)),
            };
            let bytes = extent.logical..(extent.logical + extent.length).min(self.len);
            let plain = extent.flags & !PLAIN == 0;
            let is_hole = plain && extent.flags & UNWRITTEN != 0;
            if !is_hole && !bytes.is_empty() {
                let place = (plain && extent.physical != 0).then_some(extent.physical);
                return Some(Ok(Run { bytes, place }));
            }
        }
    }
}

/// A place within a list of runs.
struct Cursor<I> {
    runs: I,
    current: Option<Run>,
}

impl<I: Iterator<Item = io::Result<Run>>> Cursor<I> {
    fn new(mut runs: I) -> io::Result<Self> {
        Ok(Self { current: runs.next().transpose()?, runs })
    }

    /// The next position at or behind `at` where a run begins or ends.
    fn edge_after(&self, at: u64) -> Option<u64> {
        self.current.as_ref().map(|run| if run.bytes.start > at { run.bytes.start } else { run.bytes.end })
    }

    fn run_at(&self, at: u64) -> Option<&Run> {
        self.current.as_ref().filter(|run| run.bytes.contains(&at))
    }

    fn go_to(&mut self, at: u64) -> io::Result<()> {
        while self.current.as_ref().is_some_and(|run| run.bytes.end <= at) {
            self.current = self.runs.next().transpose()?;
        }
        Ok(())
    }
}

/// Where not both have no data, nor both the data of one place.
fn differences(
    left: impl Iterator<Item = io::Result<Run>>,
    right: impl Iterator<Item = io::Result<Run>>,
) -> io::Result<ByteRanges> {
    let (mut left, mut right) = (Cursor::new(left)?, Cursor::new(right)?);
    let mut different = Vec::new();
    let mut at = 0;
    while let Some(edge) = left.edge_after(at).into_iter().chain(right.edge_after(at)).min() {
        let same = match (left.run_at(at), right.run_at(at)) {
            (None, None) => true,
            (Some(one), Some(other)) => one.place.is_some() && one.place_at(at) == other.place_at(at),
            _ => false,
        };
        if !same {
            different.push(at..edge);
        }
        left.go_to(edge)?;
        right.go_to(edge)?;
        at = edge;
    }
    Ok(different.into_iter().collect())
}

/// Where the clones `old` and `new` of one file, to which nobody writes, may differ; `None`: the file system does not tell.
pub(super) fn changed(old: &Path, new: &Path) -> Option<ByteRanges> {
    let compare = || {
        let (old, new) = (File::open(old)?, File::open(new)?);
        let len = new.metadata()?.size();
        if old.metadata()?.size() != len {
            return Err(io::Error::other("they have different lengths"));
        }
        differences(Runs::new(&old, len), Runs::new(&new, len))
    };
    let compared: io::Result<ByteRanges> = compare();
    compared.inspect_err(|error| tracing::debug!(%error, "two clones of a job disk cannot be compared")).ok()
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    fn run(start: u64, len: u64, place: Option<u64>) -> Run {
        Run { bytes: start..start + len, place }
    }

    /// The ranges' begins and ends.
    fn compare(left: &[Run], right: &[Run]) -> Vec<(u64, u64)> {
        let one_way = differences(left.iter().cloned().map(Ok), right.iter().cloned().map(Ok)).unwrap();
        let other_way = differences(right.iter().cloned().map(Ok), left.iter().cloned().map(Ok)).unwrap();
        assert_eq!(one_way, other_way);
        one_way.iter().map(|range| (range.start, range.end)).collect()
    }

    #[test]
    fn only_data_in_one_known_place_is_the_same() {
        let whole = [run(0, 100, Some(1000))];
        assert_eq!(compare(&whole, &whole), []);
        assert_eq!(compare(&whole, &[]), [(0, 100)]);
        // The same extent, cut into parts and with a hole.
        let parts = [run(0, 30, Some(1000)), run(40, 60, Some(1040))];
        assert_eq!(compare(&whole, &parts), [(30, 40)]);
        // A part lies elsewhere, another is where the part before it was.
        let moved = [run(0, 30, Some(1000)), run(30, 20, Some(5000)), run(50, 50, Some(1030))];
        assert_eq!(compare(&whole, &moved), [(30, 100)]);
        let unknown = [run(0, 50, Some(1000)), run(50, 10, None), run(60, 40, Some(1060))];
        assert_eq!(compare(&whole, &unknown), [(50, 60)]);
        assert_eq!(compare(&unknown, &unknown), [(50, 60)]);
        assert_eq!(compare(&[run(0, 10, Some(1))], &[run(90, 10, Some(91))]), [(0, 10), (90, 100)]);
    }

    /// Every pair of files of four blocks, each of which has no data, data in one of two places, or in an unknown one.
    #[test]
    fn comparing_runs_is_comparing_blocks() {
        let block = |code: u32, at: u64| match (code >> (2 * at)) % 4 {
            0 => None,
            1 => Some(run(at, 1, None)),
            place => Some(run(at, 1, Some(u64::from(place) * 10 + at))),
        };
        let runs = |code: u32| {
            let mut runs: Vec<Run> = Vec::new();
            for next in (0..4).filter_map(|at| block(code, at)) {
                match runs.last_mut() {
                    Some(last) if last.bytes.end == next.bytes.start && last.place_at(last.bytes.end) == next.place => {
                        last.bytes.end = next.bytes.end;
                    }
                    _ => runs.push(next),
                }
            }
            runs
        };
        for (left, right) in (0..256).flat_map(|left| (0..256).map(move |right| (left, right))) {
            let differ = |at: &u64| {
                let (one, other) = (block(left, *at), block(right, *at));
                one != other || one.is_some_and(|run| run.place.is_none())
            };
            let expected: ByteRanges = (0..4).filter(differ).map(|at| at..at + 1).collect();
            let expected: Vec<_> = expected.iter().map(|range| (range.start, range.end)).collect();
            assert_eq!(compare(&runs(left), &runs(right)), expected, "{left} {right}");
        }
    }

    #[test]
    fn an_error_on_the_way_is_not_taken_for_the_end() {
        let broken = || [Ok(run(0, 1, Some(1))), Err(io::ErrorKind::Other.into())].into_iter();
        assert!(differences(broken(), std::iter::empty()).is_err());
    }

    #[test]
    fn where_the_file_system_does_not_tell_anything_may_differ() {
        let memory: File = rustix::fs::memfd_create("image", rustix::fs::MemfdFlags::CLOEXEC).unwrap().into();
        memory.set_len(1 << 20).unwrap();
        let path = format!("/proc/self/fd/{}", memory.as_raw_fd());
        assert_eq!(changed(Path::new(&path), Path::new(&path)), None);
    }
}
