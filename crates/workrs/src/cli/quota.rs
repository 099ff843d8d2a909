//! `quota`: how much of the group owners may have.

use anyhow::Context;
use workrs_core::spec::parse_size;

use super::{client, jobs::say, print};
use crate::{
    api::QuotaRequest,
    args::{QuotaArgs, QuotaCommand, QuotaRmArgs, QuotaSetArgs, QuotaShowArgs},
};

/// Does what `args` ask for.
pub async fn quota(args: QuotaArgs) -> anyhow::Result<u8> {
    match args.command {
        QuotaCommand::Ls(server) => {
            let quotas = client(&server)?.quotas().await?;
            say(&server, &quotas, || print::quotas(&quotas))
        }
        QuotaCommand::Show(QuotaShowArgs { owner, server }) => {
            let client = client(&server)?;
            let quota = match owner {
                Some(owner) => client.quota(one(&owner)).await?,
                None => client.me().await?.quota,
            };
            say(&server, &quota, || print::quota(&quota))
        }
        QuotaCommand::Set(args) => set(args).await,
        QuotaCommand::Rm(QuotaRmArgs { owner, server }) => {
            client(&server)?.remove_quota(one(&owner)).await?;
            say(&server, &serde_json::json!({ "owner": owner }), || format!("the quota of {owner} is gone\n"))
        }
    }
}

async fn set(args: QuotaSetArgs) -> anyhow::Result<u8> {
    let QuotaSetArgs { owner, running, cpus, memory, queued, stored, server } = args;
    let bytes = |option: &str, text: Option<String>| {
        text.as_deref().map(parse_size).transpose().with_context(|| format!("invalid {option}"))
    };
    let cpus = cpus.map(|cpus| cpus.parse().with_context(|| format!("invalid --cpus: {cpus:?} is not a number")));
    let request = QuotaRequest {
        running,
        cpus: cpus.transpose()?,
        memory_bytes: bytes("--memory", memory)?,
        queued,
        stored_bytes: bytes("--stored", stored)?,
    };
    let quota = client(&server)?.set_quota(one(&owner), &request).await?;
    say(&server, &quota, || print::quota(&quota))
}

/// A single owner; `*` is nobody in particular.
fn one(owner: &str) -> Option<&str> {
    (owner != "*").then_some(owner)
}
