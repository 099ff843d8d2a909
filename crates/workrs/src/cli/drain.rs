//! `drain`: empties a node, and tells what became of its jobs.

use std::{collections::BTreeSet, time::Duration};

use super::{
    client,
    jobs::say,
    patience::Patience,
    print::{self, DrainedJob},
};
use crate::{args::DrainArgs, client::Client};

const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Drains a node, or lets it take jobs again.
pub async fn drain(args: DrainArgs) -> anyhow::Result<u8> {
    let client = client(&args.server)?;
    let mut view = client.drain(&args.node, !args.undo).await?;
    if args.undo || args.no_wait {
        return say(&args.server, &view, || print::drain(&view, &[]));
    }
    if !args.server.json && !view.jobs.is_empty() {
        eprintln!(
            "[workrs] node {} saves {} and gives them back",
            view.name,
            print::count(view.jobs.len() as u64, "job")
        );
    }
    let mut seen: BTreeSet<_> = view.jobs.drain(..).collect();
    let left = until_empty(&client, &args.node, &mut seen).await?;
    view.live = left;
    let mut moved = Vec::new();
    for id in seen {
        let job = client.job(&id, None).await.ok();
        moved.push(DrainedJob { state: job.as_ref().map(print::state), node: job.and_then(|job| job.node), id });
    }
    say(
        &args.server,
        &serde_json::json!({ "name": view.name, "draining": true, "live": view.live, "moved": moved }),
        || print::drain(&view, &moved),
    )
}

/// Waits until the node runs no jobs; whether it lives then. The jobs that it still ran meanwhile are added to `seen`.
async fn until_empty(client: &Client, node: &str, seen: &mut BTreeSet<String>) -> anyhow::Result<bool> {
    let mut patience = Patience::new();
    loop {
        match client.nodes().await {
            Ok(nodes) => {
                patience.renew();
                let of_name: Vec<_> = nodes.into_iter().filter(|live| live.name == node).collect();
                let live = !of_name.is_empty();
                let jobs: Vec<String> = of_name.into_iter().flat_map(|live| live.jobs).collect();
                if jobs.is_empty() {
                    return Ok(live);
                }
                seen.extend(jobs);
                tokio::time::sleep(LOOK_EVERY).await;
            }
            Err(error) => {
                patience.bear(error).await?;
            }
        }
    }
}
