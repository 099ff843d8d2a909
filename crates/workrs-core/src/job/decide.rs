//! What the loops of a node decide about a job, and what must still hold in the group when that is committed.
//!
//! A decision is made from what was read some time ago. It is right only if the store confirms its guards in the very
//! transaction that writes it; that the record is unchanged is a condition of every change and is not repeated here.

use crate::{
    id::{Epoch, Incarnation, NodeId, Timestamp},
    job::{Holder, JobEvent, JobRecord, JobState},
    keys,
};

/// Something of the group that a change depends on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Guard {
    /// The process is a member of the group: its key stands.
    NodeLives {
        /// The node.
        node: NodeId,
        /// Its process.
        incarnation: Incarnation,
    },
    /// The process is no member any more: its key is gone.
    NodeGone {
        /// The node.
        node: NodeId,
        /// Its process.
        incarnation: Incarnation,
    },
    /// Nobody asked the node to give its jobs back.
    NotDraining {
        /// The node.
        node: NodeId,
    },
}

impl Guard {
    /// The key that it is about.
    pub fn key(&self) -> String {
        match self {
            Self::NodeLives { node, incarnation } | Self::NodeGone { node, incarnation } => {
                keys::node(node, incarnation)
            }
            Self::NotDraining { node } => keys::drain(node),
        }
    }

    /// Whether that key must stand; it must not stand otherwise.
    pub fn wants_key(&self) -> bool {
        matches!(self, Self::NodeLives { .. })
    }
}

/// An event, and what must hold when it is committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// What is to happen.
    pub event: JobEvent,
    /// All must hold.
    pub guards: Vec<Guard>,
}

/// A queued job goes to `holder`, whose epoch is the record's next. Only a member of the group may take a job, or nobody
/// would notice that it is dead; and none that is to give its jobs back.
pub fn claim(holder: &Holder, at: Timestamp) -> Decision {
    let Holder { node, incarnation, .. } = holder;
    let guards = vec![
        Guard::NodeLives { node: node.clone(), incarnation: incarnation.clone() },
        Guard::NotDraining { node: node.clone() },
    ];
    Decision { event: JobEvent::Claimed { holder: holder.clone(), at }, guards }
}

/// A job whose holder left the group goes back to the queue; `None` if nobody holds it. A holder that came back in time
/// keeps it.
pub fn reap(record: &JobRecord, at: Timestamp) -> Option<Decision> {
    let holder = record.holder()?;
    let Holder { node, incarnation, .. } = holder;
    let guards = vec![Guard::NodeGone { node: node.clone(), incarnation: incarnation.clone() }];
    let reason = format!("node {node} died");
    Some(Decision { event: JobEvent::NodeLost { holder: holder.clone(), at, reason }, guards })
}

/// A process that does not know of a job which its record says it runs gives it back; `None` if it does not say so. The
/// caller makes sure that the job neither runs here nor is about to be claimed.
pub fn disown(record: &JobRecord, incarnation: &Incarnation, at: Timestamp) -> Option<Decision> {
    let holder = record.holder().filter(|holder| holder.incarnation == *incarnation)?;
    let reason = "its node did not know of it".to_owned();
    Some(Decision { event: JobEvent::Released { holder: holder.clone(), at, reason }, guards: Vec::new() })
}

/// Whether a job that was claimed under `epoch`, or is about to be, must be ended here and nothing of it be committed:
/// its record is gone or has seen a later claim.
pub fn is_overtaken(record: Option<&JobRecord>, epoch: Epoch) -> bool {
    record.is_none_or(|record| record.epoch > epoch)
}

/// Whether a job that was claimed under `epoch` has been given back: nobody has it now, and whoever claims it next starts
/// from its newest checkpoint. What was done since is undone, so nothing more may be done where others can see it.
pub fn is_given_back(record: &JobRecord, epoch: Epoch) -> bool {
    record.epoch == epoch && matches!(record.state, JobState::Queued { .. })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        id::{JobId, Owner},
        spec::JobSpec,
    };

    #[test]
    fn decisions_fit_the_record_that_they_were_made_from_and_no_other() {
        let at = Timestamp::from_millis(1);
        let spec = JobSpec::new("n", vec!["true".to_owned()]);
        let queued = JobRecord::submitted(JobId::new("j").unwrap(), Owner::new("me").unwrap(), spec, None, at);
        let (node, incarnation) = (NodeId::new("a").unwrap(), Incarnation::new("a1").unwrap());
        let holder = Holder { node: node.clone(), incarnation: incarnation.clone(), epoch: queued.epoch.next() };
        assert_eq!((reap(&queued, at), disown(&queued, &incarnation, at)), (None, None));

        let claimed = claim(&holder, at);
        let keys: Vec<_> = claimed.guards.iter().map(|guard| (guard.key(), guard.wants_key())).collect();
        assert_eq!(keys, [("nodes/a/a1".to_owned(), true), ("drains/a".to_owned(), false)]);
        let running = queued.apply(&claimed.event).unwrap();
        assert!(!is_overtaken(Some(&running), holder.epoch) && !is_overtaken(Some(&queued), holder.epoch));

        let reaped = reap(&running, at).unwrap();
        assert_eq!(reaped.guards, [Guard::NodeGone { node, incarnation: incarnation.clone() }]);
        assert!(!reaped.guards[0].wants_key());
        let lost = running.apply(&reaped.event).unwrap();
        assert_eq!((lost.state.name(), lost.losses), ("queued", 1));

        assert_eq!(disown(&running, &Incarnation::new("a2").unwrap(), at), None);
        let released = running.apply(&disown(&running, &incarnation, at).unwrap().event).unwrap();
        assert_eq!((released.state.name(), released.losses), ("queued", 0));

        assert!(is_given_back(&lost, holder.epoch) && is_given_back(&released, holder.epoch));
        assert!(!is_given_back(&running, holder.epoch) && !is_given_back(&queued, holder.epoch), "it is to be claimed");

        let next = Holder { epoch: released.epoch.next(), ..holder.clone() };
        let taken = released.apply(&claim(&next, at).event).unwrap();
        assert!(is_overtaken(Some(&taken), holder.epoch) && is_overtaken(None, holder.epoch));
        assert!(taken.apply(&reaped.event).unwrap() == taken, "what was decided of a former claim changes nothing");
    }
}
