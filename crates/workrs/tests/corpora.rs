//! What fuzzers made up before is parsed again, on the stable compiler.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::{fs, path::PathBuf};

use workrs::fuzzing::TARGETS;

fn fuzz() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fuzz")
}

/// What is kept of a parser's input, by the files' names.
fn corpus(name: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = fs::read_dir(fuzz().join("corpus").join(name)).unwrap();
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "{name} has no corpus");
    files.into_iter().map(|file| (file.clone(), fs::read(&file).unwrap())).collect()
}

#[test]
fn what_is_kept_of_each_parsers_input_does_no_harm() {
    for (name, target) in TARGETS {
        for (file, data) in corpus(name) {
            // A failure says which file it was.
            println!("{}", file.display());
            target(&data);
        }
    }
}

/// Draws numbers, the same ones from the same seed (SplitMix64).
struct Draw(u64);

impl Draw {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }
}

/// A few changes of the kinds that break parsers; `other` is another input of the same parser.
fn changed(data: &[u8], other: &[u8], draw: &mut Draw) -> Vec<u8> {
    const TELLING: [&[u8]; 8] = [b"-1", b"0", b"18446744073709551616", b"1e999", b"\"", b"../", b"\0", b"\xff"];
    let mut data = data.to_vec();
    for _ in 0..=draw.below(3) {
        let at = draw.below(data.len());
        match draw.below(6) {
            0 | 1 if !data.is_empty() => data[at] ^= 1 << draw.below(8),
            2 if !data.is_empty() => data[at] = draw.next() as u8,
            3 => data.truncate(at),
            4 => drop(data.splice(at..at, TELLING[draw.below(TELLING.len())].iter().copied())),
            _ => {
                let from = draw.below(other.len());
                let piece = &other[from..other.len().min(from + draw.below(64))];
                data.splice(at..at, piece.iter().copied());
            }
        }
    }
    data
}

/// `WORKRS_CORPUS_ROUNDS` makes it longer.
#[test]
fn what_differs_a_little_from_that_does_no_harm() {
    let rounds = std::env::var("WORKRS_CORPUS_ROUNDS").map_or(20, |text| text.parse().unwrap());
    for (name, target) in TARGETS {
        let corpus = corpus(name);
        for seed in 0..rounds * corpus.len() as u64 {
            let mut draw = Draw(seed);
            let (one, other) = (draw.below(corpus.len()), draw.below(corpus.len()));
            let data = changed(&corpus[one].1, &corpus[other].1, &mut draw);
            println!("{name}: seed {seed}: {}", String::from_utf8_lossy(&data[..data.len().min(200)]).escape_debug());
            target(&data);
        }
    }
}

#[test]
fn every_parser_has_a_fuzzer() {
    let programs = fs::read_to_string(fuzz().join("Cargo.toml")).unwrap();
    for (name, _) in TARGETS {
        assert!(programs.contains(&format!("name = \"{name}\"")), "{name} is not in fuzz/Cargo.toml");
        let program = fs::read_to_string(fuzz().join(format!("fuzz_targets/{name}.rs"))).unwrap();
        assert!(program.contains(&format!("run(\"{name}\", data)")), "{name}");
    }
}
