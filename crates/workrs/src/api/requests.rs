//! What the API takes, as JSON.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use workrs_core::spec::{JobSpec, parse_duration, parse_size};

use super::problem::Problem;

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

    fn bytes(&self, field: &str) -> Result<u64, Problem> {
        parse_size(&self.text()).map_err(|error| Problem::invalid(field, error))
    }

    fn millis(&self, field: &str) -> Result<u64, Problem> {
        let text = match self {
            Self::Number(seconds) => format!("{seconds}s"),
            Self::Text(text) => text.clone(),
        };
        parse_duration(&text)
            .map(|duration| duration.as_millis() as u64)
            .map_err(|error| Problem::invalid(field, error))
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
    /// `host` (the default): a frozen copy of the node's own programs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
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
    /// `auto`, `none`, `files` or `every=30s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<String>,
    /// Labels that a node must have.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub constraints: BTreeMap<String, String>,
    /// `none`: only the job's own loopback.
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
    /// The specification of `command`, checked.
    pub fn resolve(&self, command: Vec<String>, default_name: &str) -> Result<JobSpec, Problem> {
        let name = self.name.clone().unwrap_or_else(|| default_name.to_owned());
        let mut spec = JobSpec::new(name, command);
        spec.env.clone_from(&self.env);
        spec.constraints.clone_from(&self.constraints);
        spec.outputs.clone_from(&self.outputs);
        if let Some(image) = &self.image {
            spec.image.clone_from(image);
        }
        if let Some(cpus) = &self.cpus {
            spec.cpus_milli = (cpus.number("cpus")? * 1_000.0).round() as u32;
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
            spec.retries = retries.number("retries")? as u32;
        }
        if let Some(priority) = &self.priority {
            spec.priority = priority.number("priority")? as u8;
        }
        if let Some(checkpoint) = &self.checkpoint {
            spec.checkpoint = checkpoint.parse()?;
        }
        if let Some(network) = self.network.as_deref().filter(|network| *network != "none") {
            let reason =
                format!("{network:?} is not available; jobs of this version see only their own loopback (none)");
            return Err(Problem::invalid("network", reason));
        }
        for pattern in &spec.outputs {
            globset::Glob::new(pattern).map_err(|error| Problem::invalid("outputs", error))?;
        }
        spec.validate()?;
        Ok(spec)
    }
}
