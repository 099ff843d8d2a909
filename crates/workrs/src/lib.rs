//! Workrs: hands compute jobs to a group of edge nodes and never loses their work.
//!
//! - [`node`]: the loops of a node; [`joblog`]: what jobs print; [`images`]: what they run in.
//! - [`api`]: the HTTP API, [`index`]: all jobs at a glance; [`client`]: its other end; [`listen`]: connections, kept fair;
//!   [`tls`]: what encrypts them.
//! - [`cli`]: the commands; [`args`]: their options; [`config`]: options, environment and file resolved into one value.
//! - [`access`]: who asks, and what they may do; [`quotas`]: how much of the group owners may have. `page`: what a browser is shown.
//! - [`simulate`]: simulated jobs under faults, on the planner's own code.
//! - [`host`]: what tells this machine from others.
//! - [`wire`]: the only place that turns configuration into stores and engines.

pub mod access;
pub mod api;
pub mod args;
pub mod cli;
pub mod client;
pub mod config;
pub mod exit_codes;
#[doc(hidden)]
pub mod fuzzing;
pub mod host;
pub mod images;
pub mod index;
pub mod joblog;
pub mod listen;
pub mod metrics;
pub mod node;
mod page;
pub mod quotas;
pub mod simulate;
pub mod tls;
pub mod wire;
