//! `plan`: how many checkpoints a job should have, by the exact model and by the paper's, and what they change.

mod figure;
mod grid;
mod plot;

use std::{fmt::Write as _, io::Write as _};

use anyhow::{Context, bail};
use serde_json::json;
use workrs_core::{
    plan::{
        model::{Costs, Optimum, daly, paper, paper_expected, young},
        words::span,
    },
    spec::parse_duration,
};

use super::print::table;
use crate::args::PlanArgs;

/// Numbers of checkpoints that the table shows.
const ROWS: u32 = 12;
/// More checkpoints than that are not drawn.
const MAX_DRAWN: u64 = 10_000;
/// Beyond this number, "as many as possible" says it better.
const COUNTLESS: u64 = 1 << 40;

/// Prints the plan.
pub fn plan(args: &PlanArgs) -> anyhow::Result<u8> {
    if args.grid {
        return say(&grid::grid(args.json)?);
    }
    let costs = costs(args)?;
    if let Some(path) = &args.svg {
        let drawn = figure::svg(&costs)?;
        std::fs::write(path, drawn).with_context(|| format!("cannot write {}", path.display()))?;
    }
    say(&if args.json { format!("{}\n", as_json(&costs)) } else { as_text(&costs) })
}

fn say(text: &str) -> anyhow::Result<u8> {
    match std::io::stdout().write_all(text.as_bytes()) {
        // Whoever reads, such as `head`, has enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(0),
        done => Ok(done.map(|()| 0)?),
    }
}

fn costs(args: &PlanArgs) -> anyhow::Result<Costs> {
    let seconds = |text: &str| parse_duration(text).map(|time| time.as_secs_f64());
    let (Some(work), Some(mtbf), Some(cost)) = (&args.work, &args.mtbf, &args.cost) else {
        bail!("a plan needs --work, --mtbf and --cost");
    };
    let mtbf = seconds(mtbf)?;
    if mtbf == 0.0 {
        bail!("--mtbf must be longer than zero");
    }
    Ok(Costs {
        work: seconds(work)?,
        rate: 1.0 / mtbf,
        checkpoint: seconds(cost)?,
        restore: seconds(&args.restore)?,
        detection: seconds(&args.detect)?,
        latency: seconds(&args.latency)?,
    }
    .new())
}

/// Work between checkpoints.
fn interval(costs: &Costs, checkpoints: u64) -> Option<f64> {
    (checkpoints > 0).then(|| (costs.work - costs.checkpoint).max(0.0) / (checkpoints as f64 + 1.0))
}

/// The number of checkpoints to which an interval leads.
fn checkpoints_at(costs: &Costs, interval: f64) -> u64 {
    if interval > 0.0 { ((costs.work / interval).round() as u64).saturating_sub(1).min(COUNTLESS) } else { COUNTLESS }
}

fn as_json(costs: &Costs) -> serde_json::Value {
    let best = |optimum: Optimum| {
        let interval = interval(costs, optimum.checkpoints());
        json!({"checkpoints": optimum.checkpoints(), "expected_s": optimum.expected, "interval_s": interval})
    };
    let curve: Vec<_> = counts(costs)
        .into_iter()
        .map(|count| {
            json!({
                "checkpoints": count,
                "exact_s": costs.expected(count + 1),
                "paper_s": paper_expected(costs, count + 1),
            })
        })
        .collect();
    json!({
        "paper": best(paper(costs)),
        "exact": best(costs.optimum()),
        "none": {"expected_s": costs.expected(1)},
        "young": {"interval_s": young(costs)},
        "daly": {"interval_s": daly(costs)},
        "given": {
            "work_s": costs.work,
            "mtbf_s": 1.0 / costs.rate,
            "checkpoint_s": costs.checkpoint,
            "restore_s": costs.restore,
            "detection_s": costs.detection,
            "latency_s": costs.latency,
        },
        "curve": curve,
    })
}

fn as_text(costs: &Costs) -> String {
    let optimum = costs.optimum();
    let mut text = format!(
        "{} of work, one fault in {}; a checkpoint stops the job for {} and is of use {} later;\n\
         a fault is noticed after {}, a restore takes {}\n\n",
        span(costs.work),
        span(1.0 / costs.rate),
        span(costs.checkpoint),
        span(costs.latency),
        span(costs.detection),
        span(costs.restore),
    );
    let mut rows =
        vec![["", "CHECKPOINTS", "EVERY", "EXPECTED TIME", "BY THE PAPER'S MODEL"].map(str::to_owned).to_vec()];
    for (name, checkpoints) in [
        ("best", optimum.checkpoints()),
        ("best by the paper's model", paper(costs).checkpoints()),
        ("Young", checkpoints_at(costs, young(costs))),
        ("Daly", checkpoints_at(costs, daly(costs))),
        ("none", 0),
    ] {
        let mut row = vec![name.to_owned()];
        row.extend(line(costs, checkpoints));
        rows.push(row);
    }
    text.push_str(&table(&rows));
    if optimum.checkpoints() > MAX_DRAWN {
        return text;
    }
    let mut rows =
        vec![["CHECKPOINTS", "EVERY", "EXPECTED TIME", "BY THE PAPER'S MODEL", ""].map(str::to_owned).to_vec()];
    for count in counts(costs) {
        let mut row = line(costs, count);
        row.push(if count == optimum.checkpoints() { "best".to_owned() } else { String::new() });
        rows.push(row);
    }
    // Writing to a string cannot fail.
    let _ = write!(text, "\n{}\n{}", table(&rows), plot::plot(costs));
    text
}

fn line(costs: &Costs, checkpoints: u64) -> Vec<String> {
    let count = if checkpoints >= COUNTLESS { "countless".to_owned() } else { checkpoints.to_string() };
    let every = interval(costs, checkpoints).map_or_else(|| "-".to_owned(), span);
    let segments = checkpoints.saturating_add(1);
    let expected = |seconds: f64| {
        let more = ((seconds / costs.work - 1.0) * 100.0).max(0.0);
        let more = if more < 1_000.0 { format!(" (+{more:.1} %)") } else { String::new() };
        format!("{}{more}", span(seconds))
    };
    vec![count, every, expected(costs.expected(segments)), expected(paper_expected(costs, segments))]
}

/// Numbers of checkpoints worth showing: none, the best, and some up to twice that.
fn counts(costs: &Costs) -> Vec<u64> {
    let best = costs.optimum().checkpoints();
    let last = drawn(costs);
    let ratio = (last as f64).powf(1.0 / f64::from(ROWS - 2));
    let steps = (0..ROWS - 1).map(|step| ratio.powf(f64::from(step)).round() as u64);
    let mut all: Vec<u64> = steps.chain([0, best.min(last), paper(costs).checkpoints().min(last)]).collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// The largest number of checkpoints that is shown.
fn drawn(costs: &Costs) -> u64 {
    (2 * costs.optimum().checkpoints().min(MAX_DRAWN)).clamp(10, MAX_DRAWN)
}

#[cfg(test)]
mod tests;
