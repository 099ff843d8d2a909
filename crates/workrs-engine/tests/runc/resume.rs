//! Jobs that go on after their node died.

use std::time::{Duration, Instant};

use workrs_core::job::CheckpointMode;
use workrs_engine::{
    ContainerEnd, Engine, EngineError,
    conformance::{self, Output},
};

use crate::{
    limits::start,
    suite::{capture, count, on_engine, python, shell, wait_for_line},
};

/// More than once, as what depends on timing need not fail at the first try.
const RESTORES: u32 = 3;

pub fn a_busy_job_goes_on_where_it_was() {
    on_engine(async |engine| {
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        let mut spec = conformance::spec("busy", 1, python(include_str!("busy.py")));
        spec.memory_bytes = 512 << 20;
        spec.disk_bytes = 256 << 20;
        let (container, mut output) = start(&engine, &spec).await;
        let mut printed = wait_for_line(&mut output).await;
        let captured = capture(&*container, CheckpointMode::Full, &folder.path().join("into")).await;
        let mapped: Vec<_> = captured.needs.mapped.iter().map(|file| file.path.as_str()).collect();
        assert!(
            mapped.iter().any(|path| path.contains("libc.so")) && mapped.iter().any(|path| path.contains("python3"))
        );
        assert!(mapped.iter().all(|path| path.starts_with("/usr/")), "{mapped:?}");
        let end = container.wait().await;
        printed.push_str(&output.drain());
        assert!(end == ContainerEnd::Exited(0) && printed.ends_with("\n60\nall well\n"), "the job itself: {printed}");
        for attempt in 2..2 + RESTORES {
            spec.attempt = attempt.to_string();
            let origin = conformance::gather(&captured, CheckpointMode::Full, &folder.path().join("from"));
            let again = engine.prepare(&spec, origin).await.unwrap();
            let (mut output, pipe) = Output::new();
            again.restore(pipe).await.unwrap();
            let end = again.wait().await;
            let printed = output.drain();
            assert!(end == ContainerEnd::Exited(0) && printed.ends_with("\n60\nall well\n"), "{end:?}: {printed}");
            again.destroy().await.unwrap();
        }
        // A base that differs in what was mapped is noticed before anything is touched.
        let mut captured = captured;
        captured.needs.mapped[0].hash = workrs_core::hash::ContentHash::of(b"another");
        let changed = captured.needs.mapped[0].path.clone();
        let origin = conformance::gather(&captured, CheckpointMode::Full, &folder.path().join("from"));
        let failed = engine.prepare(&spec, origin).await.err();
        assert!(matches!(&failed, Some(EngineError::Unfit(why)) if why.starts_with(&changed)), "{failed:?}");
        container.destroy().await.unwrap();
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

pub fn what_cannot_be_captured_runs_on() {
    on_engine(async |engine| {
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        let (container, mut output) = start(&engine, &conformance::spec("queue", 1, python(HOLDS_A_QUEUE))).await;
        wait_for_line(&mut output).await;
        let mut frozen = container.freeze().await.unwrap();
        let failed = frozen.capture(CheckpointMode::Full, folder.path(), Duration::from_secs(30)).await;
        let failed = failed.err().map(|error| error.to_string()).unwrap();
        assert!(failed.starts_with("the job cannot be checkpointed: criu: ") && failed.len() < 300, "{failed}");
        drop(frozen);
        println!("said: {failed}");
        assert_eq!(container.wait().await, ContainerEnd::Exited(0));
        assert_eq!(output.drain(), "done\n");
        container.destroy().await.unwrap();
    });
}

/// A process that has a child start a program waits for it in a way that CRIU cannot seize.
pub fn a_job_that_starts_programs_all_the_time_is_captured() {
    on_engine(async |engine| {
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        let starts = shell("echo ready; while :; do /bin/true; done");
        let (container, mut output) = start(&engine, &conformance::spec("starts", 1, starts)).await;
        wait_for_line(&mut output).await;
        for round in 0..40 {
            let into = folder.path().join(round.to_string());
            conformance::discard(&capture(&*container, CheckpointMode::Full, &into).await);
        }
        container.destroy().await.unwrap();
    });
}

/// Whenever a dump is cut off, the job goes on as if nothing had happened or, if CRIU was within its processes, ends by a
/// fault of the host; never by one of its own.
pub fn a_dump_that_takes_too_long_is_ended() {
    on_engine(async |engine| {
        let (mut cut_off, mut vanished) = (0, 0);
        for deadline_ms in (1..61).step_by(6) {
            let folder = tempfile::tempdir_in("/var/tmp").unwrap();
            let mut spec = conformance::spec("late", deadline_ms, python(include_str!("busy.py")));
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

/// Restores do not get in each other's way, although all jobs have the same root.
pub fn restores_side_by_side_all_succeed() {
    const JOBS: u32 = 8;
    const ROUNDS: u32 = 5;
    on_engine(async |engine| {
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        let spec = |attempt| conformance::spec("side", attempt, count(1000, 20));
        let (container, mut output) = start(&engine, &spec(1)).await;
        wait_for_line(&mut output).await;
        let captured = capture(&*container, CheckpointMode::Full, &folder.path().join("into")).await;
        container.kill().await.unwrap();
        for round in 0..ROUNDS {
            let mut prepared = Vec::new();
            for attempt in (2 + round * JOBS..).take(JOBS as usize) {
                let from = folder.path().join(attempt.to_string());
                let origin = conformance::gather(&captured, CheckpointMode::Full, &from);
                prepared.push((attempt, engine.prepare(&spec(attempt), origin).await.unwrap()));
            }
            let began = Instant::now();
            let mut restores = tokio::task::JoinSet::new();
            for (attempt, container) in prepared {
                restores.spawn(async move {
                    let (mut output, pipe) = Output::new();
                    container.restore(pipe).await.unwrap();
                    wait_for_line(&mut output).await;
                    let own = container.job_folder().with_file_name("run").join("workrs/attempt");
                    assert_eq!(std::fs::read_to_string(own).unwrap(), format!("{attempt}\n"));
                    container
                });
            }
            let restored = restores.join_all().await;
            println!("{JOBS} restores side by side: {:?}", began.elapsed());
            for container in restored {
                container.destroy().await.unwrap();
            }
        }
        container.destroy().await.unwrap();
    });
}
