//! Which engine runs the jobs.

use std::{path::Path, sync::Arc};

use anyhow::Context;
use workrs_engine::{
    Capabilities, Engine,
    absent::AbsentEngine,
    preflight,
    runc::{RuncConfig, RuncEngine},
};

use crate::config::{Config, EngineChoice};

/// The engines that there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Runc,
    #[cfg(feature = "docker")]
    Docker,
}

/// The engine, and what an operator should know of it. A host that cannot run jobs gets one that says so.
pub(super) async fn open(config: &Config) -> anyhow::Result<(Arc<dyn Engine>, Vec<String>)> {
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    let (kind, capabilities) = choose(config.engine, candidates(config, &program).await);
    if let Err(reason) = capabilities.run {
        return Ok((Arc::new(AbsentEngine::new(reason)), Vec::new()));
    }
    let engine_config = RuncConfig {
        data_dir: config.data_dir.clone(),
        node: config.name.to_string(),
        disk_pool_bytes: config.disk_pool_bytes,
        image_cache_bytes: config.image_cache_bytes,
        helper: program,
    };
    let engine = match kind {
        Kind::Runc => RuncEngine::open(engine_config).await,
        #[cfg(feature = "docker")]
        Kind::Docker => {
            let socket = docker_socket(config.docker_socket.as_deref()).map_err(anyhow::Error::msg)?;
            RuncEngine::open_in_docker(engine_config, &socket).await
        }
    };
    let engine = Arc::new(engine.context("cannot prepare the engine")?);
    let warnings = engine.warnings().to_vec();
    if config.roles.run {
        let warming = Arc::clone(&engine);
        tokio::spawn(async move {
            if let Err(error) = warming.warm_up().await {
                tracing::warn!(%error, "cannot make the image of this host yet; the first job will try again");
            }
        });
    }
    Ok((engine, warnings))
}

/// What each engine that may be chosen can do here, the preferred one first.
#[cfg_attr(not(feature = "docker"), allow(unused_variables, unused_mut, reason = "there is but one engine"))]
async fn candidates(config: &Config, program: &Path) -> Vec<(Kind, Capabilities)> {
    let findings = preflight::check(&config.data_dir, config.disk_pool_bytes).await;
    let runc = preflight::capabilities(&findings);
    let is_enough = config.engine == EngineChoice::Runc || config.engine == EngineChoice::Auto && runc.dump.is_ok();
    let mut candidates = vec![(Kind::Runc, runc)];
    #[cfg(feature = "docker")]
    if !is_enough {
        let daemon = check_docker(config.docker_socket.as_deref(), program).await;
        candidates.push((Kind::Docker, preflight::capabilities(&[findings, daemon].concat())));
    }
    candidates
}

/// The first that can checkpoint, else the first that can run jobs, else the first, of those that may be chosen.
fn choose(choice: EngineChoice, candidates: Vec<(Kind, Capabilities)>) -> (Kind, Capabilities) {
    let may_be = |kind: Kind| match choice {
        EngineChoice::Auto => true,
        EngineChoice::Runc => kind == Kind::Runc,
        #[cfg(feature = "docker")]
        EngineChoice::Docker => kind == Kind::Docker,
    };
    let mut candidates: Vec<_> = candidates.into_iter().filter(|(kind, _)| may_be(*kind)).collect();
    let best = candidates.iter().position(|(_, can)| can.dump.is_ok());
    let best = best.or_else(|| candidates.iter().position(|(_, can)| can.run.is_ok())).unwrap_or(0);
    candidates.swap_remove(best)
}

#[cfg(feature = "docker")]
fn docker_socket(option: Option<&str>) -> Result<std::path::PathBuf, String> {
    workrs_engine::docker::socket(option)
}

/// Looks at the daemon that the option `--docker-socket` names.
#[cfg(feature = "docker")]
pub(crate) async fn check_docker(option: Option<&str>, program: &Path) -> Vec<preflight::Finding> {
    match docker_socket(option) {
        Ok(socket) => preflight::check_docker(&socket, program).await,
        Err(reason) => vec![preflight::no_docker(&reason)],
    }
}

#[cfg(all(test, feature = "docker"))]
mod tests {
    use super::*;

    #[test]
    fn the_best_engine_that_may_be_chosen_is() {
        let can = |run: bool, dump: bool| Capabilities {
            run: if run { Ok(()) } else { Err("no".to_owned()) },
            dump: if dump { Ok(()) } else { Err("no".to_owned()) },
        };
        let check = |choice, runc: (bool, bool), docker: (bool, bool), expected| {
            let candidates = vec![(Kind::Runc, can(runc.0, runc.1)), (Kind::Docker, can(docker.0, docker.1))];
            assert_eq!(choose(choice, candidates).0, expected, "{choice:?} {runc:?} {docker:?}");
        };
        let (all, run, none) = ((true, true), (true, false), (false, false));
        check(EngineChoice::Auto, all, all, Kind::Runc);
        check(EngineChoice::Auto, run, all, Kind::Docker);
        check(EngineChoice::Auto, run, run, Kind::Runc);
        check(EngineChoice::Auto, none, run, Kind::Docker);
        check(EngineChoice::Auto, none, none, Kind::Runc);
        check(EngineChoice::Docker, all, none, Kind::Docker);
        check(EngineChoice::Runc, none, all, Kind::Runc);
    }
}
