//! Names of jobs, nodes, incarnations and operations, and points in time.
//!
//! Every name is safe as one component of a state key, a blob name and a file name: ASCII letters,
//! digits, `-`, `_` and `.`, not starting with a dot.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};
use ulid::Ulid;

/// The longest name that a user may choose, in bytes.
pub const MAX_NAME_LEN: usize = 64;

/// A name that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    /// Nothing was given.
    #[error("{what} must not be empty")]
    Empty {
        /// Which kind of name.
        what: &'static str,
    },
    /// Longer than [`MAX_NAME_LEN`].
    #[error("{what} has {len} bytes, at most {MAX_NAME_LEN} are allowed")]
    TooLong {
        /// Which kind of name.
        what: &'static str,
        /// Its length in bytes.
        len: usize,
    },
    /// A character outside the allowed set.
    #[error(
        "{what} has the character {character:?}; use letters, digits, '-', '_' and '.', and start with a letter or digit"
    )]
    Character {
        /// Which kind of name.
        what: &'static str,
        /// The first offending character.
        character: char,
    },
}

fn check_name(what: &'static str, text: &str) -> Result<(), InvalidName> {
    let Some(first) = text.chars().next() else {
        return Err(InvalidName::Empty { what });
    };
    if text.len() > MAX_NAME_LEN {
        return Err(InvalidName::TooLong { what, len: text.len() });
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let offending = if first.is_ascii_alphanumeric() { text.chars().find(|c| !allowed(*c)) } else { Some(first) };
    match offending {
        Some(character) => Err(InvalidName::Character { what, character }),
        None => Ok(()),
    }
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Checks and takes a name.
            pub fn new(text: impl Into<String>) -> Result<Self, InvalidName> {
                let text = text.into();
                check_name($what, &text)?;
                Ok(Self(text))
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Self::new(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidName;

            fn try_from(text: String) -> Result<Self, Self::Error> {
                Self::new(text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }
    };
}

name_type!(
    /// A job's id, chosen by the client (see [`generate`]); the same id, owner and spec are the same job.
    JobId,
    "a job id"
);
name_type!(
    /// A node's name, the same over its restarts.
    NodeId,
    "a node name"
);
name_type!(
    /// One process of a node: drawn anew at each start of the process.
    Incarnation,
    "an incarnation"
);
name_type!(
    /// One operation that writes: it ends every blob name and is noted in every value.
    OperationId,
    "an operation id"
);
name_type!(
    /// Who handed a job over.
    Owner,
    "an owner"
);
name_type!(
    /// Which token a caller showed; not the token itself.
    TokenId,
    "a token id"
);

/// A sortable id of 26 lower-case letters and digits (a ULID) from a point in time and 80 random bits.
pub fn generate(now: Timestamp, random: u128) -> String {
    Ulid::from_parts(now.as_millis(), random).to_string().to_ascii_lowercase()
}

/// How many times a job was claimed; the first claim makes epoch 1, 0 means never claimed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u64);

impl Epoch {
    /// The epoch of the next claim.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A point in time in milliseconds since 1970-01-01T00:00:00Z, for people to read. No decision compares
/// timestamps of two machines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(u64);

impl Timestamp {
    /// From milliseconds since the epoch.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the epoch.
    pub fn as_millis(self) -> u64 {
        self.0
    }

    /// The time from `earlier` to `self`, zero if the clock went back.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_safe_as_one_path_component() {
        for good in ["a", "job-1", "A_b.c", &"x".repeat(MAX_NAME_LEN)] {
            assert!(JobId::new(good).is_ok(), "{good:?}");
        }
        for bad in ["", ".", "..", ".hidden", "-rf", "a/b", "a\nb", "a b", "ä", &"x".repeat(MAX_NAME_LEN + 1)] {
            assert!(JobId::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn generated_ids_are_names_and_sort_by_time() {
        let early = generate(Timestamp::from_millis(1_000), u128::MAX);
        let late = generate(Timestamp::from_millis(1_001), 0);
        assert!(early < late);
        assert!(JobId::new(late).is_ok());
    }
}
