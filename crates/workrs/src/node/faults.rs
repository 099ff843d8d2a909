//! What is known of the faults of the group's nodes: how long each was up, and how often it died without having said so.
//!
//! A node writes down that it is up, and from time to time that it still is: after 5 s, then each time when twice the time
//! has passed, at last every ten minutes. So the time of a death is known to a third, and few values are written.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use workrs_core::{
    id::{Incarnation, Timestamp},
    keys,
    plan::{Observed, Rate},
};
use workrs_store::{
    fresh,
    state::{StateError, StateStore},
    values,
};

use super::{Shared, members::Departed};

const FIRST_SIGN: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(600);
/// Histories of other nodes that a node learns from.
const SAMPLE: usize = 100;

/// What stands in the store for a node.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct History {
    /// Of all its processes that have ended.
    observed: Observed,
    /// Its process that is up, as far as is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    up: Option<Up>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Up {
    incarnation: Incarnation,
    since: Timestamp,
    /// The newest sign of life.
    seen: Timestamp,
}

impl Up {
    /// It died somewhere between its last sign of life and the next one.
    fn ended_by_fault(&self, now: Timestamp) -> Observed {
        let seen = self.seen.since(self.since).as_secs_f64();
        let half_pause = (seen / 2.0).clamp(FIRST_SIGN.as_secs_f64() / 2.0, LONGEST_PAUSE.as_secs_f64() / 2.0);
        let seconds = (seen + half_pause).min(now.since(self.since).as_secs_f64());
        Observed { faults: 1, seconds }
    }
}

impl History {
    /// A new process is up. One that was up before has died.
    fn begin(&self, incarnation: &Incarnation, now: Timestamp) -> Option<Self> {
        let observed = match &self.up {
            Some(up) if up.incarnation == *incarnation => return None,
            Some(up) => self.observed.and(up.ended_by_fault(now)),
            None => self.observed,
        };
        let up = Up { incarnation: incarnation.clone(), since: now, seen: now };
        Some(Self { observed, up: Some(up) })
    }

    fn still_up(&self, incarnation: &Incarnation, now: Timestamp) -> Option<Self> {
        let up = self.up.as_ref().filter(|up| up.incarnation == *incarnation && up.seen < now)?;
        Some(Self { observed: self.observed, up: Some(Up { seen: now, ..up.clone() }) })
    }

    /// The process ends as it was told to: no fault.
    fn end(&self, incarnation: &Incarnation, now: Timestamp) -> Option<Self> {
        let up = self.up.as_ref().filter(|up| up.incarnation == *incarnation)?;
        let seconds = now.since(up.since).as_secs_f64();
        Some(Self { observed: self.observed.and(Observed { faults: 0, seconds }), up: None })
    }

    /// Others saw that the process is gone, and it had not said goodbye.
    fn died(&self, incarnation: &Incarnation, now: Timestamp) -> Option<Self> {
        let up = self.up.as_ref().filter(|up| up.incarnation == *incarnation)?;
        Some(Self { observed: self.observed.and(up.ended_by_fault(now)), up: None })
    }

    /// All that is known, with the process that is up.
    fn so_far(&self) -> Observed {
        let seconds = self.up.as_ref().map_or(0.0, |up| up.seen.since(up.since).as_secs_f64());
        self.observed.and(Observed { faults: 0, seconds })
    }
}

/// Writes down that this node is up, and keeps the rate of its faults current, until the node ends.
pub(super) async fn watch(shared: Arc<Shared>) {
    let mut pause = FIRST_SIGN;
    let mut begun = false;
    loop {
        let now = fresh::now();
        let change = |known: Option<&History>| {
            let known = known.cloned().unwrap_or_default();
            if begun { known.still_up(&shared.incarnation, now) } else { known.begin(&shared.incarnation, now) }
        };
        let written = write(&shared, change).await;
        begun |= written.is_ok();
        if let Err(error) = written.and(learn(&shared).await) {
            tracing::warn!(%error, "cannot note that this node is up; its fault rate may be misjudged");
        }
        tokio::time::sleep(pause).await;
        if begun {
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

/// Writes down that another node's process died, unless that is known.
pub(super) async fn died(shared: &Shared, process: &Departed) -> Result<(), StateError> {
    let now = fresh::now();
    let change = |known: Option<&History>| known?.died(&process.incarnation, now);
    values::update(shared.records.store(), &keys::faults(&process.node), process.node.as_str(), change).await
}

/// Writes down that this node ends by itself.
pub(super) async fn leave(shared: &Shared) {
    let now = fresh::now();
    let change = |known: Option<&History>| known?.end(&shared.incarnation, now);
    if let Err(error) = write(shared, change).await {
        tracing::warn!(%error, "cannot note that this node ends by itself; it will count as a fault");
    }
}

async fn write(shared: &Shared, change: impl Fn(Option<&History>) -> Option<History>) -> Result<(), StateError> {
    let key = keys::faults(&shared.config.id);
    values::update(shared.records.store(), &key, shared.config.id.as_str(), change).await
}

/// Learns from its own history and from a sample of the others', so that it costs the same in a group of any size.
async fn learn(shared: &Shared) -> Result<(), StateError> {
    let store = shared.records.store();
    let own_key = keys::faults(&shared.config.id);
    let mut sample = values::read_some::<History>(store, keys::FAULTS, &own_key, SAMPLE).await?;
    if sample.len() < SAMPLE {
        let before = values::read_some::<History>(store, keys::FAULTS, keys::FAULTS, SAMPLE - sample.len()).await?;
        sample.extend(before.into_iter().filter(|(key, _)| *key < own_key));
    }
    let own = values::read::<History>(store, &own_key).await?.map(|history| history.so_far()).unwrap_or_default();
    let all = sample.iter().map(|(_, history)| history.so_far()).fold(own, Observed::and);
    let group = Rate::of_group(shared.config.prior_mtbf, all);
    shared.estimates.set_rate(Rate::of_node(group, own).mean());
    Ok(())
}

/// What was seen of each node, by its name; of a large group, of as many as a list holds.
pub async fn known(store: &Arc<dyn StateStore>) -> Result<BTreeMap<String, Observed>, StateError> {
    const MOST: usize = 1_000;
    let histories = values::read_some::<History>(store, keys::FAULTS, keys::FAULTS, MOST).await?;
    let of = |(key, history): (String, History)| Some((key.strip_prefix(keys::FAULTS)?.to_owned(), history.so_far()));
    Ok(histories.into_iter().filter_map(of).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_millis(1_000_000 + seconds * 1_000)
    }

    fn process(number: u32) -> Incarnation {
        Incarnation::new(format!("process-{number}")).unwrap()
    }

    #[test]
    fn a_death_is_a_fault_and_a_stop_is_none() {
        let first = History::default().begin(&process(1), at(0)).unwrap();
        assert_eq!(first.begin(&process(1), at(9)), None, "the answer was lost, the write was not");
        let seen = first.still_up(&process(1), at(40)).unwrap();
        assert_eq!(seen.so_far(), Observed { faults: 0, seconds: 40.0 });
        let after_death = seen.begin(&process(2), at(500)).unwrap();
        assert_eq!(after_death.so_far(), Observed { faults: 1, seconds: 60.0 });
        assert_eq!(after_death.still_up(&process(1), at(600)), None, "a former process has no say");
        let after_stop = after_death.end(&process(2), at(600)).unwrap();
        assert_eq!(after_stop.so_far(), Observed { faults: 1, seconds: 160.0 });
        assert_eq!(after_stop.end(&process(2), at(700)), None);
    }

    #[test]
    fn a_death_that_others_see_counts_once() {
        let seen = History::default().begin(&process(1), at(0)).unwrap().still_up(&process(1), at(40)).unwrap();
        let dead = seen.died(&process(1), at(45)).unwrap();
        assert_eq!(dead.so_far(), Observed { faults: 1, seconds: 45.0 });
        assert_eq!(dead.died(&process(1), at(46)), None, "another node saw it, too");
        assert_eq!(dead.begin(&process(2), at(50)).unwrap().so_far(), dead.so_far());
        assert_eq!(seen.died(&process(2), at(45)), None);
    }

    #[test]
    fn a_node_that_is_restarted_at_once_was_up_for_no_longer_than_that() {
        let first = History::default().begin(&process(1), at(0)).unwrap();
        assert_eq!(first.begin(&process(2), at(1)).unwrap().so_far(), Observed { faults: 1, seconds: 1.0 });
    }
}
