//! The pretended machine: what survives an engine's death, and the faults that a test asks for.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::watch;

use super::{ENGINE, FakeEngine, container::Control};
use crate::engine::EngineError;

/// What happens at one engine call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It does nothing and fails.
    FailBefore,
    /// It is done, but the answer is a failure.
    FailAfter,
    /// The node dies instead; the call never returns.
    CrashBefore,
    /// It is done, then the node dies; the call never returns.
    CrashAfter,
}

/// How restores go on this host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Restores {
    /// They work.
    #[default]
    Work,
    /// `prepare` says that the capture can never be restored; `check` sees nothing of it.
    Refused,
    /// `check` and `prepare` say that this host does not fit.
    Unfit,
    /// `prepare` works, `restore` says that the capture can never be restored.
    FailAtStart,
}

/// The test's handle on the pretended machine. Clones are the same machine.
#[derive(Debug, Clone)]
pub struct FakeHost {
    shared: Arc<Mutex<State>>,
    folder: PathBuf,
    life: watch::Sender<u64>,
}

#[derive(Debug)]
struct State {
    engine: &'static str,
    calls: Vec<&'static str>,
    faults: BTreeMap<usize, Fault>,
    restores: Restores,
    no_dump: Option<String>,
    disk_capacity: u64,
    controls: Vec<Control>,
    may_go_on: Vec<String>,
}

impl FakeHost {
    /// A machine that keeps its containers in the existing folder `folder`.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        let state = State {
            engine: ENGINE,
            calls: Vec::new(),
            faults: BTreeMap::new(),
            restores: Restores::default(),
            no_dump: None,
            disk_capacity: 1 << 40,
            controls: Vec::new(),
            may_go_on: Vec::new(),
        };
        Self { shared: Arc::new(Mutex::new(state)), folder: folder.into(), life: watch::Sender::new(0) }
    }

    /// The engine of a node that starts now.
    pub fn engine(&self) -> FakeEngine {
        FakeEngine { boot: Boot { life: *self.life.borrow(), host: self.clone() } }
    }

    /// Kills the node and all its containers at once. Whatever the node was waiting for never comes; the test
    /// must drop what is left of it.
    pub fn crash(&self) {
        for control in std::mem::take(&mut self.state().controls) {
            control.crash();
        }
        self.life.send_modify(|life| *life += 1);
    }

    /// Returns once the node has crashed (again) after now.
    pub async fn crashed(&self) {
        let mut life = self.life.subscribe();
        let _ = life.changed().await;
    }

    /// The engine calls so far, over all lives: `check`, `prepare`, `start`, `restore`, `freeze`, `capture`, `thaw`, `kill`,
    /// `destroy` and `sweep`.
    pub fn calls(&self) -> Vec<&'static str> {
        self.state().calls.clone()
    }

    /// Lets call number `k` (from 0, over all lives) go wrong.
    pub fn inject(&self, k: usize, fault: Fault) {
        self.state().faults.insert(k, fault);
    }

    /// Gives its engine another name; the captures of others do not fit it.
    pub fn set_engine(&self, name: &'static str) {
        self.state().engine = name;
    }

    /// How restores go from now on.
    pub fn set_restores(&self, restores: Restores) {
        self.state().restores = restores;
    }

    /// Takes or (`None`) gives back the ability to capture memory.
    pub fn set_no_dump(&self, reason: Option<&str>) {
        self.state().no_dump = reason.map(str::to_owned);
    }

    /// Sets the space for job disks.
    pub fn set_disk_capacity(&self, bytes: u64) {
        self.state().disk_capacity = bytes;
    }

    /// The containers, by `<job>-<attempt>`, of which a node said that they are still its own, as often as it said so.
    pub fn may_go_on(&self) -> Vec<String> {
        self.state().may_go_on.clone()
    }

    /// Containers that were made and not destroyed, by `<job>-<attempt>`.
    pub fn containers(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.folder.join("containers"));
        let mut names: Vec<_> = entries
            .into_iter()
            .flatten()
            .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
            .collect();
        names.sort();
        names
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One life of the machine: what an engine and its containers act through.
#[derive(Debug, Clone)]
pub(super) struct Boot {
    life: u64,
    host: FakeHost,
}

impl Boot {
    /// Counts a call, does it, and lets go wrong what the test asked for.
    pub(super) async fn call<T>(
        &self,
        name: &'static str,
        action: impl FnOnce() -> Result<T, EngineError>,
    ) -> Result<T, EngineError> {
        self.hang_if_dead().await;
        let fault = {
            let mut state = self.host.state();
            let k = state.calls.len();
            state.calls.push(name);
            state.faults.remove(&k)
        };
        // Whatever runs beside this call gets its turn first, as with a real engine.
        tokio::task::yield_now().await;
        let failed = || EngineError::Host(format!("the test lets {name} fail"));
        match fault {
            None => action(),
            Some(Fault::FailBefore) => Err(failed()),
            Some(Fault::FailAfter) => action().and(Err(failed())),
            Some(Fault::CrashBefore) => self.die().await,
            Some(Fault::CrashAfter) => {
                let _done = action();
                self.die().await
            }
        }
    }

    async fn die<T>(&self) -> T {
        self.host.crash();
        std::future::pending().await
    }

    pub(super) async fn hang_if_dead(&self) {
        if !self.alive() {
            std::future::pending::<()>().await;
        }
    }

    pub(super) fn alive(&self) -> bool {
        *self.host.life.borrow() == self.life
    }

    pub(super) fn register(&self, control: Control) {
        if self.alive() {
            self.host.state().controls.push(control);
        }
    }

    pub(super) fn engine_name(&self) -> &'static str {
        self.host.state().engine
    }

    pub(super) fn note_may_go_on(&self, container: String) {
        if self.alive() {
            self.host.state().may_go_on.push(container);
        }
    }

    pub(super) fn restores(&self) -> Restores {
        self.host.state().restores
    }

    pub(super) fn dump_capability(&self) -> Result<(), String> {
        self.host.state().no_dump.clone().map_or(Ok(()), Err)
    }

    pub(super) fn disk_capacity(&self) -> u64 {
        self.host.state().disk_capacity
    }

    pub(super) fn make_folder(&self, name: &str) -> Result<PathBuf, EngineError> {
        let folder = self.host.folder.join("containers").join(name);
        std::fs::create_dir_all(folder.join("job")).map_err(|error| host_error(&folder, &error))?;
        Ok(folder)
    }

    pub(super) fn sweep(&self) -> Result<Vec<String>, EngineError> {
        let names = self.host.containers();
        for name in &names {
            let folder = self.host.folder.join("containers").join(name);
            std::fs::remove_dir_all(&folder).map_err(|error| host_error(&folder, &error))?;
        }
        Ok(names)
    }
}

pub(super) fn host_error(path: &Path, error: &std::io::Error) -> EngineError {
    EngineError::Host(format!("{}: {error}", path.display()))
}
