//! The collection of jobs in images, imported and pulled ones, on both engines.

use std::fs;

use serde_json::json;

use crate::{
    docker::Dockerd,
    harness::Node,
    host,
    images::{Root, is_ready},
    programs::{self, Pace, Program, Run, check_same},
    registry::Registry,
    tools::wait_until,
};

const IMPORTED: &str = "collection:1";
/// What the image lacks.
const LEFT_OUT: [&str; 3] = ["compiler", "java", "node-js"];

#[test]
fn jobs_of_every_kind_in_images_survive_the_death_of_their_node() {
    if !is_ready() {
        return;
    }
    let node = Node::start(&["--disk-pool", "8G"]);
    let Some(images) = images(&node) else { return };
    let programs = programs_at(&node, Pace { pause: 0.1, steps: 300, megabytes: 50 });
    let all = programs.iter().flat_map(|program| images.iter().map(move |image| (program, image.as_str())));
    check_survival(node, "every=2s", &all.collect::<Vec<_>>());
}

/// A checkpoint takes longer here, so each program is in one of the images.
#[test]
fn jobs_of_every_kind_in_images_on_docker_survive_the_death_of_their_node() {
    if !is_ready() || !host::nothing_missing(no_docker().as_deref()) {
        return;
    }
    let daemon = Dockerd::with_configuration(&workrs_engine::docker::configuration(host::WORKRS.as_ref()));
    let socket = daemon.socket();
    let node = Node::start(&["--disk-pool", "4G", "--engine", "docker", "--docker-socket", socket.to_str().unwrap()]);
    let Some(images) = images(&node) else { return };
    let programs = programs_at(&node, Pace { pause: 0.1, steps: 900, megabytes: 50 });
    let some = programs.iter().zip(images.iter().map(String::as_str).cycle());
    check_survival(node, "every=5s", &some.collect::<Vec<_>>());
    assert_eq!(daemon.containers(), [""; 0]);
}

fn no_docker() -> Option<String> {
    let is_there = |name: &str| {
        ["/usr/bin", "/usr/sbin", "/usr/local/bin"].iter().any(|at| fs::exists(format!("{at}/{name}")).unwrap())
    };
    (!is_there("dockerd")).then(|| "there is no dockerd".to_owned())
}

/// One that was imported, and one that the group pulls from a registry, which is gone afterwards.
fn images(node: &Node) -> Option<[String; 2]> {
    let registry = Registry::start()?;
    let archive = node.scratch().join("root.tar");
    Root::write(&archive);
    registry.push_image("collection", "1", &json!({ "Env": ["PATH=/usr/bin"] }), &[&fs::read(&archive).unwrap()]);
    let pulled = format!("{}/collection:1", registry.name());
    for arguments in [&["import", archive.to_str().unwrap(), "--name", IMPORTED][..], &["pull", &pulled]] {
        let said = node.workrs(&[&["image"], arguments].concat());
        assert_eq!(said.code, Some(0), "{said:?}");
    }
    Some([IMPORTED.to_owned(), pulled])
}

fn programs_at(node: &Node, pace: Pace) -> Vec<Program> {
    let (programs, _) = programs::all(&node.scratch());
    programs.into_iter().filter(|program| !LEFT_OUT.contains(&program.name)).map(|program| program.at(pace)).collect()
}

/// Runs the programs in the images, kills the node once all have a checkpoint, and compares with what uninterrupted runs
/// outside of Workrs bring.
fn check_survival(mut node: Node, checkpoint: &str, work: &[(&Program, &str)]) {
    let submit = |(program, image): (&Program, &str)| {
        let mut arguments = vec!["--image".to_owned(), image.to_owned()];
        arguments.extend(program.arguments(checkpoint));
        node.submit(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let jobs: Vec<_> = work.iter().map(|one| submit(*one)).collect();
    wait_until("all jobs have a checkpoint", || {
        let known = node.jobs();
        if let Some(job) = known.values().find(|job| job.state == "finished") {
            panic!("{} finished too early: {job:#?}\nits log:\n{}", job.name, node.log(&job.id));
        }
        known.values().all(|job| job.totals.checkpoints > 0).then_some(())
    });
    node.kill();
    node.restart();
    let scratch = node.scratch();
    let mut expected: Vec<(&str, Run)> = Vec::new();
    for (id, (program, image)) in jobs.iter().zip(work) {
        let job = node.succeeded(id);
        let name = format!("{} in {image}", program.name);
        assert_eq!((job.totals.losses, job.totals.attempts), (1, 2), "{name}: {job:#?}");
        assert_ne!(job.attempts[1].start, "clean", "{name}: {job:#?}");
        if expected.last().is_none_or(|(last, _)| *last != program.name) {
            expected.push((program.name, program.uninterrupted(&scratch)));
        }
        let run = Run { log: node.log(id), files: node.outputs(id) };
        check_same(&name, &run, &expected.last().unwrap().1);
    }
}
