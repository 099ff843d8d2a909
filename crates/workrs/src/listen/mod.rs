//! Takes connections, with TLS or without, so that none of them keeps the others waiting.
//!
//! Each connection is a task of its own, handshake included. What a client must do in time (shake hands, say its request, send
//! its body, take its answer) is in [`connection`] and [`pace`]; how many connections there may be, from one address and in
//! all, is in [`places`]; how many requests, in [`rate`].

mod connection;
mod pace;
mod places;
mod rate;
#[cfg(test)]
mod tests;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::Router;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::Instrument;

pub use self::{
    connection::Peer,
    places::{Place, Places},
    rate::{Rate, Who},
};

/// Connections at most, unless the process may have fewer files open.
const MOST_CONNECTIONS: usize = 8_192;
/// One address has a share of this of all connections.
const SHARE: usize = 8;
/// Fewer than this would be in the way of a single browser.
const LEAST_PER_ADDRESS: usize = 32;
/// Kept for this machine itself, so that its operator always gets in.
const RESERVE: usize = 64;
/// When there is no file left for a connection, the next try comes after this.
const PAUSE: Duration = Duration::from_secs(1);

/// How many connections there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// In all, those from this machine not counted up to a reserve.
    pub connections: usize,
    /// From one address of another machine.
    pub per_address: usize,
}

impl Limits {
    /// As many as this process has room for: half of the files that it may have open, the others are for jobs and stores.
    pub fn here() -> Self {
        let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let files = files.map_or(usize::MAX, |files| usize::try_from(files).unwrap_or(usize::MAX));
        let connections = MOST_CONNECTIONS.min(files / 2);
        Self { connections, per_address: (connections / SHARE).max(LEAST_PER_ADDRESS) }
    }
}

/// Serves `router` on `listener` until `stopping` is cancelled and the last connection has ended.
pub async fn serve(
    listener: TcpListener,
    tls: Option<Arc<ServerConfig>>,
    limits: Limits,
    router: Router,
    stopping: CancellationToken,
) {
    let tls = tls.map(TlsAcceptor::from);
    let (all, others) = (Places::new(limits.connections + RESERVE), Places::new(limits.connections));
    let addresses = Places::new(limits.per_address);
    let open = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stopping.cancelled() => break,
        };
        let (stream, remote) = match accepted {
            Ok(accepted) => accepted,
            Err(error) if is_of_connection(&error) => continue,
            Err(error) => {
                tracing::warn!(%error, "cannot take a connection, will try on");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let Some(places) = seat(&all, &others, &addresses, remote) else {
            crate::metrics::REFUSED_CONNECTIONS.add(1);
            tracing::debug!(%remote, "too many connections: one is closed");
            continue;
        };
        if let Err(error) = notice_vanishing(&stream) {
            // It has vanished already.
            tracing::debug!(%remote, %error, "a connection cannot be set up");
            continue;
        }
        let serving = connection::serve(stream, remote, tls.clone(), router.clone(), stopping.clone());
        open.spawn(async move { (serving.await, drop(places)).0 }.in_current_span());
    }
    drop(listener);
    open.close();
    open.wait().await;
}

/// Places for a connection: among all, among those of other machines, and among those of its address.
fn seat(
    all: &Places<()>,
    others: &Places<()>,
    addresses: &Places<Who>,
    remote: SocketAddr,
) -> Option<impl Send + use<>> {
    let is_local = remote.ip().to_canonical().is_loopback();
    let of_all = all.take(())?;
    if is_local {
        return Some((of_all, None));
    }
    let of_others = others.take(())?;
    let of_address = addresses.take(Who::at(remote.ip()))?;
    Some((of_all, Some((of_others, of_address))))
}

fn is_of_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// A client that vanished from the network, or that takes nothing of its answer, is noticed by the kernel within minutes.
fn notice_vanishing(stream: &TcpStream) -> io::Result<()> {
    use rustix::net::sockopt;
    const QUIET: Duration = Duration::from_secs(60);
    const BETWEEN: Duration = Duration::from_secs(15);
    const PROBES: u32 = 4;
    const UNTAKEN_MS: u32 = 120_000;
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, QUIET)?;
    sockopt::set_tcp_keepintvl(stream, BETWEEN)?;
    sockopt::set_tcp_keepcnt(stream, PROBES)?;
    sockopt::set_tcp_user_timeout(stream, UNTAKEN_MS)?;
    Ok(())
}
