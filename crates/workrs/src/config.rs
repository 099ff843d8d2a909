//! The configuration of a node: flags over environment over file over defaults, resolved and checked once.

mod listening;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Deserialize;
use workrs_core::{
    id::NodeId,
    plan::rate::DEFAULT_PRIOR_MTBF,
    spec::{InvalidSpec, Network, format_duration, parse_duration, parse_size},
};
use workrs_store::blobs::BlobKey;

use self::listening::{Listening, Options};
use crate::{
    args::UpArgs,
    host::{self, CPU_FEATURES_LABEL},
    node::{CheckpointQuota, Roles},
    tls,
};

/// Where a node keeps everything unless told otherwise.
pub const DEFAULT_DATA_DIR: &str = "/var/lib/workrs";
/// Space for job disks unless told otherwise.
pub const DEFAULT_DISK_POOL: &str = "16G";
const DEFAULT_KEEP_FINISHED: &str = "30d";
const DEFAULT_KEEP_AUDIT: &str = "90d";
/// What `keep-finished` and `keep-audit` take instead of a duration.
const FOREVER: &str = "forever";
const MIN_LEASE: Duration = Duration::from_secs(2);

/// All that `up` needs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Where the API listens.
    pub listen: SocketAddr,
    /// What the API shows of itself; `None` means plain HTTP.
    pub tls: Option<tls::Source>,
    /// Requests of each caller a second; `None` means any number.
    pub rate_limit: Option<u32>,
    /// Where other nodes and clients reach the API; by default where it listens.
    pub advertise: Option<String>,
    /// What requests must carry beyond loopback.
    pub token: Option<String>,
    /// What the node does for the group.
    pub roles: Roles,
    /// Where everything of this node lies.
    pub data_dir: PathBuf,
    /// The node's name.
    pub name: NodeId,
    /// URL of the state.
    pub state: String,
    /// Who asks etcd: user and password.
    pub etcd_user: Option<(String, String)>,
    /// URL of the blobs.
    pub blobs: String,
    /// Processor time for jobs, in thousandths of a core.
    pub cpus_milli: u32,
    /// Memory for jobs.
    pub memory_bytes: u64,
    /// Space for job disks.
    pub disk_pool_bytes: u64,
    /// Space for the unpacked layers of images.
    pub image_cache_bytes: u64,
    /// What runs jobs.
    pub engine: EngineChoice,
    /// Where Docker's daemon listens: a path or `unix://` URL; `None` means where it usually does.
    pub docker_socket: Option<String>,
    /// How long the group waits for a sign of life.
    pub lease: Duration,
    /// Time to save jobs at the stop.
    pub stop_timeout: Duration,
    /// The longest log that is kept of a job.
    pub log_limit_bytes: u64,
    /// How much checkpoint data jobs may have.
    pub checkpoint_quota: CheckpointQuota,
    /// The mean time between a node's faults that is assumed before any was seen.
    pub prior_mtbf: Duration,
    /// How long records of finished jobs stay in the state store.
    pub archive_after: Duration,
    /// How long finished jobs stay; `None` means for ever.
    pub keep_finished: Option<Duration>,
    /// How long the audit trail stays; `None` means for ever.
    pub keep_audit: Option<Duration>,
    /// What blobs are encrypted with.
    pub encryption_key: Option<BlobKey>,
    /// How long a job waits for a node that fits its checkpoint.
    pub unfit_wait: Duration,
    /// What jobs may ask for.
    pub labels: BTreeMap<String, String>,
    /// What of this machine's network jobs may use.
    pub allow_network: Network,
    /// Whether admins may make this node fail, to see that jobs outlive it.
    pub allow_drills: bool,
    /// Registries that are asked without TLS.
    pub insecure_registries: Vec<String>,
}

impl Config {
    /// Where other nodes and clients reach the API.
    pub fn address(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        self.advertise.clone().unwrap_or_else(|| format!("{scheme}://{}", self.listen))
    }
}

/// What is to run jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EngineChoice {
    /// The best that works here.
    Auto,
    /// runc, called directly.
    Runc,
    /// A Docker daemon of this host.
    #[cfg(feature = "docker")]
    Docker,
}

impl EngineChoice {
    /// Reads the option `--engine`.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        match text {
            "auto" => Ok(Self::Auto),
            "runc" => Ok(Self::Runc),
            #[cfg(feature = "docker")]
            "docker" => Ok(Self::Docker),
            other => {
                let known = if cfg!(feature = "docker") { "auto, runc, docker" } else { "auto, runc" };
                Err(ConfigError::Value { option: "engine", reason: format!("{other:?} is not one of {known}") })
            }
        }
    }
}

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {path}: {reason}")]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A value makes no sense.
    #[error("invalid {option}: {reason}")]
    Value {
        /// Which option.
        option: &'static str,
        /// What is wrong.
        reason: String,
    },
}

/// The options as a file gives them: the same names, without the dashes.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
struct FileOptions {
    listen: Option<String>,
    tls_cert: Option<PathBuf>,
    tls_key: Option<PathBuf>,
    tls: Option<String>,
    insecure: bool,
    rate_limit: Option<String>,
    advertise: Option<String>,
    role: Option<String>,
    data_dir: Option<PathBuf>,
    name: Option<String>,
    state: Option<String>,
    blobs: Option<String>,
    blobs_shared: bool,
    cpus: Option<f64>,
    memory: Option<String>,
    disk_pool: Option<String>,
    image_cache: Option<String>,
    lease: Option<String>,
    engine: Option<String>,
    docker_socket: Option<String>,
    stop_timeout: Option<String>,
    log_limit: Option<String>,
    job_checkpoint_quota: Option<String>,
    checkpoint_quota: Option<String>,
    prior_mtbf: Option<String>,
    archive_after: Option<String>,
    keep_finished: Option<String>,
    keep_audit: Option<String>,
    encryption_key_file: Option<PathBuf>,
    unfit_wait: Option<String>,
    labels: BTreeMap<String, String>,
    allow_network: Option<String>,
    allow_drills: bool,
    insecure_registries: Vec<String>,
}

/// What the machine has, for defaults.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// Its name.
    pub hostname: String,
    /// Its cores.
    pub cores: u32,
    /// Its memory in bytes.
    pub memory_bytes: u64,
}

impl Machine {
    /// This machine.
    pub fn here() -> Self {
        let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let total = memory.lines().find_map(|line| line.strip_prefix("MemTotal:"));
        let kib: u64 = total.and_then(|text| text.trim().strip_suffix(" kB")?.parse().ok()).unwrap_or(1 << 20);
        Self {
            hostname: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            cores: std::thread::available_parallelism().map_or(1, |cores| u32::try_from(cores.get()).unwrap_or(1)),
            memory_bytes: kib << 10,
        }
    }
}

/// What comes from the environment only, as command lines can be read by every user of the machine.
#[derive(Default)]
pub struct Secrets {
    /// `WORKRS_TOKEN`.
    pub token: Option<String>,
    /// `WORKRS_ETCD_USER` and `WORKRS_ETCD_PASSWORD`.
    pub etcd_user: Option<(String, String)>,
    /// `WORKRS_ENCRYPTION_KEY`.
    pub encryption_key: Option<String>,
}

impl Secrets {
    /// Those of this process. What is set to nothing counts as not set.
    pub fn here() -> Self {
        let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let etcd_user =
            variable("WORKRS_ETCD_USER").map(|user| (user, variable("WORKRS_ETCD_PASSWORD").unwrap_or_default()));
        Self { token: variable("WORKRS_TOKEN"), etcd_user, encryption_key: variable("WORKRS_ENCRYPTION_KEY") }
    }
}

/// Resolves the options of `up`.
pub fn resolve(args: &UpArgs, secrets: Secrets, machine: &Machine) -> Result<Config, ConfigError> {
    let file = args.config.as_deref().map(read_file).transpose()?.unwrap_or_default();
    let text = |flag: &Option<String>, file: &Option<String>, default: &str| {
        flag.clone().or_else(|| file.clone()).unwrap_or_else(|| default.to_owned())
    };
    let value = |option: &'static str, reason: String| ConfigError::Value { option, reason };
    let duration = |option, text: String| parse_duration(&text).map_err(|error| value(option, error.to_string()));
    let size = |option, text: String| parse_size(&text).map_err(|error| value(option, error.to_string()));

    let default_mtbf = format_duration(DEFAULT_PRIOR_MTBF);
    let token = secrets.token;
    let listening = Options {
        listen: args.listen.clone().or(file.listen),
        tls_cert: args.tls_cert.clone().or(file.tls_cert),
        tls_key: args.tls_key.clone().or(file.tls_key),
        tls: args.tls.clone().or(file.tls),
        insecure: args.insecure || file.insecure,
        rate_limit: args.rate_limit.clone().or(file.rate_limit),
    };
    let Listening { address: listen, tls, rate_limit } = listening.resolve(token.is_some())?;
    let allow_network = allow_network(&text(&args.allow_network, &file.allow_network, "none"), token.is_some())?;
    let advertise = args.advertise.clone().or(file.advertise).map(|url| check_advertise(&url)).transpose()?;
    if tls.is_some() && advertise.as_ref().is_some_and(|url| url.starts_with("http://")) {
        return Err(value("advertise", "this node speaks TLS: its address begins with https://".to_owned()));
    }
    let data_dir = args.data_dir.clone().or(file.data_dir).unwrap_or_else(|| DEFAULT_DATA_DIR.into());
    let data_dir = std::path::absolute(&data_dir).map_err(|error| value("data-dir", error.to_string()))?;
    let name = text(&args.name, &file.name, &machine.hostname);
    let cpus = match (&args.cpus, &file.cpus) {
        (Some(cpus), _) => cpus.clone(),
        (None, Some(cpus)) => cpus.to_string(),
        (None, None) => machine.cores.to_string(),
    };
    let cpus: f64 = cpus
        .parse()
        .ok()
        .filter(|cpus| (0.001..=100_000.0).contains(cpus))
        .ok_or_else(|| value("cpus", format!("{cpus:?} is not a number of cores")))?;
    let engine = EngineChoice::parse(&text(&args.engine, &file.engine, "auto"))?;
    let lease = duration("lease", text(&args.lease, &file.lease, "5s"))?;
    if lease < MIN_LEASE {
        return Err(value("lease", "must be at least 2s".to_owned()));
    }
    let state = text(&args.state, &file.state, &format!("redb:{}", data_dir.join("state.redb").display()));
    let blobs = text(&args.blobs, &file.blobs, &format!("file://{}", data_dir.join("blobs").display()));
    let is_group = state.starts_with("etcd");
    if is_group && listen.ip().is_unspecified() && advertise.is_none() {
        let reason =
            format!("{listen} is every address of this machine; say by --advertise at which one others reach it");
        return Err(value("listen", reason));
    }
    if is_group && blobs.starts_with("file:") && !(args.blobs_shared || file.blobs_shared) {
        let reason = format!(
            "the state is in etcd, for many machines, but {blobs} is a folder of this one: other nodes would not find the \
             jobs' data; use s3://…, or --blobs-shared if all nodes see the same folder there"
        );
        return Err(value("blobs", reason));
    }
    let memory = text(&args.memory, &file.memory, &(machine.memory_bytes / 4 * 3).to_string());
    Ok(Config {
        listen,
        tls,
        rate_limit,
        advertise,
        token,
        roles: roles(&text(&args.role, &file.role, "all"))?,
        name: NodeId::new(name).map_err(|error| value("name", error.to_string()))?,
        state,
        etcd_user: secrets.etcd_user,
        blobs,
        cpus_milli: (cpus * 1_000.0).round() as u32,
        memory_bytes: size("memory", memory)?,
        disk_pool_bytes: size("disk-pool", text(&args.disk_pool, &file.disk_pool, DEFAULT_DISK_POOL))?,
        image_cache_bytes: size("image-cache", text(&args.image_cache, &file.image_cache, "20G"))?,
        engine,
        docker_socket: args.docker_socket.clone().or(file.docker_socket),
        lease,
        stop_timeout: duration("stop-timeout", text(&args.stop_timeout, &file.stop_timeout, "80s"))?,
        log_limit_bytes: size("log-limit", text(&args.log_limit, &file.log_limit, "64M"))?,
        checkpoint_quota: CheckpointQuota {
            job_bytes: args
                .job_checkpoint_quota
                .clone()
                .or(file.job_checkpoint_quota)
                .map(|text| size("job-checkpoint-quota", text))
                .transpose()?,
            node_bytes: args
                .checkpoint_quota
                .clone()
                .or(file.checkpoint_quota)
                .map(|text| size("checkpoint-quota", text))
                .transpose()?,
        },
        prior_mtbf: duration("prior-mtbf", text(&args.prior_mtbf, &file.prior_mtbf, &default_mtbf))?,
        archive_after: duration("archive-after", text(&args.archive_after, &file.archive_after, "1h"))?,
        keep_finished: match text(&args.keep_finished, &file.keep_finished, DEFAULT_KEEP_FINISHED) {
            keep if keep == FOREVER => None,
            keep => Some(duration("keep-finished", keep)?),
        },
        keep_audit: match text(&args.keep_audit, &file.keep_audit, DEFAULT_KEEP_AUDIT) {
            keep if keep == FOREVER => None,
            keep => Some(duration("keep-audit", keep)?),
        },
        encryption_key: encryption_key(
            args.encryption_key_file.as_deref().or(file.encryption_key_file.as_deref()),
            secrets.encryption_key,
        )?,
        unfit_wait: duration("unfit-wait", text(&args.unfit_wait, &file.unfit_wait, "10m"))?,
        labels: labels(&args.labels, file.labels)?,
        allow_network,
        allow_drills: args.allow_drills || file.allow_drills,
        insecure_registries: insecure_registries(&args.insecure_registries, file.insecure_registries)?,
        data_dir,
    })
}

/// A job with the machine's network reaches this node's API on loopback, too, where without a token everybody may do anything.
fn allow_network(text: &str, has_token: bool) -> Result<Network, ConfigError> {
    let invalid = |reason| ConfigError::Value { option: "allow-network", reason };
    let allowed: Network = text.parse().map_err(|error: InvalidSpec| invalid(error.reason))?;
    if allowed == Network::Host && !has_token {
        let reason = "jobs with the network of this machine reach the node's own API; set WORKRS_TOKEN to a secret that \
                      every request must carry";
        return Err(invalid(reason.to_owned()));
    }
    Ok(allowed)
}

fn roles(text: &str) -> Result<Roles, ConfigError> {
    let mut roles = Roles { run: false, keep: false };
    for role in text.split(',') {
        match role.trim() {
            "all" => roles = Roles::default(),
            "run" => roles.run = true,
            "keep" => roles.keep = true,
            "none" => {}
            other => {
                let reason = format!("{other:?} is not one of all, run, keep, none");
                return Err(ConfigError::Value { option: "role", reason });
            }
        }
    }
    Ok(roles)
}

/// The URL without a slash at its end.
fn check_advertise(url: &str) -> Result<String, ConfigError> {
    let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
    match rest.map(|rest| rest.trim_end_matches('/')) {
        Some(host) if !host.is_empty() && !host.contains('/') => Ok(url.trim_end_matches('/').to_owned()),
        _ => {
            let reason = format!("{url:?} is not http://HOST:PORT");
            Err(ConfigError::Value { option: "advertise", reason })
        }
    }
}

fn encryption_key(file: Option<&Path>, variable: Option<String>) -> Result<Option<BlobKey>, ConfigError> {
    let text = match (file, variable) {
        (Some(_), Some(_)) => {
            let reason = "WORKRS_ENCRYPTION_KEY is set too; give one of them".to_owned();
            return Err(ConfigError::Value { option: "encryption-key-file", reason });
        }
        (Some(path), None) => std::fs::read_to_string(path)
            .map_err(|error| ConfigError::File { path: path.to_owned(), reason: error.to_string() })?,
        (None, Some(text)) => text,
        (None, None) => return Ok(None),
    };
    let invalid = |reason| ConfigError::Value { option: "encryption key", reason };
    BlobKey::parse(&text).map(Some).map_err(|error| invalid(error.to_string()))
}

fn labels(flags: &[String], file: BTreeMap<String, String>) -> Result<BTreeMap<String, String>, ConfigError> {
    let mut labels = file;
    for flag in flags {
        let Some((key, value)) = flag.split_once('=') else {
            return Err(ConfigError::Value { option: "label", reason: format!("{flag:?} is not KEY=VALUE") });
        };
        labels.insert(key.to_owned(), value.to_owned());
    }
    if labels.contains_key(CPU_FEATURES_LABEL) && host::cpu_features(&labels).is_empty() {
        let reason = format!("{CPU_FEATURES_LABEL} needs at least one feature, as in {CPU_FEATURES_LABEL}=avx,avx2");
        return Err(ConfigError::Value { option: "label", reason });
    }
    Ok(labels)
}

fn insecure_registries(flags: &[String], file: Vec<String>) -> Result<Vec<String>, ConfigError> {
    let registries = if flags.is_empty() { file } else { flags.to_vec() };
    let is_host = |text: &String| !text.is_empty() && !text.contains(['/', '@']) && !text.contains(char::is_whitespace);
    match registries.iter().find(|registry| !is_host(registry)) {
        Some(registry) => {
            let reason = format!("{registry:?} is not HOST or HOST:PORT");
            Err(ConfigError::Value { option: "insecure-registry", reason })
        }
        None => Ok(registries),
    }
}

fn read_file(path: &Path) -> Result<FileOptions, ConfigError> {
    let failed = |reason: String| ConfigError::File { path: path.to_owned(), reason };
    let text = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
    toml::from_str(&text).map_err(|error| failed(error.to_string()))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Args, Command};

    fn resolve_flags(flags: &[&str], token: Option<&str>) -> Result<Config, ConfigError> {
        let args = Args::parse_from([&["workrs", "up"], flags].concat());
        let Command::Up(up) = args.command else { unreachable!() };
        let machine = Machine { hostname: "edge-1".into(), cores: 4, memory_bytes: 8 << 30 };
        let secrets = Secrets { token: token.map(str::to_owned), ..Secrets::default() };
        resolve(&up, secrets, &machine)
    }

    #[test]
    fn defaults_come_from_the_machine() {
        let config = resolve_flags(&["--data-dir", "/d"], None).unwrap();
        assert_eq!((config.cpus_milli, config.memory_bytes), (4_000, 6 << 30));
        assert_eq!((config.state.as_str(), config.blobs.as_str()), ("redb:/d/state.redb", "file:///d/blobs"));
        assert_eq!(config.name.as_str(), "edge-1");
    }

    #[test]
    fn jobs_get_the_network_only_where_the_api_wants_a_token() {
        let allowed = |flags: &[&str], token| resolve_flags(flags, token).map(|config| config.allow_network);
        assert_eq!(allowed(&[], None).unwrap(), Network::None);
        assert_eq!(allowed(&["--allow-network", "none"], None).unwrap(), Network::None);
        assert_eq!(allowed(&["--allow-network", "host"], Some("s3cret")).unwrap(), Network::Host);
        let refused = allowed(&["--allow-network", "host"], None).unwrap_err().to_string();
        assert!(refused.contains("allow-network") && refused.contains("WORKRS_TOKEN"), "{refused}");
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("workrs.toml");
        std::fs::write(&path, "allow-network = \"host\"\n").unwrap();
        let flags = ["--config", path.to_str().unwrap()];
        assert!(allowed(&flags, None).is_err());
        assert_eq!(allowed(&flags, Some("s3cret")).unwrap(), Network::Host);
        let over = [&flags[..], &["--allow-network", "none"]].concat();
        assert_eq!(allowed(&over, None).unwrap(), Network::None);
    }

    #[test]
    fn others_must_be_told_where_to_find_the_node() {
        let alone = ["--listen", "0.0.0.0:1", "--insecure"];
        assert!(resolve_flags(&alone, Some("s3cret")).is_ok(), "there are no others");
        let all = [&alone[..], &["--state", "etcd://a:1", "--blobs", "s3://b/c"]].concat();
        assert!(resolve_flags(&all, Some("s3cret")).unwrap_err().to_string().contains("--advertise"));
        let told = [&all[..], &["--advertise", "http://edge-1:1/"]].concat();
        let config = resolve_flags(&told, Some("s3cret")).unwrap();
        assert_eq!(config.address(), "http://edge-1:1");
    }

    #[test]
    fn the_address_that_is_told_is_one_of_tls_where_the_node_speaks_it() {
        let address = |flags: &[&str]| resolve_flags(flags, None).map(|config| config.address());
        assert_eq!(address(&[]).unwrap(), "http://127.0.0.1:7480");
        let own = ["--tls", "self-made"];
        assert_eq!(address(&own).unwrap(), "https://127.0.0.1:7480");
        assert_eq!(address(&[&own[..], &["--advertise", "https://a:1"]].concat()).unwrap(), "https://a:1");
        assert!(address(&[&own[..], &["--advertise", "http://a:1"]].concat()).is_err());
        assert_eq!(address(&["--advertise", "https://proxy"]).unwrap(), "https://proxy");
    }

    #[test]
    fn a_folder_of_one_machine_is_no_place_for_the_blobs_of_many() {
        let state = ["--state", "etcd://a:1,b:1/x"];
        assert!(resolve_flags(&state, None).unwrap_err().to_string().contains("--blobs-shared"));
        assert!(resolve_flags(&[&state[..], &["--blobs-shared"]].concat(), None).is_ok());
        assert!(resolve_flags(&[&state[..], &["--blobs", "s3://bucket/x"]].concat(), None).is_ok());
    }

    #[test]
    fn flags_count_before_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("workrs.toml");
        std::fs::write(&path, "cpus = 1.5\nmemory = \"1G\"\nlease = \"9s\"\n[labels]\nsite = \"barn\"\n").unwrap();
        let config = resolve_flags(&["--config", path.to_str().unwrap(), "--memory", "2G"], None).unwrap();
        assert_eq!((config.cpus_milli, config.memory_bytes, config.lease.as_secs()), (1_500, 2 << 30, 9));
        assert_eq!(config.labels["site"], "barn");
        std::fs::write(&path, "colour = 1").unwrap();
        let error = resolve_flags(&["--config", path.to_str().unwrap()], None).unwrap_err();
        assert!(error.to_string().contains("colour"), "{error}");
    }

    #[test]
    fn the_encryption_key_comes_from_a_file_or_the_environment_but_not_from_both() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let key = "ab".repeat(32);
        std::fs::write(&path, format!("{key}\n")).unwrap();
        assert!(encryption_key(None, None).unwrap().is_none());
        assert!(encryption_key(Some(&path), None).unwrap().is_some());
        assert!(encryption_key(None, Some(key.clone())).unwrap().is_some());
        assert!(encryption_key(Some(&path), Some(key)).is_err());
        let error = encryption_key(None, Some("short".to_owned())).unwrap_err().to_string();
        assert!(error.contains("encryption key") && !error.contains("short"), "{error}");
        assert!(encryption_key(Some(Path::new("/nowhere/key")), None).is_err());
    }

    #[test]
    fn values_that_make_no_sense_are_named() {
        for (flag, value) in [
            ("--cpus", "0"),
            ("--memory", "lots"),
            ("--lease", "1s"),
            ("--name", "a/b"),
            ("--engine", "magic"),
            ("--role", "cook"),
            ("--advertise", "edge-1"),
            ("--label", "x"),
            ("--allow-network", "some"),
            ("--label", "cpu-features="),
            ("--checkpoint-quota", "some"),
            ("--keep-finished", "ever"),
            ("--insecure-registry", "http://a"),
            ("--tls", "home-made"),
            ("--rate-limit", "0/s"),
            ("--rate-limit", "fast"),
        ] {
            let error = resolve_flags(&[flag, value], None).unwrap_err().to_string();
            assert!(error.contains(&flag[2..]), "{flag}: {error}");
        }
    }
}
