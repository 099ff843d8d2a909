//! `audit`: who changed what, and who was refused.

use super::{client, jobs::say, print};
use crate::args::AuditArgs;

/// Prints a part of the audit trail, the oldest first.
pub async fn audit(args: AuditArgs) -> anyhow::Result<u8> {
    let client = client(&args.server)?;
    let mut notes = Vec::new();
    let mut after = None;
    loop {
        let page = client.audit(&args.since, after.as_deref()).await?;
        notes.extend(page.notes);
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    say(&args.server, &notes, || print::audit(&notes))
}
