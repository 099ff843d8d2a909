//! Where the images of two captures may differ.

use std::{fs, path::PathBuf};

use workrs_core::{job::CheckpointMode, ranges::ByteRanges};

use super::{DEADLINE, Output, Subject, capture, empty_folder, gather, read_lines, start};
use crate::engine::{Capture, CapturedPart, Container, Origin};

/// The images of the captures of one job, each compared with the one before it.
struct Images<'a> {
    subject: &'a Subject<'a>,
    captures: u32,
    last: Option<Vec<u8>>,
}

impl Images<'_> {
    /// Captures the container after a change to its disk. Gives what a restore takes.
    async fn capture(&mut self, container: &dyn Container, mode: CheckpointMode) -> Origin {
        self.captures += 1;
        write(container, &format!("before-{}", self.captures));
        let into = empty_folder(self.subject, &format!("changes-{}", self.captures));
        let mut frozen = container.freeze().await.unwrap();
        let captured = capture(&mut frozen, mode, &into).await;
        frozen.thaw().await.unwrap();
        write(container, &format!("after-{}", self.captures));
        self.check(&captured);
        let origin = gather(&captured, mode, &self.subject.folder.join("restore-changes"));
        super::discard(&captured);
        origin
    }

    /// A capture that fails, and of which nobody learns what changed before it.
    async fn fail(&mut self, container: &dyn Container) {
        write(container, &format!("before-failure-{}", self.captures));
        let mut frozen = container.freeze().await.unwrap();
        let nowhere = self.subject.folder.join("no-such-folder/into");
        frozen.capture(CheckpointMode::Full, &nowhere, DEADLINE).await.unwrap_err();
        frozen.thaw().await.unwrap();
    }

    fn check(&mut self, captured: &Capture) {
        let (path, changed) = image(captured);
        let image = fs::read(path).unwrap();
        if let (Some(last), Some(changed)) = (&self.last, changed) {
            let told = |at: u64| changed.intersects(at..at + 1);
            let untold = differing(last, &image).find(|at| !told(*at));
            assert_eq!(untold, None, "a byte of capture {} differs and is not said to", self.captures);
        }
        self.last = Some(image);
    }
}

fn image(captured: &Capture) -> (PathBuf, Option<ByteRanges>) {
    let images = captured.parts.iter().filter_map(|part| match part {
        CapturedPart::Image { path, changed, .. } => Some((path.clone(), changed.clone())),
        CapturedPart::Folder { .. } => None,
    });
    let [image] = images.collect::<Vec<_>>().try_into().unwrap();
    image
}

/// The positions at which two images differ or only one has anything.
fn differing<'a>(one: &'a [u8], other: &'a [u8]) -> impl Iterator<Item = u64> + 'a {
    const BLOCK: usize = 4096;
    let block = |image: &'a [u8], start: usize| image.get(start..(start + BLOCK).min(image.len())).unwrap_or_default();
    let starts = (0..one.len().max(other.len())).step_by(BLOCK);
    let blocks = starts.map(move |start| (start, block(one, start), block(other, start)));
    blocks.filter(|(_, one, other)| one != other).flat_map(|(start, one, other)| {
        let within = (0..BLOCK).filter(|at| one.get(*at) != other.get(*at));
        within.map(move |at| (start + at) as u64)
    })
}

fn write(container: &dyn Container, name: &str) {
    fs::write(container.job_folder().join(name), name.repeat(1000)).unwrap();
}

pub(super) async fn captures_tell_what_changed(subject: &Subject<'_>) {
    let program = (subject.programs.count)(100_000, 10);
    let mut images = Images { subject, captures: 0, last: None };
    let (container, mut output) = start(subject, &subject.spec("changes", 1, program.clone())).await;
    read_lines(&mut output, 1).await;
    images.capture(&*container, CheckpointMode::Full).await;
    images.capture(&*container, CheckpointMode::Files).await;
    images.fail(&*container).await;
    images.capture(&*container, CheckpointMode::Files).await;
    images.fail(&*container).await;
    images.fail(&*container).await;
    let origin = images.capture(&*container, CheckpointMode::Full).await;
    container.destroy().await.unwrap();

    let again = subject.engine.prepare(&subject.spec("changes", 2, program.clone()), origin).await.unwrap();
    let (mut output, pipe) = Output::new();
    again.restore(pipe).await.unwrap();
    read_lines(&mut output, 1).await;
    images.fail(&*again).await;
    images.capture(&*again, CheckpointMode::Full).await;
    let origin = images.capture(&*again, CheckpointMode::Files).await;
    again.destroy().await.unwrap();

    let anew = subject.engine.prepare(&subject.spec("changes", 3, program), origin).await.unwrap();
    let (mut output, pipe) = Output::new();
    anew.start(pipe).await.unwrap();
    read_lines(&mut output, 1).await;
    images.capture(&*anew, CheckpointMode::Files).await;
    anew.destroy().await.unwrap();
}
