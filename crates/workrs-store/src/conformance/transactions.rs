//! Conditions, atomicity and revisions.

use std::sync::Arc;

use super::{commit, delete, get, keys, must_commit, put, value};
use crate::state::{Condition, Revision, StateError, StateStore};

pub(super) async fn a_condition_holds_or_nothing_is_written(store: &dyn StateStore) {
    let old = must_commit(store, [put("here", "1"), put("moved", "1"), put("again", "1")]).await;
    must_commit(store, [put("moved", "1"), delete("again")]).await;
    must_commit(store, [put("again", "1")]).await;
    let (absent, present) = (|key: &str| Condition::Absent(key.into()), |key: &str| Condition::Present(key.into()));
    let unchanged = |key: &str, revision| Condition::Unchanged(key.into(), revision);
    let cases = [
        (vec![], true),
        (vec![absent("gone")], true),
        (vec![absent("here")], false),
        (vec![present("here")], true),
        (vec![present("gone")], false),
        (vec![unchanged("here", old)], true),
        (vec![unchanged("here", Revision(old.0 + 1))], false),
        (vec![unchanged("moved", old)], false),
        (vec![unchanged("again", old)], false),
        (vec![unchanged("gone", old)], false),
        (vec![unchanged("gone", Revision(0))], false),
        (vec![absent("gone"), present("here"), unchanged("here", old)], true),
        (vec![absent("gone"), present("gone")], false),
        (vec![present("gone"), absent("gone")], false),
    ];
    for (number, (conditions, holds)) in cases.into_iter().enumerate() {
        let key = format!("written/{number}");
        let result = commit(store, conditions.clone(), [put(&key, "x")]).await;
        let written = get(store, &key).await;
        if holds {
            let revision = result.unwrap_or_else(|error| panic!("{conditions:?} hold, but: {error}"));
            assert_eq!(written.map(|entry| entry.revision), Some(revision), "{conditions:?}");
        } else {
            assert_eq!(result, Err(StateError::Conflict), "{conditions:?}");
            assert_eq!(written, None, "{conditions:?}");
        }
    }
}

pub(super) async fn all_changes_happen_or_none(store: &dyn StateStore) {
    must_commit(store, [put("a", "1"), put("b", "1")]).await;
    let changes = [put("a", "2"), delete("b"), put("c", "2")];
    let refused = commit(store, [Condition::Absent("b".into())], changes.clone()).await;
    assert_eq!(refused, Err(StateError::Conflict));
    assert_eq!(keys(store, "").await, ["a", "b"]);
    assert_eq!(value(store, "a").await.as_deref(), Some(&b"1"[..]));
    let revision = commit(store, [Condition::Present("b".into())], changes).await.expect("the condition holds");
    assert_eq!(keys(store, "").await, ["a", "c"]);
    for key in ["a", "c"] {
        let entry = get(store, key).await.expect("was written");
        assert_eq!((entry.value.as_ref(), entry.revision), (&b"2"[..], revision), "{key}");
    }
}

pub(super) async fn revisions_rise_with_every_change(store: &dyn StateStore) {
    let mut newest = Revision(0);
    for changes in [vec![put("k", "1")], vec![put("k", "1")], vec![delete("k")], vec![put("k", "2"), put("l", "2")]] {
        let revision = must_commit(store, changes).await;
        assert!(revision > newest, "{revision:?} after {newest:?}");
        newest = revision;
        let page = store.list("", None, 1).await.expect("a list");
        assert_eq!(page.revision, newest, "a list tells the newest revision");
    }
    for changes in [vec![], vec![delete("absent")]] {
        assert_eq!(must_commit(store, changes).await, newest, "nothing changed");
    }
    assert_eq!(get(store, "l").await.map(|entry| entry.revision), Some(newest));
    let only_checked = commit(store, [Condition::Absent("k".into())], []).await;
    assert_eq!(only_checked, Err(StateError::Conflict), "conditions are checked without changes, too");
}

pub(super) async fn a_key_is_not_changed_twice(store: &dyn StateStore) {
    for changes in [[put("k", "1"), put("k", "2")], [put("k", "1"), delete("k")]] {
        assert!(commit(store, [], changes).await.is_err());
        assert_eq!(get(store, "k").await, None);
    }
}

pub(super) async fn one_of_many_wins(store: Arc<dyn StateStore>) {
    let tasks: Vec<_> = (0..20)
        .map(|number: u32| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                let won = commit(&*store, [Condition::Absent("k".into())], [put("k", number.to_string())]).await;
                (number, won)
            })
        })
        .collect();
    let mut winners = Vec::new();
    for task in tasks {
        match task.await.expect("no panic") {
            (number, Ok(revision)) => winners.push((number, revision)),
            (_, lost) => assert_eq!(lost, Err(StateError::Conflict)),
        }
    }
    let entry = get(&*store, "k").await.expect("somebody won");
    let expected = winners.iter().map(|(number, revision)| (number.to_string().into(), *revision)).collect::<Vec<_>>();
    assert_eq!(expected, [(entry.value, entry.revision)]);
}

pub(super) async fn no_update_is_lost(store: Arc<dyn StateStore>) {
    const WRITERS: usize = 8;
    const UPDATES: usize = 20;
    must_commit(&*store, [put("counter", "0")]).await;
    let tasks: Vec<_> = (0..WRITERS)
        .map(|_| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                for _ in 0..UPDATES {
                    while let Err(error) = increment(&*store).await {
                        assert_eq!(error, StateError::Conflict);
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("no panic");
    }
    assert_eq!(value(&*store, "counter").await, Some((WRITERS * UPDATES).to_string().into()));
}

async fn increment(store: &dyn StateStore) -> Result<Revision, StateError> {
    let entry = get(store, "counter").await.expect("is there");
    let number: usize = std::str::from_utf8(&entry.value).ok().and_then(|text| text.parse().ok()).expect("a number");
    let unchanged = Condition::Unchanged("counter".into(), entry.revision);
    commit(store, [unchanged], [put("counter", (number + 1).to_string())]).await
}
