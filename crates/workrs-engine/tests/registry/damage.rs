//! Registries whose files were damaged.

use std::fs::File;

use serde_json::json;
use workrs_engine::image::source::SourceError;

use super::{
    options, refused,
    registry::{Registry, digest_of},
};

const LAYER: &[u8] = b"a layer of some length";

fn with_image() -> Option<(Registry, String)> {
    let registry = Registry::start()?;
    registry.push_image("image", "1", &json!({}), &[LAYER]);
    let reference = format!("{}/image:1", registry.name());
    Some((registry, reference))
}

#[tokio::test]
async fn a_changed_layer_is_refused() {
    let Some((registry, reference)) = with_image() else { return };
    std::fs::write(registry.blob_file(&digest_of(LAYER)), b"a LAYER of some length").unwrap();
    let error = refused(&reference, &options()).await;
    assert!(matches!(error, SourceError::WrongDigest { part: "layer", .. }), "{error}");
}

#[tokio::test]
async fn a_layer_cut_short_is_refused() {
    let Some((registry, reference)) = with_image() else { return };
    File::options().write(true).open(registry.blob_file(&digest_of(LAYER))).unwrap().set_len(10).unwrap();
    let error = refused(&reference, &options()).await;
    assert!(matches!(error, SourceError::CutShort { part: "layer", got: 10, wanted: 22, .. }), "{error}");
}

#[tokio::test]
async fn a_layer_that_grew_is_refused() {
    let Some((registry, reference)) = with_image() else { return };
    File::options().write(true).open(registry.blob_file(&digest_of(LAYER))).unwrap().set_len(23).unwrap();
    let error = refused(&reference, &options()).await;
    assert!(matches!(error, SourceError::TooLong { part: "layer", wanted: 22, .. }), "{error}");
}

#[tokio::test]
async fn a_lost_layer_is_named() {
    let Some((registry, reference)) = with_image() else { return };
    std::fs::remove_file(registry.blob_file(&digest_of(LAYER))).unwrap();
    let error = refused(&reference, &options()).await;
    assert!(matches!(error, SourceError::PartMissing { part: "layer", .. }), "{error}");
}

#[tokio::test]
async fn a_changed_manifest_is_refused() {
    let Some(registry) = Registry::start() else { return };
    let digest = registry.push_image("image", "1", &json!({}), &[LAYER])["digest"].as_str().unwrap().to_owned();
    let file = registry.blob_file(&digest);
    let changed = std::fs::read_to_string(&file).unwrap().replace("\"size\":22", "\"size\":21");
    std::fs::write(file, changed).unwrap();
    for reference in [format!("{}/image:1", registry.name()), format!("{}/image@{digest}", registry.name())] {
        let error = refused(&reference, &options()).await;
        assert!(matches!(error, SourceError::WrongDigest { part: "manifest", .. }), "{reference}: {error}");
    }
}
