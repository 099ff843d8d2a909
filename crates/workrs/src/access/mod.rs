//! Who asks, and what they may do.
//!
//! - `caller`: who asks: an owner, with a role.
//! - `token`: what a caller shows, and what the state says of it; `tokens`: all of them, made, revoked and known here.
//! - `gate`: what leads from a token, or from being on this machine, to a caller.
//! - `audit`: who changed what, and who was refused.
//! - `session`: how a browser keeps a token, and what proves that a request comes from the page.
//!
//! A token is checked against what the state store said at most [`STALE`] ago, on every node. Who cannot be checked, as the
//! store does not answer, is not let in; the node's own token (`--token`) needs no store.

pub mod audit;
mod caller;
mod gate;
pub mod session;
mod token;
mod tokens;

pub use workrs_core::id::TokenId;

pub(crate) use self::gate::same;

pub use self::{
    audit::{AuditNote, Trail},
    caller::{Caller, Forbidden, Role},
    gate::{Access, Credential, Denied},
    token::{TokenNote, TokenState},
    tokens::{NewToken, STALE, TokenError, Tokens},
};
