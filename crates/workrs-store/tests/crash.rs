//! An acknowledged write survives kill -9.
//!
//! The test starts its own binary anew as a child that commits in a loop and prints what was acknowledged, kills it
//! at some moment, opens the file and looks for all of it.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use bytes::Bytes;
use workrs_store::{
    redb::RedbStore,
    state::{Change, StateStore, Transaction},
};

const CHILD: &str = "WORKRS_CRASH_TEST_FILE";
const ROUNDS: u64 = 8;
const WRITERS: u64 = 4;

#[test]
fn an_acknowledged_write_survives_kill_9() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    if let Some(path) = std::env::var_os(CHILD) {
        runtime.block_on(commit_for_ever(path.as_ref()));
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state");
    let mut acknowledged = Vec::new();
    for round in 0..ROUNDS {
        let moment = Duration::from_millis(30 + rand::random_range(0..120));
        let new = run_and_kill(&path, moment);
        println!("round {round}: killed {moment:?} after the first of {} commits", new.len());
        assert!(!new.is_empty());
        acknowledged.extend(new);
        runtime.block_on(check(&path, &acknowledged));
    }
}

/// Writes keys without end, from several tasks, and prints `key revision` once a commit is acknowledged.
async fn commit_for_ever(path: &Path) {
    let store = std::sync::Arc::new(RedbStore::open(path).await.unwrap());
    let start = store.list("", None, 1).await.unwrap().revision.0;
    let writers = (0..WRITERS).map(|writer| {
        let store = std::sync::Arc::clone(&store);
        tokio::spawn(async move {
            for number in 0.. {
                let key = format!("{start:06}/{writer}/{number}");
                let changes = vec![Change::Put(key.clone(), value_of(&key), None)];
                let revision = store.commit(Transaction { conditions: Vec::new(), changes }).await.unwrap();
                let mut output = std::io::stdout().lock();
                writeln!(output, "acknowledged {key} {}", revision.0).unwrap();
                output.flush().unwrap();
            }
        })
    });
    futures::future::join_all(writers).await;
}

fn value_of(key: &str) -> Bytes {
    Bytes::from(key.repeat(key.len() * 7 % 60))
}

/// What the child said was acknowledged before it was killed, `moment` after the first.
fn run_and_kill(path: &Path, moment: Duration) -> Vec<(String, u64)> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "an_acknowledged_write_survives_kill_9", "--nocapture"])
        .env(CHILD, path)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut acknowledged = Vec::new();
    for line in lines.by_ref() {
        if let Some(entry) = parse(&line.unwrap()) {
            acknowledged.push(entry);
            break;
        }
    }
    let killer = std::thread::spawn(move || {
        std::thread::sleep(moment);
        child.kill().unwrap();
        child.wait().unwrap();
    });
    acknowledged.extend(lines.filter_map(|line| parse(&line.unwrap())));
    killer.join().unwrap();
    acknowledged
}

/// A line that the kill cut off is none.
fn parse(line: &str) -> Option<(String, u64)> {
    // The test harness prints its own text before the first line.
    let (_, rest) = line.split_once("acknowledged ")?;
    let (key, revision) = rest.split_once(' ')?;
    Some((key.to_owned(), revision.parse().ok()?))
}

async fn check(path: &Path, acknowledged: &[(String, u64)]) {
    let store = RedbStore::open(path).await.unwrap();
    for (key, revision) in acknowledged {
        let entry = store.get(key).await.unwrap().unwrap_or_else(|| panic!("{key} was acknowledged and is gone"));
        assert_eq!(entry.value, value_of(key), "{key}");
        // The last line may have been cut within its number.
        assert!(entry.revision.0.to_string().starts_with(&revision.to_string()), "{key}");
    }
    store.close().await;
}
