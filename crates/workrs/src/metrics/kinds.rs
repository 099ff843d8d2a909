//! Counters, gauges and histograms, and how Prometheus reads them.

use std::{
    collections::BTreeMap,
    fmt::Write,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// Upper ends of a histogram's buckets, in seconds: from a local read to a large restore.
const BUCKETS: [f64; 12] = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0];

/// The values of a metric's labels; empty for one without labels.
type Labels = &'static [&'static str];

/// Something that is shown.
pub(super) trait Metric: Sync {
    /// Adds it to `text`.
    fn render(&self, text: &mut String);
}

/// What all kinds have in common: one value for each combination of labels that was seen.
struct Series<T> {
    name: &'static str,
    help: &'static str,
    labels: Labels,
    values: Mutex<BTreeMap<Vec<&'static str>, T>>,
}

impl<T: Default> Series<T> {
    const fn new(name: &'static str, help: &'static str, labels: Labels) -> Self {
        Self { name, help, labels, values: Mutex::new(BTreeMap::new()) }
    }

    fn values(&self) -> MutexGuard<'_, BTreeMap<Vec<&'static str>, T>> {
        self.values.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, labels: &[&'static str], change: impl FnOnce(&mut T)) {
        debug_assert_eq!(labels.len(), self.labels.len(), "{} has the labels {:?}", self.name, self.labels);
        change(self.values().entry(labels.to_vec()).or_default());
    }

    /// Writes the head, then each value by `line`, which gets its labels as text without braces.
    fn render(&self, kind: &str, text: &mut String, mut line: impl FnMut(&mut String, &str, &T)) {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "# HELP {} {}\n# TYPE {} {kind}", self.name, self.help, self.name);
        for (labels, value) in &*self.values() {
            let labels: Vec<_> =
                self.labels.iter().zip(labels).map(|(name, value)| format!("{name}=\"{value}\"")).collect();
            line(text, &labels.join(","), value);
        }
    }
}

fn braced(labels: &str) -> String {
    if labels.is_empty() { String::new() } else { format!("{{{labels}}}") }
}

/// A number that only grows.
pub struct Counter(Series<u64>);

impl Counter {
    pub(super) const fn new(name: &'static str, help: &'static str) -> Self {
        Self::with_labels(name, help, &[])
    }

    pub(super) const fn with_labels(name: &'static str, help: &'static str, labels: Labels) -> Self {
        Self(Series::new(name, help, labels))
    }

    /// Adds to it.
    pub fn add(&self, amount: u64) {
        self.add_to(&[], amount);
    }

    /// Adds to the one with these values of its labels.
    pub fn add_to(&self, labels: &[&'static str], amount: u64) {
        self.0.change(labels, |value| *value += amount);
    }
}

impl Metric for Counter {
    fn render(&self, text: &mut String) {
        if self.0.labels.is_empty() {
            // What never happened is a figure, too.
            self.add(0);
        }
        let name = self.0.name;
        self.0.render("counter", text, |text, labels, value| {
            let _ = writeln!(text, "{name}{} {value}", braced(labels));
        });
    }
}

/// A number that goes up and down; not shown before it is set.
pub struct Gauge(Series<f64>);

impl Gauge {
    pub(super) const fn new(name: &'static str, help: &'static str) -> Self {
        Self(Series::new(name, help, &[]))
    }

    /// Sets it.
    pub fn set(&self, value: f64) {
        self.0.change(&[], |known| *known = value);
    }

    /// Sets it to the present time.
    pub fn set_now(&self) {
        self.set(workrs_store::fresh::now().as_millis() as f64 / 1e3);
    }
}

impl Metric for Gauge {
    fn render(&self, text: &mut String) {
        let name = self.0.name;
        self.0.render("gauge", text, |text, labels, value| {
            let _ = writeln!(text, "{name}{} {value}", braced(labels));
        });
    }
}

/// How long things took.
pub struct Histogram(Series<Observed>);

#[derive(Default)]
struct Observed {
    /// How many fell into each bucket, and behind the last.
    counts: [u64; BUCKETS.len() + 1],
    sum_s: f64,
}

impl Histogram {
    pub(super) const fn new(name: &'static str, help: &'static str) -> Self {
        Self::with_labels(name, help, &[])
    }

    pub(super) const fn with_labels(name: &'static str, help: &'static str, labels: Labels) -> Self {
        Self(Series::new(name, help, labels))
    }

    /// Notes that something took so long.
    pub fn observe(&self, took: Duration) {
        self.observe_of(&[], took);
    }

    /// Notes that something with these values of the labels took so long.
    pub fn observe_of(&self, labels: &[&'static str], took: Duration) {
        let seconds = took.as_secs_f64();
        let bucket = BUCKETS.iter().position(|end| seconds <= *end).unwrap_or(BUCKETS.len());
        self.0.change(labels, |observed| {
            observed.counts[bucket] += 1;
            observed.sum_s += seconds;
        });
    }
}

impl Metric for Histogram {
    fn render(&self, text: &mut String) {
        let name = self.0.name;
        self.0.render("histogram", text, |text, labels, observed| {
            let comma = if labels.is_empty() { "" } else { "," };
            let ends = BUCKETS.iter().map(f64::to_string).chain(["+Inf".to_owned()]);
            let mut count = 0;
            for (end, number) in ends.zip(observed.counts) {
                count += number;
                let _ = writeln!(text, "{name}_bucket{{{labels}{comma}le=\"{end}\"}} {count}");
            }
            let labels = braced(labels);
            let _ = writeln!(text, "{name}_sum{labels} {}\n{name}_count{labels} {count}", observed.sum_s);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(metric: &dyn Metric) -> String {
        let mut text = String::new();
        metric.render(&mut text);
        text
    }

    #[test]
    fn prometheus_can_read_them() {
        let counter = Counter::new("c_total", "Counts.");
        insta::assert_snapshot!(rendered(&counter), @r"
        # HELP c_total Counts.
        # TYPE c_total counter
        c_total 0
        ");
        let gauge = Gauge::new("g", "Shows.");
        gauge.set(1.0);
        gauge.set(2.5);
        insta::assert_snapshot!(rendered(&gauge), @r"
        # HELP g Shows.
        # TYPE g gauge
        g 2.5
        ");
        let histogram = Histogram::with_labels("h_seconds", "Takes.", &["operation", "outcome"]);
        for millis in [1, 2, 400_000] {
            histogram.observe_of(&["get", "ok"], Duration::from_millis(millis));
        }
        let text = rendered(&histogram);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[2], r#"h_seconds_bucket{operation="get",outcome="ok",le="0.001"} 1"#);
        assert_eq!(lines[3], r#"h_seconds_bucket{operation="get",outcome="ok",le="0.003"} 2"#);
        assert_eq!(lines[13], r#"h_seconds_bucket{operation="get",outcome="ok",le="300"} 2"#);
        assert_eq!(lines[14], r#"h_seconds_bucket{operation="get",outcome="ok",le="+Inf"} 3"#);
        assert_eq!(lines[15], r#"h_seconds_sum{operation="get",outcome="ok"} 400.003"#);
        assert_eq!(lines[16], r#"h_seconds_count{operation="get",outcome="ok"} 3"#);
    }
}
