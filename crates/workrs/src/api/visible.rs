//! Which jobs exist for a caller, where there are only ids.

use futures::{StreamExt, TryStreamExt, stream};
use workrs_core::{id::JobId, keys};

use super::{Api, Problem};
use crate::access::{Caller, Role};

/// Questions to the state store at once.
const AT_ONCE: usize = 16;

/// Those of `jobs` that the caller may see, in their order. An admin sees all; for others each one costs a look whether its
/// owner's key stands.
pub(super) async fn only<T>(api: &Api, caller: &Caller, jobs: Vec<(JobId, T)>) -> Result<Vec<(JobId, T)>, Problem> {
    if caller.role == Role::Admin {
        return Ok(jobs);
    }
    let store = api.records.store();
    let looks = jobs.into_iter().map(|(job, rest)| async move {
        let key = keys::owned_job(&caller.owner, &job);
        Ok::<_, Problem>(store.get(&key).await?.map(|_| (job, rest)))
    });
    let seen: Vec<_> = stream::iter(looks).buffered(AT_ONCE).try_collect().await?;
    Ok(seen.into_iter().flatten().collect())
}
