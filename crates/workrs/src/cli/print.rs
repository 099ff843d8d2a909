//! How things look to a person.

mod access;
mod images;

use std::{fmt::Write, time::Duration};

use jiff::Timestamp;
use workrs_core::spec::format_size;

use self::images::{familiar, short};
pub use self::{
    access::{audit, quota, quotas, token_created, token_revoked, tokens},
    images::{images, imported, pulled, removed_image},
};
use crate::api::{DrainView, DrillView, JobView, NodeView};

/// The most that is shown of what a checkpoint needs, in characters.
const LONGEST_NEEDS: usize = 160;

/// An error and what to do about it.
pub fn error(error: &anyhow::Error, hint: Option<&str>) -> String {
    let mut text = format!("error: {error}");
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        // Causes that a text above has quoted already add nothing.
        if !text.contains(&cause) {
            // Writing to a string cannot fail.
            let _ = write!(text, ": {cause}");
        }
    }
    text.push('\n');
    if let Some(hint) = hint {
        let _ = writeln!(text, "hint: {hint}");
    }
    text
}

/// Columns as wide as their widest cell.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        let line = cells.collect::<Vec<_>>().join("  ");
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// A point in time, in UTC.
pub fn time(millis: u64) -> String {
    let timestamp = i64::try_from(millis).ok().and_then(|millis| Timestamp::from_millisecond(millis).ok());
    timestamp.map_or_else(|| "?".to_owned(), |timestamp| timestamp.strftime("%Y-%m-%d %H:%M:%SZ").to_string())
}

/// A span of time, as short as is useful.
pub fn span(millis: u64) -> String {
    match millis {
        0..1_000 => format!("{millis}ms"),
        1_000..60_000 => format!("{:.1}s", millis as f64 / 1_000.0),
        _ => workrs_core::spec::format_duration(Duration::from_secs(millis / 1_000)),
    }
}

/// A number of things: `1 file`, `2 files`.
pub fn count(number: u64, thing: &str) -> String {
    if number == 1 { format!("1 {thing}") } else { format!("{number} {thing}s") }
}

/// What is not under our control must not move the cursor or colour the terminal.
pub fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// How a job stands, in a word or two.
pub fn state(job: &JobView) -> String {
    match (job.outcome.as_deref(), job.exit_code) {
        (Some("failed"), Some(code)) => format!("failed ({code})"),
        (Some("failed"), None) => format!("failed ({})", job.failure.as_deref().unwrap_or("?")),
        (Some(outcome), _) => outcome.to_owned(),
        (None, _) if job.cancel_requested => "cancelling".to_owned(),
        (None, _) => job.state.clone(),
    }
}

/// A list of jobs.
pub fn jobs(jobs: &[JobView]) -> String {
    let mut rows =
        vec![["ID", "NAME", "STATE", "NODE", "TRIES", "CHECKPOINTS", "SUBMITTED"].map(str::to_owned).to_vec()];
    rows.extend(jobs.iter().map(|job| {
        vec![
            job.id.clone(),
            clean(&job.name),
            state(job),
            job.node.clone().unwrap_or_else(|| "-".to_owned()),
            job.totals.attempts.to_string(),
            job.totals.checkpoints.to_string(),
            time(job.submitted_at),
        ]
    }));
    table(&rows)
}

/// A list of nodes.
pub fn nodes(nodes: &[NodeView]) -> String {
    let mut rows =
        vec![["NAME", "ADDRESS", "CPUS", "MEMORY", "DISKS", "ENGINE", "JOBS", "SINCE"].map(str::to_owned).to_vec()];
    rows.extend(nodes.iter().map(|node| {
        vec![
            node.name.clone(),
            node.address.clone(),
            node.cpus.to_string(),
            format_size(node.memory_bytes),
            format_size(node.disk_bytes),
            node.engine.clone(),
            node.jobs.len().to_string(),
            time(node.started_at),
        ]
    }));
    let mut text = table(&rows);
    for node in nodes {
        if node.network != "none" {
            let _ = writeln!(text, "{}: jobs may use its network (--network {})", node.name, clean(&node.network));
        }
        if let Some(fingerprint) = &node.tls_fingerprint {
            let _ = writeln!(text, "{}: certificate {}", node.name, clean(fingerprint));
        }
        if node.draining {
            let _ = writeln!(text, "{}: is drained: it takes no jobs", node.name);
        }
        if let Some(reason) = &node.cannot_run {
            let _ = writeln!(text, "{}: runs no jobs: {}", node.name, clean(reason));
        } else if let Some(reason) = &node.cannot_dump {
            let _ = writeln!(text, "{}: cannot checkpoint memory: {}", node.name, clean(reason));
        }
    }
    text
}

/// A drill that a node was asked for.
pub fn drill(view: &DrillView) -> String {
    let name = &view.name;
    match &view.job {
        Some(job) => format!("node {name} is told to fail {job}; follow it with: workrs logs -f {job}\n"),
        None => format!("node {name} is told to kill itself; see `workrs nodes` and `workrs ls`\n"),
    }
}

/// A job that a drained node gave back, as it stands now.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct DrainedJob {
    /// Its id.
    pub id: String,
    /// How it stands, if that can be told.
    pub state: Option<String>,
    /// The node that has it now.
    pub node: Option<String>,
}

/// How a node stands that is drained or no longer is, and where the jobs are that it gave back.
pub fn drain(view: &DrainView, moved: &[DrainedJob]) -> String {
    let name = &view.name;
    let mut text = match (view.draining, view.live, view.jobs.len() as u64) {
        (false, ..) => format!("node {name} takes jobs again\n"),
        (true, false, _) => format!("node {name} is drained and not up; it takes no jobs when it comes back\n"),
        (true, true, 0) => format!("node {name} is drained: it runs no jobs and takes none\n"),
        (true, true, jobs) => {
            format!("node {name} takes no jobs; it gives back the {} that it has\n", count(jobs, "job"))
        }
    };
    for job in moved {
        let state = job.state.as_deref().unwrap_or("not known");
        let node = job.node.as_ref().map_or_else(String::new, |node| format!(" on {node}"));
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{}: {state}{node}", job.id);
    }
    if view.draining {
        let _ = writeln!(text, "undo it with: workrs drain {name} --undo");
    }
    text
}

/// All about a job.
pub fn job(job: &JobView) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "{name:12}{value}");
    };
    line("id", job.id.clone());
    line("name", clean(&job.name));
    line("state", state(job));
    if let Some(outcome) = &job.outcome_text {
        line("outcome", format!("the job {}", clean(outcome)));
    }
    if let Some(reason) = &job.reason {
        line("waits", clean(reason));
    }
    if let Some(node) = &job.node {
        line("node", node.clone());
    }
    if let Some(network) = job.spec["network"].as_str().filter(|network| *network != "none") {
        line("network", format!("{}: what it does outside may happen more than once", clean(network)));
    }
    if let (Some(image), Some(digest)) = (job.spec["image"].as_str(), job.spec["image_digest"].as_str()) {
        line("image", format!("{} ({})", familiar(image), short(digest)));
    }
    line("submitted", time(job.submitted_at));
    if let Some(at) = job.finished_at {
        line("finished", format!("{} ({} after the submit)", time(at), span(at.saturating_sub(job.submitted_at))));
    }
    line("resumable", resumable(job));
    line("checkpoint", plan(job));
    if let Some(forecast) = forecast(job) {
        line("forecast", forecast);
    }
    if let Some(decision) = job.plan.decision.as_ref().filter(|_| job.state == "running") {
        let lost = span((decision.lost_if_died_s * 1e3) as u64);
        line("at risk", format!("{lost} of work, had the node died at {}", time(decision.at)));
    }
    if job.totals.checkpoints > 0 {
        let totals = &job.totals;
        let each = span(totals.standstill_ms / totals.checkpoints);
        line(
            "so far",
            format!(
                "{}, {each} standstill each on average, {} uploaded, {} died with it",
                count(totals.checkpoints, "checkpoint"),
                format_size(totals.uploaded_bytes),
                count(totals.losses, "node")
            ),
        );
    }
    text + &attempts(job) + &checkpoints(job)
}

fn resumable(job: &JobView) -> String {
    match (job.resumable.yes, &job.resumable.reason) {
        (Some(true), _) => "yes".to_owned(),
        (Some(false), Some(reason)) => format!("no, because {}", clean(reason)),
        (Some(false), None) => "no".to_owned(),
        (None, _) => "not known before the first checkpoint".to_owned(),
    }
}

fn plan(job: &JobView) -> String {
    match &job.plan.decision {
        Some(decision) if job.state == "running" => {
            format!("{}: {} (said at {})", job.plan.policy, clean(&decision.reason), time(decision.at))
        }
        _ => job.plan.policy.clone(),
    }
}

/// What a node expected, and what came true.
fn forecast(job: &JobView) -> Option<String> {
    let first = job.plan.first_forecast.as_ref()?;
    let expected = format!("expected at {} to end at {}", time(first.at), time(first.end_at));
    let now = job.plan.decision.as_ref().filter(|decision| decision.at > first.at && job.finished_at.is_none());
    Some(match (job.finished_at, now.and_then(|decision| Some((decision.at, decision.expected_finish_in_s?)))) {
        (Some(end), _) if end >= first.end_at => format!("{expected}, ended {} later", span(end - first.end_at)),
        (Some(end), _) => format!("{expected}, ended {} earlier", span(first.end_at - end)),
        (None, Some((at, left))) => format!("{expected}, now at {}", time(at + (left * 1e3) as u64)),
        (None, None) => expected,
    })
}

fn attempts(job: &JobView) -> String {
    if job.attempts.is_empty() {
        return String::new();
    }
    let mut rows = vec![["TRY", "NODE", "STARTED", "FROM", "WHAT HAPPENED"].map(str::to_owned).to_vec()];
    rows.extend(job.attempts.iter().map(|attempt| {
        let from =
            if attempt.start == "clean" { "the beginning".to_owned() } else { format!("checkpoint {}", attempt.start) };
        let notes = attempt.notes.iter().map(|note| clean(note)).collect::<Vec<_>>().join("; ");
        let started = attempt.started_at.map_or_else(|| "-".to_owned(), time);
        vec![attempt.epoch.to_string(), attempt.node.clone(), started, from, notes]
    }));
    format!("\n{}", table(&rows))
}

fn checkpoints(job: &JobView) -> String {
    if job.checkpoints.is_empty() {
        return String::new();
    }
    let mut rows = vec![
        ["CHECKPOINT", "AT RUN TIME", "STANDSTILL", "TOTAL", "SIZE", "UPLOADED", "STANDING"]
            .map(str::to_owned)
            .to_vec(),
    ];
    rows.extend(job.checkpoints.iter().map(|checkpoint| {
        let standing = match &checkpoint.reason {
            Some(reason) => format!("{}: {}", checkpoint.standing, clean(reason)),
            None => checkpoint.standing.clone(),
        };
        vec![
            format!("{}-{}", checkpoint.epoch, checkpoint.seq),
            span(checkpoint.run_ms),
            span(checkpoint.standstill_ms),
            span(checkpoint.total_ms),
            format_size(checkpoint.size_bytes),
            format_size(checkpoint.uploaded_bytes),
            standing,
        ]
    }));
    format!("\n{}{}", table(&rows), where_to_resume(job))
}

/// As much of a text as is worth a look; `--json` has it all.
fn beginning(text: &str, characters: usize) -> String {
    match text.char_indices().nth(characters) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// What the checkpoint that the job would go on from needs of a node, and which nodes do not have it.
fn where_to_resume(job: &JobView) -> String {
    let newest = job.checkpoints.iter().rev().find(|checkpoint| checkpoint.standing == "kept");
    let mut text = String::new();
    if let Some(checkpoint) = newest {
        let id = format!("checkpoint {}-{}", checkpoint.epoch, checkpoint.seq);
        // Writing to a string cannot fail.
        if let Some(needs) = &checkpoint.needs {
            let _ = writeln!(text, "{id} needs {}", beginning(&clean(needs), LONGEST_NEEDS));
        }
        for (node, reason) in &checkpoint.declined {
            let _ = writeln!(text, "{id} cannot be resumed on {node}: {}", clean(reason));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use workrs_core::{
        fit::{HostNeeds, Version},
        hash::ContentHash,
        id::{Epoch, Incarnation, JobId, NodeId, Owner, Timestamp},
        job::{
            BlobRef, Checkpoint, CheckpointId, CheckpointMode, Failure, Holder, JobEvent, JobRecord, Outcome, Standing,
        },
        plan::PlanNote,
        spec::JobSpec,
    };

    use super::*;
    use crate::client::{ClientError, Tried};

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_millis(1_795_000_000_000 + seconds * 1_000)
    }

    fn holder(epoch: u64) -> Holder {
        let node = NodeId::new("barn-1").unwrap();
        Holder { node, incarnation: Incarnation::new("process-1").unwrap(), epoch: Epoch(epoch) }
    }

    fn committed(epoch: u64, seq: u64) -> JobEvent {
        let checkpoint = Checkpoint {
            id: CheckpointId { epoch: Epoch(epoch), seq },
            mode: CheckpointMode::Full,
            manifest: Some(BlobRef { name: "m".into(), hash: ContentHash::of(b"m"), len: 1 }),
            standing: Standing::Kept,
            at: at(seq * 30),
            standstill_ms: 130,
            total_ms: 420,
            size_bytes: 53 << 20,
            uploaded_bytes: 12 << 20,
            run_ms: seq * 30_000,
            log_bytes: seq * 100,
            needs: HostNeeds {
                engine: "runc".into(),
                format: Some(2),
                arch: "x86_64".into(),
                cpu: vec!["avx".into(), "avx2".into()],
                kernel: Version::of("6.18.5"),
                criu: Version::of("4.2.1"),
            },
            refused_by: Vec::new(),
            declined: Vec::new(),
        };
        JobEvent::CheckpointCommitted { holder: holder(epoch), checkpoint }
    }

    fn planned() -> PlanNote {
        PlanNote {
            at: at(61),
            next_in_s: Some(41.0),
            expected_finish_in_s: Some(720.0),
            lost_if_died_s: 1.25,
            reason: "next checkpoint in 41 s: C 0.2 s, one fault in 3 h expected, 12 min left".into(),
            ..PlanNote::default()
        }
    }

    /// A job whose node died, whose newest checkpoint turned out bad, and that failed in the end.
    fn eventful() -> Vec<JobEvent> {
        let bad = CheckpointId { epoch: Epoch(1), seq: 2 };
        let outcome = Outcome::Failed { failure: Failure::Exit { code: 3 } };
        vec![
            JobEvent::Claimed { holder: holder(1), at: at(1) },
            JobEvent::Started { holder: holder(1), at: at(2), plan: None, note: None },
            committed(1, 1),
            committed(1, 2),
            JobEvent::Planned { holder: holder(1), plan: planned() },
            JobEvent::NodeLost { holder: holder(1), at: at(70), reason: "node barn-1 died".into() },
            JobEvent::Claimed { holder: holder(2), at: at(75) },
            JobEvent::FellBack { holder: holder(2), bad, reason: "the hash of its manifest differs".into() },
            JobEvent::Started { holder: holder(2), at: at(76), plan: None, note: None },
            JobEvent::CheckpointFailed { holder: holder(2), reason: "criu: Can't dump this socket".into() },
            JobEvent::Finished {
                holder: holder(2),
                at: at(100),
                outcome,
                outputs: None,
                output_bytes: 0,
                log_bytes: 250,
            },
        ]
    }

    fn view(events: usize) -> JobView {
        let spec = JobSpec::new("train\u{1b}[31m.py", vec!["true".into()]);
        let id = JobId::new("job-1").unwrap();
        let record = JobRecord::submitted(id, Owner::new("local").unwrap(), spec, None, at(0));
        let record = eventful()[..events].iter().fold(record, |record, event| record.apply(event).unwrap());
        JobView::from(&record)
    }

    #[test]
    fn a_job_tells_its_story() {
        for (name, events) in [("queued", 0), ("running", 5), ("waiting_again", 6), ("failed", 11)] {
            insta::assert_snapshot!(name, job(&view(events)));
        }
        insta::assert_snapshot!("list", jobs(&[view(0), view(5), view(11)]));
    }

    #[test]
    fn errors_say_what_and_why_and_what_to_do() {
        let tried = |server: &str, reason: &str| Tried { server: server.into(), reason: reason.into() };
        let one = tried("http://127.0.0.1:7480", "Connection refused");
        let two = tried("http://barn-2:7480", "it does not answer");
        for (name, tried) in [("unreachable", vec![one.clone()]), ("all_unreachable", vec![one, two])] {
            let unreachable = ClientError::Unreachable(tried);
            let hint = unreachable.hint();
            insta::assert_snapshot!(name, error(&unreachable.into(), hint.as_deref()));
        }
    }

    #[test]
    fn a_drain_tells_what_became_of_the_jobs() {
        let view = |draining, live, jobs: &[&str]| DrainView {
            name: "barn-1".into(),
            draining,
            live,
            jobs: jobs.iter().map(|job| (*job).to_owned()).collect(),
        };
        let job = |id: &str, state: &str, node: Option<&str>| DrainedJob {
            id: id.into(),
            state: Some(state.into()),
            node: node.map(str::to_owned),
        };
        let moved = [job("job-1", "running", Some("barn-2")), job("job-2", "queued", None)];
        let texts = [
            drain(&view(true, true, &[]), &moved),
            drain(&view(true, true, &["job-1"]), &[]),
            drain(&view(true, false, &[]), &[]),
            drain(&view(false, true, &[]), &[]),
        ];
        insta::assert_snapshot!("drain", texts.join("\n"));
    }

    #[test]
    fn nodes_tell_what_is_special_about_them() {
        let node = |name: &str, draining, jobs: &[&str]| NodeView {
            name: name.into(),
            incarnation: "process-1".into(),
            address: format!("http://{name}:7480"),
            tls_fingerprint: (name == "barn-1").then(|| "0123456789abcdef".repeat(4)),
            version: "0.1.0".into(),
            started_at: at(0).as_millis(),
            cpus: 4.0,
            memory_bytes: 6 << 30,
            disk_bytes: 20 << 30,
            labels: std::collections::BTreeMap::new(),
            network: if name == "barn-1" { "host" } else { "none" }.into(),
            engine: "runc".into(),
            arch: "x86_64".into(),
            cpu_features: vec!["avx".into()],
            kernel: "6.18.5".into(),
            criu: "4.2.1".into(),
            cannot_run: (name == "shed").then(|| "runc is not there".to_owned()),
            cannot_dump: None,
            draining,
            drills: false,
            jobs: jobs.iter().map(|job| (*job).to_owned()).collect(),
        };
        let all = [node("barn-1", false, &["job-1", "job-2"]), node("barn-2", true, &[]), node("shed", false, &[])];
        insta::assert_snapshot!("nodes", nodes(&all));
    }
}
