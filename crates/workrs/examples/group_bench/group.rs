//! The nodes.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context;
use futures::{StreamExt, TryStreamExt};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use workrs::{
    api::{self, Access, Api, Fairness, Feed, Fullness, GroupCapacity},
    images::{Images, Pulls},
    index::JobIndex,
    joblog::Peers,
    node::{self, CheckpointQuota, NodeConfig, NodeParts, Roles, RunningNode},
    quotas::Quotas,
};
use workrs_core::{id::NodeId, spec::Network};
use workrs_engine::fake::FakeHost;
use workrs_store::{
    blobs::Blobs,
    etcd::{EtcdOptions, EtcdStore},
    records::Records,
};

/// Of each node, in thousandths.
pub const CPUS_MILLI: u32 = 64_000;
/// Far more than the jobs ask for.
const MEMORY_BYTES: u64 = 1 << 50;
const LEASE: Duration = Duration::from_secs(5);
/// Nodes that start at the same time.
const STARTS_AT_ONCE: usize = 8;
/// As many nodes have an API: what an API that nobody asks costs is not of interest.
const APIS: usize = 10;

/// The nodes of this process.
pub struct Group {
    options: EtcdOptions,
    folder: PathBuf,
    blobs: Blobs,
    nodes: Vec<RunningNode>,
    addresses: Vec<String>,
}

impl Group {
    /// No node yet; what the nodes write lies in `folder`.
    pub fn new(state: &str, folder: PathBuf) -> anyhow::Result<Self> {
        let (options, blobs) = (state.parse()?, Blobs::open("memory:")?);
        Ok(Self { options, folder, blobs, nodes: Vec::new(), addresses: Vec::new() })
    }

    /// How many there are.
    pub fn size(&self) -> usize {
        self.nodes.len()
    }

    /// Where their APIs are.
    pub fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// Starts nodes until there are `size`.
    pub async fn grow(&mut self, size: usize) -> anyhow::Result<()> {
        let starts = futures::stream::iter(self.nodes.len()..size).map(|number| self.start(number));
        let started: Vec<_> = starts.buffer_unordered(STARTS_AT_ONCE).try_collect().await?;
        for (node, address) in started {
            self.nodes.push(node);
            self.addresses.extend(address);
        }
        Ok(())
    }

    async fn start(&self, number: usize) -> anyhow::Result<(RunningNode, Option<String>)> {
        let folder = self.folder.join(format!("node-{number}"));
        std::fs::create_dir_all(&folder)?;
        let records = Records::new(Arc::new(EtcdStore::open(&self.options).await?));
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let config = NodeConfig {
            id: NodeId::new(format!("node-{number}"))?,
            host: format!("host-{number}"),
            address: format!("http://{address}"),
            tls_fingerprint: None,
            roles: Roles::default(),
            cpu_features: Vec::new(),
            stop_timeout: Duration::from_secs(80),
            cpus_milli: CPUS_MILLI,
            memory_bytes: MEMORY_BYTES,
            labels: BTreeMap::new(),
            allow_network: Network::None,
            allow_drills: false,
            lease: LEASE,
            log_limit_bytes: 64 << 20,
            unfit_wait: Duration::from_secs(600),
            work_dir: folder.join("work"),
            memory_dir: None,
            checkpoint_quota: CheckpointQuota::default(),
            prior_mtbf: Duration::from_secs(7 * 24 * 3_600),
            archive_after: Duration::from_secs(3_600),
            keep_finished: Some(Duration::from_secs(7 * 24 * 3_600)),
            keep_audit: None,
        };
        let engine = Arc::new(FakeHost::new(folder.clone()).engine());
        let parts = NodeParts { records: records.clone(), blobs: self.blobs.clone(), engine };
        let node = node::start(config, parts).await.with_context(|| format!("node {number}"))?;
        if number >= APIS {
            return Ok((node, None));
        }
        let access = Access::new(address, None, Arc::clone(records.store()));
        let api = Api {
            capacity: Arc::new(GroupCapacity::new(records.clone())),
            index: Arc::new(JobIndex::new(records.clone())),
            fullness: Arc::new(Fullness::new(Arc::clone(records.store()))),
            images: Images::new(Arc::clone(records.store()), self.blobs.clone()),
            pulls: Arc::new(Pulls::new(Vec::new())),
            work_dir: folder.join("work"),
            quotas: Arc::new(Quotas::new(Arc::clone(records.store()))),
            records,
            blobs: self.blobs.clone(),
            live_logs: node.live_logs(),
            peers: Peers::new(node.incarnation().clone(), None)?,
            access: Arc::new(access),
            fairness: Arc::new(Fairness::new(None)),
            events: Feed::default(),
            certificates: None,
            stopping: CancellationToken::new(),
        };
        tokio::spawn(api::serve(listener, api));
        Ok((node, Some(format!("http://{address}"))))
    }
}
