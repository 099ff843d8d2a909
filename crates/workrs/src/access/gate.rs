//! What leads from a token, or from being on this machine, to a caller.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;
use workrs_store::state::{StateError, StateStore};

use super::{Caller, TokenState, Tokens, Trail, session};

/// Failed logins that an address has free, and within which time.
const FREE_FAILURES: u32 = 10;
const FAILURES_FORGOTTEN: Duration = Duration::from_secs(60);
/// Addresses whose failures are counted; more are as many as nobody has without meaning harm.
const MAX_ADDRESSES: usize = 10_000;

/// Why somebody is not let in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// There is no token, or one that the group does not know.
    #[error("it carries no valid token")]
    NoToken,
    /// The token's time is over.
    #[error("its token has expired")]
    Expired,
    /// The token was taken back.
    #[error("its token was revoked")]
    Revoked,
    /// Whether it counts cannot be seen.
    #[error(transparent)]
    State(#[from] StateError),
}

/// How a token came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credential {
    /// In the request's header: a program put it there.
    Bearer(String),
    /// As a cookie: a browser sends it by itself.
    Cookie(String),
}

/// Who may use a node's API.
pub struct Access {
    /// Where it listens.
    address: SocketAddr,
    /// The node's own token, as configured.
    node_token: Option<String>,
    tokens: Tokens,
    trail: Trail,
    is_tls: bool,
    failures: Mutex<HashMap<IpAddr, (u32, Instant)>>,
}

impl Access {
    /// To a node that listens at `address`: for those who have `node_token` or a token of the state in `store`. On loopback
    /// everybody is an admin while there is neither. Needs a runtime.
    pub fn new(address: SocketAddr, node_token: Option<String>, store: Arc<dyn StateStore>) -> Self {
        let (tokens, trail) = (Tokens::new(Arc::clone(&store)), Trail::new(store));
        Self { address, node_token, tokens, trail, is_tls: false, failures: Mutex::default() }
    }

    /// The same; browsers reach it by TLS only, so that they keep the cookie from anything else.
    #[must_use]
    pub fn with_tls(self, is_tls: bool) -> Self {
        Self { is_tls, ..self }
    }

    /// The group's tokens.
    pub fn tokens(&self) -> &Tokens {
        &self.tokens
    }

    /// Where it is noted who changes what.
    pub fn trail(&self) -> &Trail {
        &self.trail
    }

    /// Whether browsers reach it by TLS only.
    pub fn is_tls(&self) -> bool {
        self.is_tls
    }

    /// Whether nobody gets in without a token of the state.
    pub fn has_node_token(&self) -> bool {
        self.node_token.is_some()
    }

    /// Whether there are no tokens, and this is for this machine alone.
    pub async fn is_open(&self) -> Result<bool, StateError> {
        Ok(self.node_token.is_none() && self.address.ip().is_loopback() && !self.tokens.are_used().await?)
    }

    /// Who asks.
    pub async fn identify(&self, credential: Option<&Credential>) -> Result<Caller, Denied> {
        match credential {
            Some(Credential::Bearer(text)) => self.who_shows(text).await,
            Some(Credential::Cookie(text)) => {
                let caller = self.who_shows(text).await?;
                // A cookie that is left over from before proves nothing where nothing has to be proved.
                Ok(if caller == Caller::local() { caller } else { caller.in_session(session::csrf(text)) })
            }
            None if self.is_open().await? => Ok(Caller::local()),
            None => Err(Denied::NoToken),
        }
    }

    async fn who_shows(&self, text: &str) -> Result<Caller, Denied> {
        if self.node_token.as_ref().is_some_and(|token| same(text, token)) {
            return Ok(Caller::operator());
        }
        match self.tokens.find(text).await? {
            Some((id, note, TokenState::Valid)) => Ok(Caller::new(note.owner, note.role, Some(id))),
            Some((_, _, TokenState::Expired)) => Err(Denied::Expired),
            Some((_, _, TokenState::Revoked)) => Err(Denied::Revoked),
            None if self.is_open().await? => Ok(Caller::local()),
            None => Err(Denied::NoToken),
        }
    }

    /// Counts a failed login; not from this machine, where one user could lock out the others.
    pub fn login_failed(&self, from: IpAddr) {
        if from.to_canonical().is_loopback() {
            return;
        }
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        if failures.len() >= MAX_ADDRESSES {
            failures.retain(|_, (_, since)| since.elapsed() < FAILURES_FORGOTTEN);
        }
        if failures.len() >= MAX_ADDRESSES && !failures.contains_key(&from) {
            failures.clear();
        }
        let (count, _) = failures.entry(from).or_insert((0, Instant::now()));
        *count += 1;
    }

    /// How long an address has to wait until it may try to log in again.
    pub fn login_waits(&self, from: IpAddr) -> Option<Duration> {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let (count, since) = *failures.get(&from)?;
        let left = FAILURES_FORGOTTEN.checked_sub(since.elapsed()).filter(|left| !left.is_zero());
        if left.is_none() {
            failures.remove(&from);
        }
        left.filter(|_| count >= FREE_FAILURES)
    }
}

/// Compares without telling by its time where the difference lies: hashes differ everywhere, and compare in constant time.
pub fn same(given: &str, expected: &str) -> bool {
    blake3::hash(given.as_bytes()) == blake3::hash(expected.as_bytes())
}

#[cfg(test)]
mod tests {
    use workrs_core::id::Owner;
    use workrs_store::redb::RedbStore;

    use super::*;
    use crate::access::{NewToken, Role, TokenError};

    fn access(address: &str, node_token: Option<&str>) -> Access {
        let store = Arc::new(RedbStore::in_memory());
        Access::new(address.parse().unwrap(), node_token.map(str::to_owned), store)
    }

    fn new(owner: &str, role: Role, lasts: Option<Duration>) -> NewToken {
        NewToken { owner: Owner::new(owner).unwrap(), role, lasts, created_by: Owner::new("local").unwrap() }
    }

    async fn shown(access: &Access, text: &str) -> Result<Caller, Denied> {
        access.identify(Some(&Credential::Bearer(text.to_owned()))).await
    }

    #[tokio::test]
    async fn on_loopback_everybody_is_admin_until_there_is_a_token() {
        let access = access("127.0.0.1:7480", None);
        assert_eq!(access.identify(None).await, Ok(Caller::local()));
        assert_eq!(shown(&access, "anything").await, Ok(Caller::local()));
        let refused = access.tokens().create(new("ann", Role::User, None), true).await;
        assert!(matches!(refused, Err(TokenError::FirstIsNoAdmin)));
        let (id, _, text) = access.tokens().create(new("root", Role::Admin, None), true).await.unwrap();
        assert_eq!(access.identify(None).await, Err(Denied::NoToken));
        assert_eq!(shown(&access, "anything").await, Err(Denied::NoToken));
        let root = Caller::new(Owner::new("root").unwrap(), Role::Admin, Some(id.clone()));
        assert_eq!(shown(&access, &text).await, Ok(root));
        let refused = access.tokens().revoke(&id, true).await;
        assert!(matches!(refused, Err(TokenError::LastAdmin)));
        // Somebody else can get in: one with the node's own token.
        access.tokens().revoke(&id, false).await.unwrap();
        assert_eq!(access.identify(None).await, Err(Denied::NoToken), "a group does not open itself again");
    }

    #[tokio::test]
    async fn beyond_loopback_nobody_gets_in_without_a_token() {
        let access = access("192.0.2.1:7480", None);
        assert_eq!(access.identify(None).await, Err(Denied::NoToken));
        assert_eq!(shown(&access, "").await, Err(Denied::NoToken));
    }

    #[tokio::test]
    async fn only_who_has_the_secret_hears_what_became_of_a_token() {
        let access = access("127.0.0.1:7480", Some("s3cret"));
        assert_eq!(shown(&access, "s3cret").await, Ok(Caller::operator()));
        assert_eq!(access.identify(None).await, Err(Denied::NoToken));
        let (_, _, expired) =
            access.tokens().create(new("ann", Role::User, Some(Duration::ZERO)), false).await.unwrap();
        let (id, _, revoked) = access.tokens().create(new("ann", Role::ReadOnly, None), false).await.unwrap();
        assert_eq!(shown(&access, &revoked).await.unwrap().role, Role::ReadOnly);
        for _ in 0..2 {
            access.tokens().revoke(&id, false).await.unwrap();
        }
        assert_eq!(shown(&access, &expired).await, Err(Denied::Expired));
        assert_eq!(shown(&access, &revoked).await, Err(Denied::Revoked));
        let wrong = format!("{}{}", &revoked[..revoked.len() - 64], "0".repeat(64));
        assert_eq!(shown(&access, &wrong).await, Err(Denied::NoToken));
    }

    #[tokio::test]
    async fn a_cookie_wants_a_proof_that_the_page_asks() {
        let access = access("127.0.0.1:7480", Some("s3cret"));
        let caller = access.identify(Some(&Credential::Cookie("s3cret".to_owned()))).await.unwrap();
        assert_eq!(caller.csrf(), Some(session::csrf("s3cret").as_str()));
        assert_eq!(shown(&access, "s3cret").await.unwrap().csrf(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn failed_logins_cost_time() {
        let access = access("127.0.0.1:7480", None);
        let from = IpAddr::from([192, 0, 2, 7]);
        for _ in 0..FREE_FAILURES {
            assert_eq!(access.login_waits(from), None);
            access.login_failed(from);
        }
        assert!(access.login_waits(from).is_some());
        assert_eq!(access.login_waits(IpAddr::from([192, 0, 2, 8])), None);
        tokio::time::advance(FAILURES_FORGOTTEN).await;
        assert_eq!(access.login_waits(from), None);
    }
}
