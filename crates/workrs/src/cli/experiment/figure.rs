//! Completion times by plan, one panel for each fault rate, as SVG.

use anyhow::anyhow;
use plotters::{coord::Shift, prelude::*};
use workrs_core::plan::words::span;

use super::analysis::Cell;

const PANEL: (u32, u32) = (480, 400);
/// Half of a 95 % interval, in standard errors.
const TWO_SIDED: f64 = 1.96;
/// Room for the legend above everything, as a share of the height.
const LEGEND_SHARE: f64 = 0.35;

/// The figure.
pub fn svg(cells: &[Cell]) -> anyhow::Result<String> {
    let mut drawing = String::new();
    // The errors of the library borrow the drawing.
    draw(cells, &mut drawing).map_err(|error| anyhow!("cannot draw: {error}"))?;
    Ok(drawing)
}

fn draw(cells: &[Cell], drawing: &mut String) -> Result<(), Box<dyn std::error::Error>> {
    let mut rates: Vec<f64> = cells.iter().map(|cell| cell.rate_per_s).collect();
    rates.dedup();
    let rows = rates.len().div_ceil(2).max(1);
    let size = (2 * PANEL.0, rows as u32 * PANEL.1);
    let root = SVGBackend::with_string(drawing, size).into_drawing_area();
    root.fill(&WHITE)?;
    for (rate, area) in rates.into_iter().zip(root.split_evenly((rows, 2))) {
        let panel: Vec<&Cell> = cells.iter().filter(|cell| cell.rate_per_s.total_cmp(&rate).is_eq()).collect();
        draw_panel(&area, rate, &panel)?;
    }
    root.present()?;
    Ok(())
}

fn draw_panel(
    area: &DrawingArea<SVGBackend<'_>, Shift>,
    rate: f64,
    cells: &[&Cell],
) -> Result<(), Box<dyn std::error::Error>> {
    let times = || {
        let predicted = cells.iter().flat_map(|cell| [cell.model_s, cell.simulated_s]);
        predicted.chain(cells.iter().flat_map(|cell| cell.times_s.iter().copied()))
    };
    // The height is the logarithm of the time: what lies next to each other differs by percents, or by tens of times.
    let low = (times().fold(f64::INFINITY, f64::min) * 0.97).log10();
    let high = (times().fold(1.0, f64::max) * 1.03).log10();
    let mut chart = ChartBuilder::on(area)
        .caption(format!("one fault in {}", span(1.0 / rate)), ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(30)
        .y_label_area_size(60)
        .build_cartesian_2d(-0.5..cells.len() as f64 - 0.5, low..high + (high - low) * LEGEND_SHARE)?;
    let name = |at: &f64| {
        let cell = cells.get(at.round().max(0.0) as usize);
        cell.filter(|_| (at - at.round()).abs() < 0.01).map_or_else(String::new, |cell| cell.plan.to_owned())
    };
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(WHITE)
        .y_desc("completion time")
        .x_labels(2 * cells.len() + 1)
        .x_label_formatter(&name)
        .y_label_formatter(&|height| seconds(10f64.powf(*height)))
        .draw()?;
    let grey = BLACK.mix(0.35).filled();
    let runs = cells.iter().enumerate().flat_map(|(index, cell)| {
        let count = cell.times_s.len() as f64;
        let place = move |run: usize| index as f64 - 0.1 + 0.2 * (run as f64 + 0.5) / count;
        cell.times_s.iter().enumerate().map(move |(run, time)| Circle::new((place(run), time.log10()), 2, grey))
    });
    chart.draw_series(runs)?.label("a run").legend(move |(x, y)| Circle::new((x + 10, y), 2, grey));
    for (name, colour, bars) in [
        ("mean, 95 %", BLACK, means(cells)),
        ("exact model", BLUE, model(cells)),
        ("simulation", RED, simulated(cells)),
    ] {
        let bars = bars.into_iter().map(|(from, to)| {
            let height = |(x, time): (f64, f64)| (x, time.log10().max(low));
            PathElement::new([height(from), height(to)], colour.stroke_width(2))
        });
        let series = chart.draw_series(bars)?.label(name);
        series.legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], colour.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK)
        .draw()?;
    Ok(())
}

/// A line, by plan and time of its ends.
type Bar = ((f64, f64), (f64, f64));

/// Each plan's mean and, upright, its spread.
fn means(cells: &[&Cell]) -> Vec<Bar> {
    let bars = cells.iter().enumerate().filter_map(|(index, cell)| {
        let (mean, spread, x) = (cell.mean_s?, TWO_SIDED * cell.error_s, index as f64);
        // Logarithms need something above zero.
        Some([((x, (mean - spread).max(1e-3)), (x, mean + spread)), ((x - 0.12, mean), (x + 0.12, mean))])
    });
    bars.flatten().collect()
}

/// Left of each plan's runs.
fn model(cells: &[&Cell]) -> Vec<Bar> {
    let bars = cells.iter().zip(0u32..).map(|(cell, index)| level(f64::from(index) - 0.25, cell.model_s));
    bars.collect()
}

/// Right of each plan's runs.
fn simulated(cells: &[&Cell]) -> Vec<Bar> {
    let bars = cells.iter().zip(0u32..).map(|(cell, index)| level(f64::from(index) + 0.25, cell.simulated_s));
    bars.collect()
}

fn level(x: f64, time: f64) -> Bar {
    ((x - 0.1, time), (x + 0.1, time))
}

fn seconds(time: f64) -> String {
    if time < 100.0 { format!("{time:.1} s") } else { format!("{time:.0} s") }
}
