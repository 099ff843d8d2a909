//! The members of the cluster, and which of them is asked.
//!
//! All calls go to one member until it fails; then all members are tried at the same time, and the first that proves
//! with a linearizable read to be in touch with most of the others is the next. So a member that is dead, stopped or
//! cut off costs the calls that are under way, and no later ones. Every member has a connection of its own.

use std::{
    future::Future,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use etcd_client::{Client, ConnectOptions, Error, GetOptions};
use futures::{
    FutureExt, StreamExt,
    future::{BoxFuture, Shared},
    stream::FuturesUnordered,
};
use tokio::{sync::OnceCell, time::timeout};

use super::{
    errors::Failure,
    options::{EtcdError, EtcdOptions},
};

/// How long a search for a member waits: longer than it takes to elect a leader, about a second.
const SEARCH_DEADLINE: Duration = Duration::from_millis(2500);
const CONNECT_DEADLINE: Duration = Duration::from_secs(1);
/// A member closes connections that are pinged more often than every five seconds.
const PING_INTERVAL: Duration = Duration::from_secs(6);
const PING_DEADLINE: Duration = Duration::from_secs(3);
/// How often something that may be repeated is tried.
const TRIES: usize = 3;
const NONE: usize = usize::MAX;

pub(super) struct Members {
    all: Arc<[Member]>,
    /// Index of the one that is asked, or [`NONE`].
    current: Arc<AtomicUsize>,
    /// The search that is under way, or the last one.
    search: Mutex<Option<Search>>,
    /// A key that the user may read, whether or not something stands there.
    probe: Arc<str>,
}

/// A search for a member, which all who need one wait for: its index, or why there is none.
type Search = Shared<BoxFuture<'static, Result<usize, String>>>;

pub(super) struct Member {
    endpoint: String,
    options: ConnectOptions,
    client: OnceCell<Client>,
    watch_client: OnceCell<Client>,
}

impl Members {
    /// Connects to nobody yet.
    pub(super) async fn new(options: &EtcdOptions) -> Result<Self, EtcdError> {
        if options.endpoints.is_empty() {
            return Err(EtcdError::InvalidUrl("it names no member".to_owned()));
        }
        let mut connect = ConnectOptions::new()
            .with_connect_timeout(CONNECT_DEADLINE)
            .with_keep_alive(PING_INTERVAL, PING_DEADLINE)
            // Pings without a call under way count as too many.
            .with_keep_alive_while_idle(false)
            .with_auto_token_refresh(true);
        if let Some(credentials) = &options.credentials {
            connect = connect.with_user(&credentials.user, &credentials.password);
        }
        if let Some(tls) = &options.tls {
            connect = connect.with_tls(tls.load().await?);
        }
        let scheme = if options.tls.is_some() { "https" } else { "http" };
        let members = options.endpoints.iter().map(|endpoint| Member {
            endpoint: format!("{scheme}://{endpoint}"),
            options: connect.clone(),
            client: OnceCell::new(),
            watch_client: OnceCell::new(),
        });
        Ok(Self {
            all: members.collect(),
            current: Arc::new(AtomicUsize::new(NONE)),
            search: Mutex::new(None),
            probe: format!("{}/", options.prefix).into(),
        })
    }

    /// All of them.
    pub(super) fn all(&self) -> &[Member] {
        &self.all
    }

    /// Asks one member once.
    pub(super) async fn call<T, F>(&self, deadline: Duration, call: impl Fn(&Client) -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let index = match self.current.load(Ordering::Relaxed) {
            NONE => self.search().await?,
            index => index,
        };
        let member = &self.all[index];
        let mut result = member.ask(deadline, &call).await;
        if matches!(&result, Err(failure) if failure.is_of_old_token()) && member.renew_token(deadline).await {
            result = member.ask(deadline, &call).await;
        }
        if matches!(&result, Err(failure) if failure.is_of_member()) {
            // Unless somebody else noticed before.
            let _ = self.current.compare_exchange(index, NONE, Ordering::Relaxed, Ordering::Relaxed);
        }
        result
    }

    /// Asks for something that may be asked twice, another member if one fails.
    pub(super) async fn call_repeatedly<T, F>(
        &self,
        deadline: Duration,
        call: impl Fn(&Client) -> F,
    ) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Error>>,
    {
        self.call_while(deadline, Failure::is_of_member, call).await
    }

    /// Asks for something that may be done once only: again only if it is certain that it was not begun.
    pub(super) async fn call_once<T, F>(&self, deadline: Duration, call: impl Fn(&Client) -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let again = |failure: &Failure| failure.is_of_member() && failure.was_not_begun();
        self.call_while(deadline, again, call).await
    }

    async fn call_while<T, F>(
        &self,
        deadline: Duration,
        again: impl Fn(&Failure) -> bool,
        call: impl Fn(&Client) -> F,
    ) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Error>>,
    {
        for _ in 1..TRIES {
            match self.call(deadline, &call).await {
                Err(failure) if again(&failure) => tracing::debug!("asking etcd again: {failure}"),
                result => return result,
            }
        }
        self.call(deadline, &call).await
    }

    /// Finds a member that can be asked. Those who look for one at the same time share a search. It is a task of its
    /// own: a caller that nobody polls for a while must not keep the others waiting, as it would by a lock.
    async fn search(&self) -> Result<usize, Failure> {
        let search = {
            let mut search = self.search.lock().unwrap_or_else(PoisonError::into_inner);
            let current = self.current.load(Ordering::Relaxed);
            if current != NONE {
                return Ok(current);
            }
            match search.as_ref().filter(|search| search.peek().is_none()) {
                Some(under_way) => under_way.clone(),
                None => search.insert(self.begin_search()).clone(),
            }
        };
        search.await.map_err(Failure::NoMember)
    }

    fn begin_search(&self) -> Search {
        let (all, current, key) = (Arc::clone(&self.all), Arc::clone(&self.current), Arc::clone(&self.probe));
        let task = tokio::spawn(async move {
            let mut probes: FuturesUnordered<_> = (0..all.len()).map(|index| probe(&all[index], index, &key)).collect();
            let mut why = Vec::new();
            while let Some(probed) = probes.next().await {
                match probed {
                    Ok(index) => {
                        current.store(index, Ordering::Relaxed);
                        return Ok(index);
                    }
                    Err(failed) => why.push(failed),
                }
            }
            Err(why.join("; "))
        });
        async move { task.await.unwrap_or_else(|error| Err(error.to_string())) }.boxed().shared()
    }
}

/// The member's index, if it is in touch with most of the others.
async fn probe(member: &Member, index: usize, key: &str) -> Result<usize, String> {
    let read = async {
        let mut client = member.connected().await?.kv_client();
        client.get(key, Some(GetOptions::new().with_count_only())).await
    };
    let failure = match timeout(SEARCH_DEADLINE, read).await {
        Ok(Ok(_)) => return Ok(index),
        Ok(Err(error)) => Failure::Said(error),
        Err(_) => Failure::Late(SEARCH_DEADLINE),
    };
    Err(format!("{}: {failure}", member.endpoint))
}

impl Member {
    /// Where it is.
    pub(super) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Asks this member.
    pub(super) async fn ask<T, F>(&self, deadline: Duration, call: impl Fn(&Client) -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let asked = async { call(self.connected().await?).await };
        match timeout(deadline, asked).await {
            Ok(result) => result.map_err(Failure::Said),
            Err(_) => Err(Failure::Late(deadline)),
        }
    }

    /// A client of a connection for watches alone, which ends streams when the member loses its leader.
    pub(super) async fn watch_client(&self) -> Result<&Client, Error> {
        let options = self.options.clone().with_require_leader(true);
        self.watch_client.get_or_try_init(|| Client::connect([&self.endpoint], Some(options))).await
    }

    /// The client of this member. The connection itself is made, and made again, when it is needed.
    async fn connected(&self) -> Result<&Client, Error> {
        self.client.get_or_try_init(|| Client::connect([&self.endpoint], Some(self.options.clone()))).await
    }

    async fn renew_token(&self, deadline: Duration) -> bool {
        let Some(client) = self.client.get() else { return false };
        matches!(timeout(deadline, client.refresh_token()).await, Ok(Ok(())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Such as the branch of a `select!` while another one's handler asks for something else.
    #[tokio::test]
    async fn a_caller_that_nobody_polls_keeps_no_other_waiting() {
        let options: EtcdOptions = "etcd://127.0.0.1:1/nobody".parse().unwrap();
        let members = Members::new(&options).await.unwrap();
        let ask = || {
            members.call(Duration::from_secs(1), |client| {
                let mut client = client.kv_client();
                async move { client.get("key", None).await }
            })
        };
        let mut forgotten = std::pin::pin!(ask());
        assert!(futures::poll!(&mut forgotten).is_pending());
        let answer = timeout(SEARCH_DEADLINE * 4, ask()).await.expect("the search ends without the one who began it");
        assert!(answer.is_err(), "nobody is there");
    }
}
