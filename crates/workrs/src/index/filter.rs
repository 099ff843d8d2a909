//! Which jobs, in which order, and how many there are of each kind.

use std::{fmt, str::FromStr};

use workrs_core::{
    id::{NodeId, Owner, Timestamp},
    index::OutcomeKind,
};

use super::{Cursor, Row, Standing, snapshot::Snapshot};

/// Jobs of a page unless more or fewer are asked for.
const DEFAULT_LIMIT: usize = 100;

/// The state of a job, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StateKind {
    /// It waits for a node.
    Queued,
    /// A node holds it.
    Running,
    /// It has ended.
    Finished,
}

impl StateKind {
    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Finished => "finished",
        }
    }
}

impl fmt::Display for StateKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A word that names no state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not one of queued, running, finished")]
pub struct UnknownState(String);

impl FromStr for StateKind {
    type Err = UnknownState;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let known = [Self::Queued, Self::Running, Self::Finished].into_iter().find(|kind| kind.as_str() == text);
        known.ok_or_else(|| UnknownState(text.to_owned()))
    }
}

impl Standing {
    /// In one word.
    pub fn state(&self) -> StateKind {
        match self {
            Self::Queued => StateKind::Queued,
            Self::Running { .. } => StateKind::Running,
            Self::Finished { .. } => StateKind::Finished,
        }
    }

    /// How it ended, if it did.
    pub fn outcome(&self) -> Option<OutcomeKind> {
        match self {
            Self::Finished { outcome, .. } => Some(*outcome),
            Self::Queued | Self::Running { .. } => None,
        }
    }

    /// The node that holds it.
    pub fn node(&self) -> Option<&NodeId> {
        match self {
            Self::Running { node } => Some(node),
            Self::Queued | Self::Finished { .. } => None,
        }
    }
}

/// Which end of the list comes first, by the time of the submit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Order {
    /// The newest first.
    #[default]
    Desc,
    /// The oldest first.
    Asc,
}

/// Which jobs; what is not given lets all through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// In this state.
    pub state: Option<StateKind>,
    /// Ended like this.
    pub outcome: Option<OutcomeKind>,
    /// Of exactly this name.
    pub name: Option<String>,
    /// With this text in name, id or owner, whatever its case.
    pub search: Option<String>,
    /// Handed over by this owner.
    pub owner: Option<Owner>,
    /// Running on this node.
    pub node: Option<NodeId>,
    /// Handed over then or later.
    pub since: Option<Timestamp>,
    /// Handed over before then.
    pub until: Option<Timestamp>,
    /// Which end comes first.
    pub order: Order,
    /// Only those behind it, in that order.
    pub after: Option<Cursor>,
    /// At most this many.
    pub limit: usize,
}

impl Default for Filter {
    fn default() -> Self {
        Self {
            state: None,
            outcome: None,
            name: None,
            search: None,
            owner: None,
            node: None,
            since: None,
            until: None,
            order: Order::default(),
            after: None,
            limit: DEFAULT_LIMIT,
        }
    }
}

impl Filter {
    /// Whether it lets a job through whose state is not looked at.
    fn admits_but_for_state(&self, row: &Row, search: Option<&str>) -> bool {
        self.name.as_ref().is_none_or(|name| row.name == *name)
            && self.owner.as_ref().is_none_or(|owner| row.owner == *owner)
            && self.node.as_ref().is_none_or(|node| row.standing.node() == Some(node))
            && self.since.is_none_or(|since| row.submitted_at >= since)
            && self.until.is_none_or(|until| row.submitted_at < until)
            && search.is_none_or(|text| has(row, text))
    }

    fn admits_state(&self, standing: &Standing) -> bool {
        self.state.is_none_or(|state| standing.state() == state)
            && self.outcome.is_none_or(|outcome| standing.outcome() == Some(outcome))
    }

    /// Whether it lets a job through, wherever the page begins.
    pub fn admits(&self, row: &Row) -> bool {
        let search = self.search.as_ref().map(|text| text.to_lowercase());
        self.admits_state(&row.standing) && self.admits_but_for_state(row, search.as_deref())
    }
}

/// Whether a text, which is in lower case, stands in what people look for.
fn has(row: &Row, text: &str) -> bool {
    let id = row.id.as_str();
    row.name.to_lowercase().contains(text)
        || id.to_ascii_lowercase().contains(text)
        || row.owner.as_str().to_ascii_lowercase().contains(text)
}

/// How many jobs there are of each kind, whatever state was asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Those that wait.
    pub queued: usize,
    /// Those that run.
    pub running: usize,
    /// Those that have ended, however.
    pub finished: usize,
    /// Those that succeeded.
    pub succeeded: usize,
    /// Those that failed.
    pub failed: usize,
    /// Those that were cancelled.
    pub cancelled: usize,
    /// Those that were lost.
    pub lost: usize,
}

impl Counts {
    fn add(&mut self, standing: &Standing) {
        match standing.state() {
            StateKind::Queued => self.queued += 1,
            StateKind::Running => self.running += 1,
            StateKind::Finished => self.finished += 1,
        }
        match standing.outcome() {
            None => {}
            Some(OutcomeKind::Succeeded) => self.succeeded += 1,
            Some(OutcomeKind::Failed) => self.failed += 1,
            Some(OutcomeKind::Cancelled) => self.cancelled += 1,
            Some(OutcomeKind::Lost) => self.lost += 1,
        }
    }

    /// Jobs of all states.
    pub fn all(&self) -> usize {
        self.queued + self.running + self.finished
    }
}

/// A part of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The jobs.
    pub rows: Vec<Row>,
    /// How many the filter lets through in all.
    pub total: usize,
    /// How many of each kind the filter would let through if it did not ask for a state or an outcome.
    pub counts: Counts,
    /// Behind what the next page begins; none behind the last.
    pub next: Option<Cursor>,
}

impl Row {
    /// The place behind it.
    pub fn cursor(&self) -> Cursor {
        Cursor { submitted_at: self.submitted_at, id: self.id.clone() }
    }
}

impl Snapshot {
    /// The page that `filter` asks for, of one owner's jobs or of all.
    pub(super) fn page(&self, filter: &Filter, owner: Option<&Owner>) -> Page {
        let search = filter.search.as_ref().map(|text| text.to_lowercase());
        let mut page = Page { rows: Vec::new(), total: 0, counts: Counts::default(), next: None };
        let mut more = false;
        let mut look = |row: &Row, is_behind: bool| {
            if !Self::is_of(row, owner) || !filter.admits_but_for_state(row, search.as_deref()) {
                return;
            }
            page.counts.add(&row.standing);
            if !filter.admits_state(&row.standing) {
                return;
            }
            page.total += 1;
            if is_behind {
                more |= page.rows.len() == filter.limit;
                if page.rows.len() < filter.limit {
                    page.rows.push(row.clone());
                }
            }
        };
        let place = |row: &Row| {
            filter.after.as_ref().map(|after| (row.submitted_at, &row.id).cmp(&(after.submitted_at, &after.id)))
        };
        match filter.order {
            Order::Asc => {
                self.rows.values().for_each(|row| look(row, place(row).is_none_or(std::cmp::Ordering::is_gt)));
            }
            Order::Desc => {
                self.rows.values().rev().for_each(|row| look(row, place(row).is_none_or(std::cmp::Ordering::is_lt)));
            }
        }
        if more {
            page.next = page.rows.last().map(Row::cursor);
        }
        page
    }
}
