//! The commands. What a person sees says what failed, why, and what to do; what a program sees is JSON.

mod audit;
mod doctor;
mod drain;
mod drill;
mod experiment;
mod follow;
mod image;
mod jobs;
mod patience;
mod plan;
mod print;
mod quota;
mod run;
mod submit;
mod token;
mod up;

use std::process::ExitCode;

pub(crate) use self::print::{clean, job as print_job};
use crate::{
    args::{Args, Command, ServerArgs},
    client::{Client, ClientError, ConnectionError},
    config::ConfigError,
    exit_codes,
    tls::Trust,
};

/// Does what `args` ask for.
pub fn run(args: Args) -> ExitCode {
    let is_job_command = matches!(args.command, Command::Run(_) | Command::Wait(_));
    let done = match args.command {
        Command::Internal { verb, args } => return internal(&verb, &args),
        Command::Up(up) => up::up(&up),
        command => runtime().and_then(|runtime| runtime.block_on(dispatch(command))),
    };
    match done {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprint!("{}", print::error(&error, hint(&error).as_deref()));
            ExitCode::from(if is_job_command { exit_codes::WORKRS_FAILED } else { exit_codes::FAILED })
        }
    }
}

fn internal(verb: &str, args: &[String]) -> ExitCode {
    match workrs_engine::internal::internal(verb, args) {
        Ok(code) => ExitCode::from(u8::try_from(code).unwrap_or(exit_codes::FAILED)),
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(exit_codes::FAILED)
        }
    }
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

async fn dispatch(command: Command) -> anyhow::Result<u8> {
    match command {
        Command::Run(args) => run::run(*args).await,
        Command::Submit(args) => submit::submit(*args).await,
        Command::Ls(args) => jobs::ls(args).await,
        Command::Show(args) => jobs::show(args).await,
        Command::Logs(args) => follow::logs(args).await,
        Command::Wait(args) => jobs::wait(args).await,
        Command::Fetch(args) => jobs::fetch(args).await,
        Command::Cancel(args) => jobs::cancel(args).await,
        Command::Resume(args) => jobs::resume(args).await,
        Command::Nodes(args) => jobs::nodes(args).await,
        Command::Image(args) => image::image(args).await,
        Command::Quota(args) => quota::quota(args).await,
        Command::Audit(args) => audit::audit(args).await,
        Command::Token(args) => token::token(args).await,
        Command::Drain(args) => drain::drain(args).await,
        Command::Drill(args) => drill::drill(args).await,
        Command::Doctor(args) => doctor::doctor(args).await,
        Command::Experiment(args) => experiment::experiment(*args).await,
        Command::Plan(args) => plan::plan(&args),
        Command::Up(_) | Command::Internal { .. } => Ok(exit_codes::FAILED),
    }
}

fn client(server: &ServerArgs) -> Result<Client, ClientError> {
    let trust = Trust::of(server.tls_ca.as_deref(), &server.tls_fingerprint).map_err(ConnectionError::Tls)?;
    Client::trusting(&server.server, std::env::var("WORKRS_TOKEN").ok(), &trust)
}

fn hint(error: &anyhow::Error) -> Option<String> {
    error.chain().find_map(|cause| {
        if let Some(error) = cause.downcast_ref::<ClientError>() {
            return error.hint();
        }
        cause.downcast_ref::<ConfigError>().map(|_| "see `workrs up --help`".to_owned())
    })
}
