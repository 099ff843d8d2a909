//! An engine for each test, and the common suite.

use std::{future::Future, path::Path, time::Duration};

use workrs_core::job::CheckpointMode;
use workrs_engine::{
    Capture, Container, Engine,
    conformance::{self, Output, Programs, Subject},
    runc::{RuncConfig, RuncEngine},
};

/// On the file system of `/usr`, as a node's data folder commonly is; the copies of `/usr` are kept from run to run.
pub const DATA: &str = "/var/tmp/workrs-engine-test";
pub const POOL: u64 = 2 << 30;
pub const CACHE: u64 = 1 << 30;
pub const NODE: &str = "engine-test";

/// Runs a test on a fresh engine.
pub fn on_engine<F: Future<Output = ()>>(test: impl FnOnce(RuncEngine) -> F) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let engine = RuncEngine::open(config(Path::new(DATA), NODE)).await.unwrap();
        engine.sweep().await.unwrap();
        test(engine).await;
    });
}

pub fn config(data_dir: &Path, node: &str) -> RuncConfig {
    let helper = std::env::current_exe().unwrap();
    RuncConfig {
        data_dir: data_dir.to_path_buf(),
        node: node.to_owned(),
        disk_pool_bytes: POOL,
        image_cache_bytes: CACHE,
        helper,
    }
}

pub fn shell(script: &str) -> Vec<String> {
    vec!["sh".to_owned(), "-c".to_owned(), script.to_owned()]
}

pub fn python(script: &str) -> Vec<String> {
    vec!["python3".to_owned(), "-c".to_owned(), script.to_owned()]
}

pub fn count(lines: u64, tick_ms: u64) -> Vec<String> {
    let seconds = format!("{}.{:03}", tick_ms / 1000, tick_ms % 1000);
    shell(&format!("i=0; while [ $i -lt {lines} ]; do sleep {seconds}; i=$((i+1)); echo $i; echo $i >>lines; done"))
}

pub const EXHAUST_MEMORY: &str = "a = []\nwhile True: a.append(bytes(b'x' * (1 << 20)))";
pub const FILL_DISK: &str = "head -c 200000000 /dev/zero >/tmp/big; sleep 5; exit 1";

/// What containers left on the host.
pub fn leftovers() -> Vec<String> {
    let mut left = Vec::new();
    for folder in ["run", "runc", "disks"] {
        let entries = std::fs::read_dir(Path::new(DATA).join(folder)).into_iter().flatten().flatten();
        left.extend(entries.map(|entry| entry.path().display().to_string()));
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let ours = [format!("{DATA}/disks/"), format!("/run/workrs/{NODE}/job-")];
    left.extend(mounts.lines().filter(|line| ours.iter().any(|one| line.contains(one))).map(str::to_owned));
    for tree in ["freezer", "memory", ""] {
        let folder = Path::new("/sys/fs/cgroup").join(tree).join("workrs").join(NODE);
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        left.extend(entries.filter(|entry| entry.path().is_dir()).map(|entry| entry.path().display().to_string()));
    }
    left
}

pub fn programs() -> Programs {
    Programs {
        count,
        exit: |code| shell(&format!("exit {code}")),
        signal: |signal| shell(&format!("kill -{signal} $$")),
        exhaust_memory: || python(EXHAUST_MEMORY),
        fill_disk: || shell(FILL_DISK),
        environment: Some(|| shell("echo $GREETING; echo $WORKRS_JOB_ID; pwd")),
    }
}

pub fn keeps_the_contract_of_an_engine() {
    let folder = tempfile::tempdir_in(Path::new("/var/tmp")).unwrap();
    on_engine(async |engine| {
        let (folder, programs) = (folder.path(), programs());
        conformance::run(&Subject { engine: &engine, folder, programs, image: None, leftovers: &leftovers }).await;
    });
}

/// The next thing that a container prints, a whole line of it.
pub async fn wait_for_line(output: &mut Output) -> String {
    let mut printed = String::new();
    let read = async {
        while !printed.ends_with('\n') {
            printed.push_str(&output.drain());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(180), read).await.unwrap();
    printed
}

/// Captures into the new folder `into`, and lets the container go on.
pub async fn capture(container: &dyn Container, mode: CheckpointMode, into: &Path) -> Capture {
    std::fs::create_dir(into).unwrap();
    let mut frozen = container.freeze().await.unwrap();
    let captured = frozen.capture(mode, into, Duration::from_secs(60)).await.unwrap();
    frozen.thaw().await.unwrap();
    captured
}

/// Gives back what is large or in the way; the copy of `/usr` stays.
pub fn clean_up() {
    let _absent = std::fs::remove_file(Path::new(DATA).join("disks.xfs"));
    let _absent = std::fs::remove_dir_all(Path::new(DATA).join("images/layers"));
    for tree in std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
        for node in [NODE, crate::images::NODE, crate::reflinks::NODE, crate::stage::NODE] {
            let _absent = std::fs::remove_dir(tree.path().join("workrs").join(node));
        }
    }
}
