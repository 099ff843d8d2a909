//! The dump of a container's memory, and what is known of one that was cut off.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use super::{
    bundle,
    container::Inner,
    criu::{self, Criu, Dump},
};
use crate::{cgroup::Hierarchy, process::ToolError};

impl Inner {
    /// A CRIU that waits to dump this container.
    pub(super) async fn start_criu(&self) -> Result<Criu, ToolError> {
        self.shared.kernel_notes.lay_out();
        Criu::start(&self.runc.dump_folder()).await
    }

    /// Dumps the frozen processes into an empty folder, for `runc restore`. A dump that is cut off, by its deadline, by
    /// CRIU's death or by dropping this, stays noted.
    pub(super) async fn dump_by_criu(
        &self,
        mut criu: Criu,
        images: &Path,
        deadline: Duration,
    ) -> Result<(), ToolError> {
        let failed = |error: io::Error| ToolError::Io("runc's notes".to_owned(), error);
        let init = self.runc.init().map_err(failed)?;
        let descriptors = self.runc.descriptors().map_err(failed)?;
        fs::write(images.join("descriptors.json"), descriptors).map_err(failed)?;
        let seen = PathBuf::from(format!("/proc/{}/root", init.as_raw_pid()));
        let dump = Dump {
            init,
            freezer: &self.freezer,
            root: &self.place.root(),
            external: &bundle::external_mounts(&seen, &self.fit, self.base.live_usr().is_some(), self.network),
            network: self.network,
            config: &self.folder.join("criu.conf"),
            images,
        };
        // Dropped before `criu`, so that it is noted before the processes are let go.
        let mut under_way = UnderWay { cut_off: Some(&self.cut_off) };
        let dumped = criu.dump(&dump, &self.runc.dump_folder(), deadline).await;
        if matches!(dumped, Ok(()) | Err(ToolError::Failed { .. })) {
            under_way.cut_off = None;
        }
        dumped
    }

    pub(super) fn was_cut_off(&self) -> bool {
        self.cut_off.load(Ordering::SeqCst)
    }

    pub(super) fn was_cut_off_within(&self) -> bool {
        self.was_cut_off() && criu::dump_was_cut_off_within(&self.runc.dump_folder())
    }
}

/// A dump; dropping it with its mark notes that it was cut off.
struct UnderWay<'a> {
    cut_off: Option<&'a AtomicBool>,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        if let Some(cut_off) = self.cut_off {
            cut_off.store(true, Ordering::SeqCst);
        }
    }
}

/// The folder in which a cgroup is frozen.
pub(super) fn freezer(hierarchy: &Hierarchy, cgroup: &str) -> PathBuf {
    let within = cgroup.trim_start_matches('/');
    match hierarchy {
        Hierarchy::V1(trees) => trees.get("freezer").map_or_else(PathBuf::new, |tree| tree.join(within)),
        Hierarchy::V2(root) => root.join(within),
    }
}
