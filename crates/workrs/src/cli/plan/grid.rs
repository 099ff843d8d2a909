//! `plan --grid`: how the live controller does over a grid of settings.

use serde_json::json;
use workrs_core::plan::words::span;

use crate::{
    cli::print::table,
    simulate::{
        faults::FaultLaw,
        grid::{Cell, judge, settings},
    },
};

const SEED: u64 = 4;
/// Work that is simulated in each setting for each choice, in mean times between faults.
const LENGTHS: f64 = 10_000.0;

/// The table, or a list in JSON.
pub fn grid(json: bool) -> anyhow::Result<String> {
    let cells: Vec<Cell> = settings().into_iter().map(|setting| judge(setting, LENGTHS, SEED)).collect();
    if json {
        let cells: Vec<_> = cells.iter().map(as_json).collect();
        return Ok(serde_json::to_string(&cells)? + "\n");
    }
    Ok(as_text(&cells))
}

fn law(law: FaultLaw) -> String {
    match law {
        FaultLaw::Exponential { .. } => "exponential".to_owned(),
        FaultLaw::Weibull { shape, .. } => format!("Weibull {shape}"),
        FaultLaw::LogNormal { sigma, .. } => format!("log-normal {sigma}"),
    }
}

fn as_json(cell: &Cell) -> serde_json::Value {
    json!({
        "law": law(cell.setting.law),
        "mtbf_s": cell.setting.mtbf,
        "checkpoint_s": cell.setting.checkpoint,
        "work_s": cell.setting.work,
        "best_interval_s": cell.best_interval,
        "best_s": cell.best.mean,
        "known": cell.known,
        "unknown": cell.unknown,
        "unbounded": cell.unbounded,
        "learning": cell.learning,
        "error": cell.error,
    })
}

/// A table that is also one in Markdown.
fn as_text(cells: &[Cell]) -> String {
    let share = |value: f64| format!("{:+.1} %", value * 100.0);
    let head = [
        "faults",
        "MTBF",
        "C",
        "work",
        "best interval",
        "its time",
        "auto, T known",
        "T unknown",
        "T known, no bound",
        "learning",
        "±",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec(), head.map(|name| "-".repeat(name.chars().count())).to_vec()];
    rows.extend(cells.iter().map(|cell| {
        let setting = &cell.setting;
        vec![
            law(setting.law),
            span(setting.mtbf),
            format!("MTBF/{:.0}", setting.mtbf / setting.checkpoint),
            format!("{:.1} MTBF", setting.work / setting.mtbf),
            if cell.best_interval.is_finite() { span(cell.best_interval) } else { "none".to_owned() },
            share(cell.best.mean / setting.work - 1.0),
            share(cell.known),
            share(cell.unknown),
            share(cell.unbounded),
            share(cell.learning),
            format!("{:.1} %", cell.error * 100.0),
        ]
    }));
    let rows: Vec<_> = rows.into_iter().map(|row| with_bars(&row)).collect();
    table(&rows)
}

fn with_bars(row: &[String]) -> Vec<String> {
    row.iter().map(|cell| format!("| {cell}")).chain(["|".to_owned()]).collect()
}
