//! `up`: runs a node until it is told to stop.

use std::{io::IsTerminal, os::unix::process::CommandExt, process::Command, sync::Arc};

use anyhow::Context;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;
use tracing_subscriber::EnvFilter;
use workrs_core::{id::JobId, spec::format_size};

use crate::{
    api::{self, Access, Api, Fairness, Feed, Fullness, GroupCapacity},
    args::UpArgs,
    config::{self, Config, Machine, Secrets},
    exit_codes,
    images::{Images, Pulls},
    index::JobIndex,
    joblog::Peers,
    node,
    quotas::Quotas,
    tls::Certificates,
    wire::{self, Wired},
};

/// Set once the process has a mount namespace of its own.
const NAMESPACE_MARK: &str = "WORKRS_OWN_MOUNTS";

/// Runs a node.
pub fn up(args: &UpArgs) -> anyhow::Result<u8> {
    let config = config::resolve(args, Secrets::here(), &Machine::here())?;
    if rustix::process::geteuid().is_root() && std::env::var_os(NAMESPACE_MARK).is_none() {
        return enter_namespace();
    }
    log_to_stderr(args.json_log);
    // Everything that this process does is done within it, so every line of the log says which node wrote it.
    let span = tracing::info_span!("node", node = %config.name);
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(serve(config).instrument(span))
}

/// Goes on in a mount namespace of its own, so that job disks and loop devices vanish with the last process of
/// the node, however it ends. Only comes back with an error.
fn enter_namespace() -> anyhow::Result<u8> {
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    let error = Command::new("unshare")
        .args(["--mount", "--propagation", "slave", "--"])
        .arg(program)
        .args(std::env::args_os().skip(1))
        .env(NAMESPACE_MARK, "1")
        .exec();
    Err(error).context("cannot run unshare (package util-linux)")
}

fn log_to_stderr(json: bool) {
    let filter = EnvFilter::try_from_env("WORKRS_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    // Colours are for terminals: in a file or a journal they are in the way.
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false)
        .with_ansi(colours)
        .with_writer(std::io::stderr);
    if json {
        subscriber.json().flatten_event(true).with_current_span(false).with_span_list(true).init();
    } else {
        subscriber.init();
    }
}

async fn serve(config: Config) -> anyhow::Result<u8> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    // Bound first: a port that is taken must not cost the jobs of the node that has it anything.
    let listener = TcpListener::bind(config.listen).await;
    let listener =
        listener.with_context(|| format!("cannot listen on {} (choose another with --listen)", config.listen))?;
    let address = listener.local_addr()?;
    let Wired { parts, node: node_config, certificates, warnings, name: _name } =
        wire::open(&Config { listen: address, ..config.clone() }).await?;
    let (records, blobs) = (parts.records.clone(), parts.blobs.clone());
    let work_dir = node_config.work_dir.clone();
    let node = node::start(node_config, parts).await?;
    let stopping = CancellationToken::new();
    let peers = Peers::new(node.incarnation().clone(), config.token.clone()).context("cannot speak to other nodes")?;
    let access = Access::new(address, config.token.clone(), Arc::clone(records.store()));
    let access = access.with_tls(certificates.is_some());
    let api = Api {
        capacity: Arc::new(GroupCapacity::new(records.clone())),
        index: Arc::new(JobIndex::new(records.clone())),
        fullness: Arc::new(Fullness::new(Arc::clone(records.store()))),
        images: Images::new(Arc::clone(records.store()), blobs.clone()),
        quotas: Arc::new(Quotas::new(Arc::clone(records.store()))),
        records,
        blobs,
        pulls: Arc::new(Pulls::new(config.insecure_registries.clone())),
        work_dir,
        live_logs: node.live_logs(),
        peers,
        access: Arc::new(access),
        fairness: Arc::new(Fairness::new(config.rate_limit)),
        events: Feed::default(),
        certificates: certificates.clone(),
        stopping: stopping.clone(),
    };
    let server = tokio::spawn(api::serve(listener, api).in_current_span());
    if let Some(certificates) = &certificates {
        tokio::spawn(Arc::clone(certificates).follow_files().in_current_span());
    }
    greet(&config, address, &node, certificates.as_deref());
    for warning in warnings {
        eprintln!("warning: {warning}");
    }
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    let jobs = super::print::count(node.job_count() as u64, "job");
    eprintln!("stopping: saving {jobs}, at most {} s", config.stop_timeout.as_secs());
    let report = tokio::select! {
        report = node.stop(config.stop_timeout) => report,
        _ = interrupt.recv() => {
            eprintln!("stopping at once; jobs go on from their newest checkpoints");
            return Ok(exit_codes::FAILED);
        }
    };
    stopping.cancel();
    // Whoever still reads from a stream must not keep the node up.
    let _ = tokio::time::timeout(std::time::Duration::from_secs(2), server).await;
    let list = |ids: &[JobId]| ids.iter().map(JobId::as_str).collect::<Vec<_>>().join(", ");
    if !report.saved.is_empty() {
        eprintln!("saved with all their work: {}", list(&report.saved));
    }
    if !report.released.is_empty() {
        eprintln!("released at their last checkpoint: {}", list(&report.released));
    }
    Ok(0)
}

fn greet(
    config: &Config,
    address: std::net::SocketAddr,
    node: &node::RunningNode,
    certificates: Option<&Certificates>,
) {
    let scheme = if certificates.is_some() { "https" } else { "http" };
    eprintln!(
        "node {} is up: {scheme}://{address}, {} cores, {} memory, data in {}",
        config.name,
        f64::from(config.cpus_milli) / 1_000.0,
        format_size(config.memory_bytes),
        config.data_dir.display()
    );
    if let Some(certificates) = certificates {
        eprintln!(
            "certificate: {} (SHA-256; clients believe it by --tls-fingerprint)",
            *certificates.fingerprint().borrow()
        );
    } else if !address.ip().is_loopback() {
        eprintln!(
            "warning: what goes to and from {address} is not encrypted: whoever is on the way can read and change it, \
             tokens too\nhint: use --tls self-made instead of --insecure"
        );
    }
    let capabilities = node.capabilities();
    if let Err(reason) = &capabilities.run {
        eprintln!("warning: this node runs no jobs: {reason}\nhint: run `workrs doctor`");
    } else if let Err(reason) = &capabilities.dump {
        eprintln!(
            "warning: this node cannot checkpoint memory: {reason}\n\
             jobs with --checkpoint files are saved, others start anew if the node dies\nhint: run `workrs doctor`"
        );
    }
}
