//! The image `host`: a frozen copy of this node's `/usr`, by hard links, with a small root around it. A job keeps the
//! copy that it began with, so a package upgrade does not pull a library from under it; the next job gets a new copy.
//!
//! A copy is named by what would change with `/usr`: times and lengths of the package managers' books, and the times of
//! the folders of `/usr` down to the second level (below `/usr/local` to the fourth). A file that is rewritten in
//! place, without any package manager, goes unnoticed in both ways: the copy has it, too.

mod tree;

use std::{
    fs, io,
    os::unix::fs::{MetadataExt, symlink},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, Weak},
    time::{Duration, Instant},
};

use self::tree::{link_tree, make_etc, make_folder};
use crate::{EngineError, disk::io_error};

/// How long `/usr` is taken to be unchanged after a look at it.
const TRUSTED: Duration = Duration::from_secs(10);
/// A copy that is not current is kept this long after a job last ran on it, as that job's checkpoints need it.
const KEPT_AFTER_USE: Duration = Duration::from_secs(14 * 24 * 60 * 60);
/// Raised when copies are made in another way, so that new ones are made.
const FORM: u32 = 2;
/// In a copy's folder; its time is that of the last use.
const USE_MARK: &str = "used";
/// The books of package managers.
const BOOKS: [&str; 4] = [
    "/var/lib/dpkg/status",
    "/var/lib/rpm/rpmdb.sqlite",
    "/usr/lib/sysimage/rpm/rpmdb.sqlite",
    "/lib/apk/db/installed",
];
/// Links of the root; those whose target `/usr` lacks are left out.
const LINKS: [&str; 6] = ["bin", "sbin", "lib", "lib32", "lib64", "libx32"];
/// Empty folders of the root: what is mounted over, and what programs expect.
const FOLDERS: [&str; 16] = [
    "usr",
    "proc",
    "sys",
    "dev",
    "run",
    "tmp",
    "home",
    "home/job",
    "root",
    "var",
    "var/tmp",
    "var/lib",
    "var/cache",
    "job",
    "mnt",
    "etc",
];
/// One root, read-only for jobs.
#[derive(Debug)]
pub(crate) struct HostImage {
    /// `<data>/images/<name>/root`.
    root: PathBuf,
    /// Bind-mounted over `usr` of the root where that could not be copied.
    live_usr: Option<PathBuf>,
}

impl HostImage {
    /// The root folder.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// What is to be mounted at `/usr`, if anything.
    pub(crate) fn live_usr(&self) -> Option<&Path> {
        self.live_usr.as_deref()
    }

    /// Notes that a job runs on this copy.
    pub(crate) fn mark_used(&self) {
        let mark = self.root.with_file_name(USE_MARK);
        if let Err(error) = fs::write(&mark, "") {
            tracing::warn!(%error, mark = %mark.display(), "cannot note that a copy of /usr is in use");
        }
    }

    /// Where a file lies that a job sees as `path`.
    pub(crate) fn resolve(&self, path: &Path) -> PathBuf {
        let within = path.strip_prefix("/").unwrap_or(path);
        match (&self.live_usr, within.strip_prefix("usr")) {
            (Some(live), Ok(below)) => live.join(below),
            _ => self.root.join(within),
        }
    }
}

/// All copies on this node.
#[derive(Debug)]
pub(crate) struct Images {
    folder: PathBuf,
    usr: PathBuf,
    state: Mutex<State>,
    /// Held while a copy is made, so that it is made once.
    making: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    known: Vec<(String, Weak<HostImage>)>,
    current: Option<(Instant, Arc<HostImage>)>,
}

impl Images {
    /// The copies in `<data_dir>/images`. Nothing is made yet.
    pub(crate) fn open(data_dir: &Path) -> Result<Self, EngineError> {
        let folder = data_dir.join("images");
        fs::create_dir_all(&folder).map_err(|error| io_error(&folder, &error))?;
        let usr = fs::canonicalize("/usr").map_err(|error| io_error(Path::new("/usr"), &error))?;
        Ok(Self { folder, usr, state: Mutex::default(), making: tokio::sync::Mutex::default() })
    }

    /// Whether `/usr` can be copied by hard links.
    pub(crate) fn can_link(&self) -> bool {
        let device = |path: &Path| fs::metadata(path).map(|metadata| metadata.dev()).ok();
        device(&self.folder) == device(&self.usr)
    }

    /// The copy of `/usr` as it is now; made if there is none.
    pub(crate) async fn current(self: &Arc<Self>) -> Result<Arc<HostImage>, EngineError> {
        let _made_once = self.making.lock().await;
        if let Some((looked, image)) = &self.state().current
            && looked.elapsed() < TRUSTED
        {
            return Ok(Arc::clone(image));
        }
        let images = Arc::clone(self);
        let image = tokio::task::spawn_blocking(move || images.make_current()).await;
        let image = image.map_err(|error| EngineError::Host(error.to_string()))??;
        self.state().current = Some((Instant::now(), Arc::clone(&image)));
        Ok(image)
    }

    /// The copies that exist: the current one first, then older ones.
    pub(crate) async fn all(self: &Arc<Self>) -> Result<Vec<Arc<HostImage>>, EngineError> {
        let mut all = vec![self.current().await?];
        for name in self.names() {
            let image = self.share(&name);
            if !all.iter().any(|one| one.root == image.root) {
                all.push(image);
            }
        }
        Ok(all)
    }

    /// Takes away the copies that are not current and were not used for long, and what a crash left half-made. No job
    /// may run. The removing itself, which takes long, goes on in the background.
    pub(crate) async fn remove_unused(&self) {
        let _none_is_made_now = self.making.lock().await;
        let current = self.name_now();
        for name in self.names().into_iter().filter(|name| *name != current && !self.was_used_lately(name)) {
            let _tried_again_next_time = fs::rename(self.folder.join(&name), self.folder.join(format!(".old-{name}")));
        }
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let hidden = entries.filter(|entry| entry.file_name().as_encoded_bytes().starts_with(b"."));
        let doomed: Vec<_> = hidden.map(|entry| entry.path()).collect();
        let remove = move || doomed.iter().for_each(|path| _ = fs::remove_dir_all(path));
        // Detached: at the end of the process it may be cut off, and is done by the next one.
        std::thread::spawn(remove);
    }

    fn was_used_lately(&self, name: &str) -> bool {
        let used = fs::metadata(self.folder.join(name).join(USE_MARK)).and_then(|metadata| metadata.modified());
        // A time in the future is one of a clock that was set back.
        used.is_ok_and(|used| used.elapsed().is_ok_and(|since| since < KEPT_AFTER_USE))
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        names.filter(|name| name.starts_with("host-")).collect()
    }

    /// One object for each copy, so that its users can be counted.
    fn share(&self, name: &str) -> Arc<HostImage> {
        let mut state = self.state();
        if let Some(image) = state.known.iter().find(|(known, _)| known == name).and_then(|(_, image)| image.upgrade())
        {
            return image;
        }
        let live_usr = (!self.can_link()).then(|| self.usr.clone());
        let image = Arc::new(HostImage { root: self.folder.join(name).join("root"), live_usr });
        state.known.retain(|(_, image)| image.strong_count() > 0);
        state.known.push((name.to_owned(), Arc::downgrade(&image)));
        image
    }

    fn name_now(&self) -> String {
        let kind = if self.can_link() { "" } else { "live-" };
        format!("host-{kind}{}", fingerprint(&self.usr))
    }

    fn make_current(&self) -> Result<Arc<HostImage>, EngineError> {
        let name = self.name_now();
        let target = self.folder.join(&name);
        if !target.exists() {
            let began = Instant::now();
            tracing::info!("copying /usr for the jobs (hard links)");
            let temporary = self.folder.join(format!(".new-{name}"));
            let _left_by_a_crash = fs::remove_dir_all(&temporary);
            let made = self.build(&temporary.join("root")).and_then(|()| fs::rename(&temporary, &target));
            if let Err(error) = made {
                let _ = fs::remove_dir_all(&temporary);
                return Err(EngineError::Host(format!("failed to copy /usr: {error}")));
            }
            tracing::info!(took = ?began.elapsed(), "copied /usr");
        }
        Ok(self.share(&name))
    }

    fn build(&self, root: &Path) -> io::Result<()> {
        make_folder(root, 0o755)?;
        for name in FOLDERS {
            make_folder(&root.join(name), 0o755)?;
        }
        for name in LINKS.into_iter().filter(|name| self.usr.join(name).exists()) {
            symlink(Path::new("usr").join(name), root.join(name))?;
        }
        make_etc(Path::new("/etc"), &root.join("etc"))?;
        if self.can_link() {
            link_tree(&self.usr, &root.join("usr"))?;
        }
        // A copy that has its name must be whole, also after a power cut.
        Ok(rustix::fs::syncfs(fs::File::open(root)?)?)
    }
}

/// Names the state of `/usr`.
fn fingerprint(usr: &Path) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&FORM.to_le_bytes());
    let mut note = |path: &Path| {
        if let Ok(metadata) = fs::symlink_metadata(path) {
            hasher.update(path.as_os_str().as_encoded_bytes());
            let numbers =
                [metadata.mtime(), metadata.mtime_nsec(), metadata.len().cast_signed(), metadata.ino().cast_signed()];
            for number in numbers {
                hasher.update(&number.to_le_bytes());
            }
        }
    };
    for book in BOOKS {
        note(Path::new(book));
    }
    note(Path::new("/etc/ld.so.cache"));
    note(Path::new("/etc/alternatives"));
    note_folders(usr, 2, &mut note);
    note_folders(&usr.join("local"), 4, &mut note);
    hasher.finalize().to_hex()[..16].to_owned()
}

fn note_folders(folder: &Path, depth: u32, note: &mut impl FnMut(&Path)) {
    note(folder);
    if depth == 0 {
        return;
    }
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut folders: Vec<_> =
        entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()).collect();
    folders.sort();
    for folder in folders {
        note_folders(&folder, depth - 1, note);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_copy_stays_while_checkpoints_may_need_it() {
        let data = tempfile::tempdir().unwrap();
        let images = Images::open(data.path()).unwrap();
        for (name, days) in [("host-recent", Some(1)), ("host-stale", Some(15)), ("host-never", None)] {
            fs::create_dir_all(images.folder.join(name).join("root")).unwrap();
            if let Some(days) = days {
                images.share(name).mark_used();
                let mark = fs::File::options().write(true).open(images.folder.join(name).join(USE_MARK)).unwrap();
                let day = Duration::from_secs(24 * 60 * 60);
                mark.set_modified(std::time::SystemTime::now() - day * days).unwrap();
            }
        }
        images.remove_unused().await;
        assert_eq!(images.names(), ["host-recent"]);
    }

    #[test]
    fn a_change_of_usr_changes_its_name() {
        let usr = tempfile::tempdir().unwrap();
        fs::create_dir_all(usr.path().join("lib/python3/deep")).unwrap();
        let before = fingerprint(usr.path());
        assert_eq!(before, fingerprint(usr.path()));
        fs::write(usr.path().join("lib/python3/new.py"), "").unwrap();
        assert_ne!(before, fingerprint(usr.path()));
    }
}
