//! What a pull brings.

use serde_json::json;
use workrs_engine::image::source::{Reference, SourceError, resolve};

use super::{
    FolderSink, options, pull_into, refused,
    registry::{self, Registry},
};

#[tokio::test]
async fn an_image_comes_once_and_as_a_whole() {
    let Some(registry) = Registry::start() else { return };
    let large = vec![7_u8; 3 << 20];
    let layers: [&[u8]; 4] = [b"lowest", &large, b"lowest", b"top"];
    let settings = json!({ "Cmd": ["sh"], "User": "nobody" });
    let pushed = registry.push_image("some/image", "v1", &settings, &layers);

    let sink = FolderSink::new();
    let reference = format!("{}/some/image:v1", registry.name());
    let image = pull_into(&sink, &reference, &options()).await.unwrap();
    assert_eq!(image.digest.as_str(), pushed["digest"]);
    assert_eq!(image.settings.command, ["sh"]);
    let found: Vec<Vec<u8>> = image.layers.iter().map(|layer| sink.content(&layer.digest)).collect();
    assert_eq!(found, layers);
    let puts = sink.take_puts();
    assert_eq!(puts.len(), 5, "a configuration, three layers that differ, a manifest: {puts:?}");
    assert_eq!(puts.last().unwrap(), image.digest.as_str(), "the manifest comes last");

    let parsed = Reference::parse(&reference).unwrap();
    assert_eq!(resolve(&parsed, &options()).await.unwrap(), image.digest);
    let pinned = format!("{}/some/image@{}", registry.name(), image.digest);
    assert_eq!(pull_into(&sink, &pinned, &options()).await.unwrap(), image);
    assert_eq!(sink.take_puts(), Vec::<String>::new(), "what is there is not brought again");
}

#[tokio::test]
async fn a_layer_that_is_there_from_another_image_is_not_brought() {
    let Some(registry) = Registry::start() else { return };
    registry.push_image("a", "1", &json!({}), &[b"base", b"a"]);
    registry.push_image("b", "1", &json!({}), &[b"base", b"b"]);
    let sink = FolderSink::new();
    pull_into(&sink, &format!("{}/a:1", registry.name()), &options()).await.unwrap();
    sink.take_puts();
    pull_into(&sink, &format!("{}/b:1", registry.name()), &options()).await.unwrap();
    assert_eq!(sink.take_puts().len(), 3, "a configuration, a layer, a manifest");
}

#[tokio::test]
async fn of_several_architectures_this_hosts_comes() {
    let Some(registry) = Registry::start() else { return };
    let repository = "several";
    let image = |arch: &str, layer: &[u8]| {
        let config = registry::configuration(arch, &json!({}), &[layer]).to_string();
        let config = registry.push_blob(repository, registry::CONFIG, config.as_bytes());
        let layer = registry.push_blob(repository, registry::LAYER, layer);
        let manifest =
            json!({ "schemaVersion": 2, "mediaType": registry::MANIFEST, "config": config, "layers": [layer] });
        let mut entry = registry.push_manifest(repository, "", &manifest);
        entry["platform"] = json!({ "os": "linux", "architecture": arch });
        entry
    };
    let other = image("s390x", b"other");
    let ours = image(registry::arch(), b"ours");
    let index = |entries| json!({ "schemaVersion": 2, "mediaType": registry::INDEX, "manifests": entries });
    let both = registry.push_manifest(repository, "both", &index(json!([other, ours])));
    registry.push_manifest(repository, "other", &index(json!([other])));

    let sink = FolderSink::new();
    let name = format!("{}/{repository}", registry.name());
    for reference in [format!("{name}:both"), format!("{name}@{}", both["digest"].as_str().unwrap())] {
        let image = pull_into(&sink, &reference, &options()).await.unwrap();
        assert_eq!(image.digest.as_str(), ours["digest"], "the digest of the manifest, not that of the list");
        assert_eq!(sink.content(&image.layers[0].digest), b"ours");
    }
    let error = refused(&format!("{name}:other"), &options()).await;
    assert!(matches!(&error, SourceError::NoArchitecture { others, .. } if others == &["linux/s390x"]), "{error}");
    // Without a list only the configuration says it.
    let alone = format!("{name}@{}", other["digest"].as_str().unwrap());
    let error = refused(&alone, &options()).await;
    assert!(matches!(error, SourceError::NoArchitecture { .. }), "{error}");
}

#[tokio::test]
async fn what_is_not_there_is_told_apart() {
    let Some(registry) = Registry::start() else { return };
    registry.push_image("image", "v1", &json!({}), &[b"layer"]);
    let name = registry.name();
    let error = refused(&format!("{name}/image:v2"), &options()).await;
    assert!(matches!(&error, SourceError::NoSuchTag { others, .. } if others == &["v1"]), "{error}");
    assert!(error.hint().contains("v1"));
    let error = refused(&format!("{name}/other:v1"), &options()).await;
    assert!(matches!(error, SourceError::NoSuchRepository { .. }), "{error}");
    let error = refused(&format!("{name}/image@{}", registry::digest_of(b"else")), &options()).await;
    assert!(matches!(error, SourceError::NoSuchDigest { .. }), "{error}");
}
