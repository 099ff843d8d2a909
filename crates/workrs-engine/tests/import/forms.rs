//! The forms that images come in.

use serde_json::json;
use workrs_core::image::Compression;
use workrs_engine::image::source::{Imported, SourceError};

use super::{
    FolderSink,
    archives::{self, INDEX, LAYER, Layout, Tar, arch, digest_of, gzip, zstd},
    import_into, refused,
};

const NAMES: [&str; 2] = ["docker.io/library/tool:1", "registry:5000/team/tool:2"];

/// Imports the only image of an archive and checks that all of it is in the sink.
async fn import_one(sink: &FolderSink, archive: &[u8]) -> Imported {
    let imported = import_into(sink, archive).await.unwrap();
    assert_eq!(imported.len(), 1);
    let one = imported.into_iter().next().unwrap();
    for digest in [&one.image.digest, &one.image.config].into_iter().chain(one.image.layers.iter().map(|l| &l.digest)) {
        assert_eq!(digest_of(&sink.content(digest)), digest.as_str());
    }
    assert_eq!(sink.take_puts().last(), Some(&one.image.digest.to_string()), "the manifest comes last");
    one
}

#[tokio::test]
async fn docker_save_with_a_layer_twice() {
    let sink = FolderSink::new();
    let archive = archives::docker_save();
    let one = import_one(&sink, &archive).await;
    assert_eq!(one.names, NAMES);
    assert_eq!(one.image.settings.command, ["sh"]);
    let [first, second] = archives::layers();
    let found: Vec<Vec<u8>> = one.image.layers.iter().map(|layer| sink.content(&layer.digest)).collect();
    assert_eq!(found, [first.clone(), second, first]);
    assert_eq!(sink.names().len(), 4, "two layers, a configuration, a manifest");

    for again in [archive.clone(), gzip(&archive), zstd(&archive)] {
        let same = import_into(&sink, &again).await.unwrap();
        assert_eq!(same.as_slice(), std::slice::from_ref(&one), "the same image, however it is packed");
        assert_eq!(sink.take_puts(), Vec::<String>::new(), "nothing is brought twice");
    }
}

#[tokio::test]
async fn compressed_docker_save_into_an_empty_sink() {
    for archive in [gzip(&archives::docker_save()), zstd(&archives::docker_save())] {
        import_one(&FolderSink::new(), &archive).await;
    }
}

#[tokio::test]
async fn docker_save_in_the_newer_form() {
    let [first, second] = archives::layers();
    let mut layout = Layout::new();
    let mut image = layout.image(arch(), &[(&first, LAYER, &first), (&second, LAYER, &second)]);
    let digest = image["digest"].as_str().unwrap().to_owned();
    image["annotations"] = json!({
        "io.containerd.image.name": "docker.io/library/tool:1", "org.opencontainers.image.ref.name": "1",
    });
    layout.entry(image);
    let config = archives::config(arch(), &[&first, &second]);
    let blob = |content: &[u8]| format!("blobs/sha256/{}", archives::digits_of(content));
    let manifest = json!([{
        "Config": blob(&config), "RepoTags": [NAMES[1]], "Layers": [blob(&first), blob(&second)],
    }]);
    let both = layout
        .without_index()
        .file("index.json", &layout.index())
        .file("manifest.json", manifest.to_string().as_bytes());
    let one = import_one(&FolderSink::new(), &both.end()).await;
    assert_eq!(one.image.digest.as_str(), digest, "its own manifest, not one made up");
    assert_eq!(one.names, NAMES);

    // The same without the layout's index.
    let only = layout.without_index().file("manifest.json", manifest.to_string().as_bytes()).end();
    let one = import_one(&FolderSink::new(), &only).await;
    assert_eq!(one.names, [NAMES[1]]);
}

#[tokio::test]
async fn docker_save_with_compressed_layers_and_hard_links() {
    let [first, _] = archives::layers();
    let config = archives::config(arch(), &[&first, &first]);
    let manifest = json!([{ "Config": "config.json", "RepoTags": null, "Layers": ["a.tar", "b.tar"] }]);
    let archive = Tar::new()
        .file("manifest.json", manifest.to_string().as_bytes())
        .file("config.json", &config)
        .file("a.tar", &gzip(&first))
        .link(tar::EntryType::Link, "b.tar", "a.tar")
        .end();
    let one = import_one(&FolderSink::new(), &archive).await;
    assert_eq!(one.names, Vec::<String>::new());
    let layer = &one.image.layers[1];
    assert_eq!((layer.compression, layer.diff_id.as_str()), (Compression::Gzip, digest_of(&first).as_str()));
}

#[tokio::test]
async fn layouts_with_compressed_layers() {
    for archive in [archives::layout(), gzip(&archives::layout()), zstd(&archives::layout())] {
        let one = import_one(&FolderSink::new(), &archive).await;
        let compressions: Vec<Compression> = one.image.layers.iter().map(|layer| layer.compression).collect();
        assert_eq!(compressions, [Compression::Gzip, Compression::None]);
        assert_eq!(one.names, NAMES[..1]);
    }
}

#[tokio::test]
async fn layouts_with_several_images_and_architectures() {
    let [first, second] = archives::layers();
    let mut layout = Layout::new();
    let ours = layout.image(arch(), &[(&first, LAYER, &first)]);
    let other = layout.image("s390x", &[(&second, LAYER, &second)]);
    let with = |descriptor: &serde_json::Value, arch: &str| {
        let mut entry = descriptor.clone();
        entry["platform"] = json!({ "os": "linux", "architecture": arch });
        entry
    };
    let list = json!({
        "schemaVersion": 2, "mediaType": INDEX, "manifests": [with(&other, "s390x"), with(&ours, arch())],
    });
    let mut nested = layout.blob(INDEX, list.to_string().as_bytes());
    nested["annotations"] = json!({ "org.opencontainers.image.ref.name": "example.com/nested:1" });
    layout.entry(nested);
    let alone = layout.image(arch(), &[(&second, LAYER, &second)]);
    layout.entry(alone.clone());
    // A signature, as it lies beside images.
    let empty = layout.blob("application/vnd.oci.empty.v1+json", b"{}");
    let signature = json!({ "schemaVersion": 2, "mediaType": archives::MANIFEST, "config": empty, "layers": [] });
    let signature = layout.blob(archives::MANIFEST, signature.to_string().as_bytes());
    layout.entry(signature);

    let sink = FolderSink::new();
    let imported = import_into(&sink, &layout.end()).await.unwrap();
    let found: Vec<(&str, &[String])> =
        imported.iter().map(|one| (one.image.digest.as_str(), one.names.as_slice())).collect();
    let names = ["example.com/nested:1".to_owned()];
    assert_eq!(found, [(ours["digest"].as_str().unwrap(), &names[..]), (alone["digest"].as_str().unwrap(), &[])]);

    let mut foreign = Layout::new();
    let other = foreign.image("s390x", &[(&second, LAYER, &second)]);
    for entry in [with(&other, "s390x"), other] {
        foreign.entries = vec![entry];
        let error = refused(&foreign.end()).await;
        assert!(matches!(&error, SourceError::NoArchitecture { others, .. } if others == &["linux/s390x"]), "{error}");
    }
}

#[tokio::test]
async fn root_file_systems() {
    let plain = archives::root();
    for (archive, compression) in
        [(plain.clone(), Compression::None), (gzip(&plain), Compression::Gzip), (zstd(&plain), Compression::Zstd)]
    {
        let sink = FolderSink::new();
        let one = import_one(&sink, &archive).await;
        let [layer] = one.image.layers.as_slice() else { panic!("one layer") };
        assert_eq!(sink.content(&layer.digest), archive, "the file as it is");
        assert_eq!((layer.compression, layer.diff_id.as_str()), (compression, digest_of(&plain).as_str()));
        assert_eq!(one.names, Vec::<String>::new());
        assert_eq!(one.image.settings, workrs_core::image::ImageSettings::default());
        assert_eq!(import_into(&FolderSink::new(), &archive).await.unwrap(), [one]);
    }
}
