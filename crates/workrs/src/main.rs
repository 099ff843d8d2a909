//! The `workrs` command. Everything is in the library.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    workrs::cli::run(workrs::args::Args::parse())
}
