//! What a user asks for: the resolved specification of a job, its limits and their checks.
//!
//! Units: sizes in bytes, times in milliseconds, processor time in thousandths of a core.

mod script;
mod units;

use std::{collections::BTreeMap, fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};

pub use self::{
    script::{InvalidScript, command_for_script},
    units::{InvalidUnit, format_duration, format_size, parse_duration, parse_size},
};
use crate::{hash::ContentHash, image::ImageDigest};

/// The longest job name, in characters.
pub const MAX_JOB_NAME_LEN: usize = 100;
/// Command and environment together must fit a record, which is at most 4 KiB.
pub const MAX_COMMAND_AND_ENV_LEN: usize = 1_536;
/// The smallest memory limit: below it not even a shell starts reliably.
pub const MIN_MEMORY: u64 = 8 << 20;
/// The smallest job disk: ext4's own structures need a part of it.
pub const MIN_DISK: u64 = 8 << 20;
/// The largest job disk and memory: beyond it a number is a mistake.
pub const MAX_BYTES: u64 = 1 << 44;
/// The shortest interval between checkpoints that may be asked for.
pub const MIN_CHECKPOINT_INTERVAL: Duration = Duration::from_secs(1);
/// The interval of `--checkpoint files`, and of `auto` where nobody plans.
pub const DEFAULT_CHECKPOINT_INTERVAL: Duration = Duration::from_secs(60);

/// The name of the image that is a frozen copy of the node's own `/usr`.
pub const HOST_IMAGE: &str = "host";
/// The longest name of an image, in bytes.
pub const MAX_IMAGE_LEN: usize = 512;
/// Where a job finds its inputs and leaves its outputs.
pub const JOB_FOLDER: &str = "/job";

/// When and how a job is checkpointed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum CheckpointPolicy {
    /// Memory, disk and log, whenever Workrs thinks it pays.
    #[default]
    Auto,
    /// Never.
    None,
    /// Disk and log only: the program is started anew on its files, every minute's state kept.
    Files,
    /// Memory, disk and log at a fixed interval of run time.
    Every(Duration),
}

impl CheckpointPolicy {
    /// The run time between two checkpoints; `None` when there are to be none.
    pub fn interval(self) -> Option<Duration> {
        match self {
            Self::Auto | Self::Files => Some(DEFAULT_CHECKPOINT_INTERVAL),
            Self::None => None,
            Self::Every(interval) => Some(interval),
        }
    }
}

impl fmt::Display for CheckpointPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::None => f.write_str("none"),
            Self::Files => f.write_str("files"),
            Self::Every(interval) => write!(f, "every={}", format_duration(*interval)),
        }
    }
}

impl FromStr for CheckpointPolicy {
    type Err = InvalidSpec;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = |reason: String| InvalidSpec { field: "checkpoint", reason };
        match text.split_once('=') {
            None if text == "auto" => Ok(Self::Auto),
            None if text == "none" => Ok(Self::None),
            None if text == "files" => Ok(Self::Files),
            Some(("every", interval)) => {
                let interval = parse_duration(interval).map_err(|error| invalid(error.to_string()))?;
                if interval < MIN_CHECKPOINT_INTERVAL {
                    return Err(invalid("the interval must be at least 1s".to_owned()));
                }
                Ok(Self::Every(interval))
            }
            _ => Err(invalid(format!("{text:?} is not one of auto, none, files, every=DURATION"))),
        }
    }
}

impl TryFrom<String> for CheckpointPolicy {
    type Error = InvalidSpec;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<CheckpointPolicy> for String {
    fn from(policy: CheckpointPolicy) -> Self {
        policy.to_string()
    }
}

/// What of the network a job sees.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// Only its own loopback interface.
    #[default]
    None,
    /// All that its node sees, where the node's operator allows it.
    Host,
}

impl Network {
    /// Whether a node that allows `allowed` may run a job that asks for this.
    pub fn is_within(self, allowed: Self) -> bool {
        self == Self::None || allowed == Self::Host
    }

    /// Whether it is that of a job which says nothing about it.
    pub fn is_none(&self) -> bool {
        *self == Self::None
    }

    /// When a job is checkpointed whose user does not say. A memory that comes back twice repeats its random numbers, keys and
    /// counters, and others may have seen them, where there are others.
    pub fn default_checkpoint(self) -> CheckpointPolicy {
        match self {
            Self::None => CheckpointPolicy::Auto,
            Self::Host => CheckpointPolicy::Files,
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Host => "host",
        })
    }
}

impl FromStr for Network {
    type Err = InvalidSpec;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "none" => Ok(Self::None),
            "host" => Ok(Self::Host),
            _ => Err(InvalidSpec { field: "network", reason: format!("{text:?} is not one of none, host") }),
        }
    }
}

/// The resolved specification of a job: nothing in it depends on the node that reads it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobSpec {
    /// What people call the job; jobs of the same name are runs of the same work.
    pub name: String,
    /// Program and arguments, the image's entry point included.
    pub command: Vec<String>,
    /// Where the program starts; [`JOB_FOLDER`] if nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub folder: Option<String>,
    /// The root file system: [`HOST_IMAGE`], or an image as the user named it.
    pub image: String,
    /// Which image that was when the job was handed over; `None` for [`HOST_IMAGE`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_digest: Option<ImageDigest>,
    /// The processor architecture that it is for, in Rust's words; `None` for [`HOST_IMAGE`], and where this was not noted yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_arch: Option<String>,
    /// Added to the job's environment.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Processor time, in thousandths of a core.
    pub cpus_milli: u32,
    /// Memory limit.
    pub memory_bytes: u64,
    /// Size of the job disk, which holds all that the job writes.
    pub disk_bytes: u64,
    /// The longest time that the job may run, not counting standstill and undone work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// How often a job that failed by itself is started anew.
    #[serde(default)]
    pub retries: u32,
    /// How long the user expects the job to run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forecast_ms: Option<u64>,
    /// When and how the job is checkpointed.
    #[serde(default)]
    pub checkpoint: CheckpointPolicy,
    /// Labels that a node must have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub constraints: BTreeMap<String, String>,
    /// What of the network the job sees.
    #[serde(default)]
    pub network: Network,
    /// Which files of `/job` are outputs, as globs; empty means every new or changed one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub outputs: Vec<String>,
    /// 0 is served first, 9 last.
    #[serde(default = "default_priority")]
    pub priority: u8,
    /// Fields that a newer version wrote.
    #[serde(flatten)]
    pub unknown: BTreeMap<String, serde_json::Value>,
}

fn default_priority() -> u8 {
    5
}

/// A specification that cannot be run anywhere.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid {field}: {reason}")]
pub struct InvalidSpec {
    /// The field, by its name in the API.
    pub field: &'static str,
    /// What is wrong with it.
    pub reason: String,
}

impl JobSpec {
    /// A specification of `command` under `name` with every default.
    pub fn new(name: impl Into<String>, command: Vec<String>) -> Self {
        Self {
            name: name.into(),
            command,
            folder: None,
            image: HOST_IMAGE.to_owned(),
            image_digest: None,
            image_arch: None,
            env: BTreeMap::new(),
            cpus_milli: 1_000,
            memory_bytes: 512 << 20,
            disk_bytes: 1 << 30,
            timeout_ms: None,
            retries: 0,
            forecast_ms: None,
            checkpoint: CheckpointPolicy::Auto,
            constraints: BTreeMap::new(),
            network: Network::None,
            outputs: Vec::new(),
            priority: default_priority(),
            unknown: BTreeMap::new(),
        }
    }

    /// Refuses what no node could run and what does not fit a record.
    pub fn validate(&self) -> Result<(), InvalidSpec> {
        let check = |holds: bool, field: &'static str, reason: &dyn Fn() -> String| {
            if holds { Ok(()) } else { Err(InvalidSpec { field, reason: reason() }) }
        };
        let name_is_printable = !self.name.is_empty() && !self.name.chars().any(char::is_control);
        check(name_is_printable, "name", &|| "must not be empty or contain control characters".into())?;
        let name_len = self.name.chars().count();
        check(name_len <= MAX_JOB_NAME_LEN, "name", &|| {
            format!("has {name_len} characters, at most {MAX_JOB_NAME_LEN} are allowed")
        })?;
        check(self.command.first().is_some_and(|program| !program.is_empty()), "command", &|| {
            "must name a program".into()
        })?;
        check(!self.command.iter().any(|part| part.contains('\0')), "command", &|| {
            "must not contain a NUL byte".into()
        })?;
        for key in self.env.keys() {
            check(!key.is_empty() && !key.contains(['=', '\0']), "env", &|| format!("{key:?} is not a variable name"))?;
        }
        check(!self.env.values().any(|value| value.contains('\0')), "env", &|| "must not contain a NUL byte".into())?;
        let texts = self
            .command
            .iter()
            .chain(&self.folder)
            .chain(self.env.keys())
            .chain(self.env.values())
            .chain(&self.outputs);
        let len: usize = texts.chain(self.constraints.keys()).chain(self.constraints.values()).map(String::len).sum();
        check(len <= MAX_COMMAND_AND_ENV_LEN, "command", &|| {
            format!(
                "command, environment, constraints and output patterns have {len} bytes together, at most \
                 {MAX_COMMAND_AND_ENV_LEN} are allowed; hand longer ones over in an input file"
            )
        })?;
        check((self.image == HOST_IMAGE) == self.image_digest.is_none(), "image", &|| {
            format!("{:?} is not known by a digest", self.image)
        })?;
        check(self.image.len() <= MAX_IMAGE_LEN, "image", &|| {
            format!("has {} bytes, at most {MAX_IMAGE_LEN} are allowed", self.image.len())
        })?;
        let folder_is_absolute = self.folder.as_ref().is_none_or(|path| path.starts_with('/') && !path.contains('\0'));
        check(folder_is_absolute, "folder", &|| "must be an absolute path".into())?;
        check((1..=1_000_000).contains(&self.cpus_milli), "cpus", &|| "must lie between 0.001 and 1000".into())?;
        check((MIN_MEMORY..=MAX_BYTES).contains(&self.memory_bytes), "memory", &|| bounds(MIN_MEMORY))?;
        check((MIN_DISK..=MAX_BYTES).contains(&self.disk_bytes), "disk", &|| bounds(MIN_DISK))?;
        check(self.timeout_ms != Some(0), "timeout", &|| "must be longer than zero".into())?;
        check(self.retries <= 1_000, "retries", &|| "must be at most 1000".into())?;
        check(self.priority <= 9, "priority", &|| "must lie between 0 (first) and 9 (last)".into())
    }

    /// The hash that tells whether two submits under one id are the same job.
    pub fn hash(&self, inputs: Option<ContentHash>) -> ContentHash {
        let spec = serde_json::to_vec(self).unwrap_or_default();
        let inputs = inputs.map(|hash| hash.to_string()).unwrap_or_default();
        ContentHash::of(&[spec, inputs.into_bytes()].concat())
    }
}

fn bounds(least: u64) -> String {
    format!("must lie between {} and {}", format_size(least), format_size(MAX_BYTES))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> JobSpec {
        JobSpec::new("count", vec!["true".to_owned()])
    }

    #[test]
    fn defaults_are_valid() {
        spec().validate().unwrap();
    }

    #[test]
    fn impossible_specs_name_the_field() {
        type Change = fn(&mut JobSpec);
        let cases: [(&str, Change); 10] = [
            ("name", |s| s.name = String::new()),
            ("name", |s| s.name = "a\nb".to_owned()),
            ("name", |s| s.name = "x".repeat(MAX_JOB_NAME_LEN + 1)),
            ("command", |s| s.command.clear()),
            ("command", |s| s.command.push("x".repeat(MAX_COMMAND_AND_ENV_LEN))),
            ("cpus", |s| s.cpus_milli = 0),
            ("memory", |s| s.memory_bytes = 1),
            ("disk", |s| s.disk_bytes = u64::MAX),
            ("timeout", |s| s.timeout_ms = Some(0)),
            ("env", |s| {
                s.env.insert("A=B".to_owned(), String::new());
            }),
        ];
        for (field, change) in cases {
            let mut spec = spec();
            change(&mut spec);
            assert_eq!(spec.validate().unwrap_err().field, field);
        }
    }

    #[test]
    fn checkpoint_policies_round_trip() {
        for text in ["auto", "none", "files", "every=30s", "every=1m 30s"] {
            assert_eq!(text.parse::<CheckpointPolicy>().unwrap().to_string(), text);
        }
        for text in ["", "every", "every=", "every=0s", "every=10ms", "often"] {
            assert!(text.parse::<CheckpointPolicy>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn fields_of_newer_versions_survive() {
        let mut json = serde_json::to_value(spec()).unwrap();
        json["from_the_future"] = serde_json::json!({"a": 1});
        let spec: JobSpec = serde_json::from_value(json.clone()).unwrap();
        assert_eq!(serde_json::to_value(spec).unwrap(), json);
    }
}
