//! Archives of a root file system, such as those of `docker export` and `debootstrap`: the only layer of an image that is
//! made for it, always the same for the same file.

use serde_json::json;

use super::{
    Found, docker,
    opened::{NAME, Opened, damaged},
};
use crate::image::source::{
    error::SourceError,
    platform::{Document, this_arch},
};

pub(super) fn image(archive: &mut Opened) -> Result<Found, SourceError> {
    check_that_it_is_one(archive)?;
    let whole = archive.file().whole();
    archive.examine(&[whole])?;
    let facts = archive.facts(whole)?;
    if facts.compression != archive.file().compression() {
        return Err(damaged("it changed while it was read"));
    }
    let config = json!({
        "architecture": this_arch(), "os": "linux", "config": {},
        "rootfs": { "type": "layers", "diff_ids": [facts.diff_id] },
    });
    let config = config.to_string().into_bytes();
    let manifest = docker::make_manifest(archive, &[whole], &config)?;
    let Document::Manifest(form) = Document::read(NAME, &manifest)? else {
        return Err(damaged("its manifest is a list"));
    };
    let layers = docker::parts(archive, &[whole])?;
    Found::new((form, manifest), config, layers)
}

fn check_that_it_is_one(archive: &Opened) -> Result<(), SourceError> {
    if archive.members().have_root_folders {
        return Ok(());
    }
    let is_of_images = |name: &str| name.starts_with("blobs/sha256/") || name == "oci-layout" || name == "repositories";
    if archive.members().names().any(is_of_images) {
        let reason = "it has parts of images, but neither manifest.json nor index.json, which name them";
        return Err(damaged(reason));
    }
    if !archive.members().have_files {
        let reason = "it is a tar, but has neither images nor any file of a root file system".to_owned();
        return Err(SourceError::NotAnArchive { reason });
    }
    Ok(())
}
