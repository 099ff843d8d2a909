//! What containers and CRIU find on the host.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use workrs_core::job::CheckpointMode;
use workrs_engine::{
    ContainerEnd, Engine,
    conformance::{self, Output},
    mounts,
    runc::RuncEngine,
};

use crate::{
    limits::start,
    reflinks::call,
    suite::{DATA, capture, config, count, on_engine, wait_for_line},
};

pub const NODE: &str = "engine-test-closed";

/// As in the home of root, or where `mktemp -d` made it.
pub fn a_data_folder_below_a_closed_one_works() {
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).unwrap();
    // The usual one, as it has a copy of `/usr` already.
    let data = folder.path().join("data");
    fs::create_dir(&data).unwrap();
    call("mount", &["--bind", DATA, data.to_str().unwrap()]);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let engine = RuncEngine::open(config(&data, NODE)).await.unwrap();
        let (container, mut output) = start(&engine, &conformance::spec("closed", 1, count(30, 20))).await;
        wait_for_line(&mut output).await;
        let captured = capture(&*container, CheckpointMode::Full, &folder.path().join("into")).await;
        let origin = conformance::gather(&captured, CheckpointMode::Full, &folder.path().join("from"));
        container.kill().await.unwrap();
        let again = engine.prepare(&conformance::spec("closed", 2, count(30, 20)), origin).await.unwrap();
        let (mut output, pipe) = Output::new();
        again.restore(pipe).await.unwrap();
        assert_eq!(again.wait().await, ContainerEnd::Exited(0));
        assert!(output.drain().ends_with("\n30\n"));
        again.destroy().await.unwrap();
        container.destroy().await.unwrap();
    });
    drop(runtime);
    call("umount", &["--recursive", "--lazy", data.to_str().unwrap()]);
}

/// Where `/run` is not in memory, CRIU finds what the engine puts there for it, even after another CRIU removed it.
pub fn what_criu_knows_of_the_kernel_is_laid_out_again() {
    let notes = Path::new("/run/criu.kdat");
    on_engine(async |engine| {
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        let (container, mut output) = start(&engine, &conformance::spec("notes", 1, count(1000, 20))).await;
        wait_for_line(&mut output).await;
        mounts::unmount(notes).unwrap();
        capture(&*container, CheckpointMode::Full, &folder.path().join("into")).await;
        assert!(fs::metadata(notes).unwrap().len() > 0);
        container.destroy().await.unwrap();
    });
}
