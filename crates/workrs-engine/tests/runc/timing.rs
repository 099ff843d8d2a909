//! How long things take here. Printed, not judged.

use std::time::{Duration, Instant};

use workrs_core::job::CheckpointMode;
use workrs_engine::{
    Container, ContainerSpec, Engine, Origin,
    conformance::{self, Output},
    runc::RuncEngine,
};

use crate::{
    image::{Store, with_a_shell},
    limits::start,
    suite::{on_engine, python, shell, wait_for_line},
};

/// Notes how long each of several steps took.
struct Laps {
    last: Instant,
    text: Vec<String>,
}

impl Laps {
    fn new() -> Self {
        Self { last: Instant::now(), text: Vec::new() }
    }

    fn lap(&mut self, name: &str) {
        self.text.push(format!("{name} {:.0} ms", self.last.elapsed().as_secs_f64() * 1e3));
        self.last = Instant::now();
    }
}

pub fn timing() {
    on_engine(async |engine| {
        let began = Instant::now();
        engine.warm_up().await.unwrap();
        println!("a copy of /usr, if it had changed: {:?}", began.elapsed());
        for round in 1..=3 {
            empty_job(&engine, &conformance::spec("true", round, shell("true")), "an empty job").await;
        }
        let mut store = Store::default();
        let image = with_a_shell(&mut store);
        engine.provide(&image, &store).await.unwrap();
        for round in 1..=3 {
            let mut spec = conformance::spec("image", round, shell("true"));
            spec.image = Some(image.clone());
            empty_job(&engine, &spec, "an empty job in an image").await;
        }
        for mib in [10, 50, 500] {
            standstill(&engine, mib).await;
        }
    });
}

async fn empty_job(engine: &RuncEngine, spec: &ContainerSpec, what: &str) {
    let mut laps = Laps::new();
    let began = Instant::now();
    let container = engine.prepare(spec, Origin::New).await.unwrap();
    laps.lap("prepare");
    container.start(Output::new().1).await.unwrap();
    laps.lap("start");
    container.wait().await;
    laps.lap("end");
    container.destroy().await.unwrap();
    laps.lap("destroy");
    println!("{what}: {}, all {:?}", laps.text.join(", "), began.elapsed());
}

async fn standstill(engine: &RuncEngine, mib: u64) {
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    let program = format!(
        "import os, time\na = os.urandom({mib} << 20)\nprint('ready', flush=True)\n\
         f = open('data', 'wb')\nwhile True:\n  f.write(os.urandom(1 << 16)); f.seek(0 if f.tell() > 20000000 else f.tell()); time.sleep(0.005)"
    );
    let mut spec = conformance::spec("standstill", 1, python(&program));
    spec.memory_bytes = (mib + 200) << 20;
    let (container, mut output) = start(engine, &spec).await;
    wait_for_line(&mut output).await;
    let mut last = None;
    for round in 1..=3 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let mode = if round == 3 { CheckpointMode::Files } else { CheckpointMode::Full };
        let (captured, laps) = measured_capture(&*container, mode, &folder.path().join(round.to_string())).await;
        println!("{mib} MiB, {mode:?}: {}", laps.text.join(", "));
        if round == 2 { last = Some(captured) } else { conformance::discard(&captured) }
    }
    let origin = conformance::gather(&last.unwrap(), CheckpointMode::Full, &folder.path().join("from"));
    container.destroy().await.unwrap();
    spec.attempt = 2.to_string();
    let mut laps = Laps::new();
    let again = engine.prepare(&spec, origin).await.unwrap();
    laps.lap("prepare");
    let (_output, pipe) = Output::new();
    again.restore(pipe).await.unwrap();
    laps.lap("restore");
    println!("{mib} MiB: {}", laps.text.join(", "));
    again.destroy().await.unwrap();
}

async fn measured_capture(
    container: &dyn Container,
    mode: CheckpointMode,
    into: &std::path::Path,
) -> (workrs_engine::Capture, Laps) {
    std::fs::create_dir(into).unwrap();
    let mut laps = Laps::new();
    let mut frozen = container.freeze().await.unwrap();
    laps.lap("flush and freeze");
    let captured = frozen.capture(mode, into, Duration::from_secs(60)).await.unwrap();
    laps.lap("capture");
    frozen.thaw().await.unwrap();
    laps.lap("thaw");
    (captured, laps)
}
