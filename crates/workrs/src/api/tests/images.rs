//! Images, and jobs that are handed over for them.

use super::*;
use crate::images::made::Made;

const NAME: &str = "example.org/team/app:1";

fn images(group: &Group) -> Images {
    Images::new(Arc::clone(group.records.store()), group.blobs.clone())
}

async fn add(group: &Group, made: &Made) {
    images(group).add(made, &Owner::new("local").unwrap()).await.unwrap();
}

fn in_image(id: &str, image: &str) -> SubmitRequest {
    SubmitRequest { id: Some(id.to_owned()), image: Some(image.to_owned()), ..SubmitRequest::default() }
}

async fn submit(client: &Client, request: &SubmitRequest) -> Result<JobView, Box<Problem>> {
    match client.submit(request, None, &[], |_| {}).await {
        Ok(job) => Ok(job),
        Err(ClientError::Refused(problem)) => Err(problem),
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn a_job_keeps_the_image_that_its_name_meant() {
    let group = Group::new(Faults::none()).await;
    let node = TestNode::start(&group, "n").await;
    let client = node.client();
    let (before, after) = (Made::new(NAME, &[b"1"]), Made::new(NAME, &[b"2"]));
    add(&group, &before).await;
    let job = submit(&client, &in_image("job", NAME)).await.unwrap();
    let digest = |job: &JobView| job.spec["image_digest"].as_str().unwrap().to_owned();
    assert_eq!((job.spec["image"].as_str(), digest(&job).as_str()), (Some(NAME), before.digest().as_str()));
    assert_eq!(job.spec["command"], serde_json::json!(["env", "true"]));
    assert_eq!(job.name, "env");

    add(&group, &after).await;
    let retried = submit(&client, &in_image("job", NAME)).await.unwrap();
    assert_eq!(digest(&retried), before.digest().as_str(), "a retry is the same job");
    let later = submit(&client, &in_image("later", NAME)).await.unwrap();
    assert_eq!(digest(&later), after.digest().as_str());
    let pinned = submit(&client, &in_image("pinned", before.digest().as_str())).await.unwrap();
    assert_eq!(digest(&pinned), before.digest().as_str());
    let other = SubmitRequest { command: vec!["false".into()], ..in_image("job", NAME) };
    assert_eq!(submit(&client, &other).await.unwrap_err().status, 409);
}

#[tokio::test]
async fn the_command_is_made_of_request_and_image() {
    let group = Group::new(Faults::none()).await;
    let node = TestNode::start(&group, "n").await;
    let client = node.client();
    add(&group, &Made::new(NAME, &[b"1"])).await;
    let with = |id: &str, entrypoint: Option<&str>, command: &[&str]| SubmitRequest {
        entrypoint: entrypoint.map(str::to_owned),
        command: command.iter().map(|word| (*word).to_owned()).collect(),
        ..in_image(id, NAME)
    };
    let job = submit(&client, &with("a", None, &["ls", "-l"])).await.unwrap();
    assert_eq!(job.spec["command"], serde_json::json!(["env", "ls", "-l"]));
    let job = submit(&client, &with("b", Some(""), &["ls"])).await.unwrap();
    assert_eq!(job.spec["command"], serde_json::json!(["ls"]));
    let problem = submit(&client, &with("c", Some(""), &[])).await.unwrap_err();
    assert_eq!((problem.status, problem.field.as_deref()), (422, Some("command")), "{}", problem.detail);
}

#[tokio::test]
async fn images_that_cannot_be_had_are_told() {
    let group = Group::new(Faults::none()).await;
    let node = TestNode::start(&group, "n").await;
    let client = node.client();
    let unknown = format!("sha256:{}", "0".repeat(64));
    // Nobody listens there.
    let unreachable = "127.0.0.1:1/app:1";
    for (image, status, words) in
        [(unknown.as_str(), 404, "has no image"), ("A B", 400, "cannot be the name"), (unreachable, 409, "127.0.0.1:1")]
    {
        let problem = submit(&client, &in_image("job", image)).await.unwrap_err();
        assert_eq!((problem.status, problem.hint.is_some()), (status, true), "{image}: {}", problem.detail);
        assert!(problem.detail.contains(words), "{}", problem.detail);
    }
    assert!(group.records.list(None, 10).await.unwrap().0.is_empty());
    let (status, text) = node.send(reqwest::Method::POST, "/api/v1/images?reference=a&pull=often", "").await;
    assert_eq!((status, text.contains("often")), (400, true), "{text}");
    let secret = r#"{"reference": "a", "username": "me", "password": "hush""#;
    let (status, text) = node.send(reqwest::Method::POST, "/api/v1/images", secret).await;
    assert_eq!((status, text.contains("hush")), (400, false), "{text}");
}

#[tokio::test]
async fn names_come_and_go() {
    let group = Group::new(Faults::none()).await;
    let node = TestNode::start(&group, "n").await;
    let client = node.client();
    let made = Made::new(NAME, &[b"1"]);
    add(&group, &made).await;
    add(&group, &Made { name: "docker.io/library/import:latest".into(), ..Made::new(NAME, &[b"1"]) }).await;
    submit(&client, &in_image("job", "import")).await.unwrap();

    let pulled =
        client.pull_image(&PullRequest { reference: Some(NAME.into()), ..PullRequest::default() }).await.unwrap();
    assert!(!pulled.is_new, "no registry is asked for what is there");
    assert_eq!(client.images().await.unwrap(), std::slice::from_ref(&pulled.image));
    let view = &pulled.image;
    assert_eq!((view.digest.as_str(), view.jobs.as_slice()), (made.digest().as_str(), &["job".to_owned()][..]));
    assert_eq!(view.names, ["docker.io/library/import:latest", NAME]);

    let removed = client.remove_image("docker.io/library/import:latest").await.unwrap();
    assert_eq!((removed.removed.len(), removed.names), (1, vec![NAME.to_owned()]));
    let removed = client.remove_image(made.digest().as_str()).await.unwrap();
    assert_eq!((removed.removed, removed.jobs), (vec![NAME.to_owned()], vec!["job".to_owned()]));
    let Err(ClientError::Refused(problem)) = client.remove_image(NAME).await else { panic!("it is gone") };
    assert_eq!(problem.status, 404);
    assert!(client.images().await.unwrap()[0].names.is_empty());
}

#[tokio::test]
async fn what_is_no_archive_is_refused_and_nothing_stays_of_it() {
    let group = Group::new(Faults::none()).await;
    let node = TestNode::start(&group, "n").await;
    let (status, text) = node.send(reqwest::Method::PUT, "/api/v1/images/import?name=a", "no archive").await;
    assert_eq!(status, 409, "{text}");
    assert!(!text.contains(&node.work_dir.path().display().to_string()), "{text}");
    let (status, text) = node.send(reqwest::Method::PUT, "/api/v1/images/import?name=A%20B", "no archive").await;
    assert_eq!(status, 400, "{text}");
    assert_eq!(std::fs::read_dir(node.work_dir.path()).unwrap().count(), 0);
    assert!(group.blobs.list("images/").await.unwrap().is_empty());
}
