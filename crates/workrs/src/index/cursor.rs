//! Where a page of a list begins: behind a job, by its time and id, so that it stays right when jobs come and go.

use std::{fmt, str::FromStr};

use workrs_core::id::{JobId, Timestamp};

/// Behind which job a page begins. As text it is `~`, the time in hex, `~` and the id; clients take it as it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor {
    /// When the job was acknowledged.
    pub submitted_at: Timestamp,
    /// Its id.
    pub id: JobId,
}

/// A text that no list gave.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no place in a list: give the `next` of the page before as it is")]
pub struct InvalidCursor(String);

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "~{:x}~{}", self.submitted_at.as_millis(), self.id)
    }
}

impl FromStr for Cursor {
    type Err = InvalidCursor;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let (time, id) = text.strip_prefix('~')?.split_once('~')?;
            // A sign would be taken, too.
            let is_hex = (1..=16).contains(&time.len()) && time.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
            let millis = u64::from_str_radix(time, 16).ok().filter(|_| is_hex)?;
            Some(Self { submitted_at: Timestamp::from_millis(millis), id: JobId::new(id).ok()? })
        };
        parse().ok_or_else(|| InvalidCursor(text.chars().take(100).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_come_back_and_nothing_else_is_one() {
        let cursor = Cursor { submitted_at: Timestamp::from_millis(0x1f), id: JobId::new("a-b.c_d").unwrap() };
        assert_eq!(cursor.to_string(), "~1f~a-b.c_d");
        assert_eq!(cursor.to_string().parse(), Ok(cursor));
        for bad in ["", "~", "~~", "~1f~", "~~a", "1f~a", "~+1~a", "~1F~a", "~1f~.a", "~11111111111111111~a", "a"] {
            assert!(bad.parse::<Cursor>().is_err(), "{bad:?}");
        }
    }
}
