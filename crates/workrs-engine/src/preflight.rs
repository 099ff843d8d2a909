//! What this host can do for jobs, what is missing, and how to mend it. Nothing here changes the host.

use std::{path::Path, time::Duration};

use crate::engine::Capabilities;

/// How good or bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// All is well.
    Ok,
    /// Works, with a drawback.
    Warning,
    /// Something that Workrs can do does not work on this host.
    Missing,
}

/// What stops working when something is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// No job can run.
    Run,
    /// Jobs run, but their memory cannot be captured or restored.
    Dump,
    /// Nothing stops working.
    Nothing,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What was looked at, in a few words.
    pub what: String,
    /// How it is.
    pub level: Level,
    /// What it is good for.
    pub need: Need,
    /// What was seen.
    pub detail: String,
    /// What follows if it is not well; empty if it is.
    pub consequence: String,
    /// How to mend it; empty if it is well.
    pub hint: String,
}

/// Looks at everything that the runc engine needs. `data_dir` need not exist yet.
pub async fn check(data_dir: &Path, disk_pool_bytes: u64) -> Vec<Finding> {
    let mut findings = vec![rights::check(), rights::passage(), kernel::version()];
    findings.extend(tools::check().await);
    findings.extend(kernel::cgroups());
    findings.extend(kernel::features());
    findings.extend(space::check(data_dir, disk_pool_bytes));
    findings
}

/// What the findings mean for an engine.
pub fn capabilities(findings: &[Finding]) -> Capabilities {
    let first_missing = |need: Need| {
        let missing = findings.iter().find(|finding| finding.level == Level::Missing && finding.need == need);
        missing.map_or(Ok(()), |finding| Err(format!("{}: {}", finding.what, finding.detail)))
    };
    let run = first_missing(Need::Run);
    let dump = run.clone().and_then(|()| first_missing(Need::Dump));
    Capabilities { run, dump }
}

const SETUP: &str = "run `make setup`";
const PROBE_DEADLINE: Duration = Duration::from_secs(20);

impl Finding {
    fn ok(what: &str, need: Need, detail: impl Into<String>) -> Self {
        let (consequence, hint) = (String::new(), String::new());
        Self { what: what.to_owned(), level: Level::Ok, need, detail: detail.into(), consequence, hint }
    }

    /// Missing, with the consequence that its need tells.
    fn missing(what: &str, need: Need, detail: impl Into<String>, hint: impl Into<String>) -> Self {
        let (level, consequence) = match need {
            Need::Run => (Level::Missing, "this node cannot run jobs"),
            Need::Dump => {
                (Level::Missing, "jobs here are checkpointed by their files only: a resumed program starts again")
            }
            Need::Nothing => (Level::Warning, ""),
        };
        let (detail, hint) = (detail.into(), hint.into());
        Self { what: what.to_owned(), level, need, detail, consequence: consequence.to_owned(), hint }
    }

    fn warning(what: &str, detail: impl Into<String>, consequence: &str, hint: impl Into<String>) -> Self {
        Self {
            what: what.to_owned(),
            level: Level::Warning,
            need: Need::Nothing,
            detail: detail.into(),
            consequence: consequence.to_owned(),
            hint: hint.into(),
        }
    }
}

#[cfg(feature = "docker")]
mod docker;
mod kernel;
mod rights;
mod space;
mod tools;

#[cfg(feature = "docker")]
pub use self::docker::{check_docker, no_docker};
pub(crate) use self::tools::criu_version;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_decides_what_the_host_can_do() {
        let ok = Finding::ok("runc", Need::Run, "1.1.5");
        let no_criu = Finding::missing("criu", Need::Dump, "not found", SETUP);
        let no_runc = Finding::missing("runc", Need::Run, "not found", SETUP);
        let warning = Finding::warning("python3", "not found", "jobs cannot use it", "");
        let check = |findings: &[&Finding], run: Result<(), &str>, dump: Result<(), &str>| {
            let findings: Vec<_> = findings.iter().map(|finding| (*finding).clone()).collect();
            let expected = Capabilities { run: run.map_err(str::to_owned), dump: dump.map_err(str::to_owned) };
            assert_eq!(capabilities(&findings), expected);
        };
        check(&[&ok, &warning], Ok(()), Ok(()));
        check(&[&ok, &no_criu], Ok(()), Err("criu: not found"));
        check(&[&no_criu, &no_runc], Err("runc: not found"), Err("runc: not found"));
    }

    #[tokio::test]
    async fn every_finding_that_is_not_well_says_what_follows_and_what_to_do() {
        for finding in check(Path::new("/nonexistent/folder"), u64::MAX).await {
            assert!(!finding.what.is_empty() && !finding.detail.is_empty(), "{finding:?}");
            if finding.level != Level::Ok {
                assert!(!finding.consequence.is_empty() && !finding.hint.is_empty(), "{finding:?}");
            }
        }
    }
}
