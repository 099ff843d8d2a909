//! What the API takes, as JSON.

use std::{collections::BTreeMap, ops::RangeInclusive, time::Duration};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use workrs_core::spec::{JobSpec, MAX_JOB_NAME_LEN, parse_duration, parse_size};

use super::{problem::Problem, program::Program};

/// The longest time that can be asked for: beyond it a number is a mistake.
const MAX_DURATION: Duration = Duration::from_secs(10_000_000_000);
/// The processor time that can be asked for, in cores.
const CPUS: RangeInclusive<f64> = 0.001..=1_000.0;

/// A number, or a text with a unit: `1.5`, `"512M"`, `"90s"`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum Quantity {
    /// Bytes, seconds or cores.
    Number(f64),
    /// With its unit.
    Text(String),
}

impl Quantity {
    fn text(&self) -> String {
        match self {
            Self::Number(number) => number.to_string(),
            Self::Text(text) => text.clone(),
        }
    }

    fn number(&self, field: &str) -> Result<f64, Problem> {
        let text = self.text();
        let number: f64 =
            text.trim().parse().map_err(|_| Problem::invalid(field, format!("{text:?} is not a number")))?;
        if number.is_finite() && number >= 0.0 {
            Ok(number)
        } else {
            Err(Problem::invalid(field, "must be a positive number"))
        }
    }

    /// A count: a number without a fraction.
    fn whole(&self, field: &str) -> Result<f64, Problem> {
        let number = self.number(field)?;
        if number.fract() == 0.0 { Ok(number) } else { Err(Problem::invalid(field, "must be a whole number")) }
    }

    fn bytes(&self, field: &str) -> Result<u64, Problem> {
        if let Self::Number(_) = self {
            self.whole(field)?;
        }
        parse_size(&self.text()).map_err(|error| Problem::invalid(field, error))
    }

    fn millis(&self, field: &str) -> Result<u64, Problem> {
        let text = match self {
            Self::Number(seconds) => format!("{seconds}s"),
            Self::Text(text) => text.clone(),
        };
        let duration = parse_duration(&text).map_err(|error| Problem::invalid(field, error))?;
        if duration > MAX_DURATION {
            return Err(Problem::invalid(field, format!("must be at most {} s", MAX_DURATION.as_secs())));
        }
        // A time that is not zero does not become so by being short.
        let is_some = matches!(self, Self::Number(seconds) if *seconds > 0.0);
        Ok((duration.as_millis() as u64).max(is_some.into()))
    }
}

/// What a submit asks for. Everything is optional but the work itself: a script, or a command.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SubmitRequest {
    /// Chosen by the client, so that a retry is the same job; drawn by the server otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// What people call the job; the script's or program's name otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Program and arguments; not together with a script.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// Arguments of the script.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// What it runs in: an image, as Docker names it, which is pulled into the group if it is not there; `sha256:…` of one
    /// that is; or `host` (the default), a frozen copy of the node's own programs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// The program that the command is given to, instead of the image's own entry point; an empty text means none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<String>,
    /// Added to the job's environment.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Cores, 1 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus: Option<Quantity>,
    /// Memory limit, 512M by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Quantity>,
    /// Size of the job's disk, 1G by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk: Option<Quantity>,
    /// The longest time that the job may run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Quantity>,
    /// How often a job that failed by itself is started anew.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retries: Option<Quantity>,
    /// How long the job is expected to run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub forecast: Option<Quantity>,
    /// `auto`, `none`, `files` or `every=30s`; `auto` by default, with the network `host` `files`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<String>,
    /// Labels that a node must have.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub constraints: BTreeMap<String, String>,
    /// `none` (the default): only the job's own loopback; `host`: all that its node sees, where the operator allows it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// Which files are outputs, as globs; every new or changed one otherwise.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub outputs: Vec<String>,
    /// 0 is served first, 9 last; 5 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<Quantity>,
}

impl SubmitRequest {
    /// The specification of `program`, checked.
    pub fn resolve(&self, program: Program) -> Result<JobSpec, Problem> {
        let name = self.name.clone().unwrap_or_else(|| printable(&program.default_name));
        let mut spec = JobSpec::new(name, program.command);
        spec.folder = program.folder;
        if let Some(image) = program.image {
            spec.image = image.name;
            spec.image_digest = Some(image.digest);
            spec.image_arch = Some(image.arch);
        }
        spec.env.clone_from(&self.env);
        spec.constraints.clone_from(&self.constraints);
        spec.outputs.clone_from(&self.outputs);
        if let Some(cpus) = &self.cpus {
            let cpus = cpus.number("cpus")?;
            if !CPUS.contains(&cpus) {
                return Err(Problem::invalid("cpus", "must lie between 0.001 and 1000"));
            }
            spec.cpus_milli = (cpus * 1_000.0).round() as u32;
        }
        if let Some(memory) = &self.memory {
            spec.memory_bytes = memory.bytes("memory")?;
        }
        if let Some(disk) = &self.disk {
            spec.disk_bytes = disk.bytes("disk")?;
        }
        spec.timeout_ms = self.timeout.as_ref().map(|timeout| timeout.millis("timeout")).transpose()?;
        spec.forecast_ms = self.forecast.as_ref().map(|forecast| forecast.millis("forecast")).transpose()?;
        if let Some(retries) = &self.retries {
            spec.retries = retries.whole("retries")? as u32;
        }
        if let Some(priority) = &self.priority {
            spec.priority = priority.whole("priority")? as u8;
        }
        if let Some(network) = &self.network {
            spec.network = network.parse()?;
        }
        spec.checkpoint = match &self.checkpoint {
            Some(checkpoint) => checkpoint.parse()?,
            None => spec.network.default_checkpoint(),
        };
        for pattern in &spec.outputs {
            check_glob(pattern)?;
        }
        spec.validate()?;
        Ok(spec)
    }
}

/// A name that a program or file gives a job, whatever they are called.
fn printable(name: &str) -> String {
    let name: String = name
        .chars()
        .take(MAX_JOB_NAME_LEN)
        .map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c })
        .collect();
    if name.is_empty() { "job".to_owned() } else { name }
}

/// A glob means the same in every shell: a bracket stands in a pair, and nothing is escaped but by one.
fn check_glob(pattern: &str) -> Result<(), Problem> {
    if pattern.contains(['\\', '\0']) {
        let detail = format!("{pattern:?} has a backslash or a NUL byte; write [*] for a star itself");
        return Err(Problem::invalid("outputs", detail));
    }
    if pattern.matches(']').count() > pattern.matches('[').count() {
        return Err(Problem::invalid("outputs", format!("{pattern:?} closes a bracket that it does not open")));
    }
    globset::Glob::new(pattern).map(drop).map_err(|error| Problem::invalid("outputs", error))
}

#[cfg(test)]
mod tests {
    use workrs_core::spec::{CheckpointPolicy, Network};

    use super::*;

    fn resolve(network: Option<&str>, checkpoint: Option<&str>) -> Result<JobSpec, Problem> {
        let own = |text: Option<&str>| text.map(str::to_owned);
        let request = SubmitRequest { network: own(network), checkpoint: own(checkpoint), ..SubmitRequest::default() };
        let command = vec!["true".to_owned()];
        request.resolve(Program { command, default_name: "n".to_owned(), folder: None, image: None })
    }

    #[test]
    fn a_job_has_a_name_that_can_be_shown_whatever_its_program_is_called() {
        assert_eq!(printable("train.py"), "train.py");
        assert_eq!(printable("a\u{1b}[31m"), "a\u{fffd}[31m");
        assert_eq!(printable(""), "job");
        assert_eq!(printable(&"x".repeat(300)).len(), MAX_JOB_NAME_LEN);
    }

    #[test]
    fn outputs_are_globs_without_tricks() {
        for good in ["*.csv", "out/**", "a?[0-9]", "{a,b}.txt", "[*]", ""] {
            assert!(check_glob(good).is_ok(), "{good:?}");
        }
        for bad in ["[", "]", "a]", "{a", "a}", "\\*", "a\0"] {
            let refused = check_glob(bad).unwrap_err();
            assert_eq!((refused.status, refused.field.as_deref()), (422, Some("outputs")), "{bad:?}");
        }
    }

    #[test]
    fn with_network_only_files_are_checkpointed_unless_the_user_says_otherwise() {
        let check = |network, checkpoint, expected: (Network, &str)| {
            let spec = resolve(network, checkpoint).unwrap();
            assert_eq!((spec.network, spec.checkpoint.to_string().as_str()), expected);
        };
        check(None, None, (Network::None, "auto"));
        check(Some("none"), None, (Network::None, "auto"));
        check(Some("host"), None, (Network::Host, "files"));
        check(Some("host"), Some("auto"), (Network::Host, "auto"));
        check(Some("host"), Some("none"), (Network::Host, "none"));
        assert_eq!(CheckpointPolicy::default(), Network::None.default_checkpoint());
        let refused = resolve(Some("bridge"), None).unwrap_err();
        assert_eq!((refused.status, refused.field.as_deref()), (422, Some("network")));
    }
}
