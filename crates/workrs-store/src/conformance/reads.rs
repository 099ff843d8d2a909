//! Single reads and lists.

use std::sync::Arc;

use bytes::Bytes;

use super::{commit, delete, get, keys, must_commit, put, value};
use crate::state::{Entry, Revision, StateStore};

pub(super) async fn what_was_put_is_read(store: &dyn StateStore) {
    assert_eq!(get(store, "k").await, None);
    let values = [
        ("empty", Bytes::new()),
        ("zeros", Bytes::from(vec![0; 3])),
        ("large", Bytes::from((0..100 << 10).map(|number| (number % 251) as u8).collect::<Vec<_>>())),
        ("schlüssel/日本/🦀", Bytes::from_static("größe".as_bytes())),
        ("with space and \"quotes\"", Bytes::from_static(b"x")),
        (&"long/".repeat(50), Bytes::from_static(b"y")),
    ];
    for (key, bytes) in &values {
        must_commit(store, [put(key, "before")]).await;
        let revision = must_commit(store, [put(key, bytes.clone())]).await;
        let expected = Entry { key: (*key).to_owned(), value: bytes.clone(), revision };
        assert_eq!(get(store, key).await, Some(expected));
    }
    for (key, bytes) in &values {
        assert_eq!(value(store, key).await.as_ref(), Some(bytes), "{key}");
        must_commit(store, [delete(key)]).await;
        assert_eq!(get(store, key).await, None, "{key}");
    }
}

pub(super) async fn an_acknowledged_commit_is_read(store: Arc<dyn StateStore>) {
    let tasks: Vec<_> = (0..16)
        .map(|number: usize| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                let key = format!("k/{number:02}");
                for round in 0..10 {
                    let written = round.to_string();
                    let revision = commit(&*store, [], [put(&key, written.clone())]).await.expect("a commit");
                    let entry = get(&*store, &key).await.expect("is there");
                    assert_eq!((entry.value, entry.revision), (written.into(), revision));
                    assert!(keys(&*store, "k/").await.contains(&key));
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("no panic");
    }
}

pub(super) async fn what_was_written_since_is_told(store: &dyn StateStore) {
    let told = async |since| {
        let written = store.list_written("p/", since).await.expect("a list");
        let told: Vec<_> = written.entries.into_iter().map(|entry| (entry.key, entry.value, entry.revision)).collect();
        (told, written.total, written.revision)
    };
    must_commit(store, [put("p/a", "1"), put("p/b", "1"), put("q", "1")]).await;
    let first = must_commit(store, [put("p/c", "1")]).await;
    let (all, total, revision) = told(Revision(0)).await;
    assert_eq!((all.len(), total, revision), (3, 3, first));
    assert_eq!(told(first).await, (Vec::new(), 3, first));
    let second = must_commit(store, [put("p/b", "2"), put("q", "2")]).await;
    let third = must_commit(store, [put("p/d", "3")]).await;
    let b = ("p/b".to_owned(), Bytes::from("2"), second);
    let d = ("p/d".to_owned(), Bytes::from("3"), third);
    assert_eq!(told(first).await, (vec![b, d.clone()], 4, third));
    assert_eq!(told(second).await, (vec![d], 4, third));
    // What is gone is missed only in the number.
    let fourth = must_commit(store, [delete("p/d"), delete("p/a")]).await;
    assert_eq!(told(second).await, (Vec::new(), 2, fourth));
}

pub(super) async fn lists_are_sorted_and_paged(store: &dyn StateStore) {
    // By bytes: upper case before lower case, and what is not ASCII last.
    let sorted = ["p/", "p/0", "p/00", "p/B", "p/a", "p/a/1", "p/ä", "p/日"];
    for key in sorted.iter().rev() {
        must_commit(store, [put(key, *key)]).await;
    }
    assert_eq!(keys(store, "p/").await, sorted);
    for limit in 1..=sorted.len() + 1 {
        let mut seen = Vec::new();
        loop {
            let page = store.list("p/", seen.last().map(String::as_str), limit).await.expect("a list");
            assert!(page.entries.len() <= limit);
            for entry in page.entries {
                assert_eq!(entry.value.as_ref(), entry.key.as_bytes());
                seen.push(entry.key);
            }
            assert_eq!(page.more, seen.len() < sorted.len(), "limit {limit}, {} seen", seen.len());
            if !page.more {
                break;
            }
        }
        assert_eq!(seen, sorted, "limit {limit}");
    }
    // The key to go on from need not exist.
    let page = store.list("p/", Some("p/1"), 2).await.expect("a list");
    assert_eq!(page.entries.iter().map(|entry| entry.key.as_str()).collect::<Vec<_>>(), ["p/B", "p/a"]);
}

pub(super) async fn lists_keep_to_their_prefix(store: &dyn StateStore) {
    must_commit(store, ["a", "a/", "a/x", "a0", "ab/x", "b"].map(|key| put(key, "v"))).await;
    assert_eq!(keys(store, "a/").await, ["a/", "a/x"]);
    assert_eq!(keys(store, "a").await, ["a", "a/", "a/x", "a0", "ab/x"]);
    assert_eq!(keys(store, "").await.len(), 6);
    assert_eq!(keys(store, "c").await, Vec::<String>::new());
    let page = store.list("a/", Some("A"), 10).await.expect("a list");
    assert_eq!(page.entries.len(), 2, "a start before the prefix is its beginning");
    let page = store.list("a/", Some("b"), 10).await.expect("a list");
    assert_eq!((page.entries.len(), page.more), (0, false), "a start behind the prefix is its end");
}
