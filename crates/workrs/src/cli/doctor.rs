//! `doctor`: what this machine needs to be a node, and how to mend what is missing.

use std::{fmt::Write as _, io::Write as _, path::PathBuf};

#[cfg(feature = "docker")]
use anyhow::Context;
use serde_json::json;
use workrs_core::spec::parse_size;
use workrs_engine::preflight::{self, Finding, Level};

use crate::{
    args::DoctorArgs,
    config::{DEFAULT_DATA_DIR, DEFAULT_DISK_POOL, EngineChoice},
    exit_codes,
};

#[cfg(feature = "docker")]
use crate::wire;

/// Checks everything; fails if jobs cannot be run or checkpointed here.
pub async fn doctor(args: DoctorArgs) -> anyhow::Result<u8> {
    let data_dir = args.data_dir.unwrap_or_else(|| PathBuf::from(DEFAULT_DATA_DIR));
    let pool = parse_size(args.disk_pool.as_deref().unwrap_or(DEFAULT_DISK_POOL))?;
    let engine = EngineChoice::parse(&args.engine)?;
    let mut findings = preflight::check(&data_dir, pool).await;
    findings.extend(docker(engine, args.docker_socket.as_deref()).await?);
    let shown = if args.json {
        let findings: Vec<_> = findings.iter().map(as_json).collect();
        format!("{}\n", serde_json::Value::from(findings))
    } else {
        findings.iter().map(as_text).collect()
    };
    // Whoever reads, such as `head`, may have enough.
    let _ = std::io::stdout().write_all(shown.as_bytes());
    let is_missing = findings.iter().any(|finding| finding.level == Level::Missing);
    Ok(if is_missing { exit_codes::FAILED } else { 0 })
}

/// What the engine docker needs beyond the other. Unless it is asked for, a node can do without.
#[cfg(feature = "docker")]
async fn docker(engine: EngineChoice, socket: Option<&str>) -> anyhow::Result<Vec<Finding>> {
    if engine == EngineChoice::Runc {
        return Ok(Vec::new());
    }
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    let mut findings = wire::engine::check_docker(socket, &program).await;
    if engine == EngineChoice::Auto {
        for finding in findings.iter_mut().filter(|finding| finding.level == Level::Missing) {
            finding.level = Level::Warning;
            "the engine docker cannot be used here, or not fully".clone_into(&mut finding.consequence);
        }
    }
    Ok(findings)
}

#[cfg(not(feature = "docker"))]
async fn docker(_: EngineChoice, _: Option<&str>) -> anyhow::Result<Vec<Finding>> {
    Ok(Vec::new())
}

fn level(finding: &Finding) -> &'static str {
    match finding.level {
        Level::Ok => "ok",
        Level::Warning => "warning",
        Level::Missing => "missing",
    }
}

fn as_json(finding: &Finding) -> serde_json::Value {
    json!({
        "what": finding.what,
        "level": level(finding),
        "detail": finding.detail,
        "consequence": finding.consequence,
        "hint": finding.hint,
    })
}

fn as_text(finding: &Finding) -> String {
    let mut text = format!("{:8}{}: {}\n", level(finding), finding.what, finding.detail);
    for (name, value) in [("so", &finding.consequence), ("hint", &finding.hint)] {
        if !value.is_empty() {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "        {name}: {value}");
        }
    }
    text
}
