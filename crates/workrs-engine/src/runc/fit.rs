//! What a container's root must have: places to mount the disk's folders at, a folder to start in, and a user. The root and
//! the disk may hold anything, made by whoever made the image or by the job itself.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use rustix::io::Errno;

use super::bundle::DISK_MOUNTS;
use crate::{
    disk::{ID_BASE, JobDisk, io_error},
    engine::{ContainerSpec, EngineError},
    image::{Base, Inside, User, user_file},
};

/// Folders that runc mounts file systems of the kernel at. It refuses links.
const OF_THE_KERNEL: [&str; 3] = ["proc", "sys", "dev"];

/// How a root is used.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Fit {
    /// Folders of the disk, and where they are mounted, by paths without links.
    pub(super) places: Vec<(&'static str, String)>,
    pub(super) user: User,
}

/// Makes the mounted root and disk of a container fit for it.
pub(super) fn fit(base: &Base, root: &Path, disk: &JobDisk, spec: &ContainerSpec) -> Result<Fit, EngineError> {
    let mut fit = Fit {
        places: DISK_MOUNTS.iter().map(|(folder, at)| (*folder, (*at).to_owned())).collect(),
        user: User::default(),
    };
    if let Base::Image(_) = base {
        let inside = Inside::open(root).map_err(|error| io_error(root, &error))?;
        fit.user = user(spec, disk, &inside)?;
        fit.places = places(&inside)?;
        if !fit.is_in_a_place(&spec.folder) {
            let owner = (ID_BASE + fit.user.uid, ID_BASE + fit.user.gid);
            let made = inside.make_folder(Path::new(&spec.folder), owner);
            made.map_err(|error| unusable(&spec.folder, &error))?;
        }
    }
    fit.make_start_folder_on(disk, &spec.folder)?;
    Ok(fit)
}

impl Fit {
    fn is_in_a_place(&self, path: &str) -> bool {
        let of_the_kernel = OF_THE_KERNEL.iter().any(|name| Path::new(path).starts_with(Path::new("/").join(name)));
        of_the_kernel || self.places.iter().any(|(_, at)| Path::new(path).starts_with(at))
    }

    /// Where the job starts, if that lies on its disk.
    fn make_start_folder_on(&self, disk: &JobDisk, path: &str) -> Result<(), EngineError> {
        let within = |(folder, at): &(&'static str, String)| Some((*folder, Path::new(path).strip_prefix(at).ok()?));
        let Some((folder, rest)) = self.places.iter().find_map(within).filter(|(_, rest)| *rest != Path::new(""))
        else {
            return Ok(());
        };
        let root = disk.mount_point().join(folder);
        let owner = (ID_BASE + self.user.uid, ID_BASE + self.user.gid);
        let made = Inside::open(&root).and_then(|inside| inside.make_folder(rest, owner));
        made.map(drop).map_err(|error| unusable(path, &error))
    }
}

/// Where the disk's folders are mounted in the root of an image, which may have links in their places. Of two that come to
/// lie at one place the first stays.
fn places(inside: &Inside) -> Result<Vec<(&'static str, String)>, EngineError> {
    for name in OF_THE_KERNEL {
        inside.make_plain_folder(name, (ID_BASE, ID_BASE)).map_err(|error| unusable(&format!("/{name}"), &error))?;
    }
    let mut places: Vec<(&'static str, String)> = Vec::new();
    for (folder, at) in DISK_MOUNTS {
        // It lies in a file system of the kernel.
        let reached = if at.starts_with("/dev/") {
            PathBuf::from(at)
        } else {
            inside.make_folder(Path::new(at), (ID_BASE, ID_BASE)).map_err(|error| unusable(at, &error))?
        };
        let text = reached.to_str().filter(|_| reached != Path::new("/"));
        let text = text.ok_or_else(|| unusable(at, &io::Error::other("it leads elsewhere")))?;
        if !places.iter().any(|(_, other)| other == text) {
            places.push((folder, text.to_owned()));
        }
    }
    Ok(places)
}

/// Names are looked up in what each start and restore writes anew, whatever the image has.
fn look_up_names_as_told(inside: &Inside) -> Result<(), EngineError> {
    ["hosts", "resolv.conf"].into_iter().try_for_each(|name| {
        let told = format!("/run/workrs/{name}");
        let linked = inside.make_link(Path::new("/etc"), name, &told, (ID_BASE, ID_BASE));
        linked.map_err(|error| unusable("/etc", &error))
    })
}

/// The image's user, looked up once: later the job may have changed the books. Then its root is a new one, too.
fn user(spec: &ContainerSpec, disk: &JobDisk, inside: &Inside) -> Result<User, EngineError> {
    let noted = user_file(&disk.mount_point());
    let failed = |error: &io::Error| io_error(&noted, error);
    match fs::read(&noted) {
        Ok(text) => serde_json::from_slice(&text)
            .map_err(|error| EngineError::Refused(format!("it does not say whom the job runs as: {error}"))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let wanted = spec.image.as_ref().and_then(|image| image.settings.user.as_deref());
            let user = User::of_image(wanted, inside)?;
            look_up_names_as_told(inside)?;
            let text = serde_json::to_vec(&user).map_err(|error| failed(&error.into()))?;
            fs::write(&noted, text).map_err(|error| failed(&error))?;
            disk.give_to(user.uid, user.gid)?;
            Ok(user)
        }
        Err(error) => Err(failed(&error)),
    }
}

/// A folder that a root cannot have: a fault of the image or of the job, unless the host's own.
fn unusable(path: &str, error: &io::Error) -> EngineError {
    let of_the_host = [Errno::IO, Errno::NOMEM, Errno::MFILE, Errno::NFILE].map(Errno::raw_os_error);
    let text = format!("its root cannot have the folder {path}: {error}");
    match error.raw_os_error() {
        Some(number) if of_the_host.contains(&number) => EngineError::Host(text),
        _ => EngineError::CannotStart(text),
    }
}
