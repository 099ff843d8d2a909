//! What quotas refuse, and what is told of them.

use super::*;
use crate::{
    access::{NewToken, Role, Tokens},
    api::QuotaRequest,
};

async fn client_of(group: &Group, node: &TestNode, owner: &str) -> Client {
    let owner = Owner::new(owner).unwrap();
    let new = NewToken { owner: owner.clone(), role: Role::User, lasts: None, created_by: owner };
    let (_, _, text) = Tokens::new(Arc::clone(group.records.store())).create(new, false).await.unwrap();
    Client::new(std::slice::from_ref(&node.url), Some(text)).unwrap()
}

async fn submit(client: &Client, id: &str) -> Result<JobView, Box<Problem>> {
    let request =
        SubmitRequest { id: Some(id.to_owned()), command: vec!["true".to_owned()], ..SubmitRequest::default() };
    match client.submit(&request, None, &[], |_| {}).await {
        Ok(job) => Ok(job),
        Err(ClientError::Refused(problem)) => Err(problem),
        Err(error) => panic!("{error}"),
    }
}

fn refusal(submitted: Result<JobView, Box<Problem>>) -> String {
    let problem = submitted.unwrap_err();
    assert_eq!((problem.status, problem.kind.as_str()), (429, "urn:workrs:problem:quota"));
    problem.detail
}

#[tokio::test]
async fn more_than_a_quota_of_queued_jobs_is_refused() {
    let group = Group::new(Faults::none()).await;
    let node = TestNode::start(&group, "n").await;
    let (root, ann, ben) =
        (node.client(), client_of(&group, &node, "ann").await, client_of(&group, &node, "ben").await);
    root.set_quota(Some("ann"), &QuotaRequest { queued: Some(2), ..QuotaRequest::default() }).await.unwrap();
    for id in ["a1", "a2", "a1"] {
        submit(&ann, id).await.unwrap();
    }
    assert_eq!(refusal(submit(&ann, "a3").await), "the quota of ann: 2 of at most 2 jobs wait already");
    submit(&ben, "b1").await.unwrap();
    let quota = ann.me().await.unwrap().quota;
    assert_eq!((quota.own, quota.limits.queued, quota.used.unwrap().queued), (true, Some(2), Some(2)));
    assert!(ben.quota(Some("ann")).await.is_err());

    root.remove_quota(Some("ann")).await.unwrap();
    submit(&ann, "a3").await.unwrap();
    root.set_quota(None, &QuotaRequest { queued: Some(1), ..QuotaRequest::default() }).await.unwrap();
    assert_eq!(refusal(submit(&ben, "b2").await), "the quota of ben: 1 of at most 1 jobs wait already");
    let set = root.quotas().await.unwrap();
    assert_eq!(set.iter().map(|quota| quota.owner.as_str()).collect::<Vec<_>>(), ["*"]);
}

#[tokio::test]
async fn what_is_stored_counts_and_what_can_never_run_is_refused() {
    let group = Group::new(Faults::none()).await;
    let node = TestNode::start(&group, "n").await;
    let (root, ann) = (node.client(), client_of(&group, &node, "ann").await);
    let id = group.submit_for("ann", "a1").await;
    let holder = node.holder(1);
    group.apply(&id, JobEvent::Claimed { holder: holder.clone(), at: fresh::now() }).await;
    let outcome = Outcome::Succeeded;
    let finished =
        JobEvent::Finished { holder, at: fresh::now(), outcome, outputs: None, output_bytes: 50, log_bytes: 60 };
    group.apply(&id, finished).await;
    root.set_quota(Some("ann"), &QuotaRequest { stored_bytes: Some(100), ..QuotaRequest::default() }).await.unwrap();
    assert_eq!(
        refusal(submit(&ann, "a2").await),
        "the quota of ann: 110 B of at most 100 B are stored, and the job brings 0 B"
    );
    let quota = root.quota(Some("ann")).await.unwrap();
    assert_eq!(quota.used.unwrap().stored_bytes, Some(110));
    root.set_quota(Some("ann"), &QuotaRequest { cpus: Some(0.5), ..QuotaRequest::default() }).await.unwrap();
    let detail = refusal(submit(&ann, "a2").await);
    assert_eq!(detail, "the quota of ann: 0 of at most 0.5 cores are taken, and the job asks for 1");
}

#[tokio::test]
async fn a_job_that_waits_for_a_quota_says_so() {
    let group = Group::new(Faults::none()).await;
    let node = TestNode::start(&group, "n").await;
    let (root, ann) = (node.client(), client_of(&group, &node, "ann").await);
    root.set_quota(Some("ann"), &QuotaRequest { running: Some(1), ..QuotaRequest::default() }).await.unwrap();
    let first = group.submit_for("ann", "a1").await;
    group.submit_for("ann", "a2").await;
    assert_eq!(ann.job("a2", None).await.unwrap().reason, None);
    group.apply(&first, JobEvent::Claimed { holder: node.holder(1), at: fresh::now() }).await;
    let reason = ann.job("a2", None).await.unwrap().reason;
    assert_eq!(reason.as_deref(), Some("the quota of ann: 1 of at most 1 jobs run"));
    assert_eq!(ann.me().await.unwrap().quota.used.unwrap().running, 1);
}
