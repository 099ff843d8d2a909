//! What etcd's errors mean, above all whether something may have been written.

use std::{error::Error as _, fmt, io, time::Duration};

use etcd_client::Error;

use crate::state::StateError;

/// Codes of gRPC that etcd gives to what it refused before it did anything: invalid argument, not found, already
/// exists, permission denied, resource exhausted, failed precondition, out of range, data loss, unauthenticated.
const REFUSALS: [i32; 9] = [3, 5, 6, 7, 8, 9, 11, 15, 16];
const OUT_OF_RANGE: i32 = 11;
/// How all of etcd's own messages begin; others come from a proxy, or from the connection.
const ETCD: &str = "etcdserver: ";
const NO_SPACE: &str = "etcdserver: mvcc: database space exceeded";
const DENIED: &str = "etcdserver: permission denied";
/// A member without a leader: it passed the proposal to nobody.
const DROPPED: &str = "raft proposal dropped";

/// Why a call gave no answer.
#[derive(Debug)]
pub(super) enum Failure {
    /// No member could be asked: nothing was sent.
    NoMember(String),
    /// The answer did not come in time.
    Late(Duration),
    /// What etcd, or the connection to it, said.
    Said(Error),
}

impl Failure {
    /// What it means to somebody who changed nothing.
    pub(super) fn of_read(&self) -> StateError {
        StateError::Unavailable(self.to_string())
    }

    /// What it means to somebody who wanted to change something.
    pub(super) fn of_write(&self) -> StateError {
        if self.is_lease_gone() {
            StateError::LeaseEnded
        } else if self.is_refusal() {
            StateError::Unavailable(self.to_string())
        } else {
            StateError::Unknown(self.to_string())
        }
    }

    /// Whether the same may go well with another member.
    pub(super) fn is_of_member(&self) -> bool {
        match self {
            Self::NoMember(_) => false,
            Self::Late(_) => true,
            Self::Said(_) => !self.is_refused_by_etcd() && !self.is_too_large_to_read() && !self.is_lease_gone(),
        }
    }

    /// Whether it is certain that no member got to see the request, or passed it on.
    pub(super) fn was_not_begun(&self) -> bool {
        let Self::Said(error) = self else { return matches!(self, Self::NoMember(_)) };
        self.message() == DROPPED || is_connection_refused(error)
    }

    /// Whether it is certain that nothing was written. "No space" is not among it: etcd also says so to the request
    /// that filled up its database, which it has applied.
    fn is_refusal(&self) -> bool {
        self.was_not_begun() || (self.is_refused_by_etcd() && !self.is_no_space())
    }

    pub(super) fn is_no_space(&self) -> bool {
        self.message() == NO_SPACE
    }

    pub(super) fn is_lease_gone(&self) -> bool {
        matches!(self, Self::Said(Error::LeaseKeepAliveError(_)))
            || self.message().contains("requested lease not found")
    }

    pub(super) fn is_compacted(&self) -> bool {
        self.message().contains("revision has been compacted")
    }

    /// Whether the answer was larger than what this client takes.
    pub(super) fn is_too_large_to_read(&self) -> bool {
        self.code() == Some(OUT_OF_RANGE) && !self.message().starts_with(ETCD)
    }

    /// Whether the users or their rights were changed, so that a new token is needed.
    pub(super) fn is_of_old_token(&self) -> bool {
        self.message().contains("revision of auth store is old") || self.message().contains("invalid auth token")
    }

    fn is_refused_by_etcd(&self) -> bool {
        self.message().starts_with(ETCD) && self.code().is_some_and(|code| REFUSALS.contains(&code))
    }

    fn message(&self) -> &str {
        match self {
            Self::Said(Error::GRpcStatus(status)) => status.message(),
            _ => "",
        }
    }

    fn code(&self) -> Option<i32> {
        match self {
            Self::Said(Error::GRpcStatus(status)) => Some(status.code().into()),
            _ => None,
        }
    }

    fn hint(&self) -> &'static str {
        let message = self.message();
        if message.contains("user name is empty") {
            "; this cluster asks for a user and a password"
        } else if message == DENIED {
            "; the user needs a role that may read and write below the store's prefix, and the role root for maintenance"
        } else if message == NO_SPACE {
            "; it takes writes again once it was compacted and defragmented and its alarm is off"
        } else {
            ""
        }
    }
}

/// Only an attempt to connect ends so; a connection that breaks is reset.
fn is_connection_refused(error: &Error) -> bool {
    let Error::GRpcStatus(status) = error else { return false };
    let mut source = status.source();
    while let Some(error) = source {
        if error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::ConnectionRefused) {
            return true;
        }
        source = error.source();
    }
    false
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoMember(why) => write!(formatter, "no member of etcd can be used: {why}"),
            Self::Late(deadline) => write!(formatter, "etcd gave no answer within {} ms", deadline.as_millis()),
            Self::Said(Error::GRpcStatus(status)) => {
                formatter.write_str(status.message())?;
                let mut source = status.source();
                let mut said = status.message().to_owned();
                while let Some(error) = source {
                    let text = error.to_string();
                    if !said.contains(&text) {
                        write!(formatter, ": {text}")?;
                        said.push_str(&text);
                    }
                    source = error.source();
                }
                formatter.write_str(self.hint())
            }
            Self::Said(error) => write!(formatter, "{error}"),
        }
    }
}
