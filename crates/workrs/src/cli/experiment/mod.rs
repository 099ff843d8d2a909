//! `experiment`: the paper's experiments on the real system. Nodes are killed by SIGKILL at moments drawn from a seeded
//! exponential distribution, and started again; jobs must come to their end with the right result.
//!
//! Each fault rate has a node of its own, since nodes learn the rate. The same faults strike every plan.

mod analysis;
mod design;
mod figure;
mod node;
mod results;
mod run;

use std::{collections::VecDeque, fs, io::Write, path::PathBuf, time::Duration};

use anyhow::{Context, bail, ensure};
use rand_distr::{Distribution, Exp1};
use tokio::signal::unix::{SignalKind, signal};
use workrs_core::{
    plan::words::span,
    spec::{CheckpointPolicy, parse_duration},
};

use self::{
    analysis::{Cell, Measured},
    design::{Fixed, Plan, RATES, WORK, scaled},
    node::Node,
    results::{Key, Results, Row},
    run::Order,
};
use super::print::table;
use crate::{args::ExperimentArgs, client::Client, exit_codes, simulate::random};

/// Names of the runs that measure what events cost here.
const CALIBRATIONS: [&str; 2] = ["calibrate-restore", "calibrate-clean"];
/// Work of those, in seconds, and after which times their nodes are killed.
const CALIBRATION_WORK: f64 = 12.0;
const CALIBRATION_KILLS: [f64; 3] = [6.0, 3.0, 3.0];
/// A job is given up after so many times its work.
const PATIENCE: f64 = 100.0;

/// What is to be done, resolved.
struct Experiment {
    scale: f64,
    repeat: u32,
    seed: u64,
    rates: Vec<f64>,
    plans: Vec<Plan>,
    give_up: Option<f64>,
    out: PathBuf,
    data: PathBuf,
    options: Vec<String>,
    json: bool,
}

/// Runs what is missing, then tells what all runs say.
pub async fn experiment(args: ExperimentArgs) -> anyhow::Result<u8> {
    let experiment = resolve(args)?;
    let mut results = Results::open(&experiment.out.join("runs.csv"))?;
    let mut lab = Lab { experiment: &experiment, node: None, client: None };
    let mut terminate = signal(SignalKind::terminate())?;
    let done = tokio::select! {
        done = lab.run_all(&mut results) => Some(done),
        _ = terminate.recv() => None,
        _ = tokio::signal::ctrl_c() => None,
    };
    lab.close().await;
    let Some(done) = done else {
        eprintln!("stopped; the same command goes on where this one was");
        return Ok(exit_codes::FAILED);
    };
    done?;
    report(&experiment, &results)?;
    Ok(0)
}

fn resolve(args: ExperimentArgs) -> anyhow::Result<Experiment> {
    ensure!(rustix::process::geteuid().is_root(), "a node that runs jobs needs root: run the experiment as root");
    ensure!(args.scale.is_finite() && args.scale > 0.0, "--scale must be a positive number");
    let named = |name: &String| {
        Plan::named(name).with_context(|| format!("{name:?} is not one of {}", Plan::ALL.map(Plan::name).join(", ")))
    };
    let plans = if args.plans.is_empty() {
        Plan::ALL.to_vec()
    } else {
        args.plans.iter().map(named).collect::<anyhow::Result<_>>()?
    };
    let rates = if args.rates.is_empty() { RATES.to_vec() } else { args.rates };
    ensure!(rates.iter().all(|rate| rate.is_finite() && *rate > 0.0), "--rates must be positive numbers");
    let give_up = args.give_up.as_deref().map(parse_duration).transpose()?.map(|time| time.as_secs_f64());
    fs::create_dir_all(&args.out).with_context(|| format!("cannot create {}", args.out.display()))?;
    node::create_open(&args.data_dir)?;
    let data = args.data_dir.canonicalize().with_context(|| format!("cannot find {}", args.data_dir.display()))?;
    Ok(Experiment {
        scale: args.scale,
        repeat: args.repeat,
        seed: args.seed,
        rates,
        plans,
        give_up,
        out: args.out,
        data,
        options: args.node_options,
        json: args.json,
    })
}

/// The node that runs now. Whoever leaves must close it.
struct Lab<'a> {
    experiment: &'a Experiment,
    node: Option<Node>,
    client: Option<Client>,
}

impl Lab<'_> {
    async fn run_all(&mut self, results: &mut Results) -> anyhow::Result<()> {
        let Experiment { scale, repeat, seed, .. } = *self.experiment;
        let missing = self.missing(results);
        tell(&format!(
            "seed {seed}, scale {scale}, {missing} runs to do; results in {}",
            self.experiment.out.display()
        ));
        for name in CALIBRATIONS {
            self.calibrate(results, name).await?;
        }
        let measured = Measured::of(calibrations(results.rows()).as_slice()).context("nothing was measured")?;
        for number in 0..repeat {
            for rate in &self.experiment.rates {
                for plan in &self.experiment.plans {
                    self.run(results, &measured, *plan, *rate, number).await?;
                }
            }
        }
        Ok(())
    }

    fn key(&self, plan: Plan, rate: f64, repeat: u32) -> Key {
        let (work, rate) = scaled(WORK, rate, self.experiment.scale);
        Key { plan: plan.name().to_owned(), rate, work, repeat, seed: self.experiment.seed }
    }

    fn missing(&self, results: &Results) -> usize {
        let Experiment { repeat, rates, plans, .. } = self.experiment;
        let all = (0..*repeat).flat_map(|number| {
            rates.iter().flat_map(move |rate| plans.iter().map(move |plan| self.key(*plan, *rate, number)))
        });
        all.filter(|key| !results.has(key)).count()
    }

    async fn calibrate(&mut self, results: &mut Results, name: &str) -> anyhow::Result<()> {
        let key = Key { plan: name.to_owned(), rate: 0.0, work: CALIBRATION_WORK, repeat: 0, seed: 0 };
        if results.has(&key) {
            return Ok(());
        }
        let policy = if name == CALIBRATIONS[0] {
            CheckpointPolicy::Every(Duration::from_secs(1))
        } else {
            CheckpointPolicy::None
        };
        let order = Order { key, policy, forecast: None, give_up: f64::INFINITY };
        let mut kills = VecDeque::from(CALIBRATION_KILLS);
        self.carry_out(results, "calibration", &order, || kills.pop_front().unwrap_or(f64::INFINITY)).await
    }

    async fn run(
        &mut self,
        results: &mut Results,
        measured: &Measured,
        plan: Plan,
        rate: f64,
        number: u32,
    ) -> anyhow::Result<()> {
        let key = self.key(plan, rate, number);
        if results.has(&key) {
            return Ok(());
        }
        let costs = measured.costs(key.work, key.rate);
        let fixed = plan.checkpoints(&costs, self.experiment.scale).map(|count| Fixed::new(key.work, count));
        let order = Order {
            policy: fixed.map_or(CheckpointPolicy::Auto, |fixed| fixed.policy()),
            forecast: fixed.is_none().then_some(key.work),
            give_up: self.experiment.give_up.unwrap_or(PATIENCE * key.work),
            key,
        };
        // By the rate and the number, not by the plan: the same faults strike all of them.
        let mut random = random(self.experiment.seed, rate.to_bits() ^ u64::from(number));
        let mean = 1.0 / order.key.rate;
        let name = format!("rate-{}", order.key.rate);
        self.carry_out(results, &name, &order, || mean * Distribution::<f64>::sample(&Exp1, &mut random)).await
    }

    async fn carry_out(
        &mut self,
        results: &mut Results,
        folder: &str,
        order: &Order,
        lifetime: impl FnMut() -> f64,
    ) -> anyhow::Result<()> {
        let client = self.node_in(folder).await?;
        let Some(node) = self.node.as_mut() else { bail!("the node is gone") };
        let name = format!("{} under {} faults/s, run {}", order.key.plan, order.key.rate, order.key.repeat + 1);
        let done = run::run(node, client, order, lifetime).await;
        let (row, client) = done.with_context(|| format!("the run {name} failed"))?;
        self.client = Some(client);
        tell(&said(&name, &row));
        results.add(row)
    }

    /// The node with its data in this folder; another one is stopped.
    async fn node_in(&mut self, folder: &str) -> anyhow::Result<Client> {
        let folder = self.experiment.data.join(folder);
        if let (Some(node), Some(client)) = (&self.node, &self.client)
            && node.folder() == folder
        {
            return Ok(client.clone());
        }
        self.close().await;
        let node = self.node.insert(Node::new(&folder, &self.experiment.options)?);
        let client = node.start().await?;
        cancel_all(&client).await?;
        self.client = Some(client.clone());
        Ok(client)
    }

    /// Ends the node.
    async fn close(&mut self) {
        self.client = None;
        if let Some(mut node) = self.node.take() {
            node.stop().await;
        }
    }
}

/// Jobs of runs that were stopped must not disturb others.
async fn cancel_all(client: &Client) -> anyhow::Result<()> {
    for state in ["queued", "running"] {
        for job in client.jobs(None, Some(state), None).await?.jobs {
            client.cancel(&job.id).await?;
        }
    }
    while !client.jobs(None, Some("running"), None).await?.jobs.is_empty() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

fn calibrations(rows: &[Row]) -> Vec<Row> {
    rows.iter().filter(|row| CALIBRATIONS.contains(&row.key.plan.as_str())).cloned().collect()
}

fn tell(text: &str) {
    // On the way: what is asked for goes to the standard output.
    eprintln!("{text}");
}

fn said(name: &str, row: &Row) -> String {
    let end = if row.finished { "finished in" } else { "given up after" };
    format!("{name}: {end} {:.1} s with {} faults and {} checkpoints", row.completion, row.faults, row.checkpoints)
}

fn report(experiment: &Experiment, results: &Results) -> anyhow::Result<()> {
    let rows = results.rows();
    let measured = Measured::of(rows).context("nothing was measured")?;
    let mut cells = Vec::new();
    for rate in &experiment.rates {
        let (work, rate) = scaled(WORK, *rate, experiment.scale);
        for plan in &experiment.plans {
            cells.push(Cell::of(rows, &measured, *plan, work, rate, experiment.scale, experiment.seed));
        }
    }
    let path = experiment.out.join("completion.svg");
    fs::write(&path, figure::svg(&cells)?).with_context(|| format!("cannot write {}", path.display()))?;
    let text = if experiment.json {
        serde_json::json!({"seed": experiment.seed, "scale": experiment.scale, "measured": measured, "cells": cells})
            .to_string()
            + "\n"
    } else {
        as_text(experiment.seed, &measured, &cells)
    };
    match std::io::stdout().write_all(text.as_bytes()) {
        // Whoever reads, such as `head`, has enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        done => Ok(done?),
    }
}

fn as_text(seed: u64, measured: &Measured, cells: &[Cell]) -> String {
    let Measured { checkpoint, latency, restore, clean_start, detection } = *measured;
    let head = format!(
        "seed {seed}; measured: C {}, L {}, R {} ({} without a checkpoint), D {}\n\n",
        span(checkpoint),
        span(latency),
        span(restore),
        span(clean_start),
        span(detection)
    );
    let names = [
        "ONE FAULT IN",
        "PLAN",
        "CHECKPOINTS",
        "RUNS",
        "FAULTS",
        "MEASURED",
        "±",
        "EXACT MODEL",
        "SIMULATED",
        "GIVEN UP",
    ];
    let mut rows = vec![names.map(str::to_owned).to_vec()];
    rows.extend(cells.iter().map(|cell| {
        vec![
            span(1.0 / cell.rate_per_s),
            cell.plan.to_owned(),
            format!("{:.1}", cell.made),
            cell.times_s.len().to_string(),
            format!("{:.1}", cell.faults),
            cell.mean_s.map_or_else(|| "-".to_owned(), |mean| format!("{mean:.1} s")),
            format!("{:.1} s", cell.error_s),
            format!("{:.1} s", cell.model_s),
            format!("{:.1} s", cell.simulated_s),
            if cell.given_up == 0 { String::new() } else { cell.given_up.to_string() },
        ]
    }));
    head + &table(&rows)
}

#[cfg(test)]
mod tests {
    use super::{results::tests::row, *};

    fn cells() -> (Measured, Vec<Cell>) {
        let rows: Vec<Row> = (0..4).map(|number| row("15", 0.131, number)).chain([row("none", 0.131, 0)]).collect();
        let measured = Measured::of(&rows).unwrap();
        let cell = |plan, rate| Cell::of(&rows, &measured, plan, 30.0, rate, 0.1, 1);
        (
            measured,
            vec![cell(Plan::None, 0.131), cell(Plan::Many, 0.131), cell(Plan::Auto, 0.131), cell(Plan::Best, 0.001)],
        )
    }

    #[test]
    fn a_report_shows_what_was_measured_next_to_what_was_expected() {
        let (measured, cells) = cells();
        insta::assert_snapshot!("report", as_text(1, &measured, &cells));
    }

    #[test]
    fn the_figure_is_svg() {
        let svg = figure::svg(&cells().1).unwrap();
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>") && svg.contains("one fault in 7.6 s"));
    }
}
