//! The wall clock, and ids drawn at random: what the pure core takes as arguments.

use std::time::{SystemTime, UNIX_EPOCH};

use workrs_core::id::{self, Incarnation, OperationId, Timestamp};

/// The wall clock, for people to read; a clock before 1970 counts as 1970.
pub fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// A new id of 26 characters that sorts by time: fit for jobs, operations and incarnations.
pub fn id() -> String {
    id::generate(now(), rand::random())
}

/// A new operation.
pub fn operation() -> OperationId {
    OperationId::new(id()).expect("a generated id is a name")
}

/// A new process of a node.
pub fn incarnation() -> Incarnation {
    Incarnation::new(id()).expect("a generated id is a name")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_ids_are_alike() {
        assert_ne!(operation(), operation());
        assert_ne!(incarnation(), incarnation());
        assert!(now().as_millis() > 1_700_000_000_000);
    }
}
