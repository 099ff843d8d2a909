//! The real binary with real containers, checkpoints and deaths. Needs root, runc and a CRIU that works here.
//!
//! - [`kills`]: jobs of every kind whose node is killed five times; [`programs`]: those jobs.
//! - [`damage`], [`fingerprint`]: checkpoints that are corrupted, or that no longer fit the host.
//! - [`economy`]: what checkpoints store, quotas, encryption, plans.
//! - [`stop`]: nodes that are told to stop; [`cancel`], [`limits`]: jobs that are.
//! - [`input`], [`storage`]: what users hand over wrongly, and disks that are full.
//! - [`access`]: who may use a node and its folder.
//! - [`harness`], [`host`], [`http`], [`tools`]: a node as a test sees it, this machine, requests, and what all need.
//!
//! Nothing is decided by a sleep: conditions are waited for, with deadlines that only a fault reaches.
#![allow(clippy::unwrap_used, reason = "a test")]

mod access;
mod cancel;
mod damage;
mod economy;
mod fingerprint;
mod harness;
mod host;
mod http;
mod input;
mod kills;
mod limits;
mod programs;
mod stop;
mod storage;
mod tools;
