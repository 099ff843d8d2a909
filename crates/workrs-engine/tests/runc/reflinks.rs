//! A data folder whose file system clones files and is not that of `/usr`: disks without a volume of our own, and the
//! live `/usr`.

use std::{fs::File, path::Path, process::Command};

use workrs_core::job::CheckpointMode;
use workrs_engine::{
    ContainerEnd, Engine,
    conformance::{self, Output},
    runc::RuncEngine,
};

use crate::{
    limits::start,
    suite::{capture, config, count, wait_for_line},
};

pub const NODE: &str = "engine-test-reflinks";

pub fn call(program: &str, arguments: &[&str]) {
    let status = Command::new(program).args(arguments).status().unwrap();
    assert!(status.success(), "{program} {arguments:?}");
}

pub fn a_data_folder_with_reflinks_needs_no_volume() {
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    let (image, data) = (folder.path().join("xfs"), folder.path().join("data"));
    File::create(&image).unwrap().set_len(1 << 30).unwrap();
    std::fs::create_dir(&data).unwrap();
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    call("mkfs.xfs", &["-q", &path(&image)]);
    // In this test's mount namespace, as all else.
    call("mount", &["-o", "loop", &path(&image), &path(&data)]);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let engine = RuncEngine::open(config(&data, NODE)).await.unwrap();
        assert!(!data.join("disks.xfs").exists());
        assert_eq!(engine.warnings().len(), 1, "the live /usr is warned of");
        let (container, mut output) = start(&engine, &conformance::spec("live", 1, count(30, 20))).await;
        let before = wait_for_line(&mut output).await;
        let captured = capture(&*container, CheckpointMode::Full, &data.join("into")).await;
        assert!(captured.needs.mapped.iter().any(|file| file.path.contains("libc.so")));
        let before = before.lines().count();
        container.kill().await.unwrap();
        let origin = conformance::gather(&captured, CheckpointMode::Full, &data.join("from"));
        container.destroy().await.unwrap();
        let again = engine.prepare(&conformance::spec("live", 2, count(30, 20)), origin).await.unwrap();
        let (mut output, pipe) = Output::new();
        again.restore(pipe).await.unwrap();
        assert_eq!(again.wait().await, ContainerEnd::Exited(0));
        let after = output.drain();
        assert!(after.ends_with("\n30\n") && after.lines().count() <= 30 - before, "{after}");
        again.destroy().await.unwrap();
    });
    drop(runtime);
    call("umount", &["--lazy", &path(&data)]);
}
