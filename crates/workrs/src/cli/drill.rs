//! `drill`: makes a node, or one job on it, fail, to see that the work goes on.

use super::{client, jobs::say, print};
use crate::args::DrillArgs;

/// Asks for a drill.
pub async fn drill(args: DrillArgs) -> anyhow::Result<u8> {
    let view = client(&args.server)?.drill(&args.node, args.job.as_deref()).await?;
    say(&args.server, &view, || print::drill(&view))
}
