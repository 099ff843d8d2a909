//! The parts of a root: `/usr` by hard links, and a small `/etc`.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, symlink},
    path::Path,
};

use crate::disk::JOB_ID;

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

pub(super) fn make_folder(path: &Path, mode: u32) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o755).create(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

/// The same tree with every file a hard link; what lies on another file system is copied.
pub(super) fn link_tree(from: &Path, to: &Path) -> io::Result<()> {
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

pub(super) fn make_etc(from: &Path, to: &Path) -> io::Result<()> {
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
        ("hostname", "job\n".to_owned()),
        (
            "nsswitch.conf",
            "passwd: files\ngroup: files\nhosts: files dns\nservices: files\nprotocols: files\n".to_owned(),
        ),
    ];
    for (name, content) in files {
        fs::write(to.join(name), content)?;
    }
    // What differs from job to job, and for one job from node to node.
    symlink("/run/workrs/hosts", to.join("hosts"))?;
    symlink("/run/workrs/resolv.conf", to.join("resolv.conf"))?;
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
