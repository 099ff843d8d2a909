//! How full the members are, and what makes room: compaction forgets history, defragmentation gives its space back,
//! and then the alarm has to be switched off. If the cluster has users, only those with the role `root` may do so.

use std::time::Duration;

use etcd_client::{AlarmAction, AlarmOptions, AlarmType, CompactionOptions, StatusResponse};
use futures::future::join_all;

use super::{
    DEADLINE,
    errors::Failure,
    members::{Member, Members},
    number,
};
use crate::state::{Revision, StateError, Usage};

/// What members before 3.6 do not tell, unless they are set to something else.
const DEFAULT_QUOTA_BYTES: u64 = 2 << 30;
/// Compaction and defragmentation go through the whole database.
const WORK_DEADLINE: Duration = Duration::from_secs(60);

struct Status(StatusResponse);

impl Status {
    /// The size of the file, which is what counts for the quota.
    fn file_bytes(&self) -> u64 {
        self.0.db_size().unsigned_abs()
    }

    fn quota_bytes(&self) -> u64 {
        u64::try_from(self.0.db_size_quota()).ok().filter(|quota| *quota > 0).unwrap_or(DEFAULT_QUOTA_BYTES)
    }

    fn has_alarm(&self, name: &str) -> bool {
        self.0.errors().iter().any(|error| error.contains(name))
    }

    /// Whether defragmentation is worth that the member does not answer meanwhile.
    fn is_sparse(&self) -> bool {
        let in_use = self.0.raft_used_db_size().unsigned_abs();
        self.file_bytes() > self.quota_bytes() / 2 && in_use < self.file_bytes() / 2
    }

    fn alarm(&self) -> Option<String> {
        if self.has_alarm("CORRUPT") {
            Some("etcd takes no writes: its members do not have the same data (alarm CORRUPT)".to_owned())
        } else if self.has_alarm("NOSPACE") {
            Some("etcd takes no writes: its database reached its quota (alarm NOSPACE)".to_owned())
        } else {
            None
        }
    }
}

/// What the fullest member says, and any alarm.
pub(super) async fn usage(members: &Members) -> Result<Usage, StateError> {
    let statuses = statuses(members).await.map_err(|failure| failure.of_read())?;
    let alarm = statuses.iter().find_map(Status::alarm);
    let fullest = statuses.iter().max_by_key(|status| status.file_bytes());
    let (used_bytes, quota_bytes) = fullest.map_or((0, None), |of| (of.file_bytes(), Some(of.quota_bytes())));
    Ok(Usage { used_bytes, quota_bytes, alarm })
}

/// Forgets what is older than `before`, and gives space back if writes are refused, or will be without need.
pub(super) async fn compact(members: &Members, before: Revision) -> Result<(), StateError> {
    let revision = number(before);
    let compacted = members.call_repeatedly(WORK_DEADLINE, |client| {
        let mut client = client.kv_client();
        let until_done = CompactionOptions::new().with_physical();
        async move { client.compact(revision, Some(until_done)).await }
    });
    match compacted.await {
        Ok(_) => {}
        Err(failure) if failure.is_compacted() => {}
        Err(failure) => return Err(failure.of_read()),
    }
    let statuses = statuses(members).await.map_err(|failure| failure.of_read())?;
    let is_full = statuses.iter().any(|status| status.has_alarm("NOSPACE"));
    if is_full || statuses.iter().any(Status::is_sparse) {
        defragment(members).await?;
    }
    if is_full { disarm(members).await } else { Ok(()) }
}

/// Of all members that can be reached; an error if that is none.
async fn statuses(members: &Members) -> Result<Vec<Status>, Failure> {
    let asked = members.all().iter().map(|member| {
        member.ask(DEADLINE, |client| {
            let mut client = client.maintenance_client();
            async move { client.status().await }
        })
    });
    one_or_more(join_all(asked).await).map(|statuses| statuses.into_iter().map(Status).collect())
}

/// One member after the other, since a member does not answer meanwhile.
async fn defragment(members: &Members) -> Result<(), StateError> {
    let mut results = Vec::new();
    for member in members.all() {
        let done = defragment_one(member).await;
        if let Err(failure) = &done {
            tracing::warn!("{} was not defragmented: {failure}", member.endpoint());
        }
        results.push(done);
    }
    one_or_more(results).map(drop).map_err(|failure| failure.of_read())
}

async fn defragment_one(member: &Member) -> Result<(), Failure> {
    let done = member.ask(WORK_DEADLINE, |client| {
        let mut client = client.maintenance_client();
        async move { client.defragment().await }
    });
    done.await.map(drop)
}

/// Switches the alarm off that keeps etcd from taking writes. It raises it again if it is still full.
async fn disarm(members: &Members) -> Result<(), StateError> {
    let disarmed = members.call_repeatedly(DEADLINE, |client| {
        let mut client = client.maintenance_client();
        async move {
            let standing = client.alarm(AlarmAction::Get, AlarmType::Nospace, None).await?;
            for alarm in standing.alarms().iter().filter(|alarm| alarm.alarm() == AlarmType::Nospace) {
                let mut of = AlarmOptions::new();
                of.with_member(alarm.member_id());
                client.alarm(AlarmAction::Deactivate, AlarmType::Nospace, Some(of)).await?;
            }
            Ok(())
        }
    });
    disarmed.await.map_err(|failure| failure.of_read())
}

/// What went well, or the first failure if nothing did.
fn one_or_more<T>(results: Vec<Result<T, Failure>>) -> Result<Vec<T>, Failure> {
    let (mut well, mut failed) = (Vec::new(), None);
    for result in results {
        match result {
            Ok(value) => well.push(value),
            Err(failure) => failed = failed.or(Some(failure)),
        }
    }
    match failed {
        Some(failure) if well.is_empty() => Err(failure),
        _ => Ok(well),
    }
}
