//! Jobs in images: imported ones, and ones that a submit pulls from a registry.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::{Value, json};

use crate::{
    harness::Node,
    host::{self, has_program},
    registry::Registry,
    tools::program,
};

/// Programs of this host that the images have, beside Python.
const PROGRAMS: [&str; 7] = ["sh", "cat", "env", "ls", "pwd", "sed", "sleep"];
/// What of Python's library no job here needs.
const UNNEEDED: [&str; 9] =
    ["test", "idlelib", "tkinter", "ensurepip", "distutils", "lib2to3", "pydoc_data", "dist-packages", "__pycache__"];
const MOTD: &str = "from the image";

/// A root file system made of this host's Python, a few programs, and a file by which it is known.
pub struct Root {
    archive: tar::Builder<File>,
    has: BTreeSet<PathBuf>,
}

impl Root {
    pub fn write(path: &Path) {
        let mut root = Self { archive: tar::Builder::new(File::create(path).unwrap()), has: BTreeSet::new() };
        for folder in ["usr", "etc", "opt", "opt/app"] {
            root.entry(tar::EntryType::Directory, folder, 0o755, b"");
        }
        for (link, target) in [("bin", "usr/bin"), ("lib", "usr/lib"), ("lib64", "usr/lib64")] {
            let mut header = header(tar::EntryType::Symlink, 0o777, 0);
            root.archive.append_link(&mut header, link, target).unwrap();
        }
        root.entry(tar::EntryType::Regular, "etc/motd", 0o644, format!("{MOTD}\n").as_bytes());
        for name in PROGRAMS.iter().chain(&["python3"]) {
            root.program(name);
        }
        let library = "import sysconfig; print(sysconfig.get_path('stdlib'), end='')";
        let library = Command::new("/usr/bin/python3").args(["-c", library]).output().unwrap();
        root.folder(Path::new(&String::from_utf8(library.stdout).unwrap()));
        root.archive.finish().unwrap();
    }

    fn entry(&mut self, kind: tar::EntryType, path: &str, mode: u32, content: &[u8]) {
        let mut header = header(kind, mode, content.len());
        self.archive.append_data(&mut header, path, content).unwrap();
    }

    /// A file of this host, where it is found in a root whose `/lib` and so on are links into `/usr`.
    fn file(&mut self, path: &Path) {
        let inner = path.strip_prefix("/usr").or_else(|_| path.strip_prefix("/")).unwrap();
        let inner = Path::new("usr").join(inner);
        if self.has.insert(inner.clone()) {
            self.entry(tar::EntryType::Regular, inner.to_str().unwrap(), 0o755, &fs::read(path).unwrap());
        }
    }

    fn program(&mut self, name: &str) {
        let path = Path::new("/usr/bin").join(name);
        self.file(&path);
        self.libraries(&path);
    }

    fn libraries(&mut self, of: &Path) {
        let needs = Command::new("ldd").arg(of).output().unwrap();
        let needs = String::from_utf8(needs.stdout).unwrap();
        for library in needs.split_whitespace().filter(|word| word.starts_with('/') && !word.ends_with(':')) {
            self.file(Path::new(library));
        }
    }

    fn folder(&mut self, folder: &Path) {
        for entry in fs::read_dir(folder).unwrap() {
            let (path, kind) = entry.map(|entry| (entry.path(), entry.file_type().unwrap())).unwrap();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if kind.is_dir() && !UNNEEDED.contains(&name.as_str()) && !name.starts_with("config-") {
                self.folder(&path);
            } else if kind.is_file() {
                self.file(&path);
                if path.extension().is_some_and(|extension| extension == "so") {
                    self.libraries(&path);
                }
            }
        }
    }
}

fn header(kind: tar::EntryType, mode: u32, size: usize) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1_000_000_000);
    header.set_size(size as u64);
    header
}

fn images(node: &Node) -> Vec<Value> {
    let said = node.workrs(&["image", "ls", "--json"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    serde_json::from_str(&said.out).unwrap()
}

/// Whether jobs can be run here, and there is what the images consist of.
pub fn is_ready() -> bool {
    host::can_run()
        && host::nothing_missing((!has_program("python3")).then(|| "there is no python3".to_owned()).as_deref())
}

#[test]
fn a_job_in_an_imported_image_survives_the_death_of_its_node() {
    if !is_ready() {
        return;
    }
    let mut node = Node::start(&[]);
    let archive = node.scratch().join("root.tar");
    Root::write(&archive);
    let import = |name: &[&str]| node.workrs(&[&["image", "import", archive.to_str().unwrap()], name].concat());
    let nameless = import(&[]);
    assert_eq!(nameless.code, Some(1), "{nameless:?}");
    insta::assert_snapshot!(nameless.err.replace("\r\u{1b}[K", ""), @r"
    error: the image cannot be brought: the archive does not say what its image is called
    hint: give it a name (--name)
    ");
    let imported = import(&["--name", "root:1"]);
    assert_eq!(imported.code, Some(0), "{imported:?}");
    let [image] = images(&node).try_into().unwrap();
    assert_eq!(image["names"], json!(["docker.io/library/root:1"]));

    let shown = node.workrs(&["run", "--disk", "32M", "--image", "root:1", "--", "cat", "/etc/motd"]);
    assert_eq!((shown.code, shown.out.trim()), (Some(0), MOTD), "{shown:?}\n{}", node.said());
    let said = node.workrs(&["run", "--disk", "32M", "--image", "root:1"]);
    assert_eq!((said.code, said.err.contains("does not name a program")), (Some(125), true), "{said:?}");

    let options = ["--image", "root:1", "--checkpoint", "every=1s", "--env", "STEPS=60", "--env", "PAUSE=0.1"];
    let id = node.submit(&[&options[..], &[&program("count.py")]].concat());
    node.checkpointed(&id, 1);
    assert_eq!(images(&node)[0]["jobs"], json!([id]));
    node.kill();
    // As on another node, which has to unpack the layers first.
    fs::remove_dir_all(node.layers()).unwrap();
    node.restart();
    let job = node.succeeded(&id);
    assert_eq!(job.totals.attempts, 2, "{job:#?}");
    assert_ne!(job.attempts[1].start, "clean", "{job:#?}");
    let lines: String = (1..=60).map(|n| format!("{n}\n")).collect();
    assert_eq!(node.log(&id), lines);
    assert_eq!(node.outputs(&id)["lines"], lines.into_bytes());
    let show = node.workrs(&["show", &id]).out;
    assert!(show.contains(&format!("image       root:1 ({})", &image["digest"].as_str().unwrap()[..19])), "{show}");

    let removed = node.workrs(&["image", "rm", "root:1"]);
    assert_eq!((removed.code, removed.out.contains("goes within minutes")), (Some(0), true), "{removed:?}");
    let unknown = node.workrs(&["image", "rm", "root:1"]);
    insta::assert_snapshot!(unknown.err, @r"
    error: there is no such thing: the group has no image docker.io/library/root:1
    hint: see `workrs image ls`; bring it with `workrs image pull` or `import`
    ");
}

#[test]
fn a_submit_pulls_its_image_once_for_the_whole_group() {
    if !is_ready() {
        return;
    }
    let Some(registry) = Registry::start() else { return };
    let mut node = Node::start(&[]);
    let archive = node.scratch().join("root.tar");
    Root::write(&archive);
    let settings = json!({
        "Entrypoint": ["/bin/sh", "-c"], "Cmd": ["pwd; echo $GREETING"], "WorkingDir": "/opt/app",
        "Env": ["GREETING=hello", "PATH=/usr/bin"],
    });
    registry.push_image("team/python", "1", &settings, &[&fs::read(&archive).unwrap()]);
    let name = format!("{}/team/python:1", registry.name());
    let missing = format!("{}/team/python:2", registry.name());
    let script = node.scratch().join("hello.py");
    fs::write(&script, "import os, sys\nprint(open('/etc/motd').read().strip(), os.getcwd(), sys.argv[1:])\n").unwrap();
    let run = |node: &Node, image: &str, work: &[&str]| {
        node.workrs(&[&["run", "--no-fetch", "--disk", "64M", "--image", image], work].concat())
    };
    let none = run(&node, &missing, &["--", "true"]);
    assert_eq!((none.code, none.err.contains("has no tag")), (Some(125), true), "{none:?}");
    assert!(images(&node).is_empty() && node.jobs().is_empty());

    let said = run(&node, &name, &[script.to_str().unwrap(), "a", "b"]);
    assert_eq!((said.code, said.out.trim()), (Some(0), "from the image /job ['a', 'b']"), "{said:?}\n{}", node.said());
    // From now on nobody needs the registry.
    drop(registry);
    node.terminate();
    node.restart();
    let said = run(&node, &name, &[]);
    assert_eq!((said.code, said.out.as_str()), (Some(0), "/opt/app\nhello\n"), "{said:?}\n{}", node.said());
    let said = run(&node, &name, &["--entrypoint", "", "--", "env"]);
    assert!(said.out.lines().any(|line| line == "GREETING=hello"), "{said:?}");
    let digest = images(&node)[0]["digest"].as_str().unwrap().to_owned();
    let pinned = run(&node, &digest, &["--entrypoint", "cat", "--", "/etc/motd"]);
    assert_eq!((pinned.code, pinned.out.trim()), (Some(0), MOTD), "{pinned:?}");
    let always = node.workrs(&["image", "pull", "--always", &name]);
    assert_eq!((always.code, always.err.contains("cannot be reached")), (Some(1), true), "{always:?}");
}

/// A layer that is gone ends no job: it waits, says why, and runs once somebody brought the image again.
#[test]
fn a_layer_that_is_gone_is_waited_for() {
    if !is_ready() {
        return;
    }
    let node = Node::start(&[]);
    let archive = node.scratch().join("root.tar");
    Root::write(&archive);
    let import = || node.workrs(&["image", "import", "--name", "root", archive.to_str().unwrap()]);
    assert_eq!(import().code, Some(0));
    let largest = fs::read_dir(node.data().join("blobs/images/sha256")).unwrap().map(|entry| entry.unwrap().path());
    let layer = largest.max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap();
    fs::remove_file(&layer).unwrap();
    let id = node.submit(&["--image", "root", "--", "cat", "/etc/motd"]);
    let waiting = node.wait_for(&id, "it says why it waits", |job| job.reason.is_some());
    let reason = waiting.reason.unwrap();
    assert!(reason.contains("does not exist") && reason.contains("docker.io/library/root:latest"), "{reason}");
    assert_eq!(import().code, Some(0));
    node.succeeded(&id);
    assert_eq!(node.log(&id), format!("{MOTD}\n"));
}
