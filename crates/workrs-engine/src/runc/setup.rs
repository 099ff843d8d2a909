//! What is written before a container starts: its bundle, and what it finds in `/run/workrs`.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, chown},
    path::Path,
};

use super::{
    Shared,
    bundle::{self, Host},
    stage::{Place, Stage},
};
use crate::{
    disk::{ID_BASE, io_error},
    engine::{ContainerSpec, EngineError},
    image::HostImage,
};

/// The first process of every container; see `init/main.rs`.
pub(super) static INIT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/workrs-init"));

/// runc's `config.json` and CRIU's options, in the new folder `folder`.
pub(super) fn write_bundle(
    shared: &Shared,
    image: &HostImage,
    place: &Place,
    spec: &ContainerSpec,
    folder: &Path,
) -> Result<(), EngineError> {
    for folder in [folder.join("dump"), folder.join("restore")] {
        fs::create_dir_all(&folder).map_err(|error| io_error(&folder, &error))?;
    }
    let criu_config = folder.join("criu.conf");
    let cgroup = format!("{}/{}-{}", shared.node_cgroup(), spec.job, spec.attempt);
    let host = Host {
        root: &place.root(),
        live_usr: image.live_usr(),
        disk: &place.disk(),
        cgroup: &cgroup,
        limits_swap: shared.hierarchy.limits_swap(),
        criu_config: &criu_config,
        helper: &shared.config.helper,
    };
    let config = bundle::config(spec, &host).to_string();
    let options = criu_options(spec.disk_bytes, &shared.stage);
    for (path, content) in [(&criu_config, options), (&folder.join("config.json"), config)] {
        fs::write(path, content).map_err(|error| io_error(path, &error))?;
    }
    Ok(())
}

/// The init, and the number of the attempt, which a restored job reads anew.
pub(super) fn write_notes(folder: &Path, init: Option<&[u8]>, attempt: &str) -> Result<(), EngineError> {
    let attempt = format!("{attempt}\n");
    init.map_or(Ok(()), |init| write_owned(&folder.join("init"), init, 0o755))
        .and_then(|()| write_owned(&folder.join("attempt"), attempt.as_bytes(), 0o644))
        .map_err(|error| io_error(folder, &error))
}

fn criu_options(disk_bytes: u64, stage: &Stage) -> String {
    // 32 bits wide in CRIU.
    let ghost_limit = disk_bytes.min(u64::from(u32::MAX));
    // A job without network has nothing to be held back; asking the firewall costs 40-150 ms and needs its tools.
    let mut options = format!("ghost-limit {ghost_limit}\nghost-fiemap\nnetwork-lock skip\n");
    let external = [(bundle::EMPTY, stage.empty()), (bundle::DEV, stage.dev())];
    options.extend(external.map(|(name, folder)| format!("external \"mnt[{name}]:{}\"\n", folder.display())));
    options.extend(stage.yard().map(|yard| format!("cgroup-yard \"{}\"\n", yard.display())));
    options
}

/// Writes a file of the container's root, anew, so that nothing that the job put there is followed.
fn write_owned(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => (),
    }
    let mut file = File::options().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(content)?;
    chown(path, Some(ID_BASE), Some(ID_BASE))
}
