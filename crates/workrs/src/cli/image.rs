//! `image`: what jobs run in.

use std::{
    io::{IsTerminal, Read},
    time::Duration,
};

use anyhow::{Context, bail};
use workrs_core::spec::{HOST_IMAGE, format_size};

use super::{client, jobs::say, print};
use crate::{
    api::{PullRequest, PulledView},
    args::{ImageArgs, ImageCommand, ImageImportArgs, ImagePullArgs, ImageRmArgs, ServerArgs},
    client::Client,
    images::Wanted,
};

/// A pull that is done before this is not worth telling of.
const QUICK: Duration = Duration::from_millis(500);
/// Progress is told in steps of this many bytes.
const STEP: u64 = 1 << 20;

/// Does what `args` ask for.
pub async fn image(args: ImageArgs) -> anyhow::Result<u8> {
    match args.command {
        ImageCommand::Ls(server) => list(server).await,
        ImageCommand::Pull(args) => pull(args).await,
        ImageCommand::Import(args) => import(args).await,
        ImageCommand::Rm(args) => remove(args).await,
    }
}

async fn list(server: ServerArgs) -> anyhow::Result<u8> {
    let images = client(&server)?.images().await?;
    say(&server, &images, || print::images(&images))
}

async fn pull(args: ImagePullArgs) -> anyhow::Result<u8> {
    let password = args.password_stdin.then(password).transpose()?;
    let request = PullRequest {
        reference: Some(args.image.clone()),
        pull: args.always.then(|| "always".to_owned()),
        username: args.username.clone(),
        password,
    };
    let pulled = bring(&client(&args.server)?, &request).await?;
    say(&args.server, &pulled, || print::pulled(&pulled))
}

/// Sees that the group has the image that a job is to run in, and tells if that takes a while.
pub(super) async fn bring_for_job(client: &Client, image: Option<&str>, pull: &str) -> anyhow::Result<()> {
    let Some(image) = image.filter(|image| *image != HOST_IMAGE) else { return Ok(()) };
    let request = PullRequest {
        reference: Some(image.to_owned()),
        pull: (pull == "always").then(|| pull.to_owned()),
        ..PullRequest::default()
    };
    bring(client, &request).await.map(drop)
}

async fn bring(client: &Client, request: &PullRequest) -> anyhow::Result<PulledView> {
    let pulled = client.pull_image(request);
    tokio::pin!(pulled);
    tokio::select! {
        pulled = &mut pulled => return Ok(pulled?),
        () = tokio::time::sleep(QUICK) => {}
    }
    let name = request.reference.as_deref().unwrap_or_default();
    eprintln!("[workrs] pulling {} into the group", print::clean(name));
    Ok(pulled.await?)
}

async fn import(args: ImageImportArgs) -> anyhow::Result<u8> {
    let client = client(&args.server)?;
    let file = &args.file;
    let metadata = std::fs::metadata(file).with_context(|| format!("cannot import {}", file.display()))?;
    if !metadata.is_file() {
        bail!("{} is not a file; give an archive, such as `docker save` writes", file.display());
    }
    let (total, show) = (metadata.len(), std::io::stderr().is_terminal());
    let mut shown = 0;
    let progress = move |sent: u64| {
        if show && sent.saturating_sub(shown) >= STEP {
            shown = sent;
            eprint!("\ruploading: {} of {} ", format_size(sent), format_size(total));
        }
    };
    let imported = client.import_image(file, args.name.as_deref(), progress).await;
    if show {
        eprint!("\r\x1b[K");
    }
    let images = imported?;
    say(&args.server, &images, || print::imported(&images))
}

async fn remove(args: ImageRmArgs) -> anyhow::Result<u8> {
    let client = client(&args.server)?;
    let mut removed = Vec::new();
    for name in &args.names {
        removed.push(client.remove_image(&Wanted::parse(name)?.to_string()).await?);
    }
    say(&args.server, &removed, || removed.iter().map(print::removed_image).collect())
}

/// The first line of standard input.
fn password() -> anyhow::Result<String> {
    let mut text = String::new();
    std::io::stdin().lock().read_to_string(&mut text).context("cannot read the password from standard input")?;
    let password = text.lines().next().unwrap_or_default();
    if password.is_empty() {
        bail!("there is no password on standard input");
    }
    Ok(password.to_owned())
}
