//! `submit`, and what `run` shares with it.

use std::{
    collections::BTreeMap, io::IsTerminal, path::Path, sync::Arc, sync::atomic::AtomicU64, sync::atomic::Ordering,
};

use anyhow::{Context, bail};
use workrs_core::spec::format_size;
use workrs_store::fresh;

use super::{client, image};
use crate::{
    api::{JobView, Quantity, SubmitRequest},
    args::SubmitArgs,
    client::{Client, InputFile, collect_inputs},
    node::check_path,
};

/// How often an upload is tried again while no node takes it.
const TRIES: u32 = 4;

/// Hands a job over and prints its id.
pub async fn submit(args: SubmitArgs) -> anyhow::Result<u8> {
    let client = client(&args.server)?;
    let job = hand_over(&client, &args).await?;
    if args.server.json {
        println!("{}", serde_json::json!({ "id": job.id }));
    } else {
        println!("{}", job.id);
    }
    Ok(0)
}

/// Uploads the job and returns once it is durable.
pub(super) async fn hand_over(client: &Client, args: &SubmitArgs) -> anyhow::Result<JobView> {
    let (request, script, inputs) = request(args)?;
    // Before the upload, which is not to wait for a registry.
    image::bring_for_job(client, args.image.as_deref(), &args.pull).await?;
    let total: u64 = script.iter().chain(&inputs).map(|file| file.len).sum();
    let show = std::io::stderr().is_terminal() && total > 1 << 20;
    let shown = Arc::new(AtomicU64::new(0));
    let progress = move |sent: u64| {
        if show && sent.saturating_sub(shown.load(Ordering::Relaxed)) >= 1 << 20 {
            shown.store(sent, Ordering::Relaxed);
            eprint!("\ruploading: {} of {} ", format_size(sent), format_size(total));
        }
    };
    let mut tries = 1;
    loop {
        match client.submit(&request, script.as_ref(), &inputs, progress.clone()).await {
            Ok(job) => {
                if show {
                    eprint!("\r\x1b[K");
                }
                return Ok(job);
            }
            // The id is ours, so that a job that was accepted after all is the same job.
            Err(error) if error.is_passing() && tries < TRIES => {
                tokio::time::sleep(std::time::Duration::from_millis(250 << tries)).await;
                tries += 1;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

type Request = (SubmitRequest, Option<InputFile>, Vec<InputFile>);

fn request(args: &SubmitArgs) -> anyhow::Result<Request> {
    let quantity = |value: &Option<String>| value.clone().map(Quantity::Text);
    let mut request = SubmitRequest {
        id: Some(args.id.clone().unwrap_or_else(fresh::id)),
        name: args.name.clone(),
        image: args.image.clone(),
        entrypoint: args.entrypoint.clone(),
        env: pairs("--env", &args.env)?,
        cpus: quantity(&args.cpus),
        memory: quantity(&args.memory),
        disk: quantity(&args.disk),
        timeout: quantity(&args.timeout),
        retries: args.retries.map(|retries| Quantity::Number(retries.into())),
        forecast: quantity(&args.forecast),
        checkpoint: args.checkpoint.clone(),
        constraints: pairs("--constraint", &args.constraints)?,
        network: args.network.clone(),
        outputs: args.outputs.clone(),
        priority: args.priority.map(|priority| Quantity::Number(priority.into())),
        ..SubmitRequest::default()
    };
    let mut inputs = Vec::new();
    for input in &args.inputs {
        inputs.extend(collect_inputs(input)?);
    }
    let mut script = None;
    if args.work.is_empty() || is_command(&args.work) {
        request.command.clone_from(&args.work);
    } else {
        let (file, arguments) = args.work.split_first().context("there is nothing to run")?;
        request.args = arguments.to_vec();
        script = Some(self::script(Path::new(file))?);
    }
    // Not every name survives a form, so that the node could not say what is wrong with it.
    for file in script.iter().chain(&inputs) {
        check_path(&file.path)?;
    }
    Ok((request, script, inputs))
}

/// Whether the work stands behind `--`, which the parser swallows.
fn is_command(work: &[String]) -> bool {
    let given: Vec<String> = std::env::args().collect();
    given.len() > work.len() && given[given.len() - work.len() - 1] == "--"
}

fn script(path: &Path) -> anyhow::Result<InputFile> {
    let hint = "name a file to hand over, or a command of the node behind `--`";
    let metadata = std::fs::metadata(path).with_context(|| format!("cannot hand over {} ({hint})", path.display()))?;
    if metadata.is_dir() {
        bail!("{} is a folder; {hint}, and folders with --input", path.display());
    }
    if metadata.len() == 0 {
        bail!("{} is empty", path.display());
    }
    collect_inputs(path)?.pop().context("the file cannot be read")
}

fn pairs(option: &str, values: &[String]) -> anyhow::Result<BTreeMap<String, String>> {
    let pair = |value: &String| {
        let (key, value) = value.split_once('=').with_context(|| format!("{option} {value:?} is not KEY=VALUE"))?;
        Ok((key.to_owned(), value.to_owned()))
    };
    values.iter().map(pair).collect()
}
