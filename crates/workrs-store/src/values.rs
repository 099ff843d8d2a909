//! Small values beside the job records, such as what is known of a node's faults: read, and changed by a function of
//! what stood there.

use std::{sync::Arc, time::Duration};

use serde::{Serialize, de::DeserializeOwned};

use crate::{
    envelope::Envelope,
    fresh,
    state::{Change, Condition, StateError, StateStore, Transaction},
};

/// Tries of a change before it is given up, as others change the value again and again.
const TRIES: u32 = 20;
const PAUSE: Duration = Duration::from_millis(20);

/// Reads the value at `key`.
pub async fn read<T: DeserializeOwned>(store: &Arc<dyn StateStore>, key: &str) -> Result<Option<T>, StateError> {
    let Some(entry) = store.get(key).await? else { return Ok(None) };
    Ok(Some(decode::<T>(key, &entry.value)?.body))
}

/// Reads values below `prefix` whose keys lie behind `after`, at most `limit`, by key.
pub async fn read_some<T: DeserializeOwned>(
    store: &Arc<dyn StateStore>,
    prefix: &str,
    after: &str,
    limit: usize,
) -> Result<Vec<(String, T)>, StateError> {
    let page = store.list(prefix, Some(after), limit).await?;
    page.entries.into_iter().map(|entry| Ok((entry.key.clone(), decode::<T>(&entry.key, &entry.value)?.body))).collect()
}

/// Replaces the value at `key` by what `change` makes of it; `None` leaves it as it is. `change` has to be such that to
/// apply it to its own result changes nothing: a write whose answer was lost is followed by another look.
pub async fn update<T: Serialize + DeserializeOwned>(
    store: &Arc<dyn StateStore>,
    key: &str,
    owner: &str,
    change: impl Fn(Option<&T>) -> Option<T>,
) -> Result<(), StateError> {
    let mut outcome = Err(StateError::Conflict);
    for _ in 0..TRIES {
        let entry = store.get(key).await?;
        let known = entry.as_ref().map(|entry| decode::<T>(key, &entry.value)).transpose()?;
        let Some(next) = change(known.as_ref().map(|envelope| &envelope.body)) else { return Ok(()) };
        let operation = fresh::operation();
        let envelope = match &known {
            Some(known) => known.succeeded_by(next, operation),
            None => Envelope::new(owner, next, operation),
        };
        let condition = match &entry {
            Some(entry) => Condition::Unchanged(key.to_owned(), entry.revision),
            None => Condition::Absent(key.to_owned()),
        };
        let changes = vec![Change::Put(key.to_owned(), envelope.encode(key), None)];
        outcome = store.commit(Transaction { conditions: vec![condition], changes }).await.map(drop);
        match outcome {
            Err(StateError::Conflict | StateError::Unknown(_)) => tokio::time::sleep(PAUSE).await,
            _ => return outcome,
        }
    }
    outcome
}

fn decode<T: DeserializeOwned>(key: &str, value: &[u8]) -> Result<Envelope<T>, StateError> {
    Envelope::decode(key, value).map_err(|error| StateError::Damaged(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        faulty::{Fault, Faults, FaultyState},
        redb::RedbStore,
    };

    #[tokio::test]
    async fn a_value_is_changed_once_whatever_happens_to_the_answer() {
        for fault in [None, Some(Fault::LoseAnswer)] {
            // The second operation is the write.
            let faults = fault.map_or_else(Faults::none, |fault| Faults::at(2, fault));
            let store: Arc<dyn StateStore> = Arc::new(FaultyState::new(Arc::new(RedbStore::in_memory()), faults));
            let add = |known: Option<&Vec<u32>>| {
                let mut list = known.cloned().unwrap_or_default();
                (!list.contains(&7)).then(|| {
                    list.push(7);
                    list
                })
            };
            update(&store, "values/a", "me", add).await.unwrap();
            update(&store, "values/a", "me", add).await.unwrap();
            assert_eq!(read::<Vec<u32>>(&store, "values/a").await.unwrap(), Some(vec![7]));
            let some = read_some::<Vec<u32>>(&store, "values/", "values/", 5).await.unwrap();
            assert_eq!(some, [("values/a".to_owned(), vec![7])]);
            assert!(read_some::<Vec<u32>>(&store, "values/", "values/a", 5).await.unwrap().is_empty());
        }
        let store: Arc<dyn StateStore> = Arc::new(RedbStore::in_memory());
        assert_eq!(read::<Vec<u32>>(&store, "values/a").await.unwrap(), None);
    }
}
