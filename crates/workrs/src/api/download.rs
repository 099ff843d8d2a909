//! Downloads: which part of something a request wants (RFC 9110, section 14), and whether its sender has it already.

use std::ops::Range;

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

use super::Problem;

/// What a request wants of something that has a length and a tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Wanted {
    /// All of it.
    Whole,
    /// These bytes of it; never none.
    Part(Range<u64>),
    /// Nothing: its sender has it.
    NotModified,
}

impl Wanted {
    /// Reads the conditions and the range of a request. A range in another unit, or of several parts, is ignored, as is one
    /// of a version that is no more.
    pub(super) fn read(headers: &HeaderMap, len: u64, tag: &str) -> Result<Self, Unsatisfiable> {
        if is_known(headers, tag) {
            return Ok(Self::NotModified);
        }
        let is_current = text(headers, &header::IF_RANGE).is_none_or(|condition| condition == tag);
        match text(headers, &header::RANGE).filter(|_| is_current).and_then(Bytes::parse) {
            None => Ok(Self::Whole),
            Some(bytes) => bytes.of(len).map(Self::Part).ok_or(Unsatisfiable(len)),
        }
    }

    /// The bytes that are sent.
    pub(super) fn bytes(&self, len: u64) -> Range<u64> {
        match self {
            Self::Whole => 0..len,
            Self::Part(range) => range.clone(),
            Self::NotModified => 0..0,
        }
    }

    /// The status and the headers that say what is sent.
    pub(super) fn head(&self, len: u64, tag: &str) -> (StatusCode, Vec<(HeaderName, String)>) {
        let mut headers = vec![(header::ETAG, tag.to_owned()), (header::ACCEPT_RANGES, "bytes".to_owned())];
        let status = match self {
            Self::NotModified => return (StatusCode::NOT_MODIFIED, headers),
            Self::Whole => StatusCode::OK,
            Self::Part(range) => {
                headers.push((header::CONTENT_RANGE, format!("bytes {}-{}/{len}", range.start, range.end - 1)));
                StatusCode::PARTIAL_CONTENT
            }
        };
        let bytes = self.bytes(len);
        headers.push((header::CONTENT_LENGTH, (bytes.end - bytes.start).to_string()));
        (status, headers)
    }
}

/// A range that lies behind the end of what has this length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unsatisfiable(u64);

impl From<Unsatisfiable> for Problem {
    fn from(Unsatisfiable(len): Unsatisfiable) -> Self {
        Self::new(
            StatusCode::RANGE_NOT_SATISFIABLE,
            "bad-range",
            "there are no such bytes",
            format!("the range begins behind the end: there are {len} bytes"),
        )
    }
}

/// The tag of what has this hash.
pub(super) fn tag(hash: impl std::fmt::Display) -> String {
    format!("\"{hash}\"")
}

/// Whether the sender has what has this tag (`If-None-Match`).
pub(super) fn is_known(headers: &HeaderMap, tag: &str) -> bool {
    let mut given = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    given.any(|tags| tags.split(',').map(str::trim).any(|known| known == "*" || known.trim_start_matches("W/") == tag))
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name).map(HeaderValue::to_str)?.ok()
}

/// One range of bytes as it is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bytes {
    /// From the first one on, to the last one if that is named.
    From(u64, Option<u64>),
    /// This many at the end.
    Last(u64),
}

impl Bytes {
    fn parse(range: &str) -> Option<Self> {
        let (first, last) = range.strip_prefix("bytes=")?.trim().split_once('-')?;
        match (number(first), number(last)) {
            (Some(first), Some(last)) => (first <= last).then_some(Self::From(first, Some(last))),
            (Some(first), None) if last.is_empty() => Some(Self::From(first, None)),
            (None, Some(last)) if first.is_empty() => Some(Self::Last(last)),
            _ => None,
        }
    }

    /// Which bytes these are of something of this length; `None` if there are none.
    fn of(self, len: u64) -> Option<Range<u64>> {
        let range = match self {
            Self::From(first, last) => first..last.map_or(len, |last| len.min(last.saturating_add(1))),
            Self::Last(count) => len.saturating_sub(count)..len,
        };
        (!range.is_empty()).then_some(range)
    }
}

fn number(text: &str) -> Option<u64> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    // More than there can be is as good as the most.
    is_number.then(|| text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAG: &str = "\"abc\"";

    fn check(given: &[(HeaderName, &str)], expect: &Result<Wanted, Unsatisfiable>) {
        let headers = given.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect();
        assert_eq!(&Wanted::read(&headers, 10, TAG), expect, "{given:?}");
    }

    #[test]
    fn one_range_of_bytes_is_understood_and_others_are_ignored() {
        let range = |text| [(header::RANGE, text)];
        let part = |range| Ok(Wanted::Part(range));
        check(&[], &Ok(Wanted::Whole));
        check(&range("bytes=0-0"), &part(0..1));
        check(&range("bytes=2-5"), &part(2..6));
        check(&range("bytes=2-"), &part(2..10));
        check(&range("bytes=2-99999999999999999999"), &part(2..10));
        check(&range("bytes=-3"), &part(7..10));
        check(&range("bytes=-30"), &part(0..10));
        for behind in ["bytes=10-", "bytes=10-12", "bytes=-0"] {
            check(&range(behind), &Err(Unsatisfiable(10)));
        }
        for other in ["bytes=0-1,3-4", "lines=1-2", "bytes=5-2", "bytes=-", "bytes=+1-2", "bytes=a-b", "bytes"] {
            check(&range(other), &Ok(Wanted::Whole));
        }
    }

    #[test]
    fn what_the_sender_has_is_not_sent_again() {
        check(&[(header::IF_NONE_MATCH, "\"x\", W/\"abc\"")], &Ok(Wanted::NotModified));
        check(&[(header::IF_NONE_MATCH, "*"), (header::RANGE, "bytes=1-2")], &Ok(Wanted::NotModified));
        check(&[(header::IF_NONE_MATCH, "\"x\"")], &Ok(Wanted::Whole));
        check(&[(header::IF_RANGE, TAG), (header::RANGE, "bytes=1-2")], &Ok(Wanted::Part(1..3)));
        check(&[(header::IF_RANGE, "\"old\""), (header::RANGE, "bytes=1-2")], &Ok(Wanted::Whole));
    }

    #[test]
    fn headers_say_what_is_sent() {
        let (status, headers) = Wanted::Part(2..6).head(10, TAG);
        assert_eq!(status, StatusCode::PARTIAL_CONTENT);
        assert!(headers.contains(&(header::CONTENT_RANGE, "bytes 2-5/10".to_owned())), "{headers:?}");
        assert!(headers.contains(&(header::CONTENT_LENGTH, "4".to_owned())), "{headers:?}");
        assert_eq!(Wanted::NotModified.head(10, TAG).0, StatusCode::NOT_MODIFIED);
        assert_eq!(Wanted::Whole.head(0, TAG).0, StatusCode::OK);
    }
}
