//! `token`: who is let in.

use super::{client, jobs::say, print};
use crate::{
    api::TokenRequest,
    args::{TokenArgs, TokenCommand, TokenCreateArgs, TokenRevokeArgs},
};

/// Does what `args` ask for.
pub async fn token(args: TokenArgs) -> anyhow::Result<u8> {
    match args.command {
        TokenCommand::Create(args) => create(args).await,
        TokenCommand::Ls(server) => {
            let tokens = client(&server)?.tokens().await?;
            say(&server, &tokens, || print::tokens(&tokens))
        }
        TokenCommand::Revoke(TokenRevokeArgs { id, server }) => {
            let token = client(&server)?.revoke_token(&id).await?;
            say(&server, &token, || print::token_revoked(&token))
        }
    }
}

async fn create(args: TokenCreateArgs) -> anyhow::Result<u8> {
    let TokenCreateArgs { owner, role, expires, server } = args;
    let created = client(&server)?.create_token(&TokenRequest { owner, role, expires }).await?;
    if !server.json {
        // Beside the token itself, so that it can be piped into where it is kept.
        eprint!("{}", print::token_created(&created.view));
    }
    say(&server, &created, || format!("{}\n", created.token))
}
