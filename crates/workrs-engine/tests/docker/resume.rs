//! Jobs that go on after their node died.

use std::time::{Duration, Instant};

use workrs_core::job::CheckpointMode;
use workrs_engine::{
    ContainerEnd, Engine, EngineError,
    conformance::{self, Output},
};

use crate::{
    daemon::Dockerd,
    suite::{capture, count, on_engine, open, python, shell, start, wait_for_line},
};

/// What a job can do that is hard to bring back, as on runc.
const BUSY: &str = include_str!("../runc/busy.py");

pub fn a_busy_job_goes_on_where_it_was(daemon: &Dockerd) {
    on_engine(daemon, async |engine| {
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        let mut spec = conformance::spec("busy", 1, python(BUSY));
        spec.memory_bytes = 512 << 20;
        spec.disk_bytes = 256 << 20;
        let (container, mut output) = start(&engine, &spec).await;
        let mut printed = wait_for_line(&mut output).await;
        let began = Instant::now();
        let captured = capture(&*container, &folder.path().join("into")).await;
        println!("captured within {:?}", began.elapsed());
        let end = container.wait().await;
        printed.push_str(&output.drain());
        assert!(end == ContainerEnd::Exited(0) && printed.ends_with("\n60\nall well\n"), "the job itself: {printed}");
        for attempt in 2..4 {
            spec.attempt = attempt.to_string();
            let origin = conformance::gather(&captured, CheckpointMode::Full, &folder.path().join("from"));
            let again = engine.prepare(&spec, origin).await.unwrap();
            let (mut output, pipe) = Output::new();
            let began = Instant::now();
            again.restore(pipe).await.unwrap();
            println!("restored within {:?}", began.elapsed());
            let end = again.wait().await;
            let printed = output.drain();
            assert!(end == ContainerEnd::Exited(0) && printed.ends_with("\n60\nall well\n"), "{end:?}: {printed}");
            again.destroy().await.unwrap();
        }
        container.destroy().await.unwrap();
    });
}

/// The second daemon has a data root of its own and never saw the first one's containers.
pub fn a_checkpoint_of_one_daemon_resumes_under_another(daemon: &Dockerd) {
    let other = Dockerd::start();
    on_engine(daemon, async |engine| {
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        let mut spec = conformance::spec("moves", 1, count(60, 20));
        let (container, mut output) = start(&engine, &spec).await;
        let mut printed = wait_for_line(&mut output).await;
        std::fs::create_dir(folder.path().join("into")).unwrap();
        let mut frozen = container.freeze().await.unwrap();
        let captured = frozen.capture(CheckpointMode::Full, &folder.path().join("into"), Duration::from_secs(60)).await;
        let captured = captured.unwrap();
        printed.push_str(&output.drain());
        let origin = conformance::gather(&captured, CheckpointMode::Full, &folder.path().join("from"));
        drop(frozen);
        container.destroy().await.unwrap();
        drop((container, engine));
        let engine = open(&other.socket()).await;
        "2".clone_into(&mut spec.attempt);
        let again = engine.prepare(&spec, origin).await.unwrap();
        let (mut output, pipe) = Output::new();
        again.restore(pipe).await.unwrap();
        assert_eq!((daemon.containers().len(), other.containers().len()), (0, 1));
        assert_eq!(again.wait().await, ContainerEnd::Exited(0));
        printed.push_str(&output.drain());
        let expected: String = (1..=60).map(|line| format!("{line}\n")).collect();
        assert_eq!(printed, expected);
        again.destroy().await.unwrap();
        assert_eq!(other.containers(), Vec::<String>::new());
    });
}

/// A process that has a child start a program waits for it in a way that CRIU cannot seize.
pub fn a_job_that_starts_programs_all_the_time_is_captured(daemon: &Dockerd) {
    on_engine(daemon, async |engine| {
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        let starts = shell("echo ready; while :; do /bin/true; done");
        let (container, mut output) = start(&engine, &conformance::spec("starts", 1, starts)).await;
        wait_for_line(&mut output).await;
        for round in 0..5 {
            conformance::discard(&capture(&*container, &folder.path().join(round.to_string())).await);
        }
        container.destroy().await.unwrap();
    });
}

/// Whenever a dump is cut off, the job goes on as if nothing had happened or, if CRIU was within its processes, ends by a
/// fault of the host; never by one of its own.
pub fn a_dump_that_takes_too_long_is_ended(daemon: &Dockerd) {
    on_engine(daemon, async |engine| {
        let (mut cut_off, mut vanished) = (0, 0);
        for deadline_ms in (1..302).step_by(60) {
            let folder = tempfile::tempdir_in("/var/tmp").unwrap();
            let mut spec = conformance::spec("late", deadline_ms, python(BUSY));
            spec.memory_bytes = 512 << 20;
            spec.disk_bytes = 256 << 20;
            let (container, mut output) = start(&engine, &spec).await;
            wait_for_line(&mut output).await;
            let mut frozen = container.freeze().await.unwrap();
            let deadline = Duration::from_millis(deadline_ms.into());
            let captured = frozen.capture(CheckpointMode::Full, folder.path(), deadline).await;
            assert!(matches!(captured, Ok(_) | Err(EngineError::CannotCapture(_))), "{captured:?}");
            cut_off += u32::from(captured.is_err());
            if frozen.thaw().await.is_ok() {
                output.drain();
                wait_for_line(&mut output).await;
                container.kill().await.unwrap();
                assert_eq!(container.wait().await, ContainerEnd::Signalled(9));
            } else {
                vanished += 1;
                assert_eq!(container.wait().await, ContainerEnd::Vanished);
            }
            container.destroy().await.unwrap();
        }
        println!("of {cut_off} dumps that were cut off, {vanished} took the job with them");
        assert!(cut_off > 1);
    });
}

/// A message queue cannot be captured by CRIU.
const HOLDS_A_QUEUE: &str = r#"
import ctypes, time
assert ctypes.CDLL("librt.so.1").mq_open(b"/queue", 0o102, 0o600, None) >= 0
print("ready", flush=True)
time.sleep(2)
print("done")
"#;

pub fn what_cannot_be_captured_runs_on(daemon: &Dockerd) {
    on_engine(daemon, async |engine| {
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        let (container, mut output) = start(&engine, &conformance::spec("queue", 1, python(HOLDS_A_QUEUE))).await;
        wait_for_line(&mut output).await;
        let mut frozen = container.freeze().await.unwrap();
        let failed = frozen.capture(CheckpointMode::Full, folder.path(), Duration::from_secs(30)).await;
        let failed = failed.err().map(|error| error.to_string()).unwrap();
        assert!(failed.starts_with("the job cannot be checkpointed: criu: ") && failed.len() < 300, "{failed}");
        drop(frozen);
        assert_eq!(container.wait().await, ContainerEnd::Exited(0));
        assert_eq!(output.drain(), "done\n");
        container.destroy().await.unwrap();
    });
}
