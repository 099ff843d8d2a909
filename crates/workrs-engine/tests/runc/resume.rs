//! Jobs that go on after their node died.

use std::time::Duration;

use workrs_core::job::CheckpointMode;
use workrs_engine::{
    ContainerEnd, Engine, EngineError,
    conformance::{self, Output},
};

use crate::{
    limits::start,
    suite::{capture, on_engine, python, wait_for_line},
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

/// Whenever a dump is cut off, the job goes on as if nothing had happened or, if CRIU was within its processes, ends by a
/// fault of the host; never by one of its own.
pub fn a_dump_that_takes_too_long_is_ended() {
    on_engine(async |engine| {
        let (mut cut_off, mut vanished) = (0, 0);
        for deadline_ms in (10..180).step_by(17) {
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
        assert!(cut_off > 3);
    });
}
