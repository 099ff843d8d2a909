//! What the engine is told of the lease, so that jobs with network stand still when others may have been given them.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use workrs_engine::boottime;

use super::Shared;

/// The group may end the lease at its full time; by then everything must stand still, and clocks do not run quite alike.
const MARGIN_SHARE: u32 = 8;
const LEAST_MARGIN: Duration = Duration::from_millis(250);
/// By how much the engine may have been earlier than this to find the lease over.
const SLACK: Duration = Duration::from_millis(100);

/// A lease that holds, by the clock of [`boottime`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Held {
    /// Without a gap since then.
    since: Duration,
    until: Duration,
}

impl Held {
    /// From an answer to what was `asked`.
    fn from(since: Duration, asked: Duration, ttl: Duration) -> Self {
        let margin = (ttl / MARGIN_SHARE).max(LEAST_MARGIN);
        Self { since, until: asked + ttl.saturating_sub(margin) }
    }

    /// Whether the engine may have found it over before `now`.
    fn may_have_been_over(self, now: Duration) -> bool {
        now + SLACK >= self.until
    }
}

/// What was last said.
#[derive(Debug, Default)]
pub(super) struct Fence(Mutex<Held>);

impl Shared {
    /// The node's key stands under a new lease, which was asked for at `asked`.
    pub(super) fn has_joined(&self, asked: Duration) {
        // Records that were read before may have been given to others.
        self.lease_holds(Held::from(boottime::now(), asked, self.config.lease));
    }

    /// The lease was renewed; asked for at `asked`. Gives whether jobs may stand still that must be told to go on.
    pub(super) fn has_renewed(&self, asked: Duration) -> bool {
        let before = *self.fence.0.lock().unwrap_or_else(PoisonError::into_inner);
        self.lease_holds(Held::from(before.since, asked, self.config.lease));
        before.may_have_been_over(boottime::now())
    }

    fn lease_holds(&self, held: Held) {
        *self.fence.0.lock().unwrap_or_else(PoisonError::into_inner) = held;
        if self.records.store().leases_end_by_time() {
            self.engine.lease_holds(held.since, held.until);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_over_before_the_group_ends_it() {
        let at = Duration::from_millis;
        let held = Held::from(at(100), at(1_000), at(2_000));
        assert_eq!(held, Held { since: at(100), until: at(2_750) });
        assert!(!held.may_have_been_over(at(2_600)) && held.may_have_been_over(at(2_700)));
        assert_eq!(Held::from(at(0), at(1_000), at(80_000)).until, at(71_000));
    }
}
