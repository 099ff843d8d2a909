//! The API's contract: the OpenAPI document, and nodes that are held to it.
//!
//! - `document`: it is what stands in docs/openapi.json, valid, and complete.
//! - `fuzz`: schemathesis asks a real node what the document allows, and what it does not, and finds no failure.
//! - `examples`: what docs/http-api.md shows is run.
//! - `tests/common`: a node as a test sees it, this machine, requests.
//!
//! `WORKRS_UPDATE=1` writes docs/openapi.json anew.
#![allow(clippy::unwrap_used, reason = "a test")]

mod document;
mod examples;
mod fuzz;
#[path = "../common/harness.rs"]
mod harness;
#[path = "../common/host.rs"]
mod host;
#[path = "../common/http.rs"]
mod http;
#[path = "../common/tools.rs"]
mod tools;

use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// Where scripts/setup.sh puts what tests the contract.
const PROGRAMS: &str = "/usr/local/lib/workrs/contract/bin";

/// A program that tests the contract; `None`, and it is said, if it is not installed, which in CI is a failure.
fn program(name: &str) -> Option<Command> {
    let program = Path::new(PROGRAMS).join(name);
    let missing = (!program.exists()).then(|| format!("{name} is not installed (scripts/setup.sh --cluster)"));
    host::nothing_missing(missing.as_deref()).then(|| Command::new(program))
}

/// A file of the repository.
fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}
