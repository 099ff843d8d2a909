//! Who looks at a page, as far as the page shows it. What somebody may do is decided by the API; here is only decided what
//! is offered.

use crate::access::{Caller, Role};

/// Who looks.
#[derive(Debug, Clone)]
pub(super) struct Viewer {
    /// Their name.
    pub owner: String,
    /// What they may do.
    pub role: String,
    /// Sees and may change everything.
    pub is_admin: bool,
    /// May hand jobs over, and change their own.
    pub may_change: bool,
    /// What the page's requests carry to show that they come from the page.
    pub csrf: String,
    /// Came by a token in a cookie, so that there is something to leave.
    pub has_session: bool,
}

impl Viewer {
    /// Nobody yet, such as on the page that asks who it is.
    pub fn nobody() -> Self {
        Self {
            owner: String::new(),
            role: String::new(),
            is_admin: false,
            may_change: false,
            csrf: String::new(),
            has_session: false,
        }
    }

    /// Whether they see what belongs to `owner`.
    pub fn may_see(&self, owner: &str) -> bool {
        self.is_admin || self.owner == owner
    }
}

impl From<&Caller> for Viewer {
    fn from(caller: &Caller) -> Self {
        Self {
            owner: caller.owner.to_string(),
            role: caller.role.to_string(),
            is_admin: caller.role == Role::Admin,
            may_change: caller.role >= Role::User,
            csrf: caller.csrf().unwrap_or_default().to_owned(),
            has_session: caller.csrf().is_some(),
        }
    }
}
