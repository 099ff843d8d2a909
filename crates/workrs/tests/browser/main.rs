//! The web page in a real browser: headless Chromium, driven by ChromeDriver, against a real node.
//!
//! - [`browser`]: a browser as a test sees it, of a phone's or a desktop's width; also what must hold of every page.
//! - `first`: whatever a node shows at `/`; `flows`: from handing a job over to its outputs, cancel, drill, drain; `lists`: many
//!   jobs, and none; `hostile`: that what jobs write stays data; `login`: who sees what.
//! - `tests/common`: a node as a test sees it, this machine, requests.
//!
//! `WORKRS_SCREENSHOTS=1` writes the pictures of `docs/screenshots`.
#![allow(clippy::unwrap_used, reason = "a test")]

#[allow(clippy::module_inception, reason = "it is what the others use")]
mod browser;
mod first;
mod flows;
#[path = "../common/harness.rs"]
mod harness;
#[path = "../common/host.rs"]
mod host;
mod hostile;
#[path = "../common/http.rs"]
mod http;
mod lists;
mod login;
#[path = "../common/tools.rs"]
mod tools;
