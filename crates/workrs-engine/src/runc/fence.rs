//! When containers with network may run: while the node's lease holds. What they do can be seen outside, so once others may
//! have given their jobs to another node, they stand still until the node has found that it is still the one to run them.
//!
//! Two processes see to that. The guard freezes when the lease is over, whatever became of the node, and goes on freezing
//! until it hears of a lease that holds ([`Watch`]). The node lets go on what it knows to be its own ([`Fence`]). Times are
//! those of [`boottime`], so that a suspended machine wakes up with its lease over.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    io::{self, Write},
    process::ChildStdin,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::boottime;

/// What the node tells the guard, a line each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Word {
    /// The lease holds until then.
    Holds(Duration),
    /// This container has network from now on.
    Watch(String),
    /// This container is gone.
    Forget(String),
    /// The node ends in order, without any container.
    Farewell,
}

impl Word {
    /// `None` if it is not one.
    pub(super) fn read(line: &str) -> Option<Self> {
        match line.split_once(' ') {
            None if line == "farewell" => Some(Self::Farewell),
            Some(("holds", until)) => Some(Self::Holds(Duration::from_millis(until.parse().ok()?))),
            Some(("watch", name)) => Some(Self::Watch(name.to_owned())),
            Some(("forget", name)) => Some(Self::Forget(name.to_owned())),
            _ => None,
        }
    }
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Holds(until) => writeln!(f, "holds {}", until.as_millis()),
            Self::Watch(name) => writeln!(f, "watch {name}"),
            Self::Forget(name) => writeln!(f, "forget {name}"),
            Self::Farewell => writeln!(f, "farewell"),
        }
    }
}

/// What the guard knows.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// `None` while it has heard of no lease that ends by time.
    until: Option<Duration>,
    containers: BTreeSet<String>,
}

impl Watch {
    pub(super) fn hear(&mut self, word: Word) {
        match word {
            Word::Holds(until) => self.until = Some(until),
            Word::Watch(name) => _ = self.containers.insert(name),
            Word::Forget(name) => _ = self.containers.remove(&name),
            Word::Farewell => (),
        }
    }

    /// Whether time alone can make a container one that must stand still.
    pub(super) fn depends_on_time(&self) -> bool {
        self.until.is_some() && !self.containers.is_empty()
    }

    /// The containers that must stand still now.
    pub(super) fn must_stand_still(&self, now: Duration) -> impl Iterator<Item = &str> {
        let is_over = self.until.is_some_and(|until| now >= until);
        self.containers.iter().filter(move |_| is_over).map(String::as_str)
    }
}

/// A lease that ends by time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Lease {
    /// It has held without a gap since then.
    since: Duration,
    until: Duration,
}

/// Why a container stands still.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Standing {
    /// It is being captured.
    held: bool,
    /// The lease was over, and it is not known yet whether the job is still this node's.
    in_doubt: bool,
}

/// What the node knows.
#[derive(Debug, Default)]
struct Doubts {
    lease: Option<Lease>,
    containers: BTreeMap<String, Standing>,
}

impl Doubts {
    fn holds(&mut self, lease: Lease, now: Duration) {
        let had_gap = self.lease.is_some_and(|old| now >= old.until || old.since != lease.since);
        self.containers.values_mut().for_each(|standing| standing.in_doubt |= had_gap);
        self.lease = Some(lease);
    }

    /// The containers that nothing keeps from running.
    fn may_run(&self, now: Duration) -> impl Iterator<Item = &str> {
        let holds = self.lease.is_none_or(|lease| now < lease.until);
        let free = self.containers.iter().filter(move |(_, standing)| holds && **standing == Standing::default());
        free.map(|(name, _)| name.as_str())
    }

    /// The record named the node when it was read at `read_at`. Gives whether the container may go on.
    fn is_ours(&mut self, name: &str, read_at: Duration, now: Duration) -> bool {
        let holds = self.lease.is_none_or(|lease| lease.since <= read_at && now < lease.until);
        let Some(standing) = self.containers.get_mut(name) else { return false };
        standing.in_doubt &= !holds;
        holds && !standing.held
    }

    /// The capture is over. Gives whether the container may go on.
    fn let_go(&mut self, name: &str, now: Duration) -> bool {
        if let Some(standing) = self.containers.get_mut(name) {
            standing.held = false;
        }
        !self.is_in_doubt(name, now)
    }

    fn is_in_doubt(&mut self, name: &str, now: Duration) -> bool {
        let is_over = self.lease.is_some_and(|lease| now >= lease.until);
        let Some(standing) = self.containers.get_mut(name) else { return false };
        standing.in_doubt |= is_over;
        standing.in_doubt
    }
}

/// The node's part, with its end of the guard's pipe.
#[derive(Debug, Default)]
pub(super) struct Fence {
    /// Held while a container is let go on or the guard is told: a decision under one lease is carried out before the next
    /// lease is heard of.
    doubts: Mutex<Doubts>,
    pipe: Mutex<Option<ChildStdin>>,
}

impl Fence {
    /// From now on the guard hears what there is to say.
    pub(super) fn connect(&self, pipe: Option<ChildStdin>) -> io::Result<()> {
        if let Some(pipe) = &pipe {
            // A guard that hangs must not hold the node up.
            rustix::io::ioctl_fionbio(pipe, true)?;
        }
        *self.pipe.lock().unwrap_or_else(PoisonError::into_inner) = pipe;
        Ok(())
    }

    /// The node ends in order.
    pub(super) fn disconnect(&self) {
        if let Some(mut pipe) = self.pipe.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _it_died_first = pipe.write_all(Word::Farewell.to_string().as_bytes());
        }
    }

    /// A container with network is about to run. It must not if the guard cannot be told.
    pub(super) fn enter(&self, name: &str) -> io::Result<()> {
        let mut doubts = self.doubts();
        self.tell(&Word::Watch(name.to_owned()))?;
        doubts.containers.insert(name.to_owned(), Standing::default());
        Ok(())
    }

    /// It is gone. Nothing happens if it never entered.
    pub(super) fn leave(&self, name: &str) {
        let mut doubts = self.doubts();
        if doubts.containers.remove(name).is_some() {
            self.tell_or_complain(&Word::Forget(name.to_owned()));
        }
    }

    /// Thaws by `thaw` what may run: a guard that is slow to hear of a lease stops also what was let go on under it.
    pub(super) fn holds(&self, since: Duration, until: Duration, thaw: impl Fn(&str)) {
        let mut doubts = self.doubts();
        doubts.holds(Lease { since, until }, boottime::now());
        self.tell_or_complain(&Word::Holds(until));
        doubts.may_run(boottime::now()).for_each(thaw);
    }

    /// Thaws the container by `thaw` if it may go on.
    pub(super) fn is_ours(
        &self,
        name: &str,
        read_at: Duration,
        thaw: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<()> {
        let mut doubts = self.doubts();
        if doubts.is_ours(name, read_at, boottime::now()) { thaw() } else { Ok(()) }
    }

    /// The node freezes a container for itself.
    pub(super) fn hold(&self, name: &str) {
        if let Some(standing) = self.doubts().containers.get_mut(name) {
            standing.held = true;
        }
    }

    /// The node needs it frozen no longer: thaws it by `thaw` if it may go on.
    pub(super) fn let_go(&self, name: &str, thaw: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let mut doubts = self.doubts();
        if doubts.let_go(name, boottime::now()) { thaw() } else { Ok(()) }
    }

    /// Whether it is not known whose a container is; the node holds it.
    pub(super) fn is_in_doubt(&self, name: &str) -> bool {
        self.doubts().is_in_doubt(name, boottime::now())
    }

    fn doubts(&self) -> MutexGuard<'_, Doubts> {
        self.doubts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, word: &Word) -> io::Result<()> {
        let mut pipe = self.pipe.lock().unwrap_or_else(PoisonError::into_inner);
        let pipe = pipe.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        // Shorter than what the kernel takes whole or not at all.
        pipe.write_all(word.to_string().as_bytes())
    }

    fn tell_or_complain(&self, word: &Word) {
        if let Err(error) = self.tell(word) {
            tracing::error!(%error, "the guard does not hear: jobs with network may run on when the lease is over");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn words_are_read_as_they_are_written() {
        let name = || "job-1-2".to_owned();
        for word in [Word::Holds(at(7)), Word::Watch(name()), Word::Forget(name()), Word::Farewell] {
            assert_eq!(Word::read(word.to_string().trim_end()), Some(word));
        }
        for line in ["", "q", "holds", "holds x", "farewells"] {
            assert_eq!(Word::read(line), None, "{line}");
        }
    }

    #[test]
    fn the_guard_stops_what_has_network_when_the_lease_is_over() {
        let mut watch = Watch::default();
        let stopped = |watch: &Watch, now| watch.must_stand_still(at(now)).map(str::to_owned).collect::<Vec<_>>();
        watch.hear(Word::Watch("a".to_owned()));
        assert!(stopped(&watch, 1_000).is_empty() && !watch.depends_on_time(), "no lease ends by time");
        watch.hear(Word::Holds(at(10)));
        assert!(watch.depends_on_time());
        assert!(stopped(&watch, 9).is_empty());
        assert_eq!(stopped(&watch, 10), ["a"]);
        watch.hear(Word::Watch("b".to_owned()));
        assert_eq!(stopped(&watch, 11), ["a", "b"], "what starts too late stops at once");
        watch.hear(Word::Forget("a".to_owned()));
        watch.hear(Word::Holds(at(20)));
        assert!(stopped(&watch, 12).is_empty());
        assert_eq!(stopped(&watch, 20), ["b"]);
    }

    fn doubts() -> Doubts {
        let mut doubts = Doubts::default();
        doubts.holds(Lease { since: at(1), until: at(10) }, at(1));
        doubts.containers.insert("a".to_owned(), Standing::default());
        doubts
    }

    #[test]
    fn without_leases_that_end_nothing_is_in_doubt() {
        let mut doubts = Doubts::default();
        doubts.containers.insert("a".to_owned(), Standing { held: true, in_doubt: false });
        assert!(doubts.let_go("a", at(1_000)) && doubts.is_ours("a", at(0), at(1_000)));
    }

    #[test]
    fn a_renewed_lease_leaves_no_doubt_and_one_that_was_over_does() {
        let mut doubts = doubts();
        doubts.holds(Lease { since: at(1), until: at(20) }, at(9));
        assert!(doubts.let_go("a", at(11)));
        doubts.holds(Lease { since: at(1), until: at(40) }, at(30));
        assert!(!doubts.let_go("a", at(31)), "it was over at 20");
        assert!(doubts.is_ours("a", at(32), at(33)));
        assert!(doubts.let_go("a", at(34)));
    }

    #[test]
    fn only_what_was_read_under_the_lease_that_holds_counts() {
        let mut doubts = doubts();
        doubts.holds(Lease { since: at(50), until: at(60) }, at(50));
        assert!(!doubts.is_ours("a", at(49), at(51)), "another node may have had it between 49 and 50");
        assert!(!doubts.is_ours("a", at(51), at(60)), "the lease is over");
        assert!(doubts.is_ours("a", at(51), at(52)));
        assert!(!doubts.is_ours("gone", at(51), at(52)));
    }

    #[test]
    fn what_may_run_is_neither_captured_nor_in_doubt() {
        let mut doubts = doubts();
        for (name, held, in_doubt) in [("held", true, false), ("doubtful", false, true)] {
            doubts.containers.insert(name.to_owned(), Standing { held, in_doubt });
        }
        assert_eq!(doubts.may_run(at(9)).collect::<Vec<_>>(), ["a"]);
        assert_eq!(doubts.may_run(at(10)).count(), 0, "the lease is over");
        doubts.holds(Lease { since: at(1), until: at(20) }, at(10));
        assert_eq!(doubts.may_run(at(10)).count(), 0, "there was a gap");
    }

    #[test]
    fn a_container_that_is_captured_stands_still_until_the_capture_is_over() {
        let mut doubts = doubts();
        doubts.containers.insert("a".to_owned(), Standing { held: true, in_doubt: true });
        assert!(!doubts.is_ours("a", at(2), at(3)));
        assert!(doubts.let_go("a", at(4)));
        doubts.containers.insert("a".to_owned(), Standing { held: true, in_doubt: false });
        assert!(!doubts.let_go("a", at(10)), "the lease ended meanwhile");
        assert!(!doubts.let_go("a", at(11)));
    }
}
