//! Files of a root that others filled: whatever links it has, they are followed as a process within it would follow them,
//! never out of it.

use std::{
    fs::{self, File},
    io::{self, Read},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::fchown,
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, CWD, Gid, Mode, OFlags, ResolveFlags, Uid},
    io::Errno,
};

/// A root folder.
#[derive(Debug)]
pub(crate) struct Inside {
    root: OwnedFd,
    path: PathBuf,
}

impl Inside {
    /// The root in the folder `path` of this host.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::openat(CWD, path, flags, Mode::empty())?;
        let path = fs::read_link(format!("/proc/self/fd/{}", root.as_raw_fd()))?;
        Ok(Self { root, path })
    }

    fn resolve(&self, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        rustix::fs::openat2(&self.root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve)
    }

    /// What stands in a file, `None` if there is no such file. At most `limit` bytes are read; more are an error.
    pub(crate) fn read(&self, path: &Path, limit: u64) -> io::Result<Option<Vec<u8>>> {
        // Not blocking, should it be a pipe.
        let file = match self.resolve(path, OFlags::RDONLY | OFlags::NONBLOCK) {
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            opened => File::from(opened?),
        };
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("it is not a file"));
        }
        let mut content = Vec::new();
        file.take(limit + 1).read_to_end(&mut content)?;
        if content.len() as u64 > limit {
            return Err(io::Error::other(format!("it has more than {limit} bytes")));
        }
        Ok(Some(content))
    }

    /// Makes a folder and those above it, as far as they are missing, owned by `owner` and with mode 0755. Gives the path of
    /// the folder without links, as a process within would see it.
    pub(crate) fn make_folder(&self, path: &Path, owner: (u32, u32)) -> io::Result<PathBuf> {
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let mut walked = PathBuf::from("/");
        let mut folder = self.resolve(&walked, flags)?;
        for part in path.components().skip_while(|part| !matches!(part, std::path::Component::Normal(_))) {
            walked.push(part);
            folder = match self.resolve(&walked, flags) {
                Err(Errno::NOENT) => {
                    rustix::fs::mkdirat(&folder, part.as_os_str(), Mode::RWXU)?;
                    let made = self.resolve(&walked, OFlags::RDONLY | OFlags::DIRECTORY)?;
                    fchown(&made, Some(owner.0), Some(owner.1))?;
                    rustix::fs::fchmod(&made, Mode::from_raw_mode(0o755))?;
                    made
                }
                opened => opened?,
            };
        }
        let reached = fs::read_link(format!("/proc/self/fd/{}", folder.as_raw_fd()))?;
        let within = reached.strip_prefix(&self.path).map_err(io::Error::other)?;
        Ok(Path::new("/").join(within))
    }

    /// Puts a link in the place of the file `name` in `folder`, which is made as by [`make_folder`](Self::make_folder).
    pub(crate) fn make_link(&self, folder: &Path, name: &str, target: &str, owner: (u32, u32)) -> io::Result<()> {
        let reached = self.make_folder(folder, owner)?;
        let folder = self.resolve(&reached, OFlags::PATH | OFlags::DIRECTORY)?;
        match rustix::fs::unlinkat(&folder, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => (),
            Err(error) => return Err(error.into()),
        }
        rustix::fs::symlinkat(target, &folder, name)?;
        let (uid, gid) = (Some(Uid::from_raw(owner.0)), Some(Gid::from_raw(owner.1)));
        Ok(rustix::fs::chownat(&folder, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?)
    }

    /// Makes a folder of the root itself, if it is missing. Whatever else has this name is an error.
    pub(crate) fn make_plain_folder(&self, name: &str, owner: (u32, u32)) -> io::Result<()> {
        let reached = self.make_folder(Path::new(name), owner)?;
        if reached == Path::new("/").join(name) { Ok(()) } else { Err(io::Error::other("it is a link")) }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn owner() -> (u32, u32) {
        (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw())
    }

    #[test]
    fn links_are_followed_within_the_root_only() {
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("secret"), "secret").unwrap();
        let root = outside.path().join("root");
        fs::create_dir_all(root.join("usr/etc")).unwrap();
        fs::write(root.join("usr/etc/passwd"), "x").unwrap();
        symlink("/usr/etc", root.join("etc")).unwrap();
        symlink("../../../../secret", root.join("out")).unwrap();
        symlink(outside.path().join("secret"), root.join("far")).unwrap();
        let inside = Inside::open(&root).unwrap();
        let read = |path: &str| inside.read(Path::new(path), 10).unwrap();
        assert_eq!(read("/etc/passwd").as_deref(), Some(&b"x"[..]));
        assert_eq!((read("/out"), read("/far"), read("/../secret"), read("/none")), (None, None, None, None));
        assert!(inside.read(Path::new("/etc/passwd"), 0).is_err(), "too long");
        assert!(inside.read(Path::new("/usr"), 10).is_err(), "a folder");
    }

    #[test]
    fn folders_are_made_where_links_lead() {
        let outside = tempfile::tempdir().unwrap();
        let root = outside.path().join("root");
        fs::create_dir_all(root.join("private/tmp")).unwrap();
        symlink("private/tmp", root.join("tmp")).unwrap();
        symlink(outside.path(), root.join("out")).unwrap();
        let inside = Inside::open(&root).unwrap();
        let make = |path: &str| inside.make_folder(Path::new(path), owner());
        assert_eq!(make("/tmp/a/b").unwrap(), Path::new("/private/tmp/a/b"));
        assert_eq!(make("/var//tmp/").unwrap(), Path::new("/var/tmp"));
        assert_eq!(make("/").unwrap(), Path::new("/"));
        assert!(make("/out/x").is_err() && !outside.path().join("x").exists(), "a link that leads nowhere within");
        symlink("secret", root.join("private/hosts")).unwrap();
        inside.make_link(Path::new("/private"), "hosts", "/run/hosts", owner()).unwrap();
        assert_eq!(fs::read_link(root.join("private/hosts")).unwrap(), Path::new("/run/hosts"));
        fs::write(root.join("file"), "").unwrap();
        assert!(make("/file").is_err() && make("/file/x").is_err());
        inside.make_plain_folder("proc", owner()).unwrap();
        assert!(
            inside.make_plain_folder("tmp", owner()).is_err() && inside.make_plain_folder("file", owner()).is_err()
        );
    }
}
