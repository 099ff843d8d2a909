//! A cluster that is full.

use super::*;

const QUOTA_BYTES: u64 = 16 << 20;

/// Overwrites one key again and again, from several tasks, until etcd takes no more. What was refused was not written.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_cluster_refuses_commits_until_it_is_compacted() {
    let Some(cluster) = Cluster::start_with(3, &["--quota-backend-bytes", &QUOTA_BYTES.to_string()]) else { return };
    let store = open(&cluster, "full").await;
    assert_eq!(store.usage().await.unwrap().alarm, None);
    let writers = (0..8).map(|writer| tokio::spawn(fill(Arc::clone(&store), format!("k/{writer}"))));
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    let usage = store.usage().await.unwrap();
    assert!(usage.alarm.is_some_and(|alarm| alarm.contains("NOSPACE")));
    assert!(usage.used_bytes > QUOTA_BYTES / 2);
    let refused = commit(&*store, [], put("new", "v")).await;
    assert!(matches!(&refused, Err(StateError::Unavailable(text)) if text.contains("space")), "{refused:?}");
    let page = store.list("", None, 100).await.expect("it can still be read");
    assert_eq!(page.entries.len(), 8);
    let begun = Instant::now();
    loop {
        // Members compact and raise alarms in their own time: as in use, it is asked again.
        store.compact(page.revision).await.unwrap();
        let usage = store.usage().await.unwrap();
        let has_room = usage.alarm.is_none() && usage.used_bytes < QUOTA_BYTES / 2;
        if has_room && commit(&*store, [], put("new", "v")).await.is_ok() {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "{usage:?}");
    }
    assert_eq!(store.list("", None, 100).await.unwrap().entries.len(), 9);
}

/// Writes below `key` until it is refused for want of space, and makes sure that this is not so.
async fn fill(store: Arc<EtcdStore>, key: String) {
    let mut written = Revision(0);
    for round in 0.. {
        let value = Bytes::from(vec![round as u8; 100 << 10]);
        let condition = match written {
            Revision(0) => Condition::Absent(key.clone()),
            revision => Condition::Unchanged(key.clone(), revision),
        };
        let result = commit(&*store, [condition], put(&key, value.clone())).await;
        let found = store.get(&key).await.unwrap();
        match result {
            Ok(revision) => written = revision,
            Err(StateError::Unavailable(text)) => {
                assert!(text.contains("space"), "{text}");
                assert_eq!(found.map_or(Revision(0), |found| found.revision), written, "refused, but written");
                return;
            }
            Err(StateError::Unknown(text)) => {
                println!("{key}: not known: {text}");
                assert!(text.contains("space"), "{text}");
                // The one that filled it up was applied.
                let found = found.unwrap();
                assert!(found.revision > written && found.value == value);
                written = found.revision;
            }
            Err(other) => panic!("{other}"),
        }
    }
}
