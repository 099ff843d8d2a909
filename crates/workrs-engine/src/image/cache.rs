//! The unpacked layers that this node keeps, each in a folder of its own, shared by all jobs and written to by none:
//!
//! | path in `<data>/images/layers` | what |
//! |---|---|
//! | `<digits of the diff id>/root` | the layer, as an overlay's lower folder |
//! | `<digits of the diff id>/layer.json` | what is known of it |
//! | `<digits of the diff id>/used` | its time is that of the last use |
//! | `none` | an empty folder, for images without layers |
//! | `.<anything>` | half made or half removed; goes when the cache is opened |
//!
//! A folder has its name only once it is whole. It reaches the disk in the background, and until then its notes say in which
//! run of the kernel it was made: in another one it does not count. What has not been used for the longest time goes when all
//! together take more than the limit, but nothing that a container uses or that was provided a moment ago.

#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    fs, io,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant, SystemTime},
};

use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::io::SyncIoBridge;
use workrs_core::image::{Image, ImageDigest, Layer};

use super::unpack::{Limits, unpack};
use crate::{
    EngineError, LayerSource,
    disk::{ID_BASE, io_error},
};

const ROOT: &str = "root";
const NOTES: &str = "layer.json";
/// In a layer's folder; its time is that of the last use.
const USE_MARK: &str = "used";
const NONE: &str = "none";
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// How long what was provided is kept in any case, so that the container for which it was finds it.
const KEPT_FOR_ITS_CONTAINER: Duration = Duration::from_secs(10 * 60);
/// Of a layer's folder and notes; those of another are unpacked anew.
const FORMAT: u32 = 1;

/// What is known of an unpacked layer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Notes {
    format: u32,
    /// About what it takes.
    bytes: u64,
    /// Folders that its archive did not name.
    implied: Vec<PathBuf>,
    /// The run of the kernel in which it was made, if it may not have reached the disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    boot: Option<String>,
}

/// One unpacked layer. While this exists it stays.
#[derive(Debug)]
pub(crate) struct CachedLayer {
    folder: PathBuf,
    /// Folders that its archive did not name.
    implied: Vec<PathBuf>,
}

impl CachedLayer {
    fn mark_used(&self) {
        if let Err(error) = fs::write(self.folder.join(USE_MARK), "") {
            tracing::warn!(%error, layer = %self.folder.display(), "cannot note that a layer is in use");
        }
    }
}

/// The layers of an image, all there. They stay while this exists.
#[derive(Debug, Clone)]
pub(crate) struct ImageLayers {
    /// Of the image.
    pub(crate) digest: ImageDigest,
    /// Lowest first.
    layers: Vec<Arc<CachedLayer>>,
    /// In place of layers where there are none.
    none: PathBuf,
}

impl ImageLayers {
    /// An overlay's lower folders, lowest first; at least one. Of each also those folders within that its archive did not name.
    pub(super) fn roots(&self) -> Vec<(PathBuf, &[PathBuf])> {
        if self.layers.is_empty() {
            return vec![(self.none.clone(), &[])];
        }
        self.layers.iter().map(|layer| (layer.folder.join(ROOT), layer.implied.as_slice())).collect()
    }

    /// Notes that a job runs on them.
    pub(crate) fn mark_used(&self) {
        self.layers.iter().for_each(|layer| layer.mark_used());
    }
}

#[derive(Debug)]
struct Known {
    /// Shared by its users, so that they can be counted.
    users: Weak<CachedLayer>,
    notes: Notes,
    provided: Option<Instant>,
}

/// All unpacked layers of this node.
#[derive(Debug)]
pub(crate) struct LayerCache {
    folder: PathBuf,
    limit: u64,
    kept_for_containers: Duration,
    /// This run of the kernel.
    boot: String,
    limits: Limits,
    known: Mutex<HashMap<String, Known>>,
    /// Held by whoever unpacks a layer, so that it is unpacked once.
    unpacking: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    /// As many as are unpacked at once.
    at_once: Arc<Semaphore>,
    /// Held by whoever notes that layers were written back.
    noting: Mutex<()>,
}

impl LayerCache {
    /// The layers in `<data_dir>/images/layers`, which together may take about `limit` bytes. Removes what was left half-made.
    pub(crate) fn open(data_dir: &Path, limit: u64) -> Result<Self, EngineError> {
        let folder = data_dir.join("images/layers");
        let boot = fs::read_to_string(BOOT_ID).map_err(|error| io_error(Path::new(BOOT_ID), &error))?;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let cache = Self {
            folder,
            limit,
            boot,
            kept_for_containers: KEPT_FOR_ITS_CONTAINER,
            limits: Limits::default(),
            known: Mutex::default(),
            unpacking: Mutex::default(),
            at_once: Arc::new(Semaphore::new(cores)),
            noting: Mutex::default(),
        };
        cache.read().map_err(|error| io_error(&cache.folder, &error))?;
        cache.make_room(limit);
        Ok(cache)
    }

    fn read(&self) -> io::Result<()> {
        // Closed, as what layers hold may run as another user.
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)?;
        fs::set_permissions(&self.folder, fs::Permissions::from_mode(0o700))?;
        let none = self.folder.join(NONE);
        fs::create_dir_all(&none)?;
        std::os::unix::fs::chown(&none, Some(ID_BASE), Some(ID_BASE))?;
        let mut known = HashMap::new();
        for entry in fs::read_dir(&self.folder)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if name == NONE {
                continue;
            }
            match self.notes(&name) {
                Some(notes) => _ = known.insert(name, Known { users: Weak::new(), notes, provided: None }),
                None => match fs::remove_dir_all(self.folder.join(name)) {
                    // Whoever began with it has gone on.
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => (),
                },
            }
        }
        *self.known() = known;
        Ok(())
    }

    fn notes(&self, name: &str) -> Option<Notes> {
        ImageDigest::new(format!("{}{name}", ImageDigest::PREFIX)).ok()?;
        let notes = fs::read(self.folder.join(name).join(NOTES)).ok()?;
        serde_json::from_slice(&notes).ok().filter(|notes| self.is_whole(notes))
    }

    fn is_whole(&self, notes: &Notes) -> bool {
        notes.format == FORMAT && notes.boot.as_ref().is_none_or(|boot| *boot == self.boot)
    }

    fn known(&self) -> MutexGuard<'_, HashMap<String, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Unpacks the layers of an image that are not there yet, as many at once as there are cores. They stay for some minutes
    /// in any case, so that [`layers`](Self::layers) finds them.
    pub(crate) async fn provide(self: &Arc<Self>, image: &Image, source: &dyn LayerSource) -> Result<(), EngineError> {
        let began = Instant::now();
        let missing: Vec<_> = image.layers.iter().filter(|layer| !self.has(layer)).collect();
        let each = image.layers.iter().map(|layer| self.provide_layer(layer, source));
        futures::future::try_join_all(each).await?;
        if !missing.is_empty() {
            let layers = missing.len();
            tracing::info!(image = %image.digest, layers, took = ?began.elapsed(), "unpacked an image");
            let names: Vec<_> = missing.iter().map(|layer| layer.diff_id.digits().to_owned()).collect();
            let cache = Arc::clone(self);
            std::thread::spawn(move || cache.write_back(&names));
            self.make_room(self.limit);
        }
        Ok(())
    }

    /// The layers of an image that was provided.
    pub(crate) fn layers(&self, image: &Image) -> Result<ImageLayers, EngineError> {
        let layers = image.layers.iter().map(|layer| self.share(layer.diff_id.digits()));
        let absent = || EngineError::Host(format!("the image {} is not unpacked here", image.digest));
        let layers = layers.collect::<Option<Vec<_>>>().ok_or_else(absent)?;
        Ok(ImageLayers { digest: image.digest.clone(), layers, none: self.folder.join(NONE) })
    }

    /// Whether the layer is there; it then stays for a while.
    fn has(&self, layer: &Layer) -> bool {
        let mut known = self.known();
        let found = known.get_mut(layer.diff_id.digits());
        found.map(|known| known.provided = Some(Instant::now())).is_some()
    }

    /// One object for each layer, so that its users can be counted.
    fn share(&self, name: &str) -> Option<Arc<CachedLayer>> {
        let mut known = self.known();
        let known = known.get_mut(name)?;
        let shared = known.users.upgrade().unwrap_or_else(|| {
            Arc::new(CachedLayer { folder: self.folder.join(name), implied: known.notes.implied.clone() })
        });
        known.users = Arc::downgrade(&shared);
        Some(shared)
    }

    async fn provide_layer(self: &Arc<Self>, layer: &Layer, source: &dyn LayerSource) -> Result<(), EngineError> {
        let name = layer.diff_id.digits();
        if self.has(layer) {
            return Ok(());
        }
        let gate = {
            let mut unpacking = self.unpacking.lock().unwrap_or_else(PoisonError::into_inner);
            unpacking.retain(|_, gate| Arc::strong_count(gate) > 1);
            Arc::clone(unpacking.entry(name.to_owned()).or_default())
        };
        let alone = gate.lock_owned().await;
        if self.has(layer) {
            return Ok(());
        }
        let permit = Arc::clone(&self.at_once).acquire_owned().await;
        let permit = permit.map_err(|error| EngineError::Host(error.to_string()))?;
        let failed = |error: &dyn std::fmt::Display| EngineError::Host(format!("layer {}: {error}", layer.digest));
        let stored = source.open(layer).await.map_err(|error| failed(&error))?;
        let (cache, layer) = (Arc::clone(self), layer.clone());
        let stored = SyncIoBridge::new(stored);
        // It goes on if this is dropped, and nobody else begins before it has ended.
        let unpacked = tokio::task::spawn_blocking(move || {
            let _held: (_, OwnedSemaphorePermit) = (alone, permit);
            cache.unpack_layer(stored, &layer)
        });
        unpacked.await.map_err(|error| EngineError::Host(error.to_string()))?
    }

    fn unpack_layer(&self, stored: impl io::Read, layer: &Layer) -> Result<(), EngineError> {
        let name = layer.diff_id.digits();
        let temporary = self.folder.join(format!(".new-{name}"));
        let io_failed = |error: io::Error| io_error(&temporary, &error);
        let _left_by_a_failure = fs::remove_dir_all(&temporary);
        fs::create_dir_all(temporary.join(ROOT)).map_err(io_failed)?;
        let unpacked = unpack(stored, layer, &temporary.join(ROOT), &self.limits).map_err(|error| {
            if error.is_of_a_full_disk() {
                // For the next try.
                self.make_room(0);
            }
            let text = format!("layer {}: {error}", layer.digest);
            if error.is_final() { EngineError::CannotStart(text) } else { EngineError::Host(text) }
        });
        let kept = unpacked.and_then(|unpacked| {
            let notes = Notes {
                format: FORMAT,
                bytes: unpacked.bytes,
                implied: unpacked.implied,
                boot: Some(self.boot.clone()),
            };
            self.keep(&temporary, name, &notes).map(|()| notes).map_err(io_failed)
        });
        match kept {
            Ok(notes) => {
                let known = Known { users: Weak::new(), notes, provided: Some(Instant::now()) };
                self.known().insert(name.to_owned(), known);
                Ok(())
            }
            Err(error) => {
                let _tried_again_next_time = fs::remove_dir_all(&temporary);
                Err(error)
            }
        }
    }

    /// Gives a whole layer its name.
    fn keep(&self, temporary: &Path, name: &str, notes: &Notes) -> io::Result<()> {
        fs::write(temporary.join(NOTES), serde_json::to_vec(notes)?)?;
        fs::write(temporary.join(USE_MARK), "")?;
        fs::rename(temporary, self.folder.join(name))
    }

    /// Waits until these layers are on the disk, and notes that.
    fn write_back(&self, names: &[String]) {
        let synced = fs::File::open(&self.folder).and_then(|folder| Ok(rustix::fs::syncfs(folder)?));
        if let Err(error) = synced {
            tracing::warn!(%error, "unpacked layers were not written back; they are unpacked again after a restart of the host");
            return;
        }
        let _alone = self.noting.lock().unwrap_or_else(PoisonError::into_inner);
        for name in names {
            let folder = self.folder.join(name);
            // Of one that is gone by now, or noted already, there is nothing to note.
            let Some(notes) = self.notes(name).filter(|notes| notes.boot.as_ref() == Some(&self.boot)) else {
                continue;
            };
            let notes = Notes { boot: None, ..notes };
            let fresh = folder.join(".fresh");
            let noted = serde_json::to_vec(&notes).map_err(io::Error::from).and_then(|text| fs::write(&fresh, text));
            if let Err(error) = noted.and_then(|()| fs::rename(&fresh, folder.join(NOTES))) {
                tracing::debug!(%error, name, "an unpacked layer is taken to be lost at a restart of the host");
            }
        }
    }

    /// Removes what was not used for the longest time until the rest is within `limit`. The removing itself goes on in the
    /// background.
    fn make_room(&self, limit: u64) {
        let mut known = self.known();
        let mut total: u64 = known.values().map(|layer| layer.notes.bytes).sum();
        let is_kept = |layer: &Known| {
            let just_provided = layer.provided.is_some_and(|at| at.elapsed() < self.kept_for_containers);
            just_provided || layer.users.strong_count() > 0
        };
        let mut unused: Vec<_> = known
            .iter()
            .filter(|(_, layer)| !is_kept(layer))
            .map(|(name, layer)| (self.last_use(name), name.clone(), layer.notes.bytes))
            .collect();
        unused.sort();
        let mut doomed = Vec::new();
        for (_, name, bytes) in unused {
            if total <= limit {
                break;
            }
            let hidden = self.folder.join(format!(".old-{name}"));
            if fs::rename(self.folder.join(&name), &hidden).is_ok() {
                tracing::info!(layer = name, bytes, "removing a layer that was not used for long");
                known.remove(&name);
                total = total.saturating_sub(bytes);
                doomed.push(hidden);
            }
        }
        if !doomed.is_empty() {
            // Detached: at the end of the process it may be cut off, and is done by the next one.
            std::thread::spawn(move || doomed.iter().for_each(|path| _ = fs::remove_dir_all(path)));
        }
    }

    fn last_use(&self, name: &str) -> SystemTime {
        let mark = self.folder.join(name).join(USE_MARK);
        mark.metadata().and_then(|mark| mark.modified()).unwrap_or(SystemTime::UNIX_EPOCH)
    }
}
