use std::{io::Read, os::fd::OwnedFd};

use workrs_core::{job::CheckpointMode, spec::Network};

use super::*;
use crate::engine::{CapturedPart, ContainerEnd};

const DEADLINE: std::time::Duration = std::time::Duration::from_secs(60);

fn spec(command: &[&str]) -> ContainerSpec {
    ContainerSpec {
        job: workrs_core::id::JobId::new("job").unwrap(),
        attempt: "1".to_owned(),
        command: command.iter().map(|word| (*word).to_owned()).collect(),
        folder: "/job".to_owned(),
        image: None,
        network: Network::None,
        env: std::collections::BTreeMap::new(),
        cpus_milli: 1000,
        memory_bytes: 1 << 20,
        disk_bytes: 1 << 20,
    }
}

fn pipe() -> (std::fs::File, OwnedFd) {
    let (read, write) = rustix::pipe::pipe().unwrap();
    (read.into(), write)
}

#[tokio::test(start_paused = true)]
async fn a_crash_ends_every_container_and_hangs_the_node() {
    let folder = tempfile::tempdir().unwrap();
    let host = FakeHost::new(folder.path());
    let engine = host.engine();
    let container = engine.prepare(&spec(&["count", "10", "1000"]), Origin::New).await.unwrap();
    let (mut read, write) = pipe();
    container.start(write).await.unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(2500)).await;
    host.crash();
    let waited = tokio::time::timeout(std::time::Duration::from_secs(60), container.wait()).await;
    assert!(waited.is_err(), "a dead node learns of no end");
    drop(container);
    let mut printed = String::new();
    read.read_to_string(&mut printed).unwrap();
    assert_eq!(printed, "1\n2\n");
    assert_eq!(host.engine().sweep().await.unwrap(), ["job-1"]);
    assert!(host.containers().is_empty());
}

#[tokio::test(start_paused = true)]
async fn faults_strike_the_call_that_was_named() {
    for fault in [Fault::FailBefore, Fault::FailAfter] {
        let folder = tempfile::tempdir().unwrap();
        let host = FakeHost::new(folder.path());
        host.inject(1, fault);
        let container = host.engine().prepare(&spec(&["exit", "3"]), Origin::New).await.unwrap();
        assert!(matches!(container.start(pipe().1).await, Err(EngineError::Host(_))));
        let ended = tokio::time::timeout(std::time::Duration::from_secs(1), container.wait()).await;
        assert_eq!(ended.ok(), (fault == Fault::FailAfter).then_some(ContainerEnd::Exited(3)));
        assert_eq!(host.calls(), ["prepare", "start"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_crash_within_a_call_is_told_to_the_test() {
    let folder = tempfile::tempdir().unwrap();
    let host = FakeHost::new(folder.path());
    host.inject(0, Fault::CrashAfter);
    let engine = host.engine();
    let node = tokio::spawn(async move { engine.prepare(&spec(&["exit", "0"]), Origin::New).await.is_ok() });
    host.crashed().await;
    node.abort();
    assert_eq!(host.containers(), ["job-1"]);
    assert_eq!(host.engine().sweep().await.unwrap(), ["job-1"]);
}

#[tokio::test(start_paused = true)]
async fn a_capture_names_the_blocks_that_changed_since_the_last_that_succeeded() {
    let folder = tempfile::tempdir().unwrap();
    let host = FakeHost::new(folder.path());
    let container = host.engine().prepare(&spec(&["sleep", "1000000"]), Origin::New).await.unwrap();
    container.start(pipe().1).await.unwrap();
    // The disk has each byte as a number and a comma, so that "a" ends within its first block.
    std::fs::write(container.job_folder().join("a"), [10; 1000]).unwrap();
    std::fs::write(container.job_folder().join("b"), [10; 2000]).unwrap();
    let mut told = Vec::new();
    for (a, fault) in [(10, None), (11, Some(Fault::FailAfter)), (11, None), (11, None)] {
        std::fs::write(container.job_folder().join("a"), [a; 1000]).unwrap();
        let mut frozen = container.freeze().await.unwrap();
        if let Some(fault) = fault {
            host.inject(host.calls().len(), fault);
        }
        let capture = frozen.capture(CheckpointMode::Files, folder.path(), DEADLINE).await;
        told.extend(capture.ok().map(|capture| match &capture.parts[..] {
            [CapturedPart::Image { changed, .. }] => {
                changed.as_ref().map(|changed| changed.iter().map(|range| (range.start, range.end)).collect::<Vec<_>>())
            }
            parts => panic!("{parts:?}"),
        }));
        frozen.thaw().await.unwrap();
    }
    assert_eq!(told, [None, Some(vec![(0, 4096)]), Some(vec![])]);
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

#[tokio::test(start_paused = true)]
async fn the_fake_keeps_the_contract_of_an_engine() {
    let folder = tempfile::tempdir().unwrap();
    let host = FakeHost::new(folder.path().join("host"));
    let programs = crate::conformance::Programs {
        count: |lines, tick_ms| words(&["count", &lines.to_string(), &tick_ms.to_string()]),
        exit: |code| words(&["exit", &code.to_string()]),
        signal: |signal| words(&["signal", &signal.to_string()]),
        exhaust_memory: || words(&["oom"]),
        fill_disk: || words(&["fill-disk"]),
        environment: None,
    };
    let engine = host.engine();
    let leftovers = || host.containers();
    let subject = crate::conformance::Subject {
        engine: &engine,
        folder: folder.path(),
        programs,
        image: None,
        leftovers: &leftovers,
    };
    crate::conformance::run(&subject).await;
}
