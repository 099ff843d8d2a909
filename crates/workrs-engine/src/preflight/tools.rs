//! The programs that the engine calls.

use super::{Finding, Need, PROBE_DEADLINE, SETUP};
use crate::process::{self, Tool, ToolError};

pub(super) async fn check() -> Vec<Finding> {
    let mut findings = vec![runc().await, criu().await];
    for (tool, package) in [("mount", "mount"), ("mkfs.ext4", "e2fsprogs"), ("e2fsck", "e2fsprogs")] {
        findings.push(match process::find(tool) {
            Some(path) => Finding::ok(tool, Need::Run, path.display().to_string()),
            None => {
                Finding::missing(tool, Need::Run, "not found", format!("{SETUP}, or install the package {package}"))
            }
        });
    }
    findings.push(match process::find("python3") {
        Some(_) if std::path::Path::new("/usr/bin/python3").exists() => {
            Finding::ok("python3", Need::Nothing, "/usr/bin/python3")
        }
        _ => Finding::warning(
            "python3",
            "not in /usr/bin",
            "jobs that are Python scripts cannot run here",
            "install the package python3",
        ),
    });
    findings
}

async fn runc() -> Finding {
    let hint = format!("{SETUP}, or install the package runc");
    match Tool::new("runc").arg("--version").deadline(PROBE_DEADLINE).output().await {
        Ok(text) => Finding::ok("runc", Need::Run, first_line(&text).trim_start_matches("runc version ")),
        Err(error) => Finding::missing("runc", Need::Run, error.to_string(), hint),
    }
}

/// Asks CRIU itself whether it works with this kernel: its version does not tell.
async fn criu() -> Finding {
    let hint = format!("{SETUP}: it installs a CRIU that works with this kernel");
    let version = match criu_version().await {
        Ok(version) => version,
        Err(error) => return Finding::missing("criu", Need::Dump, error.to_string(), hint),
    };
    match Tool::new("criu").args(["check"]).deadline(PROBE_DEADLINE).output().await {
        Ok(_) => Finding::ok("criu", Need::Dump, version),
        Err(error) => Finding::missing("criu", Need::Dump, format!("{version}: {error}"), hint),
    }
}

pub(crate) async fn criu_version() -> Result<String, ToolError> {
    let text = Tool::new("criu").arg("--version").deadline(PROBE_DEADLINE).output().await?;
    Ok(first_line(&text).trim_start_matches("Version: ").to_owned())
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}
