//! The image `host`: a frozen copy of this node's `/usr`, by hard links, with a small root around it. A job keeps the
//! copy that it began with, so a package upgrade does not pull a library from under it; the next job gets a new copy.
//!
//! A copy is named by what would change with `/usr`: times and lengths of the package managers' books, and the times of
//! the folders of `/usr` down to the second level (below `/usr/local` to the fourth). A file that is rewritten in
//! place, without any package manager, goes unnoticed in both ways: the copy has it, too.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, Weak},
    time::{Duration, Instant},
};

use crate::{
    EngineError,
    disk::{JOB_ID, io_error},
};

/// How long `/usr` is taken to be unchanged after a look at it.
const TRUSTED: Duration = Duration::from_secs(10);
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
/// What of `/etc` programs need. Only what everyone may read is taken.
const ETC: [&str; 29] = [
    "alternatives",
    "ca-certificates",
    "ca-certificates.conf",
    "crypto-policies",
    "debian_version",
    "default/locale",
    "fonts",
    "gai.conf",
    "host.conf",
    "inputrc",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "locale.alias",
    "locale.conf",
    "localtime",
    "magic",
    "magic.mime",
    "mailcap",
    "mime.types",
    "OpenCL",
    "os-release",
    "perl",
    "pki",
    "protocols",
    "services",
    "shells",
    "ssl",
    "timezone",
];
/// Beginnings of further names in `/etc`, which carry versions.
const ETC_PREFIXES: [&str; 5] = ["java-", "python3", "ImageMagick", "R", "nodejs"];

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

    /// Removes the copies that no job uses and that are not current, and what a crash left half-made.
    pub(crate) async fn remove_unused(self: &Arc<Self>) {
        let images = Arc::clone(self);
        let removed = tokio::task::spawn_blocking(move || {
            let current = images.name_now();
            for name in images.names().into_iter().filter(|name| *name != current) {
                let _ = fs::remove_dir_all(images.folder.join(name));
            }
            for entry in fs::read_dir(&images.folder).into_iter().flatten().flatten() {
                if entry.file_name().to_string_lossy().starts_with('.') {
                    let _ = fs::remove_dir_all(entry.path());
                }
            }
        });
        let _panicked = removed.await;
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
        Ok(())
    }
}

/// Names the state of `/usr`.
fn fingerprint(usr: &Path) -> String {
    let mut hasher = blake3::Hasher::new();
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

fn make_folder(path: &Path, mode: u32) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o755).create(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

/// The same tree with every file a hard link; what lies on another file system is copied.
fn link_tree(from: &Path, to: &Path) -> io::Result<()> {
    let metadata = fs::metadata(from)?;
    make_folder(to, metadata.mode() & 0o7777)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type()?;
        if kind.is_dir() {
            link_tree(&source, &target)?;
            continue;
        }
        match fs::hard_link(&source, &target) {
            // Gone meanwhile: an upgrade is under way, and a new copy will follow it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => (),
            Err(_) if kind.is_file() => _ = fs::copy(&source, &target)?,
            Err(_) if kind.is_symlink() => symlink(fs::read_link(&source)?, &target)?,
            // Sockets and the like have no business in /usr.
            Err(_) | Ok(()) => (),
        }
    }
    keep_time(to, &metadata)
}

/// Font caches and such look at the times of folders.
fn keep_time(to: &Path, metadata: &fs::Metadata) -> io::Result<()> {
    let times = fs::FileTimes::new().set_modified(metadata.modified()?);
    fs::File::open(to)?.set_times(times)
}

fn make_etc(from: &Path, to: &Path) -> io::Result<()> {
    let versioned = fs::read_dir(from)?.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    let versioned = versioned.filter(|name| ETC_PREFIXES.iter().any(|prefix| name.starts_with(prefix)));
    for name in ETC.into_iter().map(str::to_owned).chain(versioned) {
        let target = to.join(&name);
        if let Some(parent) = target.parent() {
            make_folder(parent, 0o755)?;
        }
        copy_public(&from.join(name), &target)?;
    }
    let owner = format!("job:x:{JOB_ID}:");
    let files = [
        (
            "passwd",
            format!(
                "root:x:0:0:root:/root:/bin/sh\n{owner}{JOB_ID}:job:/home/job:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n"
            ),
        ),
        ("group", format!("root:x:0:\ntty:x:5:\n{owner}\nnogroup:x:65534:\n")),
        ("hosts", "127.0.0.1 localhost job\n::1 localhost job\n".to_owned()),
        ("hostname", "job\n".to_owned()),
        (
            "nsswitch.conf",
            "passwd: files\ngroup: files\nhosts: files dns\nservices: files\nprotocols: files\n".to_owned(),
        ),
    ];
    for (name, content) in files {
        fs::write(to.join(name), content)?;
    }
    symlink("/proc/self/mounts", to.join("mtab"))
}

/// Copies what everyone may read; links stay links.
fn copy_public(from: &Path, to: &Path) -> io::Result<()> {
    let Ok(metadata) = fs::symlink_metadata(from) else { return Ok(()) };
    let mode = metadata.mode();
    if metadata.is_symlink() {
        return symlink(fs::read_link(from)?, to);
    }
    if metadata.is_file() && mode & 0o004 != 0 {
        fs::copy(from, to)?;
        return fs::set_permissions(to, fs::Permissions::from_mode(mode & 0o755));
    }
    if metadata.is_dir() && mode & 0o005 == 0o005 {
        make_folder(to, 0o755)?;
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            copy_public(&entry.path(), &to.join(entry.file_name()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_linked_with_modes_and_times() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        fs::create_dir_all(from.join("lib")).unwrap();
        fs::write(from.join("lib/a"), "x").unwrap();
        symlink("a", from.join("lib/b")).unwrap();
        fs::set_permissions(from.join("lib"), fs::Permissions::from_mode(0o750)).unwrap();
        link_tree(&from, &to).unwrap();
        let of = |path: &Path| fs::symlink_metadata(path).unwrap();
        assert_eq!(of(&from.join("lib/a")).ino(), of(&to.join("lib/a")).ino());
        assert_eq!(fs::read_link(to.join("lib/b")).unwrap(), Path::new("a"));
        assert_eq!(of(&to.join("lib")).mode() & 0o7777, 0o750);
        assert_eq!(of(&to.join("lib")).mtime_nsec(), of(&from.join("lib")).mtime_nsec());
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

    #[test]
    fn no_secret_of_etc_is_copied() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("etc"), folder.path().join("copy"));
        for name in ["ssl/private", "ssl/certs"] {
            fs::create_dir_all(from.join(name)).unwrap();
            fs::write(from.join(name).join("key"), "x").unwrap();
        }
        fs::write(from.join("ssl/hidden"), "x").unwrap();
        fs::set_permissions(from.join("ssl/hidden"), fs::Permissions::from_mode(0o640)).unwrap();
        fs::set_permissions(from.join("ssl/private"), fs::Permissions::from_mode(0o710)).unwrap();
        fs::write(from.join("shadow"), "x").unwrap();
        fs::create_dir_all(&to).unwrap();
        make_etc(&from, &to).unwrap();
        assert!(to.join("ssl/certs/key").exists());
        for name in ["ssl/private", "ssl/hidden", "shadow"] {
            assert!(!to.join(name).exists(), "{name}");
        }
        assert!(fs::read_to_string(to.join("passwd")).unwrap().contains("job:x:1000:1000:"));
    }
}
