//! Groups of real nodes on a real etcd and a real S3 while nodes die, stop, and are cut off. Needs what the tests in
//! `tests/real` need, and besides etcd, Garage and network namespaces.
//!
//! - [`chaos`]: many jobs while everything happens; [`deaths`], [`cuts`], [`drains`], [`fencing`], [`fit`], [`logs`],
//!   [`refusals`]: one thing.
//! - [`cluster`], [`network`], [`services`]: a group, the network between its machines, and etcd and Garage.
//! - [`checker`]: proves from all that ever stood in the state that nothing was lost; [`history`] writes it down.
#![allow(clippy::unwrap_used, reason = "a test")]

mod chaos;
mod checker;
mod cluster;
mod cuts;
mod deaths;
mod drains;
mod fencing;
mod fit;
#[path = "../common/harness.rs"]
mod harness;
mod history;
#[path = "../common/host.rs"]
mod host;
#[path = "../common/http.rs"]
mod http;
mod logs;
mod network;
#[path = "../common/programs.rs"]
mod programs;
mod refusals;
mod services;
#[path = "../common/tools.rs"]
mod tools;
