//! Who sees which jobs, and who they are to the group.

use std::collections::BTreeSet;

use super::*;
use crate::access::{NewToken, Role, Tokens};

/// A new token.
async fn token_of(group: &Group, owner: &str, role: Role) -> String {
    let owner = Owner::new(owner).unwrap();
    let new = NewToken { owner: owner.clone(), role, lasts: None, created_by: owner };
    Tokens::new(Arc::clone(group.records.store())).create(new, false).await.unwrap().2
}

/// A node, and a client with a token of its own for each of these people.
async fn with_clients<const N: usize>(group: &Group, people: [(&str, Role); N]) -> (TestNode, [Client; N]) {
    let node = TestNode::start(group, "n").await;
    let mut clients = Vec::new();
    for (owner, role) in people {
        let token = token_of(group, owner, role).await;
        clients.push(Client::new(std::slice::from_ref(&node.url), Some(token)).unwrap());
    }
    (node, clients.try_into().ok().unwrap())
}

fn ids(page: &JobPage) -> BTreeSet<&str> {
    page.jobs.iter().map(|job| job.id.as_str()).collect()
}

#[tokio::test]
async fn everybody_sees_their_own_jobs_and_an_admin_all() {
    let group = Group::new(Faults::none()).await;
    let people = [("ann", Role::User), ("ann", Role::ReadOnly), ("ben", Role::User), ("root", Role::Admin)];
    let (node, [ann, reads, ben, root]) = with_clients(&group, people).await;
    let request = |id: &str| SubmitRequest {
        id: Some(id.to_owned()),
        command: vec!["true".to_owned()],
        ..SubmitRequest::default()
    };
    for (client, id) in [(&ann, "a1"), (&ben, "b1"), (&ann, "a2")] {
        client.submit(&request(id), None, &[], |_| {}).await.unwrap();
    }
    assert_eq!(ann.job("a1", None).await.unwrap().owner, "ann");
    let refused = ben.submit(&request("a1"), None, &[], |_| {}).await.unwrap_err();
    assert!(matches!(refused, ClientError::Refused(problem) if problem.status == 409));
    for (client, expected) in
        [(&ann, BTreeSet::from(["a1", "a2"])), (&reads, BTreeSet::from(["a1", "a2"])), (&ben, BTreeSet::from(["b1"]))]
    {
        assert_eq!(ids(&client.jobs(None, None, None).await.unwrap()), expected);
    }
    assert_eq!(ids(&root.jobs(None, None, None).await.unwrap()), BTreeSet::from(["a1", "a2", "b1"]));

    for id in ["a1", "b1"] {
        let holder = node.holder(1);
        group.apply(&JobId::new(id).unwrap(), JobEvent::Claimed { holder, at: fresh::now() }).await;
    }
    let runs = async |client: &Client| client.nodes().await.unwrap().remove(0).jobs;
    assert_eq!(runs(&ann).await, ["a1"]);
    assert_eq!(runs(&ben).await, ["b1"]);
    assert_eq!(runs(&root).await, ["a1", "b1"]);
}

#[tokio::test]
async fn a_stream_of_events_tells_of_ones_own_jobs_alone() {
    let group = Group::new(Faults::none()).await;
    let node = TestNode::start(&group, "n").await;
    let token = token_of(&group, "ann", Role::ReadOnly).await;
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let mut answer = http.get(format!("{}/api/v1/events", node.url)).bearer_auth(token).send().await.unwrap();
    group.submit_for("ben", "b1").await;
    group.submit_for("ann", "a1").await;
    let mut told = String::new();
    while !told.contains("a1") {
        told += std::str::from_utf8(&answer.chunk().await.unwrap().unwrap()).unwrap();
    }
    assert!(!told.contains("b1"), "{told}");
}

#[tokio::test]
async fn people_hear_who_they_are() {
    let group = Group::new(Faults::none()).await;
    let (node, [ann]) = with_clients(&group, [("ann", Role::User)]).await;
    let me = ann.me().await.unwrap();
    assert_eq!((me.owner.as_str(), me.role, me.token.is_some()), ("ann", Role::User, true));
    let me = node.client().me().await.unwrap();
    assert_eq!((me.owner.as_str(), me.role, me.token), ("admin", Role::Admin, None));
}
