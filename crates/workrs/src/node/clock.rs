//! The time that a job has run unfrozen.

use std::time::Duration;

use tokio::time::Instant;

/// Counts run time: what earlier attempts brought, and what this one adds while it is not frozen.
#[derive(Debug)]
pub struct RunClock {
    before: Duration,
    running_since: Option<Instant>,
}

impl RunClock {
    /// A clock that stands at `before`.
    pub fn stopped(before: Duration) -> Self {
        Self { before, running_since: None }
    }

    /// Lets the clock run.
    pub fn start(&mut self) {
        self.running_since.get_or_insert_with(Instant::now);
    }

    /// Stops the clock and gives its time.
    pub fn stop(&mut self) -> Duration {
        self.before = self.elapsed();
        self.running_since = None;
        self.before
    }

    /// The run time so far.
    pub fn elapsed(&self) -> Duration {
        self.before + self.running_since.map_or(Duration::ZERO, |since| since.elapsed())
    }
}
