//! A Docker daemon that can run and checkpoint jobs.

use std::path::Path;

use bollard::models::SystemInfo;

use super::{Finding, Need};
use crate::docker::{CONFIGURATION, Daemon, RUNTIME, configuration};

const WHAT: &str = "Docker";

/// Asks the daemon that listens at `socket`. `program` is what it is to call as runtime.
pub async fn check_docker(socket: &Path, program: &Path) -> Vec<Finding> {
    let hint = "start Docker (package docker.io), or name its socket with --docker-socket";
    let info = match Daemon::connect(socket).await {
        Ok(daemon) => daemon.info().await,
        Err(error) => Err(error),
    };
    match info {
        Ok(info) => judge(&info, program),
        Err(error) => vec![Finding::missing(WHAT, Need::Run, error.to_string(), hint)],
    }
}

/// There is no daemon to be asked, for this reason.
pub fn no_docker(reason: &str) -> Finding {
    Finding::missing(WHAT, Need::Run, reason, "name a socket of this host with --docker-socket")
}

fn judge(info: &SystemInfo, program: &Path) -> Vec<Finding> {
    let version = info.server_version.as_deref().unwrap_or("of an unknown version");
    let lines = configuration(program);
    let hint = format!("put {lines} into {CONFIGURATION}, then restart Docker");
    let is_rootless = info.security_options.iter().flatten().any(|option| option.starts_with("name=rootless"));
    let mut findings = vec![if is_rootless {
        let detail = "the daemon does not run as root, so it cannot use the jobs' disks";
        Finding::missing(WHAT, Need::Run, detail, "use a daemon that runs as root")
    } else {
        Finding::ok(WHAT, Need::Run, version)
    }];
    let runtime = info.runtimes.as_ref().and_then(|runtimes| runtimes.get(RUNTIME));
    findings.push(match runtime.map(|runtime| runtime.path.as_deref().unwrap_or_default()) {
        // Docker runs a script of its own in place of a program with arguments, so a path tells little.
        Some(path) if Path::new(path).exists() => {
            Finding::ok("Docker's runtime", Need::Run, format!("{RUNTIME}: {path}"))
        }
        Some(path) => {
            let detail = format!("the runtime {RUNTIME} of Docker's configuration is {path}, which is not there");
            Finding::missing("Docker's runtime", Need::Run, detail, hint.clone())
        }
        None => {
            let detail = format!("Docker's configuration has no runtime {RUNTIME}");
            Finding::missing("Docker's runtime", Need::Run, detail, hint.clone())
        }
    });
    findings.push(if info.experimental_build == Some(true) {
        Finding::ok("Docker's checkpoints", Need::Dump, "there")
    } else {
        let detail = "Docker makes checkpoints only where \"experimental\" is true in its configuration";
        Finding::missing("Docker's checkpoints", Need::Dump, detail, hint)
    });
    findings
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use bollard::models::Runtime;

    use super::*;
    use crate::preflight::capabilities;

    #[test]
    fn what_the_daemon_lacks_is_told_with_the_line_that_mends_it() {
        let program = Path::new("/bin/sh");
        let check = |experimental: bool, path: Option<&str>, options: &[&str], run: bool, dump: bool| {
            let runtime = |path: &str| Runtime { path: Some(path.to_owned()), ..Runtime::default() };
            let info = SystemInfo {
                experimental_build: Some(experimental),
                runtimes: path.map(|path| HashMap::from([(RUNTIME.to_owned(), runtime(path))])),
                security_options: Some(options.iter().map(|option| (*option).to_owned()).collect()),
                ..SystemInfo::default()
            };
            let findings = judge(&info, program);
            let found = capabilities(&findings);
            assert_eq!((found.run.is_ok(), found.dump.is_ok()), (run, dump), "{findings:?}");
            if path.is_none() || !experimental {
                assert!(findings.iter().any(|finding| finding.hint.contains(&configuration(program))), "{findings:?}");
            }
        };
        check(true, Some("/bin/sh"), &["name=seccomp,profile=default"], true, true);
        check(false, Some("/bin/sh"), &[], true, false);
        check(true, None, &[], false, false);
        check(true, Some("/nonexistent/workrs"), &[], false, false);
        check(true, Some("/bin/sh"), &["name=rootless"], false, false);
    }
}
