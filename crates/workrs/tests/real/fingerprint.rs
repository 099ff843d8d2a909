//! A job resumes only where the files that it has mapped are the same.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::{
    harness::{Images, Node},
    host,
    tools::program,
};

const STEPS: u32 = 120;

#[test]
fn a_job_waits_for_a_node_with_the_files_that_it_has_mapped() {
    if !host::can_run() {
        return;
    }
    let mut node = Node::start_with(&["--unfit-wait", "1h"], Images::Own);
    let job = submit(&node);
    node.checkpointed(&job, 2);
    node.kill();
    let python = python_of(&node.data().join("images"));
    let replaced = Replaced::by_another(&python);

    node.restart();
    let view = node.wait_for(&job, "it says why it waits", |job| {
        job.state == "queued" && job.reason.as_ref().is_some_and(|reason| reason.contains("has other contents here"))
    });
    let reason = view.reason.unwrap();
    host::tell(&format!("waits: {reason}"));
    let name = Path::new("/usr/bin").join(python.file_name().unwrap());
    assert!(reason.contains(name.to_str().unwrap()), "{reason}");
    assert_eq!(view.totals.losses, 1);

    // The right file is back: the job goes on where it was.
    node.kill();
    drop(replaced);
    node.restart();
    let view = node.succeeded(&job);
    assert!(view.attempts.iter().skip(1).all(|attempt| attempt.start != "clean"), "{view:#?}");
    check_lines(&node, &job);
}

#[test]
fn a_job_that_waited_long_enough_starts_clean() {
    if !host::can_run() {
        return;
    }
    let mut node = Node::start_with(&["--unfit-wait", "1s"], Images::Own);
    let job = submit(&node);
    node.checkpointed(&job, 2);
    node.kill();
    let _replaced = Replaced::by_another(&python_of(&node.data().join("images")));
    node.restart();
    let view = node.succeeded(&job);
    let last = view.attempts.last().unwrap();
    assert_eq!(last.start, "clean", "{view:#?}");
    let step = last.notes.iter().find(|note| note.ends_with("no good checkpoint is left: clean start"));
    let step = step.unwrap_or_else(|| panic!("{view:#?}"));
    assert!(step.contains("no node fits it: "), "{step}");
    check_lines(&node, &job);
}

fn submit(node: &Node) -> String {
    let steps = format!("STEPS={STEPS}");
    node.submit(&["--checkpoint", "every=1s", "--env", &steps, "--env", "PAUSE=0.05", &program("count.py")])
}

/// Python's own file in the node's copy of `/usr`.
fn python_of(images: &Path) -> PathBuf {
    let is_of_host = |entry: &fs::DirEntry| entry.file_name().as_encoded_bytes().starts_with(b"host-");
    let image = fs::read_dir(images).unwrap().flatten().find(is_of_host);
    let folder = image.unwrap().path().join("root/usr/bin");
    fs::canonicalize(folder.join("python3")).unwrap()
}

/// A file with other contents, for as long as this lives. The copy of `/usr` shares its files with the system, so the
/// file is put aside and never written to.
struct Replaced {
    file: PathBuf,
    aside: PathBuf,
}

impl Replaced {
    fn by_another(file: &Path) -> Self {
        let aside = file.with_extension("aside");
        fs::rename(file, &aside).unwrap();
        let (permissions, mut bytes) = (fs::metadata(&aside).unwrap().permissions(), fs::read(&aside).unwrap());
        // In what a program does not need to run, at its end.
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(file, bytes).unwrap();
        fs::set_permissions(file, permissions).unwrap();
        Self { file: file.to_owned(), aside }
    }
}

impl Drop for Replaced {
    fn drop(&mut self) {
        fs::rename(&self.aside, &self.file).unwrap();
    }
}

fn check_lines(node: &Node, job: &str) {
    let lines: String = (1..=STEPS).map(|n| format!("{n}\n")).collect();
    assert_eq!(node.log(job), lines);
    assert_eq!(node.outputs(job)["lines"], lines.into_bytes());
}
