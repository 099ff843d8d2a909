//! What the job record says of a job's plan, for people and programs.

use serde::{Deserialize, Serialize};

use super::controller::{Decision, Situation};
use crate::id::Timestamp;

/// The longest reason, in bytes.
pub const MAX_REASON: usize = 150;
/// Larger numbers say nothing more. In seconds: 31 years.
const MAX_SECONDS: f64 = 1e9;

/// A decision of the planner, as it was when it was made. All times are in seconds, finite and rounded to milliseconds.
/// As JSON at most 420 bytes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PlanNote {
    /// When it was made.
    pub at: Timestamp,
    /// Run time from then to the next checkpoint; none without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_in_s: Option<f64>,
    /// Run time between checkpoints; none without checkpoints.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval_s: Option<f64>,
    /// C: the expected standstill for a checkpoint.
    pub checkpoint_cost_s: f64,
    /// R: the expected duration of a restore.
    pub restore_cost_s: f64,
    /// The expected time between faults of the node.
    pub mtbf_s: f64,
    /// Run time from then to the job's end; none where nobody knows.
    pub work_left_s: Option<f64>,
    /// Expected time from then to the job's end, with faults; none where nobody knows.
    pub expected_finish_in_s: Option<f64>,
    /// Run time that would have been lost if the node had died then.
    pub lost_if_died_s: f64,
    /// Why, for people.
    pub reason: String,
}

/// Numbers here are never NaN: JSON has none, and [`PlanNote::new`] makes none.
impl Eq for PlanNote {}

impl PlanNote {
    /// Notes what was decided at `at` in `situation`.
    pub fn new(at: Timestamp, situation: &Situation, decision: &Decision) -> Self {
        Self {
            at,
            next_in_s: decision.checkpoint_in.map(|time| rounded(time.as_secs_f64())),
            interval_s: decision.interval.map(|time| rounded(time.as_secs_f64())),
            checkpoint_cost_s: rounded(situation.checkpoint.as_secs_f64()),
            restore_cost_s: rounded(situation.restore.as_secs_f64()),
            mtbf_s: rounded(1.0 / situation.rate),
            work_left_s: situation.outlook.remaining.map(|time| rounded(time.as_secs_f64())),
            expected_finish_in_s: decision.expected_left.map(|time| rounded(time.as_secs_f64())),
            lost_if_died_s: rounded(decision.lost_if_died.as_secs_f64()),
            reason: decision.reason.clone(),
        }
    }
}

fn rounded(seconds: f64) -> f64 {
    if seconds.is_nan() { MAX_SECONDS } else { (seconds.clamp(0.0, MAX_SECONDS) * 1e3).round() / 1e3 }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        plan::{Progress, controller, forecast::Outlook},
        spec::CheckpointPolicy,
    };

    fn situation(time: Duration, rate: f64) -> Situation {
        Situation {
            rate,
            checkpoint: time,
            latency: time,
            restore: time,
            detection: time,
            outlook: Outlook { remaining: Some(time), holds_for: Some(time) },
            progress: Progress { run_time: time, since_checkpoint: time, failures: 6, probed: true },
            unsaved: time,
        }
    }

    #[test]
    fn a_note_is_small_and_comes_back_from_json() {
        for (time, rate) in [
            (Duration::from_millis(123_456_789), 1e-9),
            (Duration::MAX, 0.0),
            (Duration::ZERO, f64::NAN),
            (Duration::from_secs_f64(0.123_456), 3.3),
        ] {
            let situation = situation(time, rate);
            let policy = CheckpointPolicy::Every(Duration::from_millis(123_456_789));
            let decision = controller::decide(policy, &situation, &controller::Bounds::default());
            let mut note = PlanNote::new(Timestamp::from_millis(1_795_000_000_000), &situation, &decision);
            let json = serde_json::to_string(&note).unwrap();
            assert_eq!(serde_json::from_str::<PlanNote>(&json).unwrap(), note);
            note.reason = "x".repeat(MAX_REASON);
            let json = serde_json::to_string(&note).unwrap();
            assert!(json.len() <= 420, "{} bytes: {json}", json.len());
        }
    }

    #[test]
    fn a_note_of_another_version_can_be_read() {
        let note: PlanNote = serde_json::from_str(r#"{"reason": "because", "from_the_future": 1}"#).unwrap();
        assert_eq!(note, PlanNote { reason: "because".into(), ..PlanNote::default() });
    }
}
