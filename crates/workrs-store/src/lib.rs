//! State, blobs and checkpoints of Workrs.
//!
//! - [`state`]: the trait [`state::StateStore`] and its contract.
//! - [`fresh`]: the wall clock, and ids drawn at random.
//! - [`redb`]: one machine's state in a file.
//! - [`etcd`]: state of many machines in an etcd cluster.
//! - [`faulty`]: a wrapper that refuses operations or loses their answers, for tests.
//! - [`conformance`]: the one suite that every state store passes, and the one that every blob store passes.
//! - [`envelope`]: how a value stands in a state store: checksum, owner, and which operations wrote it.
//! - [`records`]: job records and their index keys in a state store; settles writes whose answer was lost.
//! - [`tls`]: who provides TLS to HTTP clients.
//! - [`values`]: small values beside the records, changed by a function of what stood there.
//! - [`blobs`]: inputs, outputs, logs and checkpoints in any object store, opened from a URL.
//! - [`checkpoints`]: stores what an engine captured, and brings it back, every byte verified.

pub mod blobs;
pub mod checkpoints;
pub mod conformance;
pub mod envelope;
#[cfg(feature = "etcd")]
pub mod etcd;
pub mod faulty;
pub mod fresh;
#[doc(hidden)]
pub mod fuzzing;
pub mod records;
pub mod redb;
pub mod state;
pub mod tls;
pub mod values;
