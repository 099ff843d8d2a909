//! What is written before a container starts: its bundle, and what it finds in `/run/workrs`.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, chown},
    path::Path,
};

use workrs_core::spec::Network;

use super::{
    Shared,
    bundle::{self, Host},
    fit::Fit,
    runtime,
    stage::{Place, Stage},
};
use crate::{
    disk::{ID_BASE, io_error},
    engine::{ContainerSpec, EngineError},
    image::Base,
};

/// The first process of every container; see `init/main.rs`.
pub(super) static INIT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/workrs-init"));

/// How a job finds itself, in `/etc/hosts`.
const OWN_NAMES: &str = "127.0.0.1 localhost job\n::1 localhost job\n";
/// What CRIU is told of the container by whoever calls runc for it: a line each for runc's verbs.
pub(crate) const FLAGS: &str = "flags";

/// runc's `config.json` and CRIU's options, in the new folder `folder`.
pub(super) fn write_bundle(
    shared: &Shared,
    base: &Base,
    place: &Place,
    fit: &Fit,
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
        is_read_only: base.host().is_some(),
        fit,
        live_usr: base.live_usr(),
        disk: &place.disk(),
        sys: &shared.stage.sys(),
        cgroup: &cgroup,
        limits_swap: shared.hierarchy.limits_swap(),
        criu_config: &criu_config,
        helper: &shared.config.helper,
    };
    let config = bundle::config(spec, &host).to_string();
    let flags = format!(
        "restore {}\ncheckpoint {}\n",
        runtime::restore_flags(spec.network).join(" "),
        runtime::dump_flags(spec.network).join(" ")
    );
    let options = criu_options(spec, &shared.stage);
    for (name, content) in [("criu.conf", options), ("config.json", config), (FLAGS, flags)] {
        let path = folder.join(name);
        fs::write(&path, content).map_err(|error| io_error(&path, &error))?;
    }
    Ok(())
}

/// The init, and what a restored job reads anew: the number of the attempt, and how names are looked up on this host.
pub(super) fn write_notes(folder: &Path, init: Option<&[u8]>, spec: &ContainerSpec) -> Result<(), EngineError> {
    let of_host = |name: &str| match spec.network {
        Network::None => Vec::new(),
        // A host without the file has nothing to say.
        Network::Host => fs::read(Path::new("/etc").join(name)).unwrap_or_default(),
    };
    let hosts = [OWN_NAMES.as_bytes(), &of_host("hosts")].concat();
    let notes = [
        ("attempt", format!("{}\n", spec.attempt).into_bytes()),
        ("hosts", hosts),
        ("resolv.conf", of_host("resolv.conf")),
    ];
    init.map_or(Ok(()), |init| write_owned(&folder.join("init"), init, 0o755))
        .and_then(|()| notes.iter().try_for_each(|(name, text)| write_owned(&folder.join(name), text, 0o644)))
        .map_err(|error| io_error(folder, &error))
}

fn criu_options(spec: &ContainerSpec, stage: &Stage) -> String {
    // 32 bits wide in CRIU.
    let ghost_limit = spec.disk_bytes.min(u64::from(u32::MAX));
    // Nothing is to be held back: a job has no network, or its connections end with it. Asking the firewall costs
    // 40-150 ms and needs its tools.
    let mut options = format!("ghost-limit {ghost_limit}\nghost-fiemap\nnetwork-lock skip\n");
    if spec.network == Network::Host {
        // Whom it was connected to is not restored with it.
        options.push_str("tcp-close\nskip-in-flight\n");
    }
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
