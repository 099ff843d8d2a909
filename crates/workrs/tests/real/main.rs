//! The real binary with real containers, checkpoints and deaths. Needs root, runc and a CRIU that works here.
//!
//! - [`kills`]: jobs of every kind whose node is killed five times; `programs`: those jobs.
//! - [`damage`], [`fingerprint`]: checkpoints that are corrupted, or that no longer fit the host.
//! - [`economy`]: what checkpoints store, quotas, encryption, plans.
//! - [`stop`]: nodes that are told to stop; [`cancel`], [`limits`]: jobs that are.
//! - [`images`], [`collection`]: jobs in images, imported and pulled, on both engines.
//! - [`input`], [`storage`]: what users hand over wrongly, and disks that are full.
//! - [`access`]: who may use a node and its folder; [`network`]: jobs that use the network of theirs.
//! - `tests/common`: a node as a test sees it, this machine, requests, and what the tests of groups need, too.
//!
//! Nothing is decided by a sleep: conditions are waited for, with deadlines that only a fault reaches.
#![allow(clippy::unwrap_used, reason = "a test")]

mod access;
mod cancel;
mod collection;
mod damage;
#[path = "../../../workrs-engine/tests/docker/daemon.rs"]
mod docker;
mod economy;
mod fingerprint;
#[path = "../common/harness.rs"]
mod harness;
#[path = "../common/host.rs"]
mod host;
#[path = "../common/http.rs"]
mod http;
mod images;
mod input;
mod kills;
mod limits;
mod network;
#[path = "../common/programs.rs"]
mod programs;
#[path = "../../../workrs-engine/tests/services/registry.rs"]
mod registry;
mod stop;
mod storage;
#[path = "../common/tools.rs"]
mod tools;
