//! Nodes that speak TLS among themselves.

use super::*;
use crate::tls::{Source, Trust};

struct Shown {
    certificates: Arc<Certificates>,
    fingerprint: Fingerprint,
    _folder: tempfile::TempDir,
}

fn self_made() -> Shown {
    let folder = tempfile::tempdir().unwrap();
    let certificates = Certificates::open(&Source::SelfMade, folder.path(), &["localhost".to_owned()]).unwrap();
    let fingerprint = *certificates.fingerprint().borrow();
    Shown { certificates, fingerprint, _folder: folder }
}

/// What a client that believes the node hears of the log so far.
async fn log(node: &TestNode, shown: &Shown, id: &JobId) -> Vec<LogLine> {
    let servers = std::slice::from_ref(&node.url);
    let client = Client::trusting(servers, Some(TOKEN.to_owned()), &Trust::pinned(shown.fingerprint)).unwrap();
    client.logs(id.as_str(), 0, false).await.unwrap().map(Result::unwrap).collect().await
}

#[tokio::test]
async fn a_log_comes_from_the_node_whose_certificate_the_group_knows_and_from_no_other() {
    let group = Group::new(Faults::none()).await;
    let (own, theirs, false_ones) = (self_made(), self_made(), self_made());
    let start = async |name, shown: &Shown, told: &Shown| {
        TestNode::start_showing(&group, name, Some(Arc::clone(&shown.certificates)), Some(told.fingerprint)).await
    };
    let asked = start("asked", &own, &own).await;
    let other = start("other", &theirs, &theirs).await;
    // Somebody who took the address of a node has not its key.
    let impostor = start("impostor", &false_ones, &theirs).await;
    let (id, taken) = (group.submit("job-1").await, group.submit("job-2").await);
    let _attempt = other.run(&group, &id, 1, "one\n").await;
    let _taken = impostor.run(&group, &taken, 1, "false\n").await;
    assert_eq!(log(&asked, &own, &id).await, [bytes(0, "one\n"), LogLine::End]);
    assert_eq!(log(&asked, &own, &taken).await, [LogLine::End]);
    let servers = std::slice::from_ref(&asked.url);
    let client = Client::trusting(servers, Some(TOKEN.to_owned()), &Trust::pinned(own.fingerprint)).unwrap();
    let mut told: Vec<_> = client.nodes().await.unwrap().into_iter().map(|node| node.tls_fingerprint).collect();
    told.sort();
    let mut expected = [&own, &theirs, &theirs].map(|shown| Some(shown.fingerprint.to_string()));
    expected.sort();
    assert_eq!(told, expected);
}
