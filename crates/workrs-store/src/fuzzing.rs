//! What fuzzers call of this crate: parsers of what stands in stores, which others may have written. Not an interface.

use workrs_core::{id::OperationId, job::JobRecord};

pub use crate::checkpoints::fuzz::{manifest, pack_index};
use crate::envelope::Envelope;

/// A record as it stands in the state store. What comes is the JSON inside the envelope, as the checksum around it would stop any other
/// change.
pub fn record(data: &[u8]) -> Option<JobRecord> {
    const KEY: &str = "jobs/j";
    // The reader sees what bit rot would leave, too.
    assert!(Envelope::<JobRecord>::decode(KEY, data).is_err(), "no checksum was guessed");
    let body: serde_json::Value = serde_json::from_slice(data).ok()?;
    let written = Envelope::new("o", body, OperationId::new("op").ok()?).encode(KEY);
    let record = Envelope::<JobRecord>::decode(KEY, &written).ok()?.body;
    let again = Envelope::new("o", &record, OperationId::new("op").ok()?).encode(KEY);
    assert!(Envelope::<JobRecord>::decode(KEY, &again).is_ok(), "what was read can be written and read");
    Some(record)
}
