//! What is refused, and how that is said.

use serde_json::{Value, json};
use tar::EntryType;
use workrs_engine::image::source::{SourceError, import};

use super::{
    FolderSink,
    archives::{self, LAYER, Layout, Tar, arch, gzip, header, zstd},
    refused,
};

/// An archive of `docker save` with a manifest, a configuration and whatever more.
fn saved(layers: &[&str], config: &[u8], more: Tar) -> Vec<u8> {
    let manifest = json!([{ "Config": "config.json", "RepoTags": [], "Layers": layers }]).to_string();
    more.file("config.json", config).file("manifest.json", manifest.as_bytes()).end()
}

#[tokio::test]
async fn what_is_no_archive_is_refused() {
    for (content, expect) in [
        (b"".to_vec(), "it is empty"),
        (b"#!/bin/sh\necho hello\n".to_vec(), "does not begin like a tar"),
        (vec![b'x'; 4096], "does not begin like a tar"),
        (gzip(b"text"), "does not begin like a tar"),
        (b"\xfd7zXZ\0rest".to_vec(), "compressed with xz"),
        (b"BZh9rest".to_vec(), "compressed with bzip2"),
        (vec![0; 10240], "neither images nor any file"),
        (Tar::new().folder("x").end(), "neither images nor any file"),
    ] {
        let error = refused(&content).await;
        assert!(matches!(error, SourceError::NotAnArchive { .. }), "{error}");
        assert!(error.to_string().contains(expect), "{error}");
    }
    let folder = tempfile::tempdir().unwrap();
    let error = import(folder.path(), &FolderSink::new()).await.unwrap_err();
    assert!(error.to_string().contains("tar -C"), "{error}");
    let error = import(&folder.path().join("none"), &FolderSink::new()).await.unwrap_err();
    assert!(matches!(error, SourceError::File { .. }), "{error}");
}

#[tokio::test]
async fn archives_cut_anywhere_are_refused() {
    for whole in [archives::docker_save(), archives::layout(), archives::root()] {
        // The mark of the end is two blocks, of which one is enough.
        let ends = (0..whole.len() - 1024).step_by(512).chain([1, 100, 600, 1536 - 1]);
        for end in ends {
            let error = refused(&whole[..end]).await;
            let is_clear = matches!(error, SourceError::Damaged { .. } | SourceError::NotAnArchive { .. });
            assert!(is_clear, "cut at {end}: {error}");
        }
        for packed in [gzip(&whole), zstd(&whole)] {
            let error = refused(&packed[..packed.len() - 1]).await;
            assert!(error.to_string().contains("cut short"), "{error}");
        }
    }
}

#[tokio::test]
async fn layers_that_are_not_what_is_said_are_refused() {
    let [first, second] = archives::layers();
    let config = archives::config(arch(), &[&first]);
    let error = refused(&saved(&["layer.tar"], &config, Tar::new().file("layer.tar", &second))).await;
    assert!(matches!(error, SourceError::WrongDigest { part: "layer", .. }), "{error}");
    let cut = gzip(&first);
    let error = refused(&saved(&["layer.tar"], &config, Tar::new().file("layer.tar", &cut[..cut.len() - 9]))).await;
    assert!(matches!(error, SourceError::Damaged { .. }), "{error}");
    let error = refused(&saved(&["a", "a"], &config, Tar::new().file("a", &first))).await;
    assert!(error.to_string().contains("names 2 layers, its configuration 1"), "{error}");
    let error = refused(&saved(&["other.tar"], &config, Tar::new().file("layer.tar", &first))).await;
    assert!(error.to_string().contains("no file \"other.tar\""), "{error}");

    // Of a layout: the blob, then what its manifest says of it.
    let damaged = |change: fn(&mut Layout)| {
        let mut layout = Layout::new();
        let layer = Tar::new().file("a", b"content").end();
        let image = layout.image(arch(), &[(&layer, LAYER, &layer)]);
        layout.entry(image);
        change(&mut layout);
        layout
    };
    let layout = damaged(|_| {});
    let name = format!("blobs/sha256/{}", archives::digits_of(&Tar::new().file("a", b"content").end()));
    let changed = Tar::new().file("a", b"CONTENT").end();
    let error = refused(&layout.without_index().file(&name, &changed).file("index.json", &layout.index()).end()).await;
    assert!(matches!(error, SourceError::WrongDigest { part: "layer", .. }), "{error}");
    let error = refused(&damaged(|layout| layout.entries[0]["size"] = 7.into()).end()).await;
    assert!(matches!(error, SourceError::TooLong { part: "manifest", .. }), "{error}");
    let none = archives::digest_of(b"none");
    let error = refused(&{
        let mut layout = damaged(|_| {});
        layout.entries[0]["digest"] = none.into();
        layout.end()
    })
    .await;
    assert!(error.to_string().contains("has no file \"blobs/sha256/"), "{error}");
    let gzip_said = {
        let mut layout = Layout::new();
        let layer = Tar::new().file("a", b"content").end();
        let image = layout.image(arch(), &[(&layer, "application/vnd.oci.image.layer.v1.tar+gzip", &layer)]);
        layout.entry(image);
        layout.end()
    };
    let error = refused(&gzip_said).await;
    assert!(error.to_string().contains("not compressed as its manifest says"), "{error}");
    let error = refused(&layout.without_index().end()).await;
    assert!(error.to_string().contains("neither manifest.json nor index.json"), "{error}");
}

#[tokio::test]
async fn links_and_paths_lead_nowhere_else() {
    let [first, _] = archives::layers();
    let config = archives::config(arch(), &[&first]);
    let secret = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(secret.path(), &first).unwrap();
    let outside = secret.path().to_str().unwrap();
    let up = format!("{}{outside}", "../".repeat(20));
    for target in [outside, &up, "layer.tar", "/dev/zero"] {
        let with_link = Tar::new().link(EntryType::Symlink, "layer.tar", target);
        let error = refused(&saved(&["layer.tar"], &config, with_link)).await;
        assert!(error.to_string().contains("no file \"layer.tar\""), "{error}");
    }
    for name in [outside, up.as_str(), "..", "", "/"] {
        let error = refused(&saved(&[name], &config, Tar::new().file("layer.tar", &first))).await;
        assert!(error.to_string().contains("it has no file"), "{error}");
    }
    // A manifest that is no file.
    let fifo = Tar::new().link(EntryType::Symlink, "manifest.json", "/dev/zero").end();
    assert!(matches!(refused(&fifo).await, SourceError::NotAnArchive { .. }));
}

#[tokio::test]
async fn documents_that_are_none_are_refused() {
    let manifest = |content: &[u8]| Tar::new().file("manifest.json", content).end();
    let deep = "[".repeat(200_000);
    let many = json!(vec![json!({ "Config": "c", "Layers": [] }); 101]).to_string();
    for (archive, expect) in [
        (manifest(b"{"), "cannot be read"),
        (manifest(b"[]"), "names 0 images"),
        (manifest(many.as_bytes()), "names 101 images"),
        (manifest(deep.as_bytes()), "cannot be read"),
        (manifest(&vec![b' '; 5 << 20]), "larger than"),
        (saved(&[], b"not json", Tar::new()), "cannot be read"),
        (saved(&[], br#"{"os":"windows","rootfs":{"diff_ids":[]}}"#, Tar::new()), "for windows"),
        (saved(&["l"; 300], b"{}", Tar::new().file("l", b"")), "300 layers"),
        (saved(&[], &archives::config("s390x", &[]), Tar::new()), "but for linux/s390x"),
    ] {
        let error = refused(&archive).await;
        assert!(error.to_string().contains(expect), "{error}");
    }
    // Named by a digest that it does not have.
    let name = format!("{}.json", "0".repeat(64));
    let manifest = json!([{ "Config": name, "Layers": [] }]).to_string();
    let archive = Tar::new().file(&name, b"{}").file("manifest.json", manifest.as_bytes()).end();
    let error = refused(&archive).await;
    assert!(matches!(error, SourceError::WrongDigest { part: "configuration", .. }), "{error}");
    let index = |value: &Value| Tar::new().file("index.json", value.to_string().as_bytes()).end();
    for value in [json!({}), json!({ "schemaVersion": 2 }), json!({ "schemaVersion": 2, "manifests": [] })] {
        refused(&index(&value)).await;
    }
}

#[tokio::test]
async fn bombs_do_not_go_off() {
    // More than any yield that is allowed, of zeros, which zstd makes almost nothing of.
    let mut bomb = zstd::Encoder::new(Vec::new(), 1).unwrap();
    let bytes = 3_u64 << 30;
    let mut member = header(EntryType::Regular, 0);
    member.set_path("bin/zeros").unwrap();
    member.set_size(bytes);
    member.set_cksum();
    std::io::Write::write_all(&mut bomb, member.as_bytes()).unwrap();
    std::io::copy(&mut std::io::Read::take(std::io::repeat(0), bytes + 1024), &mut bomb).unwrap();
    let error = refused(&bomb.finish().unwrap()).await;
    assert!(error.to_string().contains("decompresses to more than"), "{error}");

    // A name of a gigabyte, and a member of more than there can be.
    let mut long = header(EntryType::GNULongName, 1 << 30);
    long.set_path("x").unwrap();
    long.set_cksum();
    let error = refused(long.as_bytes()).await;
    assert!(error.to_string().contains("too long"), "{error}");
    let mut vast = header(EntryType::Regular, 0);
    vast.set_path("bin/x").unwrap();
    vast.set_size(u64::MAX - 100);
    vast.set_cksum();
    let error = refused(vast.as_bytes()).await;
    assert!(error.to_string().contains("impossible length"), "{error}");
}
