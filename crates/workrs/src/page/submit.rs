//! The form that hands a job over. What it holds is sent by the page's script to the API, whose own words about a field
//! that cannot be accepted are shown at that field.

use std::collections::BTreeMap;

use askama::Template;
use axum::{Extension, extract::State, response::Response};
use serde::Deserialize;
use workrs_core::{
    id::JobId,
    job::JobRecord,
    spec::{HOST_IMAGE, JobSpec, Network, format_duration, format_size},
};

use super::{Shell, html};
use crate::{
    access::{Caller, Role},
    api::{Api, Problem, extract::Query, inside},
};

/// What the form begins with.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Beginning {
    /// A job that is to be run again.
    from: Option<String>,
}

#[derive(Template)]
#[template(path = "submit.html")]
struct SubmitPage {
    shell: Shell,
    values: Values,
    images: Vec<String>,
    /// What is not carried over from a former job.
    note: Option<String>,
    may_change: bool,
}

/// What stands in the fields. Empty means what the API takes by default.
#[derive(Debug, Default, PartialEq, Eq)]
struct Values {
    name: String,
    command: String,
    image: String,
    cpus: String,
    memory: String,
    disk: String,
    timeout: String,
    forecast: String,
    retries: String,
    checkpoint: String,
    every: String,
    network: String,
    priority: String,
    env: String,
    constraints: String,
    outputs: String,
}

impl Values {
    fn of(spec: &JobSpec) -> Self {
        let defaults = JobSpec::new("", Vec::new());
        let unless = |is_default: bool, text: String| if is_default { String::new() } else { text };
        let time = |millis: Option<u64>| {
            millis.map(|millis| format_duration(std::time::Duration::from_millis(millis))).unwrap_or_default()
        };
        let policy = unless(spec.checkpoint == spec.network.default_checkpoint(), spec.checkpoint.to_string());
        let (checkpoint, every) = match policy.split_once('=') {
            Some((every, interval)) => (every.to_owned(), interval.to_owned()),
            None => (policy, String::new()),
        };
        Self {
            name: spec.name.clone(),
            command: quoted(&spec.command),
            image: unless(spec.image == HOST_IMAGE, spec.image.clone()),
            cpus: unless(spec.cpus_milli == defaults.cpus_milli, (f64::from(spec.cpus_milli) / 1_000.0).to_string()),
            memory: unless(spec.memory_bytes == defaults.memory_bytes, format_size(spec.memory_bytes)),
            disk: unless(spec.disk_bytes == defaults.disk_bytes, format_size(spec.disk_bytes)),
            timeout: time(spec.timeout_ms),
            forecast: time(spec.forecast_ms),
            retries: unless(spec.retries == 0, spec.retries.to_string()),
            checkpoint,
            every,
            network: unless(spec.network == Network::None, spec.network.to_string()),
            priority: unless(spec.priority == defaults.priority, spec.priority.to_string()),
            env: lines(&spec.env),
            constraints: lines(&spec.constraints),
            outputs: spec.outputs.join("\n"),
        }
    }
}

fn lines(pairs: &BTreeMap<String, String>) -> String {
    pairs.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join("\n")
}

/// A command as one writes it in a shell: words with anything special in them are quoted. The form's script takes it apart
/// in the same way.
pub(super) fn quoted(command: &[String]) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "-_./=:,@%+^".contains(c);
    let word = |word: &String| {
        if !word.is_empty() && word.chars().all(is_plain) {
            word.clone()
        } else {
            format!("'{}'", word.replace('\'', r"'\''"))
        }
    };
    command.iter().map(word).collect::<Vec<_>>().join(" ")
}

pub(super) async fn form(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Query(beginning): Query<Beginning>,
) -> Result<Response, Problem> {
    let former = match beginning.from {
        Some(id) => Some(inside::find_job(&api, &caller, &JobId::new(id)?).await?),
        None => None,
    };
    Ok(html(&SubmitPage {
        values: former.as_ref().map(|record| Values::of(&record.spec)).unwrap_or_default(),
        note: former.as_ref().and_then(not_carried_over),
        images: inside::image_names(&api).await?,
        may_change: caller.role >= Role::User,
        shell: Shell::new("Hand over a job", "new", &caller),
    }))
}

/// Inputs go when their job has ended, so they have to be handed over again.
fn not_carried_over(record: &JobRecord) -> Option<String> {
    record.inputs.as_ref()?;
    Some(format!(
        "{} had files, which are removed when a job has ended: add them again before you hand this over.",
        record.spec.name
    ))
}

#[cfg(test)]
mod tests {
    use workrs_core::spec::CheckpointPolicy;

    use super::*;

    #[test]
    fn commands_are_written_as_a_shell_reads_them() {
        let check = |words: &[&str], expect: &str| {
            let words: Vec<_> = words.iter().map(|word| (*word).to_owned()).collect();
            assert_eq!(quoted(&words), expect);
        };
        check(&["python3", "./a.py", "20"], "python3 ./a.py 20");
        check(&["sh", "-c", "echo 'a b' > c", ""], r"sh -c 'echo '\''a b'\'' > c' ''");
    }

    #[test]
    fn only_what_differs_from_the_defaults_stands_in_the_form() {
        let mut spec = JobSpec::new("n", vec!["true".into()]);
        let plain = Values { name: "n".into(), command: "true".into(), ..Values::default() };
        assert_eq!(Values::of(&spec), plain);
        spec.cpus_milli = 500;
        spec.checkpoint = CheckpointPolicy::Every(std::time::Duration::from_secs(30));
        spec.env.insert("A".into(), "b c".into());
        let values = Values::of(&spec);
        assert_eq!((values.cpus.as_str(), values.env.as_str()), ("0.5", "A=b c"));
        assert_eq!((values.checkpoint.as_str(), values.every.as_str()), ("every", "30s"));
    }
}
