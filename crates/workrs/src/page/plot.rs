//! Bars over time as SVG that takes its colours from the page and as much width as there is.

use askama::{Template, filters::HtmlSafe};

use super::percent::{Percent, round_step, time_step};

/// Height of the part where the bars stand, and of the labels below, in pixels.
const FIELD: f64 = 120.0;
const AXIS: f64 = 22.0;
/// Where the highest bar may reach, so that its label fits above.
const TOP: f64 = 16.0;
/// About as many labels along the time.
const LABELS: usize = 6;

#[derive(Template)]
#[template(path = "plot.html")]
pub(super) struct BarPlot {
    title: &'static str,
    unit: &'static str,
    id: String,
    bars: Vec<Bar>,
    lines: Vec<Line>,
    labels: Vec<Label>,
    field: f64,
    height: f64,
    description: String,
    /// The same as a table.
    rows: Vec<(String, String)>,
    is_empty: bool,
}

impl HtmlSafe for BarPlot {}

/// What the height of a bar stands for, which decides which numbers stand at its side.
#[derive(Debug, Clone, Copy)]
pub(super) enum Axis {
    /// A number of things.
    Count,
    /// Seconds.
    Time,
    /// A share of something, in percent.
    Share,
}

struct Bar {
    x: Percent,
    width: Percent,
    y: f64,
    height: f64,
    title: String,
    value: f64,
}

struct Line {
    y: f64,
    label: String,
}

struct Label {
    x: Percent,
    text: String,
    anchor: &'static str,
}

impl BarPlot {
    /// One bar for each value, labelled by its time; `form` writes a value.
    pub fn new(
        title: &'static str,
        axis: Axis,
        unit: &'static str,
        values: Vec<(String, f64)>,
        form: fn(f64) -> String,
    ) -> Self {
        let highest = values.iter().map(|(_, value)| *value).fold(0.0, f64::max);
        let sum: f64 = values.iter().map(|(_, value)| *value).sum();
        let step = match axis {
            Axis::Count => round_step(highest, 2.5).max(1.0),
            Axis::Time => time_step(highest.max(1e-3), 2.5),
            Axis::Share => round_step(highest.max(1e-6), 2.5),
        };
        let top = (highest / step).ceil().max(1.0) * step;
        let y = |value: f64| FIELD - value / top * (FIELD - TOP);
        let count = values.len().max(1) as f64;
        let every = values.len().div_ceil(LABELS).max(1);
        let bars = values.iter().enumerate().map(|(index, (time, value))| Bar {
            x: Percent((index as f64 + 0.12) / count),
            width: Percent(0.76 / count),
            y: y(*value),
            height: FIELD - y(*value),
            title: format!("{time}: {}", form(*value)),
            value: *value,
        });
        let labels = values
            .iter()
            .enumerate()
            .filter(|(index, _)| index % every == 0)
            .map(|(index, (time, _))| Label { x: Percent(index as f64 / count), text: time.clone(), anchor: "start" });
        let lines = (1..=(top / step).round() as u32).map(|index| {
            let value = f64::from(index) * step;
            Line { y: y(value), label: form(value) }
        });
        Self {
            title,
            unit,
            id: title.to_lowercase().replace(' ', "-"),
            bars: bars.collect(),
            lines: lines.collect(),
            labels: labels.collect(),
            field: FIELD,
            height: FIELD + AXIS,
            description: format!("highest {}, in {} parts", form(highest), values.len()),
            is_empty: sum == 0.0,
            rows: values.into_iter().map(|(time, value)| (time, form(value))).collect(),
        }
    }

    /// What the bars stand for.
    #[cfg(test)]
    pub fn values(&self) -> Vec<f64> {
        self.bars.iter().map(|bar| bar.value).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_stand_on_one_line_and_none_leaves_the_field() {
        let values = vec![("08:00".to_owned(), 3.0), ("09:00".to_owned(), 0.0), ("10:00".to_owned(), 7.0)];
        let plot = BarPlot::new("Faults", Axis::Count, "in an hour", values, |value| format!("{value}"));
        for bar in &plot.bars {
            assert!((bar.y + bar.height - FIELD).abs() < 1e-9 && bar.y >= TOP - 1e-9, "{} {}", bar.y, bar.height);
        }
        assert_eq!(plot.lines.iter().map(|line| line.label.as_str()).collect::<Vec<_>>(), ["5", "10"]);
        insta::assert_snapshot!(plot);
    }
}
