//! Ends and removes what a former process of this node left.

use std::{collections::BTreeSet, fs, path::Path, time::Duration};

use super::{Shared, runtime::Runc};
use crate::{disk::io_error, engine::EngineError, mounts};

const KILL_DEADLINE: Duration = Duration::from_secs(30);
const DELETE_DEADLINE: Duration = Duration::from_secs(30);

/// Gives the names of what it found, however little of it was left.
pub(super) async fn sweep(shared: &Shared) -> Result<Vec<String>, EngineError> {
    let node = shared.hierarchy.group(&shared.node_cgroup());
    let mut found: BTreeSet<String> = node.children().into_iter().collect();
    found.extend(shared.manager.sweep(shared).await?);
    for name in node.children() {
        let group = shared.hierarchy.group(&format!("{}/{name}", shared.node_cgroup()));
        if !group.kill_all(KILL_DEADLINE).await {
            return Err(EngineError::Host(format!(
                "the processes of the container {name}, left by a former run, cannot be killed"
            )));
        }
    }
    found.extend(names_in(&shared.run_folder()));
    for name in names_in(&shared.runc_root()) {
        let runc = Runc::new(shared.runc_root(), shared.run_folder().join(&name), name.clone());
        if let Err(error) = runc.delete(DELETE_DEADLINE).await {
            tracing::debug!(%error, name, "runc does not know what it left; its notes are removed");
            remove(&shared.runc_root().join(&name))?;
        }
        found.insert(name);
    }
    let disks = shared.config.data_dir.join("disks");
    for point in mounts::below(&disks).map_err(|error| io_error(&disks, &error))? {
        mounts::unmount(&point).map_err(|error| io_error(&point, &error))?;
    }
    for name in names_in(&shared.run_folder()) {
        remove(&shared.run_folder().join(name))?;
    }
    shared.pool.clear()?;
    for name in node.children() {
        shared.hierarchy.group(&format!("{}/{name}", shared.node_cgroup())).remove();
    }
    shared.images.remove_unused().await;
    Ok(found.into_iter().collect())
}

fn names_in(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

fn remove(path: &Path) -> Result<(), EngineError> {
    fs::remove_dir_all(path).map_err(|error| io_error(path, &error))
}
