//! `doctor`: what this machine needs to be a node, and how to mend what is missing.

use std::{fmt::Write as _, io::Write as _, path::PathBuf};

use serde_json::json;
use workrs_core::spec::parse_size;
use workrs_engine::preflight::{self, Finding, Level};

use crate::{
    args::DoctorArgs,
    config::{DEFAULT_DATA_DIR, DEFAULT_DISK_POOL},
    exit_codes,
};

/// Checks everything; fails if jobs cannot be run or checkpointed here.
pub async fn doctor(args: DoctorArgs) -> anyhow::Result<u8> {
    let data_dir = args.data_dir.unwrap_or_else(|| PathBuf::from(DEFAULT_DATA_DIR));
    let pool = parse_size(args.disk_pool.as_deref().unwrap_or(DEFAULT_DISK_POOL))?;
    let findings = preflight::check(&data_dir, pool).await;
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
