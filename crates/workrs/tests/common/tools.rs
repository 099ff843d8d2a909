//! What tests are made of: waiting, files, random numbers.
#![allow(dead_code, reason = "each of the test programs that share this uses a part")]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use crate::host;

/// Longer than anything takes on a machine that is busy with other things.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// Asks until there is an answer.
pub fn wait_until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(began.elapsed() < PATIENCE, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// All regular files below a folder.
pub fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            files.extend(files_below(&entry.path()));
        } else if kind.is_file() {
            files.push(entry.path());
        }
    }
    files.sort();
    files
}

/// All regular files below a folder and their contents, by path within it.
pub fn read_tree(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let name = |path: &Path| path.strip_prefix(folder).unwrap().to_string_lossy().into_owned();
    files_below(folder).iter().map(|path| (name(path), fs::read(path).unwrap())).collect()
}

/// Where the programs of the tests lie.
pub fn program(name: &str) -> String {
    format!("{}/tests/jobs/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// Now, in the unit of records.
pub fn now_ms() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

/// Random numbers from a seed that is printed, so that a failure can be repeated (SplitMix64).
pub struct Random(u64);

impl Random {
    /// From `WORKRS_TEST_SEED`, or a new one.
    pub fn seeded() -> Self {
        Self::seeded_by("WORKRS_TEST_SEED")
    }

    /// From this variable of the environment, or a new one.
    pub fn seeded_by(variable: &str) -> Self {
        let given = std::env::var(variable).ok().map(|text| text.parse().unwrap());
        let seed = given.unwrap_or_else(now_ms);
        host::tell(&format!("random moments from {variable}={seed}"));
        Self::from(seed)
    }

    /// From this seed.
    pub fn from(seed: u64) -> Self {
        Self(seed)
    }

    /// A number from `least` to `most`.
    pub fn between(&mut self, least: u64, most: u64) -> u64 {
        least + self.below(most - least + 1)
    }

    /// One of these.
    pub fn one_of<'a, T>(&mut self, choice: &'a [T]) -> &'a T {
        &choice[self.below(choice.len() as u64) as usize]
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }
}
