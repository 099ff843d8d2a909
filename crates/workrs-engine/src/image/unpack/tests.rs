//! Archives as they should be, and as they should not.

use std::{
    fmt::Write as _,
    fs,
    os::unix::fs::{FileTypeExt, MetadataExt, symlink},
    path::{Path, PathBuf},
};

use proptest::prelude::*;
use sha2::{Digest, Sha256};
use workrs_core::image::Compression;

use super::*;
use crate::disk::ID_BASE;

/// An archive that is written entry by entry; names may be anything.
#[derive(Default)]
struct Writer(Vec<u8>);

impl Writer {
    fn entry(
        mut self,
        kind: u8,
        name: &str,
        link: &str,
        content: &[u8],
        change: impl FnOnce(&mut tar::Header),
    ) -> Self {
        let mut header = tar::Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(tar::EntryType::new(kind));
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_234_567_890);
        change(&mut header);
        header.set_cksum();
        self.0.extend(header.as_bytes());
        self.0.extend(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn file(self, name: &str, content: &str) -> Self {
        self.entry(b'0', name, "", content.as_bytes(), |_| ())
    }

    fn folder(self, name: &str, mode: u32) -> Self {
        self.entry(b'5', name, "", b"", |header| header.set_mode(mode))
    }

    fn symlink(self, name: &str, target: &str) -> Self {
        self.entry(b'2', name, target, b"", |_| ())
    }

    fn link(self, name: &str, target: &str) -> Self {
        self.entry(b'1', name, target, b"", |_| ())
    }

    fn pax(self, lines: &[(&str, &str)]) -> Self {
        let mut content = String::new();
        for (key, value) in lines {
            let rest = key.len() + value.len() + 3;
            // Its length counts its own digits.
            let len = (1..5).map(|digits| rest + digits).find(|len| len.to_string().len() + rest == *len).unwrap();
            writeln!(content, "{len} {key}={value}").unwrap();
        }
        self.entry(b'x', "pax", "", content.as_bytes(), |_| ())
    }

    fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

fn digest(bytes: &[u8]) -> ImageDigest {
    ImageDigest::of_sha256(Sha256::digest(bytes))
}

fn layer(plain: &[u8], stored: &[u8], compression: Compression) -> Layer {
    Layer { digest: digest(stored), diff_id: digest(plain), bytes: stored.len() as u64, compression }
}

/// A folder to unpack into, in one that must stay as it is otherwise.
struct Target {
    folder: tempfile::TempDir,
}

impl Target {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("outside"), "as it was").unwrap();
        fs::create_dir(folder.path().join("root")).unwrap();
        Self { folder }
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    fn unpack(&self, archive: &[u8], limits: &Limits) -> Result<Unpacked, UnpackError> {
        let unpacked = unpack(archive, &layer(archive, archive, Compression::None), &self.root(), limits);
        self.check_outside();
        unpacked
    }

    fn check_outside(&self) {
        assert_eq!(fs::read_to_string(self.folder.path().join("outside")).unwrap(), "as it was");
        assert_eq!(fs::metadata(self.folder.path().join("outside")).unwrap().nlink(), 1);
        assert_eq!(fs::read_dir(self.folder.path()).unwrap().count(), 2, "something appeared outside");
    }
}

fn unpacked(archive: &[u8]) -> Target {
    let target = Target::new();
    target.unpack(archive, &Limits::default()).unwrap();
    target
}

fn refusal(archive: &[u8]) -> Refusal {
    match Target::new().unpack(archive, &Limits::default()) {
        Err(UnpackError::Refused { why, .. }) => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_archives_have_becomes_files() {
    let long = format!("deep/{}", "n".repeat(200));
    let archive = Writer::default()
        .folder("./", 0o755)
        .entry(b'0', "./bin/tool", "", b"#!", |header| {
            header.set_mode(0o4755);
            header.set_uid(12);
            header.set_gid(65535);
        })
        .symlink("bin/sh", "/bin/tool")
        .link("bin/other", "./bin/tool")
        .link("bin/absolute", "/bin/tool")
        .folder("bin/", 0o711)
        .entry(b'6', "pipe", "", b"", |_| ())
        .entry(b'L', "././@LongLink", "", format!("{long}\0").as_bytes(), |_| ())
        .file("short", "long name")
        .pax(&[
            ("path", "named/by/pax"),
            ("mtime", "1.5"),
            ("uid", "7"),
            ("SCHILY.xattr.user.note", "a\nb"),
            ("SCHILY.xattr.trusted.overlay.opaque", "y"),
            ("SCHILY.xattr.security.capability", "x"),
            ("SCHILY.xattr.user.overlay.opaque", "y"),
        ])
        .file("x", "pax")
        .end();
    let target = unpacked(&archive);
    let root = target.root();
    let tool = fs::metadata(root.join("bin/tool")).unwrap();
    assert_eq!(
        (tool.mode() & 0o7777, tool.uid(), tool.gid(), tool.nlink()),
        (0o4755, ID_BASE + 12, ID_BASE + 65535, 3)
    );
    assert_eq!((tool.mtime(), fs::read_link(root.join("bin/sh")).unwrap()), (1_234_567_890, "/bin/tool".into()));
    let bin = fs::metadata(root.join("bin")).unwrap();
    assert_eq!((bin.mode() & 0o7777, bin.mtime(), bin.uid()), (0o711, 1_234_567_890, ID_BASE), "set at the end");
    assert!(fs::symlink_metadata(root.join("pipe")).unwrap().file_type().is_fifo());
    assert_eq!(fs::read_to_string(root.join(&long)).unwrap(), "long name");
    let pax = fs::metadata(root.join("named/by/pax")).unwrap();
    assert_eq!((pax.mtime(), pax.mtime_nsec(), pax.uid()), (1, 500_000_000, ID_BASE + 7));
    let mut list = vec![0u8; 1000];
    let len = rustix::fs::listxattr(root.join("named/by/pax"), &mut list[..]).unwrap();
    assert_eq!(&list[..len], b"user.note\0");
}

#[test]
fn whiteouts_become_those_of_an_overlay() {
    let archive = Writer::default()
        .file("etc/.wh.gone", "")
        .file("etc/.wh..wh..opq", "")
        .file(".wh.folder", "")
        .folder("folder", 0o755)
        .folder("again", 0o755)
        .file(".wh.again", "")
        .file(".wh.file", "")
        .file("file", "new")
        .file(".wh..wh.plnk", "")
        .end();
    let root = unpacked(&archive);
    let root = root.root();
    let gone = fs::symlink_metadata(root.join("etc/gone")).unwrap();
    assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
    let opaque = |path: &str| {
        let mut value = [0u8; 1];
        rustix::fs::getxattr(root.join(path), "trusted.overlay.opaque", &mut value[..]).is_ok() && value == *b"y"
    };
    assert!(opaque("etc") && opaque("folder") && opaque("again"), "what was taken away must not show through");
    assert_eq!(fs::read_to_string(root.join("file")).unwrap(), "new");
    assert_eq!(fs::read_dir(&root).unwrap().count(), 4);
    assert_eq!(refusal(&Writer::default().file(".wh...", "").end()), Refusal::Name);
    assert_eq!(refusal(&Writer::default().file("a/.wh.", "").end()), Refusal::Name);
}

#[test]
fn entries_that_reach_out_are_refused() {
    let refused = |writer: Writer, why: Refusal| assert_eq!(refusal(&writer.end()), why);
    let target = |text: &str| Refusal::LinkTarget(text.to_owned());
    refused(Writer::default().file("/outside", "x"), Refusal::Absolute);
    refused(Writer::default().file("../outside", "x"), Refusal::Outside);
    refused(Writer::default().file("a/../../outside", "x"), Refusal::Outside);
    refused(Writer::default().symlink("up", "..").file("up/outside", "x"), Refusal::BelowNoFolder);
    refused(Writer::default().symlink("up", "..").folder("up/new", 0o755), Refusal::BelowNoFolder);
    refused(Writer::default().symlink("a", "..").symlink("b", "a").file("b/c/outside", "x"), Refusal::BelowNoFolder);
    refused(Writer::default().symlink("up", "..").file("up/.wh.outside", ""), Refusal::BelowNoFolder);
    refused(Writer::default().file("a", "").file("a/b", "x"), Refusal::BelowNoFolder);
    refused(Writer::default().link("stolen", "../outside"), target("../outside"));
    refused(Writer::default().link("stolen", "/etc/passwd"), target("/etc/passwd"));
    refused(Writer::default().symlink("up", "..").link("stolen", "up/outside"), target("up/outside"));
    refused(Writer::default().folder("a", 0o755).link("b", "a"), target("a"));
    refused(Writer::default().file("a", "").link("a", "a"), target("a"));
    refused(Writer::default().file(".wh.a", "").link("b", "a"), target("a"));
    refused(Writer::default().pax(&[("path", "/etc/x")]).file("x", ""), Refusal::Absolute);
    refused(Writer::default().pax(&[("path", "a\0b")]).file("x", ""), Refusal::Name);
    refused(Writer::default().pax(&[("path", &"n".repeat(300))]).file("x", ""), Refusal::Name);
    refused(Writer::default().pax(&[("path", &"n/".repeat(3000))]).file("x", ""), Refusal::Name);
    refused(Writer::default().file("./", "x"), Refusal::Name);
    refused(Writer::default().symlink("empty", ""), Refusal::Name);
}

#[test]
fn a_link_is_replaced_and_not_written_through() {
    let target = unpacked(&Writer::default().symlink("a", "../outside").file("a", "in the layer").end());
    assert_eq!(fs::read_to_string(target.root().join("a")).unwrap(), "in the layer");
    let twice = Writer::default().file("a", "first").link("b", "a").file("a", "second").end();
    let target = unpacked(&twice);
    let read = |name: &str| fs::read_to_string(target.root().join(name)).unwrap();
    assert_eq!((read("a"), read("b")), ("second".to_owned(), "first".to_owned()));
    // A folder that was there before, as one of a lower layer cannot be, but whoever made it.
    let target = Target::new();
    symlink("..", target.root().join("up")).unwrap();
    let refused = target.unpack(&Writer::default().file("up/outside", "x").end(), &Limits::default());
    assert!(matches!(refused, Err(UnpackError::Refused { .. })), "{refused:?}");
    let full = Writer::default().file("a/b", "").symlink("a", "..").end();
    assert_eq!(refusal(&full), Refusal::ReplacesFolder);
}

#[test]
fn devices_are_refused_but_for_the_usual_ones() {
    let device = |kind: u8, name: &str, major: u32, minor: u32| {
        let device = |header: &mut tar::Header| {
            header.set_device_major(major).unwrap();
            header.set_device_minor(minor).unwrap();
        };
        Writer::default().entry(kind, name, "", b"", device).end()
    };
    for archive in [
        device(b'3', "null", 1, 3),
        device(b'3', "dev/null", 1, 1),
        device(b'4', "dev/null", 1, 3),
        device(b'3', "dev/mem", 1, 1),
        device(b'4', "dev/sda", 8, 0),
        device(b'3', "etc/gone", 0, 0),
    ] {
        assert_eq!(refusal(&archive), Refusal::Device);
    }
    let target = unpacked(&device(b'3', "./dev/null", 1, 3));
    assert_eq!(fs::read_dir(target.root()).unwrap().count(), 0);
}

#[test]
fn owners_kinds_and_attributes_have_limits() {
    let owned = Writer::default().entry(b'0', "a", "", b"", |header| header.set_uid(65536)).end();
    assert_eq!(refusal(&owned), Refusal::Owner(65536));
    let owned = Writer::default().pax(&[("gid", "4294967296")]).file("a", "").end();
    assert_eq!(refusal(&owned), Refusal::Owner(1 << 32));
    assert_eq!(refusal(&Writer::default().entry(b'Z', "a", "", b"", |_| ()).end()), Refusal::Kind('Z'));
    let sparse = Writer::default().pax(&[("GNU.sparse.major", "1")]).file("a", "").end();
    assert_eq!(refusal(&sparse), Refusal::Sparse);
}

#[test]
fn bombs_end_at_the_limit() {
    let zeros = vec![0u8; 8 << 20];
    let bomb = Writer::default().entry(b'0', "zeros", "", &zeros, |_| ()).end();
    let stored = zstd::encode_all(bomb.as_slice(), 1).unwrap();
    assert!(stored.len() < 10_000);
    let limits = Limits { bytes: 1 << 20, entries: 10 };
    let target = Target::new();
    let failed = unpack(stored.as_slice(), &layer(&bomb, &stored, Compression::Zstd), &target.root(), &limits);
    assert!(matches!(failed, Err(UnpackError::TooLarge(limit)) if limit == 1 << 20), "{failed:?}");
    let many = (0..11).fold(Writer::default(), |writer, n| writer.file(&format!("f{n}"), "")).end();
    assert!(matches!(Target::new().unpack(&many, &limits), Err(UnpackError::TooMany(10))));
    let holes = Writer::default().entry(b'S', "holes", "", b"", |header| {
        header.as_gnu_mut().unwrap().set_real_size(1 << 40);
    });
    assert!(matches!(Target::new().unpack(&holes.end(), &limits), Err(UnpackError::TooLarge(_))));
    let name = Writer::default().entry(b'L', "x", "", b"", |header| header.set_size(1 << 33)).end();
    assert!(matches!(Target::new().unpack(&name, &limits), Err(UnpackError::Damaged(_))), "a name of 8 GiB");
}

#[test]
fn sparse_files_keep_their_holes() {
    let content = [[1u8; 512], [2u8; 512]].concat();
    let archive = Writer::default()
        .entry(b'S', "holes", "", &content, |header| {
            let gnu = header.as_gnu_mut().unwrap();
            gnu.set_real_size(1 << 20);
            gnu.sparse[0].set_offset(4096);
            gnu.sparse[0].set_length(512);
            gnu.sparse[1].set_offset(512 << 10);
            gnu.sparse[1].set_length(512);
        })
        .file("after", "x")
        .end();
    let target = unpacked(&archive);
    let holes = fs::read(target.root().join("holes")).unwrap();
    assert_eq!((holes.len(), holes[4096], holes[512 << 10], holes[0]), (1 << 20, 1, 2, 0));
    assert!(fs::metadata(target.root().join("holes")).unwrap().blocks() < 100);
    assert_eq!(fs::read_to_string(target.root().join("after")).unwrap(), "x");
    let backwards = Writer::default().entry(b'S', "holes", "", &content, |header| {
        let gnu = header.as_gnu_mut().unwrap();
        gnu.set_real_size(1 << 20);
        gnu.sparse[0].set_offset(4096);
        gnu.sparse[0].set_length(512);
        gnu.sparse[1].set_length(512);
    });
    assert_eq!(refusal(&backwards.end()), Refusal::Sparse);
}

#[test]
fn what_is_not_what_it_should_be_is_told_apart() {
    let plain = Writer::default().file("a", &"content ".repeat(1000)).end();
    let encode = |plain: &[u8]| zstd::encode_all(plain, 1).unwrap();
    let stored = encode(&plain);
    let good = layer(&plain, &stored, Compression::Zstd);
    let try_it = |stored: &[u8], layer: &Layer| {
        let target = Target::new();
        unpack(stored, layer, &target.root(), &Limits::default())
    };
    try_it(&stored, &good).unwrap();
    let mut short = stored.clone();
    short.truncate(stored.len() - 10);
    assert!(matches!(try_it(&short, &good), Err(UnpackError::Length { .. })));
    let longer = [stored.as_slice(), b"x"].concat();
    assert!(matches!(try_it(&longer, &good), Err(UnpackError::Length { .. })));
    let mut flipped = stored.clone();
    flipped[stored.len() / 2] ^= 1;
    assert!(matches!(try_it(&flipped, &good), Err(UnpackError::Stored { .. })), "where it is stored, not the image");
    let other = Layer { diff_id: digest(b"other"), ..good.clone() };
    assert!(matches!(try_it(&stored, &other), Err(UnpackError::Content { .. })));
    let garbage = b"this is not an archive at all".repeat(100);
    let of_garbage = layer(&garbage, &garbage, Compression::None);
    assert!(matches!(try_it(&garbage, &of_garbage), Err(UnpackError::Damaged(_))));
    assert!(matches!(
        try_it(&garbage, &Layer { compression: Compression::Gzip, ..of_garbage }),
        Err(UnpackError::Damaged(_))
    ));
    let cut = plain[..700].to_vec();
    assert!(matches!(try_it(&cut, &layer(&cut, &cut, Compression::None)), Err(UnpackError::Damaged(_))));
}

#[test]
fn every_compression_is_read() {
    let plain = Writer::default().file("a", "content").end();
    let mut gzip = Vec::new();
    io::copy(&mut flate2::read::GzEncoder::new(&plain[..], flate2::Compression::fast()), &mut gzip).unwrap();
    // Of several members, as some writers make it.
    let mut members = Vec::new();
    for part in plain.chunks(600) {
        io::copy(&mut flate2::read::GzEncoder::new(part, flate2::Compression::fast()), &mut members).unwrap();
    }
    let zstd = zstd::encode_all(&plain[..], 1).unwrap();
    for (stored, compression) in [
        (&plain, Compression::None),
        (&gzip, Compression::Gzip),
        (&members, Compression::Gzip),
        (&zstd, Compression::Zstd),
    ] {
        let target = Target::new();
        let layer = layer(&plain, stored, compression);
        let unpacked = unpack(stored.as_slice(), &layer, &target.root(), &Limits::default()).unwrap();
        assert_eq!(unpacked.implied, Vec::<PathBuf>::new());
        assert_eq!(fs::read_to_string(target.root().join("a")).unwrap(), "content");
    }
}

#[test]
fn folders_that_nobody_named_are_told() {
    let archive = Writer::default().file("a/b/c", "").folder("a/b", 0o700).file("d/e", "").end();
    let unpacked = Target::new().unpack(&archive, &Limits::default()).unwrap();
    assert_eq!(unpacked.implied, [Path::new("a"), Path::new("d")]);
}

/// One entry of a hostile archive: few names, so that entries meet each other.
fn any_entry() -> impl Strategy<Value = (u8, String, String, Vec<u8>)> {
    let name = || {
        let part = prop::sample::select(vec!["a", "b", "c", "..", ".", "", "outside", ".wh.a", ".wh..wh..opq", "etc"]);
        prop::collection::vec(part, 0..5).prop_map(|parts| parts.join("/"))
    };
    let kind = prop::sample::select(b"0123456gxLKS7Z\0".to_vec());
    (kind, name(), name(), prop::collection::vec(any::<u8>(), 0..700))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_archive_reaches_out(
        entries in prop::collection::vec(any_entry(), 0..12),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
    ) {
        let writer = entries.iter().fold(Writer::default(), |writer, (kind, name, link, content)| {
            let content = if b"0xLKgS".contains(kind) { content.as_slice() } else { b"" };
            writer.entry(*kind, name, link, content, |_| ())
        });
        let mut archive = writer.end();
        for (at, byte) in flips {
            let at = at.index(archive.len());
            archive[at] = byte;
        }
        let limits = Limits { bytes: 1 << 20, entries: 100 };
        let _refused_or_not = Target::new().unpack(&archive, &limits);
    }
}
