//! Members that die, stop or were never there.

use super::*;

const MEMBERS: usize = 3;

/// Commits that have to go on, settled like [`workrs_store::records`] does it: what is not known is read again.
async fn must_go_on(store: &dyn StateStore, key: &str) -> Duration {
    let begun = Instant::now();
    for round in 0..20 {
        let value = format!("{round}");
        loop {
            assert!(begun.elapsed() < PATIENCE, "no commit is acknowledged any more");
            match commit(store, [], put(key, value.clone())).await {
                Ok(_) => break,
                Err(StateError::Unavailable(_) | StateError::Unknown(_)) => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Err(other) => panic!("{other}"),
            }
        }
        let entry = loop {
            assert!(begun.elapsed() < PATIENCE, "nothing can be read any more");
            match store.get(key).await {
                Ok(entry) => break entry,
                Err(StateError::Unavailable(_)) => tokio::time::sleep(Duration::from_millis(20)).await,
                Err(other) => panic!("{other}"),
            }
        };
        assert_eq!(entry.unwrap().value, value, "an acknowledged commit is read");
    }
    begun.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commits_go_on_while_any_member_is_dead() {
    let Some(mut cluster) = Cluster::start(MEMBERS) else { return };
    let store = open(&cluster, "killed").await;
    let lease = store.grant_lease(Duration::from_secs(60)).await.unwrap();
    for member in 0..MEMBERS {
        cluster.kill(member);
        let took = must_go_on(&*store, &format!("old/{member}")).await;
        println!("m{member} killed: 20 commits in {took:?}");
        // One that was not there when the member died.
        let new = open(&cluster, "killed").await;
        must_go_on(&*new, &format!("new/{member}")).await;
        new.renew_lease(lease).await.unwrap();
        store.usage().await.unwrap();
        cluster.restart(member);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commits_go_on_while_any_member_is_stopped() {
    let Some(mut cluster) = Cluster::start(MEMBERS) else { return };
    let store = open(&cluster, "stopped").await;
    let lease = store.grant_lease(Duration::from_secs(60)).await.unwrap();
    for member in 0..MEMBERS {
        cluster.pause(member);
        let took = must_go_on(&*store, &format!("old/{member}")).await;
        println!("m{member} stopped: 20 commits in {took:?}");
        let new = open(&cluster, "stopped").await;
        let took = must_go_on(&*new, &format!("new/{member}")).await;
        println!("m{member} stopped: 20 commits of a new store in {took:?}");
        new.renew_lease(lease).await.unwrap();
        cluster.resume(member);
    }
}

#[tokio::test]
async fn without_most_of_the_members_nothing_is_promised() {
    let Some(mut cluster) = Cluster::start(MEMBERS) else { return };
    let store = open(&cluster, "alone").await;
    let revision = must_put(&*store, "k", "1").await;
    let lease = store.grant_lease(Duration::from_secs(60)).await.unwrap();
    for member in 1..MEMBERS {
        cluster.kill(member);
    }
    let unchanged = || [Condition::Unchanged("k".into(), revision)];
    for _ in 0..2 {
        let begun = Instant::now();
        let refused = commit(&*store, unchanged(), put("k", "2")).await.unwrap_err();
        assert!(matches!(refused, StateError::Unknown(_) | StateError::Unavailable(_)), "{refused:?}");
        assert!(matches!(store.get("k").await, Err(StateError::Unavailable(_))), "not from what one member knows");
        let begun_renewal = Instant::now();
        assert!(matches!(store.renew_lease(lease).await, Ok(()) | Err(StateError::Unavailable(_))));
        println!(
            "the renewal was answered after {:?}, all after {:?}: {refused}",
            begun_renewal.elapsed(),
            begun.elapsed()
        );
    }
    cluster.kill(0);
    // A connection that is known to be broken is not written to.
    assert!(store.get("k").await.is_err());
    let refused = commit(&*store, unchanged(), put("k", "3")).await;
    assert!(matches!(refused, Err(StateError::Unavailable(_))), "nobody is there to be asked: {refused:?}");
    cluster.restart_all();
    must_go_on(&*store, "k").await;
}
