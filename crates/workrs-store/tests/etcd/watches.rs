//! Watches over failures, compactions and many of them.

use workrs_store::etcd::EtcdStore;

use super::*;

/// Writes keys of its own until it is told to stop, and gives what was acknowledged or may have been written.
async fn write_until(store: Arc<EtcdStore>, mut stop: tokio::sync::oneshot::Receiver<()>) -> Vec<String> {
    let mut keys = Vec::new();
    while stop.try_recv().is_err() {
        let key = format!("w/{:06}", keys.len());
        while let Err(error) = commit(&*store, [Condition::Absent(key.clone())], put(&key, "v")).await {
            if error == StateError::Conflict {
                break;
            }
            assert!(matches!(error, StateError::Unavailable(_) | StateError::Unknown(_)), "{error}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        keys.push(key);
    }
    keys
}

/// Every member in turn is killed or stopped, so that the one is among them that has the stream.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_goes_on_without_gap_or_repetition() {
    const MEMBERS: usize = 3;
    let Some(mut cluster) = Cluster::start(MEMBERS) else { return };
    let store = open(&cluster, "watched").await;
    let start = must_put(&*store, "begin", "").await;
    let mut watches = Vec::new();
    for _ in 0..3 {
        watches.push(store.watch("w/", start).await.unwrap());
    }
    let mut seen: Vec<Vec<String>> = vec![Vec::new(); watches.len()];
    for member in 0..MEMBERS {
        for is_killed in [true, false] {
            let (stop, stopped) = tokio::sync::oneshot::channel();
            // Each time other keys: a store of its own would have its own connections.
            let writer = tokio::spawn(write_until(Arc::clone(&store), stopped));
            let until = seen[0].len() + 20;
            receive(&mut watches, &mut seen, until).await;
            if is_killed {
                cluster.kill(member)
            } else {
                cluster.pause(member)
            }
            let begun = Instant::now();
            let until = seen[0].len() + 50;
            receive(&mut watches, &mut seen, until).await;
            println!("m{member} {}: 50 events in {:?}", if is_killed { "killed" } else { "stopped" }, begun.elapsed());
            if is_killed {
                cluster.restart(member)
            } else {
                cluster.resume(member)
            }
            stop.send(()).unwrap();
            let written = writer.await.unwrap();
            receive(&mut watches, &mut seen, written.len()).await;
            for (seen, watch) in seen.iter_mut().zip(&mut watches) {
                assert_eq!(*seen, written);
                assert!(watch.try_recv().is_err(), "nothing twice");
                seen.clear();
            }
            // The same names come again.
            let keys = store.list("w/", None, usize::MAX).await.unwrap().entries;
            for keys in keys.chunks(100) {
                let changes = keys.iter().map(|entry| Change::Delete(entry.key.clone())).collect();
                store.commit(Transaction { conditions: Vec::new(), changes }).await.unwrap();
            }
            for watch in &mut watches {
                for _ in 0..keys.len() {
                    assert!(matches!(next(watch).await, WatchEvent::Deleted { .. }));
                }
            }
        }
    }
}

/// Receives in order until each watch has told of so many.
async fn receive(watches: &mut [Watch], seen: &mut [Vec<String>], until: usize) {
    for (watch, seen) in watches.iter_mut().zip(seen) {
        while seen.len() < until {
            seen.push(put_key(next(watch).await));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_compacted_is_told_and_the_present_is_watched() {
    let Some(mut cluster) = Cluster::start(1) else { return };
    let store = open(&cluster, "compacted").await;
    let mut newest = Revision(0);
    for number in 0..10 {
        newest = must_put(&*store, "k", &number.to_string()).await;
    }
    let mut quiet = store.watch("quiet/", Revision(0)).await.unwrap();
    store.compact(newest).await.unwrap();
    store.compact(newest).await.expect("to ask twice is no error");
    store.compact(Revision(1)).await.expect("what is forgotten already is no error");
    let mut old = store.watch("", Revision(newest.0 - 5)).await.unwrap();
    assert_eq!(next(&mut old).await, WatchEvent::Compacted);
    assert_eq!(tokio::time::timeout(PATIENCE, old.recv()).await.unwrap(), None, "and the watch ends");
    let mut present = store.watch("", newest).await.unwrap();
    let live = must_put(&*store, "k", "live").await;
    assert!(matches!(next(&mut present).await, WatchEvent::Put(entry) if entry.revision == live));
    assert_eq!(store.list("", None, 10).await.unwrap().entries.len(), 1, "what stands is not touched");
    let future = store.compact(Revision(live.0 + 1_000)).await;
    assert!(matches!(&future, Err(StateError::Unavailable(text)) if text.contains("future")), "{future:?}");
    // A watch that saw nothing for long knows how far it is, and can go on.
    tokio::time::sleep(Duration::from_secs(3)).await;
    store.compact(live).await.unwrap();
    cluster.restart(0);
    assert!(quiet.try_recv().is_err(), "nothing happened there");
    loop {
        if commit(&*store, [], put("quiet/k", "v")).await.is_ok() {
            break;
        }
    }
    assert_eq!(put_key(next(&mut quiet).await), "quiet/k");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_watches_are_cheap_and_end_when_they_are_dropped() {
    const WATCHES: usize = 3_000;
    let Some(mut cluster) = Cluster::start(1) else { return };
    let store = open(&cluster, "many").await;
    let start = must_put(&*store, "begin", "").await;
    let mut watches = Vec::new();
    for number in 0..WATCHES {
        watches.push(store.watch(&format!("k/{number}/"), start).await.unwrap());
    }
    let tell_all = async |watches: &mut Vec<Watch>, value: &str| {
        let begun = Instant::now();
        for numbers in (0..WATCHES).collect::<Vec<_>>().chunks(100) {
            let changes = numbers.iter().map(|number| put(&format!("k/{number}/x"), value.to_owned())).collect();
            store.commit(Transaction { conditions: Vec::new(), changes }).await.unwrap();
        }
        for (number, watch) in watches.iter_mut().enumerate() {
            assert_eq!(put_key(next(watch).await), format!("k/{number}/x"));
        }
        println!("{WATCHES} watches told in {:?}", begun.elapsed());
    };
    tell_all(&mut watches, "1").await;
    assert_eq!(cluster.metric(0, "etcd_debugging_mvcc_watcher_total"), WATCHES as u64);
    assert_eq!(cluster.metric(0, "etcd_debugging_mvcc_watch_stream_total"), 1);
    cluster.restart(0);
    while store.get("begin").await.is_err() {}
    tell_all(&mut watches, "2").await;
    watches.truncate(10);
    wait_for(&cluster, "etcd_debugging_mvcc_watcher_total", 10).await;
    drop(watches);
    wait_for(&cluster, "etcd_debugging_mvcc_watch_stream_total", 0).await;
    let mut last = store.watch("", start).await.unwrap();
    assert_eq!(put_key(next(&mut last).await), "k/0/x");
    drop(store);
    let ended = async { while last.recv().await.is_some() {} };
    tokio::time::timeout(PATIENCE, ended).await.expect("a watch ends with its store");
    wait_for(&cluster, "etcd_debugging_mvcc_watch_stream_total", 0).await;
}

async fn wait_for(cluster: &Cluster, metric: &str, expected: u64) {
    let begun = Instant::now();
    while cluster.metric(0, metric) != expected {
        assert!(begun.elapsed() < PATIENCE, "{metric} is {}, not {expected}", cluster.metric(0, metric));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_watcher_that_sleeps_is_ended_and_nobody_waits_for_it() {
    let Some(cluster) = Cluster::start(1) else { return };
    let store = open(&cluster, "slow").await;
    let start = must_put(&*store, "begin", "").await;
    let mut slow = store.watch("k/", start).await.unwrap();
    let mut other = store.watch("end", start).await.unwrap();
    for round in 0..50 {
        let changes = (0..100).map(|number| put(&format!("k/{number}"), round.to_string())).collect();
        store.commit(Transaction { conditions: Vec::new(), changes }).await.unwrap();
    }
    must_put(&*store, "end", "").await;
    assert_eq!(put_key(next(&mut other).await), "end");
    let mut events = Vec::new();
    while let Some(event) = tokio::time::timeout(PATIENCE, slow.recv()).await.expect("it is ended") {
        events.push(event);
    }
    assert_eq!(events.pop(), Some(WatchEvent::Compacted));
    assert!(events.len() > 1_000 && events.len() < 5_000, "{} events", events.len());
}
