//! Folders that a layer has only because something lies in them. Unpacked by itself such a layer gives them an owner and a
//! mode that nobody asked for, which would cover those that a lower layer says. So each that some lower layer describes is
//! made above all layers, described as there.

use std::{
    collections::BTreeSet,
    fs, io,
    os::{
        fd::OwnedFd,
        unix::fs::{PermissionsExt, chown},
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{CWD, Mode, OFlags, ResolveFlags, Stat},
    io::Errno,
};

use crate::disk::ID_BASE;

/// A layer: its root, and the folders that its archive did not name, sorted.
pub(super) type Layer<'a> = (&'a Path, &'a [PathBuf]);

/// What a layer says of a folder.
enum Said {
    /// Nothing: lower ones are asked.
    Nothing,
    /// Nothing, but it has the folder, and so covers what lower ones say.
    Implied,
    /// This.
    Described(Stat),
    /// That nothing of lower ones is seen there.
    Hidden,
}

/// Makes in the empty folder `upper` what the layers, lowest first, have described and then covered.
pub(super) fn describe_again(layers: &[Layer<'_>], upper: &Path) -> io::Result<()> {
    let implied: BTreeSet<&PathBuf> = layers.iter().flat_map(|(_, implied)| *implied).collect();
    for path in implied {
        if let (true, Some(_)) = described(layers, path)? {
            make(layers, path, upper)?;
        }
    }
    Ok(())
}

/// How the uppermost layer that says something of a folder describes it, and whether one above covers that.
fn described(layers: &[Layer<'_>], path: &Path) -> io::Result<(bool, Option<Stat>)> {
    let mut is_covered = false;
    for layer in layers.iter().rev() {
        let (said, hides) = asked(layer, path)?;
        match said {
            Said::Nothing => (),
            Said::Implied => is_covered = true,
            Said::Described(stat) => return Ok((is_covered, Some(stat))),
            Said::Hidden => break,
        }
        if hides {
            break;
        }
    }
    Ok((is_covered, None))
}

/// What a layer says of a folder, and whether it hides what lower ones have there.
fn asked((root, implied): &Layer<'_>, path: &Path) -> io::Result<(Said, bool)> {
    let mut hides = false;
    for step in with_those_above(path) {
        let folder = match open_below(root, step) {
            Ok(folder) => folder,
            Err(Errno::NOENT) => return Ok((Said::Nothing, hides)),
            // A whiteout, a link or a file.
            Err(Errno::NOTDIR | Errno::LOOP) => return Ok((Said::Hidden, true)),
            Err(error) => return Err(error.into()),
        };
        let mut value = [0u8; 1];
        let opaque = rustix::fs::fgetxattr(&folder, "trusted.overlay.opaque", &mut value[..]);
        hides |= opaque.is_ok_and(|len| value[..len] == *b"y");
        if step == path && implied.binary_search_by(|one| one.as_path().cmp(path)).is_err() {
            return Ok((Said::Described(rustix::fs::fstat(&folder)?), hides));
        }
    }
    Ok((Said::Implied, hides))
}

/// The uppermost first.
fn with_those_above(path: &Path) -> Vec<&Path> {
    let mut steps: Vec<_> = path.ancestors().filter(|step| !step.as_os_str().is_empty()).collect();
    steps.reverse();
    steps
}

/// Makes a folder and those above it, each as it is to be seen.
fn make(layers: &[Layer<'_>], path: &Path, upper: &Path) -> io::Result<()> {
    for step in with_those_above(path) {
        let target = upper.join(step);
        match fs::create_dir(&target) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
            made => made?,
        }
        let (_, described) = described(layers, step)?;
        let (mode, owner) =
            described.map_or((0o755, (ID_BASE, ID_BASE)), |stat| (stat.st_mode, (stat.st_uid, stat.st_gid)));
        chown(&target, Some(owner.0), Some(owner.1))?;
        fs::set_permissions(&target, fs::Permissions::from_mode(mode & 0o7777))?;
    }
    Ok(())
}

/// A folder of a layer, reached without links.
fn open_below(root: &Path, path: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::openat(CWD, root, flags, Mode::empty())?;
    rustix::fs::openat2(&root, path, flags, Mode::empty(), ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn what_a_lower_layer_describes_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let make = |layer: &str, path: &str, mode: u32| {
            fs::create_dir_all(folder.path().join(layer).join(path)).unwrap();
            fs::set_permissions(folder.path().join(layer).join(path), fs::Permissions::from_mode(mode)).unwrap();
        };
        make("0", "opt", 0o711);
        make("0", "opt/app", 0o700);
        make("0", "only/below", 0o700);
        make("0", "renewed", 0o700);
        make("0", "gone", 0o700);
        make("1", "opt/app/data", 0o755);
        make("1", "renewed", 0o755);
        make("1", "new", 0o755);
        fs::write(folder.path().join("1/gone"), "").unwrap();
        make("0", "removed", 0o700);
        make("1", "removed", 0o755);
        make("2", "renewed", 0o750);
        make("2", "gone", 0o755);
        fs::write(folder.path().join("2/removed"), "").unwrap();
        make("upper", "", 0o755);
        let roots = ["0", "1", "2", "upper"].map(|name| folder.path().join(name));
        let implied = ["new", "opt", "opt/app", "opt/app/data", "removed", "renewed"].map(PathBuf::from);
        let gone = [PathBuf::from("gone")];
        let layers: [Layer<'_>; 3] = [(&roots[0], &[]), (&roots[1], &implied), (&roots[2], &gone)];
        describe_again(&layers, &roots[3]).unwrap();
        let mode = |path: &str| roots[3].join(path).metadata().map(|found| found.mode() & 0o7777).ok();
        assert_eq!((mode("opt"), mode("opt/app"), mode("opt/app/data")), (Some(0o711), Some(0o700), None));
        let others = ["only", "renewed", "new", "gone", "removed"].map(mode);
        assert_eq!(others, [None; 5], "described by the uppermost, by none, or hidden");
    }
}
