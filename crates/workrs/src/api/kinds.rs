//! The kinds of problems, which are a promise: programs branch on them. docs/http-api.md has the same list.

/// A kind of problem.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    /// What stands behind `urn:workrs:problem:`.
    pub name: &'static str,
    /// The HTTP status that it always has.
    pub status: u16,
    /// What it means.
    pub meaning: &'static str,
}

const fn kind(name: &'static str, status: u16, meaning: &'static str) -> Kind {
    Kind { name, status, meaning }
}

/// All of them, by status.
pub const KINDS: &[Kind] = &[
    kind("bad-request", 400, "the request cannot be understood"),
    kind("bad-name", 400, "an id or another name cannot be used"),
    kind("bad-path", 400, "a file name cannot be used"),
    kind("bad-image-name", 400, "no image can have this name"),
    kind("tls-needed", 400, "plain HTTP, and the node speaks TLS"),
    kind("no-token", 401, "the token is missing or wrong"),
    kind("token-expired", 401, "the token is too old"),
    kind("token-revoked", 401, "the token was taken back"),
    kind(
        "forbidden",
        403,
        "the caller may not do this, or asks from another site's page or by a name that is not loopback",
    ),
    kind("registry-refused", 403, "a registry does not give the image to this node, or not by these credentials"),
    kind("not-found", 404, "there is no such job, output, node, image or token, or it is another's"),
    kind("no-image", 404, "the registry has no such image"),
    kind("no-route", 404, "there is nothing at this address"),
    kind("wrong-method", 405, "this address takes another method; `Allow` says which"),
    kind("id-taken", 409, "the id belongs to a job with other content"),
    kind("wrong-state", 409, "not possible in the state that the job is in"),
    kind("not-finished", 409, "outputs of a job that has not finished"),
    kind("no-admin", 409, "the group would have tokens, but none of an admin"),
    kind("no-drills", 409, "the node allows no fault drills"),
    kind("conflict", 409, "somebody else changed it at the same time; try again"),
    kind(
        "no-room",
        409,
        "no live node of the group is large enough, has the image's architecture, or allows what the job asks for",
    ),
    kind("registry-unavailable", 409, "a registry cannot be reached from this node, or wants patience"),
    kind("registry-failed", 409, "a registry answers, but not with what it should"),
    kind("image-refused", 409, "what was named or sent is no image that can be used"),
    kind("too-large", 413, "the body is longer than what this address takes"),
    kind("media-type", 415, "the body is of another type than this address takes"),
    kind("bad-range", 416, "the range begins behind the end"),
    kind("invalid-job", 422, "the job can be understood, but not run"),
    kind(
        "rate-limited",
        429,
        "the caller asks too often, or has too many event streams; `Retry-After` says when to ask again",
    ),
    kind("quota", 429, "the owner has used up a quota"),
    kind("damaged", 500, "stored data is damaged"),
    kind("node-failed", 500, "the node cannot keep or read an archive"),
    kind("unavailable", 503, "a store does not answer; try again, or another node"),
    kind("state-full", 503, "the state store is nearly full: no jobs are accepted"),
    kind("storage-full", 507, "no space is left; nothing was accepted"),
];

/// The kind of this name.
pub fn find(name: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| kind.name == name)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs, path::Path};

    use super::*;

    #[test]
    fn names_are_unique_and_in_the_order_of_their_status() {
        assert!(KINDS.is_sorted_by_key(|kind| kind.status));
        assert_eq!(KINDS.iter().map(|kind| kind.name).collect::<BTreeSet<_>>().len(), KINDS.len());
    }

    #[test]
    fn the_manual_lists_each_with_its_status() {
        let manual = include_str!("../../../../docs/http-api.md");
        for Kind { name, status, .. } in KINDS {
            let row = manual.lines().find(|line| line.starts_with('|') && line.contains(&format!("`{name}`")));
            let row = row.unwrap_or_else(|| panic!("docs/http-api.md does not list {name}"));
            assert!(row.contains(&format!("| {status} |")), "{name} is {status}, and the manual says {row}");
        }
    }

    /// What is made in the code is on the list: a problem's kind is a literal behind its status.
    #[test]
    fn the_code_makes_no_other() {
        let mut unknown = BTreeSet::new();
        look(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut |text| {
            for made in text.split("Problem::new(").chain(text.split("Self::new(")).skip(1) {
                let head: String = made.split(';').next().unwrap_or_default().chars().take(120).collect();
                let Some(behind) = head.trim_start().strip_prefix("StatusCode::") else { continue };
                let name = behind.split_once(',').map(|(_, rest)| rest.trim_start());
                let name = name.and_then(|rest| rest.strip_prefix('"')).and_then(|rest| rest.split('"').next());
                unknown.extend(name.filter(|name| find(name).is_none()).map(str::to_owned));
            }
        });
        assert_eq!(unknown, BTreeSet::new(), "add them to KINDS and to docs/http-api.md");
    }

    fn look(folder: &Path, see: &mut impl FnMut(&str)) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                look(&path, see);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                see(&fs::read_to_string(&path).unwrap());
            }
        }
    }
}
