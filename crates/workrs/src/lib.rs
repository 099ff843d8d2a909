//! Workrs: hands compute jobs to a group of edge nodes and never loses their work.
//!
//! - [`node`]: the loops of a node; [`joblog`]: what jobs print.
//! - [`api`]: the HTTP API; [`client`]: its other end.
//! - [`cli`]: the commands; [`args`]: their options; [`config`]: options, environment and file resolved into one value.
//! - [`simulate`]: simulated jobs under faults, on the planner's own code.
//! - [`host`]: what tells this machine from others.
//! - [`wire`]: the only place that turns configuration into stores and engines.

pub mod api;
pub mod args;
pub mod cli;
pub mod client;
pub mod config;
pub mod exit_codes;
pub mod host;
pub mod joblog;
pub mod metrics;
pub mod node;
pub mod simulate;
pub mod wire;
