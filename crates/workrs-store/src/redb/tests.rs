use std::{
    fmt,
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::PermissionsExt,
    sync::Mutex,
};

use bytes::Bytes;
use redb::{ReadableTable, StorageBackend};

use super::*;
use crate::{
    conformance,
    faulty::{Faults, FaultyState},
    state::{Change, Condition, WatchEvent},
};

fn put(key: &str, value: &str) -> Transaction {
    let changes = vec![Change::Put(key.to_owned(), Bytes::copy_from_slice(value.as_bytes()), None)];
    Transaction { conditions: Vec::new(), changes }
}

async fn value(store: &RedbStore, key: &str) -> Option<Bytes> {
    store.get(key).await.unwrap().map(|entry| entry.value)
}

#[tokio::test]
async fn a_file_conforms() {
    let folder = tempfile::tempdir().unwrap();
    let number = Mutex::new(0);
    conformance::run(async || {
        let path = {
            let mut number = number.lock().unwrap();
            *number += 1;
            folder.path().join(format!("state-{number}"))
        };
        Arc::new(RedbStore::open(&path).await.unwrap()) as Arc<dyn StateStore>
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_conforms() {
    conformance::run(async || Arc::new(RedbStore::in_memory()) as Arc<dyn StateStore>).await;
}

#[tokio::test(start_paused = true)]
async fn a_wrapper_without_faults_conforms_also_while_the_clock_is_paused() {
    conformance::run(async || {
        let inner = Arc::new(RedbStore::in_memory());
        Arc::new(FaultyState::new(inner, Faults::none())) as Arc<dyn StateStore>
    })
    .await;
}

#[tokio::test]
async fn values_stay_and_leased_keys_go_when_the_file_is_opened_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state");
    let store = RedbStore::open(&path).await.unwrap();
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let lease = store.grant_lease(Duration::from_secs(1)).await.unwrap();
    let mut transaction = put("kept", "1");
    transaction.changes.push(Change::Put("leased".into(), "1".into(), Some(lease)));
    let written = store.commit(transaction).await.unwrap();
    let mut watch = store.watch("", Revision(0)).await.unwrap();
    store.close().await;
    assert!(matches!(watch.recv().await, Some(WatchEvent::Put(_))));
    assert!(matches!(watch.recv().await, Some(WatchEvent::Put(_))));
    assert_eq!(watch.recv().await, None, "closing the store ends its watches");

    let store = RedbStore::open(&path).await.unwrap();
    assert_eq!(value(&store, "kept").await.as_deref(), Some(&b"1"[..]));
    assert_eq!(value(&store, "leased").await, None);
    let page = store.list("", None, 10).await.unwrap();
    assert!(page.revision > written, "the end of a lease is a change");
    assert_eq!(store.watch("", written).await.unwrap().recv().await, Some(WatchEvent::Compacted));
    assert_eq!(store.renew_lease(lease).await, Err(StateError::LeaseEnded));
    store.close().await;

    let store = RedbStore::open(&path).await.unwrap();
    assert_eq!(store.list("", None, 10).await.unwrap().revision, page.revision, "nothing changed any more");
}

#[tokio::test]
async fn a_second_opener_is_told_that_the_file_is_in_use() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state");
    let first = RedbStore::open(&path).await.unwrap();
    assert!(matches!(RedbStore::open(&path).await, Err(OpenError::Locked)));
    first.close().await;
    RedbStore::open(&path).await.unwrap();
}

#[tokio::test]
async fn what_is_no_state_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state");
    std::fs::write(&path, vec![b'x'; 10_000]).unwrap();
    assert!(matches!(RedbStore::open(&path).await, Err(OpenError::Damaged(_))));
    let missing = RedbStore::open(&folder.path().join("no/such/folder")).await;
    assert!(matches!(missing, Err(OpenError::Unusable(_))));
}

#[tokio::test]
async fn a_newer_format_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state");
    RedbStore::open(&path).await.unwrap().close().await;
    let database = ::redb::Database::open(&path).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction.open_table(META).unwrap().insert("format", 2).unwrap();
    transaction.commit().unwrap();
    drop(database);
    assert!(matches!(RedbStore::open(&path).await, Err(OpenError::Version(2))));
}

#[tokio::test]
async fn rot_within_a_value_is_damage_and_leaves_others_alone() {
    let store = RedbStore::in_memory();
    store.commit(put("rotten", "value")).await.unwrap();
    store.commit(put("sound", "value")).await.unwrap();
    let transaction = store.writer.disk.begin_write().unwrap();
    {
        let mut table = transaction.open_table(ENTRIES).unwrap();
        let mut stored = table.get("rotten").unwrap().unwrap().value().to_vec();
        *stored.last_mut().unwrap() ^= 1;
        table.insert("rotten", stored.as_slice()).unwrap();
    }
    transaction.commit().unwrap();
    let is_damaged = |error: StateError| matches!(error, StateError::Damaged(_));
    assert!(is_damaged(store.get("rotten").await.unwrap_err()));
    assert!(is_damaged(store.list("", None, 10).await.unwrap_err()));
    let mut conditional = put("other", "1");
    conditional.conditions.push(Condition::Unchanged("rotten".into(), Revision(1)));
    assert!(is_damaged(store.commit(conditional).await.unwrap_err()));
    assert_eq!(value(&store, "sound").await.as_deref(), Some(&b"value"[..]));
}

#[tokio::test]
async fn rot_anywhere_in_the_file_never_gives_a_wrong_value() {
    let folder = tempfile::tempdir().unwrap();
    let (sound, path) = (folder.path().join("sound"), folder.path().join("state"));
    let store = RedbStore::open(&sound).await.unwrap();
    let expected: Vec<_> = (0..20).map(|number| (format!("k{number:02}"), number.to_string().repeat(300))).collect();
    for (key, value) in &expected {
        store.commit(put(key, value)).await.unwrap();
    }
    store.close().await;
    let len = sound.metadata().unwrap().len();
    let mut noticed = 0;
    // Odd steps, so that every kind of place is met.
    for at in (0..len).step_by(usize::try_from(len / 150).unwrap() | 1) {
        std::fs::copy(&sound, &path).unwrap();
        flip(&path, at);
        let Ok(store) = RedbStore::open(&path).await else {
            noticed += 1;
            continue;
        };
        for (key, value) in &expected {
            match store.get(key).await {
                Ok(entry) => assert_eq!(entry.unwrap().value, value.as_bytes(), "byte {at}"),
                Err(_) => noticed += 1,
            }
        }
        store.close().await;
    }
    assert!(noticed > 0, "some flips hit what is in use");
}

fn flip(path: &Path, at: u64) {
    let mut file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.seek(SeekFrom::Start(at)).unwrap();
    file.read_exact(&mut byte).unwrap();
    file.seek(SeekFrom::Start(at)).unwrap();
    file.write_all(&[byte[0] ^ 0x10]).unwrap();
}

#[tokio::test]
async fn a_commit_goes_on_without_its_caller() {
    let store = RedbStore::in_memory();
    {
        let commit = store.commit(put("k", "v"));
        tokio::pin!(commit);
        assert!(futures::poll!(commit.as_mut()).is_pending());
    }
    let mut watch = store.watch("k", Revision(0)).await.unwrap();
    assert!(matches!(watch.recv().await, Some(WatchEvent::Put(_))));
    assert_eq!(value(&store, "k").await.as_deref(), Some(&b"v"[..]));
}

/// A disk in memory that fails at one step: a write, a sync or a change of length.
#[derive(Default)]
struct Device {
    data: Vec<u8>,
    /// What a power cut leaves if the disk held back all that was not synced.
    synced: Vec<u8>,
    steps: u64,
    syncs: u64,
    fails_at: Option<u64>,
    /// Whether it fails at every later step, too.
    for_good: bool,
}

impl Device {
    fn step(&mut self) -> io::Result<()> {
        self.steps += 1;
        match self.fails_at {
            Some(step) if self.steps == step || (self.for_good && self.steps > step) => {
                Err(io::ErrorKind::StorageFull.into())
            }
            _ => Ok(()),
        }
    }
}

#[derive(Clone, Default)]
struct Plug(Arc<Mutex<Device>>);

impl fmt::Debug for Plug {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Plug")
    }
}

impl StorageBackend for Plug {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().data.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let device = self.0.lock().unwrap();
        let start = usize::try_from(offset).unwrap();
        let source = device.data.get(start..start + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(source);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut device = self.0.lock().unwrap();
        device.step()?;
        device.data.resize(usize::try_from(len).unwrap(), 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut device = self.0.lock().unwrap();
        device.step()?;
        device.syncs += 1;
        device.synced = device.data.clone();
        Ok(())
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut device = self.0.lock().unwrap();
        device.step()?;
        let start = usize::try_from(offset).unwrap();
        device.data[start..start + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }
}

impl Plug {
    fn open(&self) -> Result<RedbStore, OpenError> {
        let plug = self.clone();
        RedbStore::open_with(Box::new(move || Ok(disk::builder().create_with_backend(plug.clone())?)), None)
    }

    fn set(&self, change: impl FnOnce(&mut Device)) {
        change(&mut self.0.lock().unwrap());
    }
}

/// Writes some keys, and gives what each commit came to.
async fn write_some(store: &RedbStore) -> Vec<(String, Result<Revision, StateError>)> {
    let mut results = Vec::new();
    for number in 0..6 {
        let key = format!("k{number}");
        results.push((key.clone(), store.commit(put(&key, &"x".repeat(number * 700))).await));
    }
    results
}

/// An acknowledged key is there, a refused one is not, and of the others anything may be true.
async fn check_results(store: &RedbStore, results: &[(String, Result<Revision, StateError>)], step: u64) {
    for (key, result) in results {
        let found = store.get(key).await.unwrap().map(|entry| entry.revision);
        match result {
            Ok(revision) => assert_eq!(found, Some(*revision), "step {step}: {key} was acknowledged"),
            Err(StateError::Unavailable(_)) => assert_eq!(found, None, "step {step}: {key} was refused"),
            Err(StateError::Unknown(_)) => {}
            Err(error) => panic!("step {step}: {key}: {error}"),
        }
    }
}

/// The steps of `write_some` on a device of its own: where it begins and where it ends.
async fn count_steps() -> (u64, u64) {
    let plug = Plug::default();
    let store = plug.open().unwrap();
    let begin = plug.0.lock().unwrap().steps;
    for (_, result) in write_some(&store).await {
        result.unwrap();
    }
    let end = plug.0.lock().unwrap().steps;
    (begin, end)
}

#[tokio::test]
async fn a_disk_that_fails_once_loses_nothing_acknowledged_and_the_store_heals() {
    let (begin, end) = count_steps().await;
    assert!(end - begin > 12, "{begin}..{end}");
    for step in begin + 1..=end {
        let plug = Plug::default();
        let store = plug.open().unwrap();
        plug.set(|device| device.fails_at = Some(step));
        let results = write_some(&store).await;
        assert!(results.iter().any(|(_, result)| result.is_err()), "step {step} struck nobody");
        let healed = store.commit(put("after", "1")).await;
        assert!(healed.is_ok(), "step {step}: the store did not heal: {healed:?}");
        check_results(&store, &results, step).await;
        store.close().await;
        check_results(&plug.open().unwrap(), &results, step).await;
    }
}

#[tokio::test]
async fn a_power_cut_at_any_step_loses_nothing_acknowledged() {
    let (begin, end) = count_steps().await;
    for step in begin + 1..=end {
        for unsynced_writes_are_lost in [false, true] {
            let plug = Plug::default();
            let store = plug.open().unwrap();
            plug.set(|device| (device.fails_at, device.for_good) = (Some(step), true));
            let mut results = write_some(&store).await;
            // What the process itself said after the cut reached nobody.
            results.retain(|(_, result)| result.is_ok());
            drop(store);
            plug.set(|device| {
                device.fails_at = None;
                if unsynced_writes_are_lost {
                    device.data = device.synced.clone();
                }
            });
            let store = plug.open().unwrap_or_else(|error| panic!("step {step}: {error}"));
            check_results(&store, &results, step).await;
            store.commit(put("after", "1")).await.unwrap();
        }
    }
}

#[tokio::test]
async fn concurrent_commits_share_a_sync() {
    const COMMITS: usize = 100;
    let plug = Plug::default();
    let store = plug.open().unwrap();
    let before = plug.0.lock().unwrap().syncs;
    let keys: Vec<_> = (0..COMMITS).map(|number| number.to_string()).collect();
    let commits = keys.iter().map(|key| store.commit(put(key, "v")));
    let revisions: Vec<_> = futures::future::try_join_all(commits).await.unwrap();
    let syncs = plug.0.lock().unwrap().syncs - before;
    assert!(syncs < COMMITS as u64 / 5, "{syncs} syncs for {COMMITS} commits");
    assert_eq!(revisions.iter().collect::<std::collections::BTreeSet<_>>().len(), COMMITS);
}

#[tokio::test]
async fn a_batch_answers_each_request_by_its_own_conditions() {
    let store = RedbStore::in_memory();
    let conditional = |key: &str, condition| Transaction { conditions: vec![condition], ..put(key, "v") };
    let (first, second, third) = futures::join!(
        store.commit(conditional("a", Condition::Absent("a".into()))),
        store.commit(conditional("a", Condition::Absent("a".into()))),
        store.commit(conditional("b", Condition::Present("a".into()))),
    );
    assert_eq!((first, second, third), (Ok(Revision(1)), Err(StateError::Conflict), Ok(Revision(2))));
}

#[tokio::test]
async fn a_refused_transaction_costs_no_sync() {
    let plug = Plug::default();
    let store = plug.open().unwrap();
    let before = plug.0.lock().unwrap().syncs;
    let refused = Transaction { conditions: vec![Condition::Present("absent".into())], ..put("k", "v") };
    assert_eq!(store.commit(refused).await, Err(StateError::Conflict));
    assert_eq!(plug.0.lock().unwrap().syncs, before);
}
