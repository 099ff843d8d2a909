//! The only place that turns configuration into stores and engines.

pub(crate) mod engine;

use std::{
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixListener},
    },
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, bail};
use workrs_core::{hash::ContentHash, keys};
use workrs_store::{
    blobs::{BlobError, Blobs},
    fresh,
    records::Records,
    redb::RedbStore,
    state::{Change, Condition, StateError, StateStore, Transaction},
};

#[cfg(feature = "etcd")]
use workrs_store::etcd::{EtcdOptions, EtcdStore};

use crate::{
    config::Config,
    host,
    metrics::{MeteredBlobs, MeteredState},
    node::{NodeConfig, NodeParts},
    tls::Certificates,
};

/// The key of the group's id, which state and blobs must share.
const GROUP_KEY: &str = keys::GROUP_ID;
/// The blob that stands where blobs are encrypted, encrypted like the others.
const KEY_BLOB: &str = "encrypted";
/// The blob that says to which group the blobs belong.
pub(crate) const GROUP_BLOB: &str = "group-id";

/// Everything that a node is made of, opened.
pub struct Wired {
    /// For the node.
    pub parts: NodeParts,
    /// About the node.
    pub node: NodeConfig,
    /// What the API shows of itself; nothing where it speaks plain HTTP.
    pub certificates: Option<Arc<Certificates>>,
    /// What an operator should know.
    pub warnings: Vec<String>,
    /// Holds the node's name on this host while it is kept.
    pub name: UnixListener,
}

/// Opens state, blobs and engine.
pub async fn open(config: &Config) -> anyhow::Result<Wired> {
    let dir = &config.data_dir;
    // Jobs reach their roots and disks through it, but may not look around in it.
    create_dir(dir, 0o711).with_context(|| format!("cannot create the data folder {}", dir.display()))?;
    let work_dir = dir.join("work");
    create_dir(&work_dir, 0o700).with_context(|| format!("cannot create {}", work_dir.display()))?;
    let blobs = Blobs::open(&config.blobs).with_context(|| format!("cannot open the blobs at {}", config.blobs))?;
    let blobs = match &config.encryption_key {
        Some(key) => blobs.with_key(key.clone()),
        None => blobs,
    };
    let state = open_state(config).await?;
    let group = check_group(&*state, &blobs).await?;
    let blobs = blobs.with_marker(GROUP_BLOB, group.into());
    check_key(&blobs, config.encryption_key.is_some()).await?;
    let name = claim_name(config)?;
    let (engine, warnings) = engine::open(config).await?;
    let memory_dir = memory_dir(config);
    let certificates = match &config.tls {
        Some(source) => Some(Certificates::open(source, dir, &names(config))?),
        None => None,
    };
    let node = NodeConfig {
        id: config.name.clone(),
        host: host::id(dir)?,
        address: config.address(),
        tls_fingerprint: certificates.as_ref().map(|certificates| certificates.fingerprint()),
        roles: config.roles,
        cpu_features: host::cpu_features(&config.labels),
        stop_timeout: config.stop_timeout,
        cpus_milli: config.cpus_milli,
        memory_bytes: config.memory_bytes - memory_dir.as_ref().map_or(0, |_| memory_dir_bytes(config.memory_bytes)),
        labels: config.labels.clone(),
        allow_network: config.allow_network,
        allow_drills: config.allow_drills,
        lease: config.lease,
        log_limit_bytes: config.log_limit_bytes,
        unfit_wait: config.unfit_wait,
        work_dir,
        memory_dir,
        checkpoint_quota: config.checkpoint_quota,
        prior_mtbf: config.prior_mtbf,
        archive_after: config.archive_after,
        keep_finished: config.keep_finished,
        keep_audit: config.keep_audit,
    };
    let state: Arc<dyn StateStore> = Arc::new(MeteredState::new(state));
    let blobs = blobs.through(|store| Arc::new(MeteredBlobs::new(store)));
    let parts = NodeParts { records: Records::new(state).with_archive(blobs.clone()), blobs, engine };
    Ok(Wired { parts, node, certificates, warnings, name })
}

/// Under which names and addresses a certificate of the node's own is of use.
fn names(config: &Config) -> Vec<String> {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let listen = config.listen.ip();
    let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned(), host];
    if !listen.is_unspecified() {
        names.push(listen.to_string());
    }
    names.extend(config.advertise.as_deref().and_then(host_of));
    names.sort();
    names.dedup();
    names.retain(|name| !name.is_empty() && name.is_ascii());
    names
}

/// The host of `https://HOST:PORT`.
fn host_of(url: &str) -> Option<String> {
    Some(reqwest::Url::parse(url).ok()?.host_str()?.trim_matches(['[', ']']).to_owned())
}

/// Jobs' cgroups and mounts carry the node's name: a second node of that name would take them for what a former process of
/// its own left, and end them.
fn claim_name(config: &Config) -> anyhow::Result<UnixListener> {
    let address = SocketAddr::from_abstract_name(format!("workrs-node-{}", config.name))?;
    UnixListener::bind_addr(&address).with_context(|| {
        format!("a node named {} runs on this machine already; give this one another --name", config.name)
    })
}

/// The memory that small dumps may take: a sixteenth of that for jobs, at most 256 MiB. With little memory there is none.
fn memory_dir_bytes(memory_bytes: u64) -> u64 {
    const SMALLEST: u64 = 32 << 20;
    const LARGEST: u64 = 256 << 20;
    Some(memory_bytes / 16).filter(|bytes| *bytes >= SMALLEST).map_or(0, |bytes| bytes.min(LARGEST))
}

/// A folder in memory for small dumps, mounted where only this node and what it starts can see it.
fn memory_dir(config: &Config) -> Option<PathBuf> {
    let bytes = memory_dir_bytes(config.memory_bytes);
    let folder = config.data_dir.join("dumps");
    if bytes == 0 {
        return None;
    }
    let mounted = create_dir(&folder, 0o700).and_then(|()| workrs_engine::mounts::mount_tmpfs(&folder, bytes));
    match mounted {
        Ok(()) => Some(folder),
        Err(error) => {
            tracing::warn!(folder = %folder.display(), %error, "no dumps in memory: they go to the disk");
            None
        }
    }
}

fn create_dir(dir: &Path, mode: u32) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(mode).create(dir)
}

async fn open_state(config: &Config) -> anyhow::Result<Arc<dyn StateStore>> {
    let url = &config.state;
    if url.starts_with("etcd:") || url.starts_with("etcds:") {
        return open_etcd(config).await;
    }
    match url.split_once(':') {
        Some(("redb", path)) if !path.is_empty() => {
            let path = PathBuf::from(path);
            let store =
                RedbStore::open(&path).await.with_context(|| format!("cannot open the state in {}", path.display()))?;
            Ok(Arc::new(store))
        }
        _ => bail!("cannot open the state at {url:?}: use redb:FILE or etcd://HOST:PORT,HOST:PORT/PREFIX"),
    }
}

#[cfg(feature = "etcd")]
async fn open_etcd(config: &Config) -> anyhow::Result<Arc<dyn StateStore>> {
    let mut options: EtcdOptions = config.state.parse()?;
    if let Some((user, password)) = &config.etcd_user {
        options = options.with_credentials(user, password);
    }
    let store = EtcdStore::open(&options).await.context("cannot open the state in etcd")?;
    Ok(Arc::new(store))
}

#[cfg(not(feature = "etcd"))]
async fn open_etcd(_config: &Config) -> anyhow::Result<Arc<dyn StateStore>> {
    bail!("this program was built without etcd: build it with the feature `etcd`")
}

/// Two folders that do not belong together must not be mixed: records would name blobs of another group. Gives the
/// group's id, which stands in both from now on.
async fn check_group(state: &dyn StateStore, blobs: &Blobs) -> anyhow::Result<String> {
    // Another node may make the group at this moment. It writes to the state first, hence the blobs are read first.
    let in_blobs = group_in_blobs(blobs).await?;
    let in_state = match state.get(GROUP_KEY).await? {
        Some(entry) => Some(String::from_utf8_lossy(&entry.value).into_owned()),
        None => None,
    };
    match (in_state, in_blobs) {
        (Some(state), Some(blobs)) if state == blobs => Ok(state),
        (Some(state_group), Some(blob_group)) => bail!(
            "state and blobs belong to different groups ({state_group} and {blob_group}); check --state and --blobs"
        ),
        (None, Some(blob_group)) => {
            bail!("the blobs belong to the group {blob_group}, but the state is empty; check --state and --blobs")
        }
        (Some(group), None) => {
            // Either the very first start died between the two writes, or this is another blob folder.
            let has_jobs = !state.list("jobs/", None, 1).await?.entries.is_empty();
            if has_jobs && group_in_blobs(blobs).await?.is_none() {
                bail!("the state has jobs of the group {group}, but the blobs are empty; check --state and --blobs");
            }
            put_group(blobs, group).await
        }
        (None, None) => {
            let group = fresh::id();
            let put = Transaction {
                conditions: vec![Condition::Absent(GROUP_KEY.to_owned())],
                changes: vec![Change::Put(GROUP_KEY.to_owned(), group.clone().into(), None)],
            };
            match state.commit(put).await {
                Ok(_) => put_group(blobs, group).await,
                // Another node makes the same group at this moment, or the answer was lost.
                Err(StateError::Conflict | StateError::Unknown(_)) => Box::pin(check_group(state, blobs)).await,
                Err(error) => Err(error).context("cannot write the group's id"),
            }
        }
    }
}

async fn group_in_blobs(blobs: &Blobs) -> anyhow::Result<Option<String>> {
    match blobs.get_unverified(GROUP_BLOB).await {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(BlobError::Missing(_)) => Ok(None),
        Err(error) => Err(error).context("cannot read the blobs' group"),
    }
}

/// Once a group's blobs are encrypted, no node without the key may add others that are not.
async fn check_key(blobs: &Blobs, has_key: bool) -> anyhow::Result<()> {
    match blobs.get_unverified(KEY_BLOB).await {
        Err(BlobError::Missing(_)) if has_key => {
            blobs.put(KEY_BLOB, "yes".into()).await.context("cannot note that the blobs are encrypted").map(drop)
        }
        Ok(_) | Err(BlobError::Missing(_)) => Ok(()),
        Err(error) => Err(error).context("cannot use the group's blobs"),
    }
}

async fn put_group(blobs: &Blobs, group: String) -> anyhow::Result<String> {
    let written = blobs.put(GROUP_BLOB, group.clone().into()).await.context("cannot write the blobs' group")?;
    debug_assert_eq!(written.hash, ContentHash::of(group.as_bytes()));
    Ok(group)
}

#[cfg(test)]
mod tests {
    use workrs_store::blobs::BlobKey;

    use super::*;

    #[tokio::test]
    async fn once_blobs_are_encrypted_the_key_is_needed() {
        let folder = tempfile::tempdir().unwrap();
        let open = || Blobs::open(&format!("file://{}", folder.path().display())).unwrap();
        let with_key = |digits: &str| open().with_key(BlobKey::parse(&digits.repeat(32)).unwrap());
        check_key(&open(), false).await.unwrap();
        check_key(&with_key("ab"), true).await.unwrap();
        check_key(&with_key("ab"), true).await.unwrap();
        assert!(check_key(&open(), false).await.is_err());
        assert!(check_key(&with_key("cd"), true).await.is_err());
    }

    #[tokio::test]
    async fn state_and_blobs_of_different_groups_do_not_mix() {
        let (state, blobs) = (RedbStore::in_memory(), Blobs::open("memory:").unwrap());
        let group = check_group(&state, &blobs).await.unwrap();
        assert_eq!(check_group(&state, &blobs).await.unwrap(), group);
        let (other_state, other_blobs) = (RedbStore::in_memory(), Blobs::open("memory:").unwrap());
        assert!(check_group(&other_state, &blobs).await.is_err());
        check_group(&other_state, &other_blobs).await.unwrap();
        assert!(check_group(&other_state, &blobs).await.is_err());
    }

    #[tokio::test]
    async fn nodes_that_make_a_group_at_once_make_one() {
        for _ in 0..100 {
            let (state, folder) = (Arc::new(RedbStore::in_memory()), tempfile::tempdir().unwrap());
            let url = format!("file://{}", folder.path().display());
            let nodes = (0..8).map(|_| (Arc::clone(&state), Blobs::open(&url).unwrap()));
            let checks = nodes.map(|(state, blobs)| tokio::spawn(async move { check_group(&*state, &blobs).await }));
            let groups = futures::future::join_all(checks).await;
            let groups: Vec<_> = groups.into_iter().map(|group| group.unwrap().unwrap()).collect();
            assert!(groups.iter().all(|group| *group == groups[0]), "{groups:?}");
        }
    }
}
