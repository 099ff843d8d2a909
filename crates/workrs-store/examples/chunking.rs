//! Measures how cheap checkpoints are: what ways to cut memory into chunks cost, and how fast storing is.
//!
//! ```text
//! cargo run --release -p workrs-store --example chunking -- FIRST SECOND [MORE…]
//! cargo run --release -p workrs-store --example chunking -- --speed [MIB]
//! ```
//! The first form takes folders with successive dumps of one process and prints, for each way to cut them and each
//! dump but the first: bytes in chunks that no dump before had, these after zstd, and what naming them costs: `listed`
//! in a manifest that names every chunk of the dump, `indexed` if it has to name only the new ones. The share is that
//! of the smaller sum in the dump. The last lines are checkpoints as they are really stored. Dumps are made by
//!
//! ```text
//! criu dump --tree PID --images-dir FOLDER --leave-running --shell-job
//! ```
//! The second form prints the speed of each stage and of storing and fetching as a whole, for data that cannot be
//! compressed (the default is 256 MiB). Run it with `taskset --cpu-list 0` for the speed on one core.

use std::{collections::HashSet, error::Error, ops::Range, path::Path, sync::Arc, time::Instant};

use workrs_core::{
    id::{Epoch, JobId, OperationId},
    job::{CheckpointId, CheckpointMode},
    manifest::RestoreNeeds,
};
use workrs_store::{
    blobs::Blobs,
    checkpoints::{Base, Checkpoints, NewCheckpoint, PartSource, Stored},
};

type Outcome<T> = Result<T, Box<dyn Error>>;

const PAGE: usize = 4 << 10;
const ZSTD_LEVEL: i32 = 1;
const MANIFEST_ZSTD_LEVEL: i32 = 3;

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Runtime::new()?;
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["--speed"] => runtime.block_on(speed(256 << 20)),
        ["--speed", mebibytes] => runtime.block_on(speed(mebibytes.parse::<usize>()? << 20)),
        dumps @ [_, _, ..] => {
            compare(dumps)?;
            runtime.block_on(store_each(dumps))
        }
        _ => Err("give two or more folders with dumps, or --speed".into()),
    }
}

/// A way to cut a file.
#[derive(Debug, Clone, Copy)]
enum Cut {
    /// FastCDC with chunks of this length on average.
    FastCdc(usize),
    /// Whole pages, so many on average: a chunk ends where the hash of a page says so.
    Pages(u64),
    /// Blocks of this length.
    Fixed(usize),
}

const CUTS: [Cut; 10] = [
    Cut::FastCdc(16 << 10),
    Cut::FastCdc(32 << 10),
    Cut::FastCdc(64 << 10),
    Cut::Pages(2),
    Cut::Pages(4),
    Cut::Pages(8),
    Cut::Fixed(4 << 10),
    Cut::Fixed(8 << 10),
    Cut::Fixed(16 << 10),
    Cut::Fixed(64 << 10),
];

impl Cut {
    /// The chunks of a file, without those that are all zeros; whole pages of zeros also end a chunk.
    fn chunks(self, file: &[u8]) -> Vec<Range<usize>> {
        let all: Vec<_> = match self {
            Self::FastCdc(_) if file.is_empty() => Vec::new(),
            Self::FastCdc(mean) => fastcdc::v2020::FastCDC::new(file, mean / 4, mean, mean * 4)
                .map(|chunk| chunk.offset..chunk.offset + chunk.length)
                .collect(),
            Self::Pages(mean) => pages(file, mean),
            Self::Fixed(len) => (0..file.len()).step_by(len).map(|at| at..(at + len).min(file.len())).collect(),
        };
        all.into_iter().filter(|chunk| !is_zero(&file[chunk.clone()])).collect()
    }
}

fn pages(file: &[u8], mean: u64) -> Vec<Range<usize>> {
    let mut chunks = Vec::new();
    let mut start = 0;
    for (number, page) in file.chunks(PAGE).enumerate() {
        let (at, end) = (number * PAGE, number * PAGE + page.len());
        let is_longest = (end - start).div_ceil(PAGE) as u64 >= 4 * mean;
        if is_zero(page) {
            chunks.extend([start..at, at..end].into_iter().filter(|chunk| !chunk.is_empty()));
            start = end;
        } else if is_longest || page_hash(page).is_multiple_of(mean) {
            chunks.push(start..end);
            start = end;
        }
    }
    if start < file.len() {
        chunks.push(start..file.len());
    }
    chunks
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.chunks(512).all(|piece| piece.iter().fold(0, |all, byte| all | byte) == 0)
}

/// A cheap hash: four lanes of multiply and rotate.
fn page_hash(page: &[u8]) -> u64 {
    const FACTOR: u64 = 0x9FB2_1C65_1E98_DF25;
    let mut lanes = [1u64, 2, 3, 4];
    for words in page.chunks_exact(32) {
        for (lane, word) in lanes.iter_mut().zip(words.chunks_exact(8)) {
            let word = word.iter().rev().fold(0, |all, byte| all << 8 | u64::from(*byte));
            *lane = (*lane ^ word).wrapping_mul(FACTOR).rotate_left(29);
        }
    }
    let hash = lanes.iter().fold(0u64, |all, lane| (all.rotate_left(17) ^ lane).wrapping_mul(FACTOR));
    hash >> 32
}

/// The files of a dump.
fn read(folder: &str) -> Outcome<Vec<Vec<u8>>> {
    let mut paths: Vec<_> = std::fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<Outcome<_>>()?;
    paths.sort();
    paths.into_iter().map(|path| Ok(std::fs::read(path)?)).collect()
}

fn compare(folders: &[&str]) -> Outcome<()> {
    let dumps = folders.iter().map(|folder| read(folder)).collect::<Outcome<Vec<_>>>()?;
    println!(
        "{:14} {:>6} {:>8} {:>10} {:>10} {:>9} {:>9} {:>7} {:>9}",
        "cut", "dump", "chunks", "new", "zstd", "listed", "indexed", "share", "MB/s"
    );
    for cut in CUTS {
        let mut known = HashSet::new();
        for (number, dump) in (1..).zip(&dumps) {
            let total: usize = dump.iter().map(Vec::len).sum();
            let row = measure(cut, dump, &mut known)?;
            if number > 1 {
                let sum = row.packed + row.listed.min(row.indexed);
                println!(
                    "{:14} {number:>6} {:>8} {:>10} {:>10} {:>9} {:>9} {:>6.2}% {:>9.0}",
                    format!("{cut:?}"),
                    row.chunks,
                    row.new,
                    row.packed,
                    row.listed,
                    row.indexed,
                    100.0 * sum as f64 / total as f64,
                    row.megabytes_per_second
                );
            }
        }
    }
    Ok(())
}

struct Row {
    chunks: usize,
    new: usize,
    packed: usize,
    listed: usize,
    indexed: usize,
    /// Of cutting and hashing.
    megabytes_per_second: f64,
}

fn measure(cut: Cut, dump: &[Vec<u8>], known: &mut HashSet<blake3::Hash>) -> Outcome<Row> {
    let began = Instant::now();
    let mut chunks = Vec::new();
    for file in dump {
        chunks.extend(cut.chunks(file).into_iter().map(|range| (blake3::hash(&file[range.clone()]), file, range)));
    }
    let seconds = began.elapsed().as_secs_f64();
    let total: usize = dump.iter().map(Vec::len).sum();
    let mut zstd = zstd::bulk::Compressor::new(ZSTD_LEVEL)?;
    let (mut list, mut index) = (Vec::new(), Vec::new());
    let (mut new, mut packed) = (0, 0);
    for (hash, file, range) in &chunks {
        let is_new = known.insert(*hash);
        let len = range.len();
        let stored = if is_new { zstd.compress(&file[range.clone()])?.len().min(len) } else { 0 };
        if is_new {
            (new, packed) = (new + len, packed + stored);
            index.extend_from_slice(hash.as_bytes());
            index.extend_from_slice(&(stored as u32).to_le_bytes());
        }
        list.extend_from_slice(hash.as_bytes());
        list.extend_from_slice(&(range.start as u64).to_le_bytes());
        list.extend_from_slice(&(len as u32).to_le_bytes());
        list.extend_from_slice(&(packed as u64).to_le_bytes());
    }
    let compressed = |bytes: &[u8]| Ok::<_, Box<dyn Error>>(zstd::bulk::compress(bytes, MANIFEST_ZSTD_LEVEL)?.len());
    let (listed, indexed) = (compressed(&list)?, compressed(&index)?);
    Ok(Row { chunks: chunks.len(), new, packed, listed, indexed, megabytes_per_second: total as f64 / 1e6 / seconds })
}

async fn store(checkpoints: &Checkpoints, seq: u64, folder: &Path, base: Option<&Base>) -> Outcome<Stored> {
    let new = NewCheckpoint {
        job: &JobId::new("job")?,
        id: CheckpointId { epoch: Epoch(1), seq },
        operation: &OperationId::new("op")?,
        mode: CheckpointMode::Full,
        needs: RestoreNeeds { engine: "none".into(), format: 1, arch: "none".into(), ..RestoreNeeds::default() },
        run_ms: 0,
        log_bytes: 0,
        parts: &[PartSource::Folder { name: "memory".into(), path: folder.to_owned() }],
        base,
        limit_bytes: None,
    };
    Ok(checkpoints.store(new).await?)
}

async fn store_each(folders: &[&str]) -> Outcome<()> {
    let checkpoints = Checkpoints::new(Blobs::open("memory:")?);
    let mut base: Option<Base> = None;
    println!("\nas stored: pack and manifest");
    for (seq, folder) in (1..).zip(folders) {
        let stored = store(&checkpoints, seq, folder.as_ref(), base.as_ref()).await?;
        let (manifest, all) = (stored.manifest.len, stored.uploaded_bytes);
        let total: usize = read(folder)?.iter().map(Vec::len).sum();
        let share = 100.0 * all as f64 / total as f64;
        println!("{folder}: {} + {manifest} = {all} bytes, {share:.2}% of {total}", all - manifest);
        base = Some(Base::new(Arc::clone(&stored.contents)));
    }
    Ok(())
}

/// When something began, by the clock and by the processor time of this process.
struct Clock {
    wall: Instant,
    processor_seconds: f64,
}

impl Clock {
    fn start() -> Outcome<Self> {
        Ok(Self { wall: Instant::now(), processor_seconds: processor_seconds()? })
    }

    /// Prints the speed for `len` bytes.
    fn stop(&self, what: &str, len: usize) -> Outcome<()> {
        let megabytes = len as f64 / 1e6;
        let wall = megabytes / self.wall.elapsed().as_secs_f64();
        let processor = megabytes / (processor_seconds()? - self.processor_seconds);
        println!("{what:38} {wall:>6.0} MB/s {processor:>6.0} MB/s of processor time");
        Ok(())
    }
}

/// User and system time of all threads, which the kernel counts in hundredths of a second.
fn processor_seconds() -> Outcome<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let numbers = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(2);
    let ticks: u64 = numbers.map(str::parse::<u64>).sum::<Result<_, _>>()?;
    Ok(ticks as f64 / 100.0)
}

/// Runs something three times, and prints the speed for `len` bytes.
fn time(what: &str, len: usize, mut run: impl FnMut() -> Outcome<()>) -> Outcome<()> {
    let clock = Clock::start()?;
    (0..3).try_for_each(|_| run())?;
    clock.stop(what, 3 * len)
}

async fn speed(len: usize) -> Outcome<()> {
    let folder = tempfile::tempdir()?;
    let memory = folder.path().join("memory");
    std::fs::create_dir(&memory)?;
    let mut noise = vec![0; len];
    blake3::Hasher::new().finalize_xof().fill(&mut noise);
    std::fs::write(memory.join("pages"), &noise)?;
    time("copy", len, || {
        std::hint::black_box(noise.clone());
        Ok(())
    })?;
    time("look for zeros", len, || {
        std::hint::black_box(noise.chunks(PAGE).filter(|page| is_zero(page)).count());
        Ok(())
    })?;
    time("hash pages", len, || {
        noise.chunks(PAGE).for_each(|page| _ = std::hint::black_box(blake3::hash(page)));
        Ok(())
    })?;
    let mut zstd = zstd::bulk::Compressor::new(ZSTD_LEVEL)?;
    let mut packed = vec![0; 2 * PAGE];
    time("compress pages", len, || {
        noise.chunks(PAGE).try_for_each(|page| Ok(_ = zstd.compress_to_buffer(page, &mut packed[..])?))
    })?;
    time("look for zeros, hash and compress", len, || {
        noise.chunks(PAGE).filter(|page| !is_zero(page)).try_for_each(|page| {
            std::hint::black_box(blake3::hash(page));
            Ok(_ = zstd.compress_to_buffer(page, &mut packed[..])?)
        })
    })?;
    drop(noise);
    for blobs in ["memory:".to_owned(), format!("file://{}/blobs", folder.path().display())] {
        let checkpoints = Checkpoints::new(Blobs::open(&blobs)?);
        let kind = blobs.split(':').next().unwrap_or_default();
        let clock = Clock::start()?;
        let first = store(&checkpoints, 1, &memory, None).await?;
        clock.stop(&format!("store all, new ({kind})"), len)?;
        let base = Base::new(Arc::clone(&first.contents));
        let clock = Clock::start()?;
        store(&checkpoints, 2, &memory, Some(&base)).await?;
        clock.stop(&format!("store all again, nothing new ({kind})"), len)?;
        for _ in 0..2 {
            let into = folder.path().join("into");
            let clock = Clock::start()?;
            checkpoints.fetch(&first.contents.job, first.contents.id, &first.manifest, &into).await?;
            clock.stop(&format!("fetch ({kind})"), len)?;
            std::fs::remove_dir_all(&into)?;
        }
    }
    Ok(())
}
