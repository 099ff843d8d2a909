//! Whom a job in an image runs as: what the image says by name is looked up in the image's own books, as Docker does.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::inside::Inside;
use crate::{
    EngineError,
    disk::{IDS, JOB_ID},
};

/// More than any book of users has.
const MAX_BOOK: u64 = 4 << 20;

/// User and groups within the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// The other groups.
    pub(crate) groups: Vec<u32>,
    /// As the book of users has it.
    pub(crate) name: Option<String>,
}

impl Default for User {
    /// Of jobs whose image names none, and of those in no image.
    fn default() -> Self {
        Self { uid: JOB_ID, gid: JOB_ID, groups: Vec::new(), name: None }
    }
}

struct Account {
    name: String,
    uid: u32,
    gid: u32,
}

struct Group {
    name: String,
    gid: u32,
    members: Vec<String>,
}

impl User {
    /// The user that an image asks for by `USER[:GROUP]`, each a name or a number.
    pub(crate) fn of_image(wanted: Option<&str>, inside: &Inside) -> Result<Self, EngineError> {
        let Some(wanted) = wanted else { return Ok(Self::default()) };
        let (user, group) = wanted.split_once(':').unwrap_or((wanted, ""));
        let accounts = accounts(&book(inside, "/etc/passwd")?);
        let groups = groups(&book(inside, "/etc/group")?);
        let account = accounts.iter().find(|account| account.name == user);
        let account = account.or_else(|| accounts.iter().find(|account| Some(account.uid) == user.parse().ok()));
        let mut found = match account {
            Some(account) => {
                Self { uid: account.uid, gid: account.gid, groups: Vec::new(), name: Some(account.name.clone()) }
            }
            None => Self { uid: number(user, wanted, "user", "/etc/passwd")?, gid: 0, groups: Vec::new(), name: None },
        };
        if group.is_empty() {
            let of_user =
                groups.iter().filter(|group| found.name.as_ref().is_some_and(|name| group.members.contains(name)));
            found.groups = of_user.map(|group| group.gid).filter(|gid| *gid != found.gid).collect();
        } else {
            let named = groups.iter().find(|one| one.name == group).map(|group| Ok(group.gid));
            found.gid = named.unwrap_or_else(|| number(group, wanted, "group", "/etc/group"))?;
        }
        let ids = [found.uid, found.gid].into_iter().chain(found.groups.iter().copied());
        match ids.into_iter().find(|id| *id >= IDS) {
            None => Ok(found),
            Some(id) => Err(EngineError::CannotStart(format!(
                "its image asks for the user {wanted:?}, which has the id {id}; only 0 to {} exist in a job",
                IDS - 1
            ))),
        }
    }
}

fn number(text: &str, wanted: &str, what: &str, book: &str) -> Result<u32, EngineError> {
    text.parse().map_err(|_| {
        EngineError::CannotStart(format!(
            "its image asks for the user {wanted:?}, but its {book} has no {what} {text:?}"
        ))
    })
}

fn book(inside: &Inside, path: &str) -> Result<String, EngineError> {
    let read = inside.read(Path::new(path), MAX_BOOK);
    let bytes = read.map_err(|error| EngineError::CannotStart(format!("the {path} of its image: {error}")))?;
    Ok(String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned())
}

/// `name:password:uid:gid:…`; other lines mean nothing.
fn accounts(book: &str) -> Vec<Account> {
    let account = |line: &str| {
        let fields: Vec<_> = line.split(':').collect();
        let [name, _password, uid, gid, ..] = fields.as_slice() else { return None };
        Some(Account { name: (*name).to_owned(), uid: uid.parse().ok()?, gid: gid.parse().ok()? })
    };
    book.lines().filter_map(account).collect()
}

/// `name:password:gid:member,member…`; other lines mean nothing.
fn groups(book: &str) -> Vec<Group> {
    let group = |line: &str| {
        let fields: Vec<_> = line.split(':').collect();
        let [name, _password, gid, members] = fields.as_slice() else { return None };
        let members = members.split(',').filter(|member| !member.is_empty()).map(str::to_owned);
        Some(Group { name: (*name).to_owned(), gid: gid.parse().ok()?, members: members.collect() })
    };
    book.lines().filter_map(group).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn found(wanted: Option<&str>) -> Result<(u32, u32, Vec<u32>), String> {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("etc")).unwrap();
        let passwd = "root:x:0:0:root:/root:/bin/sh\nbroken\nweb:x:33:34::/var/www:/bin/false\nhuge:x:70000:0::/:\n";
        fs::write(root.path().join("etc/passwd"), passwd).unwrap();
        fs::write(root.path().join("etc/group"), "root:x:0:\nweb:x:34:\nlogs:x:4:web,root\nshared:x:50:web\n").unwrap();
        let user = User::of_image(wanted, &Inside::open(root.path()).unwrap());
        user.map(|user| (user.uid, user.gid, user.groups)).map_err(|error| error.to_string())
    }

    #[test]
    fn names_and_numbers_are_looked_up_as_docker_does() {
        assert_eq!(found(None), Ok((1000, 1000, vec![])));
        assert_eq!(found(Some("web")), Ok((33, 34, vec![4, 50])));
        assert_eq!(found(Some("33")), Ok((33, 34, vec![4, 50])));
        assert_eq!(found(Some("web:logs")), Ok((33, 4, vec![])), "with a group named, no others");
        assert_eq!(found(Some("12:13")), Ok((12, 13, vec![])));
        assert_eq!(found(Some("12")), Ok((12, 0, vec![])));
        assert_eq!(found(Some("root")), Ok((0, 0, vec![4])));
    }

    #[test]
    fn users_that_cannot_be_are_refused() {
        assert!(found(Some("nobody")).unwrap_err().contains("no user \"nobody\""));
        assert!(found(Some("web:nobody")).unwrap_err().contains("no group \"nobody\""));
        assert!(found(Some("huge")).unwrap_err().contains("70000"));
        assert!(found(Some("4294967296")).is_err());
    }
}
