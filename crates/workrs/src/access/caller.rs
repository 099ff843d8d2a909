//! Who asks, and what their role allows.

use std::{fmt, sync::LazyLock};

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use workrs_core::id::{Owner, TokenId};

/// Whose jobs those are that were handed over on this machine, without any token.
static LOCAL: LazyLock<Owner> = LazyLock::new(|| Owner::new("local").expect("it is a name"));
/// Who has the node's own token.
static ADMIN: LazyLock<Owner> = LazyLock::new(|| Owner::new("admin").expect("it is a name"));

/// What a caller may do, the least first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Looks at what is its owner's, and changes nothing
    ReadOnly,
    /// Hands jobs over, and changes what is its owner's
    User,
    /// Sees and changes everything
    Admin,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ReadOnly => "read-only",
            Self::User => "user",
            Self::Admin => "admin",
        })
    }
}

/// A caller's role does not reach.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("it needs the role {needed}, and the caller's is {has}")]
pub struct Forbidden {
    /// The least role that would do.
    pub needed: Role,
    /// The role that the caller has.
    pub has: Role,
}

/// Who asks. Every request that is let in carries one in its extensions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Whose jobs theirs are.
    pub owner: Owner,
    /// What they may do.
    pub role: Role,
    /// The token that they showed, if it is one of the state's.
    pub token: Option<TokenId>,
    /// What a change has to carry besides, if they showed it as a cookie.
    csrf: Option<String>,
}

impl Caller {
    /// Somebody of this name and role.
    pub fn new(owner: Owner, role: Role, token: Option<TokenId>) -> Self {
        Self { owner, role, token, csrf: None }
    }

    /// Whoever is on this machine, while there are no tokens.
    pub fn local() -> Self {
        Self::new(LOCAL.clone(), Role::Admin, None)
    }

    /// Who has the node's own token: an operator, or another node.
    pub fn operator() -> Self {
        Self::new(ADMIN.clone(), Role::Admin, None)
    }

    /// The same caller, whose changes have to carry `csrf`, as a browser sends the token by itself.
    #[must_use]
    pub fn in_session(self, csrf: String) -> Self {
        Self { csrf: Some(csrf), ..self }
    }

    /// What their changes have to carry (header `x-workrs-csrf`, or the form's field `csrf`); nothing is needed of those
    /// whose token no browser sends by itself.
    pub fn csrf(&self) -> Option<&str> {
        self.csrf.as_deref()
    }

    /// Whether what is `owner`'s exists for them.
    pub fn may_see(&self, owner: &Owner) -> bool {
        self.role == Role::Admin || self.owner == *owner
    }

    /// Whether they may change what is `owner`'s.
    pub fn may_change(&self, owner: &Owner) -> bool {
        self.role >= Role::User && self.may_see(owner)
    }

    /// Refuses those whose role is less.
    pub fn must_be(&self, needed: Role) -> Result<(), Forbidden> {
        if self.role >= needed { Ok(()) } else { Err(Forbidden { needed, has: self.role }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_allow_what_their_names_say() {
        let (own, other) = (Owner::new("ann").unwrap(), Owner::new("ben").unwrap());
        let check = |role, sees: [bool; 2], changes: [bool; 2], is: [bool; 3]| {
            let caller = Caller::new(own.clone(), role, None);
            assert_eq!([caller.may_see(&own), caller.may_see(&other)], sees, "{role} sees");
            assert_eq!([caller.may_change(&own), caller.may_change(&other)], changes, "{role} changes");
            let must_be = [Role::ReadOnly, Role::User, Role::Admin].map(|needed| caller.must_be(needed).is_ok());
            assert_eq!(must_be, is, "{role} is");
        };
        check(Role::ReadOnly, [true, false], [false, false], [true, false, false]);
        check(Role::User, [true, false], [true, false], [true, true, false]);
        check(Role::Admin, [true, true], [true, true], [true, true, true]);
    }
}
