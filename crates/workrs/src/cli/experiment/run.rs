//! One run: a job on a node that is killed whenever a fault is drawn, until the job has come to its end.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail, ensure};
use futures::TryStreamExt;
use tokio::time::sleep;
use workrs_core::spec::CheckpointPolicy;

use super::{
    node::Node,
    results::{Key, Row},
};
use crate::{
    api::{JobView, LogLine, Quantity, SubmitRequest},
    client::Client,
};

/// Work is done in slots of this length.
const SLOT: f64 = 0.005;
const POLL: Duration = Duration::from_millis(25);

/// A job whose work is exact: so many slots of run time, in each of which it takes one step of a generator. After a
/// freeze or a restore it goes on with the next slot; at most the rest of one slot is got for nothing.
const JOB: &str = "\
import sys, time
slots, slot, state = int(sys.argv[1]), float(sys.argv[2]), 1
due = time.monotonic()
for _ in range(slots):
    state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
    due += slot
    wait = due - time.monotonic()
    if wait > 0:
        time.sleep(min(wait, slot))
    elif wait < -slot:
        due = time.monotonic()
print('ended', time.time(), state, flush=True)
";

/// What is run.
pub struct Order {
    /// Its name in the results.
    pub key: Key,
    /// The checkpoint policy.
    pub policy: CheckpointPolicy,
    /// What the user says how long the job runs, in seconds.
    pub forecast: Option<f64>,
    /// The job is given up after this many seconds.
    pub give_up: f64,
}

/// A mean of what was measured.
#[derive(Default)]
struct Mean {
    count: u64,
    sum: f64,
}

impl Mean {
    fn add(&mut self, value: f64) {
        self.count += 1;
        self.sum += value;
    }

    fn mean(&self) -> f64 {
        if self.count == 0 { 0.0 } else { self.sum / self.count as f64 }
    }
}

struct Running<'a, F> {
    node: &'a mut Node,
    client: Client,
    id: String,
    order: &'a Order,
    /// Gives the time that the node lives, each time it is up.
    lifetime: F,
    /// When the job first ran, in seconds since the epoch as all times here; the node cannot fail before.
    started: Option<f64>,
    /// When the node is killed.
    kill_at: f64,
    /// When the node was killed and when it was ready again, until the job runs again.
    away: Option<(f64, f64)>,
    faults: u64,
    detection: Mean,
    restore: Mean,
    clean_start: Mean,
}

/// Runs a job to its end and tells what was measured. `lifetime` gives the time in seconds until the node fails, counted
/// from the job's start or from the node's readiness after a fault.
pub async fn run(
    node: &mut Node,
    client: Client,
    order: &Order,
    lifetime: impl FnMut() -> f64,
) -> anyhow::Result<(Row, Client)> {
    let id = submit(&client, order).await?;
    let mut running = Running {
        node,
        client,
        id,
        order,
        lifetime,
        started: None,
        kill_at: f64::INFINITY,
        away: None,
        faults: 0,
        detection: Mean::default(),
        restore: Mean::default(),
        clean_start: Mean::default(),
    };
    let (job, finished) = running.until_the_end().await?;
    let completion = running.completion(finished).await?;
    Ok((running.row(&job, finished, completion), running.client))
}

fn slots(work: f64) -> u64 {
    (work / SLOT).round() as u64
}

async fn submit(client: &Client, order: &Order) -> anyhow::Result<String> {
    let arguments = ["python3", "-c", JOB, &slots(order.key.work).to_string(), &SLOT.to_string()];
    let request = SubmitRequest {
        id: Some(workrs_store::fresh::id()),
        name: Some(format!("experiment-{}", order.key.plan)),
        command: arguments.map(str::to_owned).to_vec(),
        disk: Some(Quantity::Text("32M".to_owned())),
        checkpoint: Some(order.policy.to_string()),
        forecast: order.forecast.map(Quantity::Number),
        ..SubmitRequest::default()
    };
    Ok(client.submit(&request, None, &[], |_| {}).await?.id)
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

impl<F: FnMut() -> f64> Running<'_, F> {
    /// Kills the node as often as it has to be, and gives the job as it then is, and whether it came to its end.
    async fn until_the_end(&mut self) -> anyhow::Result<(JobView, bool)> {
        loop {
            if now() >= self.kill_at {
                self.fault().await?;
            }
            self.node.check()?;
            let job = match self.client.job(&self.id, None).await {
                // It is busy; that it runs was checked above.
                Err(error) if error.is_passing() => {
                    sleep(POLL).await;
                    continue;
                }
                job => job?,
            };
            self.note_start(&job);
            match job.outcome.as_deref() {
                Some("succeeded") => return Ok((job, true)),
                // Too many faults in a row without a checkpoint: the user insists.
                Some("lost") => drop(self.client.run_on(&self.id).await?),
                Some(_) => bail!("the job {}", job.outcome_text.as_deref().unwrap_or("ended")),
                None => {}
            }
            if self.started.is_some_and(|started| now() - started > self.order.give_up) {
                self.client.cancel(&self.id).await?;
                return Ok((job, false));
            }
            let next = Duration::try_from_secs_f64((self.kill_at - now()).max(0.0)).unwrap_or(POLL);
            sleep(next.min(POLL)).await;
        }
    }

    /// The node dies, and comes back.
    async fn fault(&mut self) -> anyhow::Result<()> {
        self.node.kill().await?;
        let died = now();
        self.faults += 1;
        self.client = self.node.start().await?;
        let ready = now();
        self.detection.add(ready - died);
        self.away = Some((died, ready));
        self.kill_at = ready + (self.lifetime)();
        Ok(())
    }

    /// Notes that the job runs, for the first time or again.
    fn note_start(&mut self, job: &JobView) {
        let Some(attempt) = job.attempts.last() else { return };
        let Some(at) = attempt.started_at.map(|at| at as f64 / 1e3) else { return };
        if self.started.is_none() {
            self.started = Some(at);
            self.kill_at = at + (self.lifetime)();
        }
        if let Some((_, ready)) = self.away.filter(|(died, _)| at > *died) {
            self.away = None;
            let mean = if attempt.start == "clean" { &mut self.clean_start } else { &mut self.restore };
            mean.add((at - ready).max(0.0));
        }
    }

    /// From the job's start to its end by its own clock, which is this host's. Checks its result.
    async fn completion(&self, finished: bool) -> anyhow::Result<f64> {
        let started = self.started.context("the job ended before it ran")?;
        if !finished {
            return Ok(now() - started);
        }
        let lines: Vec<LogLine> = self.client.logs(&self.id, 0, false).await?.try_collect().await?;
        let log: String = lines
            .into_iter()
            .filter_map(|line| if let LogLine::Bytes { data, .. } = line { Some(data) } else { None })
            .collect();
        let mut words = log.split_whitespace();
        let (Some("ended"), Some(at), Some(state), None) = (words.next(), words.next(), words.next(), words.next())
        else {
            bail!("the job's log is {log:?}");
        };
        let expected = result(slots(self.order.key.work));
        ensure!(state == expected.to_string(), "the job came to the wrong result: {state}, not {expected}");
        Ok(at.parse::<f64>().context("the job's clock")? - started)
    }

    fn row(&self, job: &JobView, finished: bool, completion: f64) -> Row {
        let totals = &job.totals;
        let mut latency = Mean::default();
        for checkpoint in &job.checkpoints {
            latency.add(checkpoint.total_ms.saturating_sub(checkpoint.standstill_ms) as f64 / 1e3);
        }
        Row {
            key: self.order.key.clone(),
            policy: self.order.policy.to_string(),
            finished,
            completion,
            faults: self.faults,
            checkpoints: totals.checkpoints,
            standstill: totals.standstill_ms as f64 / 1e3 / totals.checkpoints.max(1) as f64,
            latency: latency.mean(),
            restores: self.restore.count,
            restore: self.restore.mean(),
            clean_starts: self.clean_start.count,
            clean_start: self.clean_start.mean(),
            detection: self.detection.mean(),
        }
    }
}

/// What the job's generator comes to.
fn result(slots: u64) -> u64 {
    (0..slots)
        .fold(1u64, |state, _| state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_job_comes_to_the_result_that_is_checked() {
        let slots = 40;
        let run = std::process::Command::new("python3").args(["-c", JOB, &slots.to_string(), "0.001"]).output();
        let Ok(output) = run else {
            println!("skipped: python3 not found");
            return;
        };
        let said = String::from_utf8(output.stdout).unwrap();
        assert_eq!(said.split_whitespace().nth(2), Some(result(slots).to_string().as_str()), "{said:?}");
    }
}
