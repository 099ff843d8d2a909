use std::{os::unix::fs::PermissionsExt, path::Path};

use axum::{Router, extract::Extension, routing::get};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    client::{Client, connections},
    listen::{self, Limits, Peer},
};

/// A server that shows a certificate, as long as it lives.
struct Server {
    url: String,
    task: JoinHandle<()>,
}

impl Server {
    async fn start(certificates: &Arc<Certificates>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let seen = |Extension(peer): Extension<Peer>| async move { format!("{}", peer.tls) };
        let router = Router::new().route("/", get(seen)).route("/api/v1/nodes", get(|| async { "[]" }));
        let tls = Some(certificates.config().unwrap());
        let task = tokio::spawn(listen::serve(listener, tls, Limits::here(), router, CancellationToken::new()));
        Self { url, task }
    }

    /// What a client hears that trusts so.
    async fn hears(&self, trust: &Trust) -> Result<String, reqwest::Error> {
        // One connection each, so that each certificate is looked at.
        connections(trust).unwrap().get(&self.url).send().await?.text().await
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn self_made(folder: &Path) -> Arc<Certificates> {
    Certificates::open(&Source::SelfMade, folder, &["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap()
}

fn pinned(certificates: &Certificates) -> Trust {
    Trust::pinned(*certificates.fingerprint().borrow())
}

#[tokio::test]
async fn a_certificate_is_made_once_and_is_its_owners_alone() {
    let folder = tempfile::tempdir().unwrap();
    let first = *self_made(folder.path()).fingerprint().borrow();
    assert_eq!(*self_made(folder.path()).fingerprint().borrow(), first);
    for (path, mode) in [("tls", 0o700), ("tls/key.pem", 0o600), ("tls/certificate.pem", 0o600)] {
        let found = std::fs::metadata(folder.path().join(path)).unwrap().permissions().mode() & 0o777;
        assert_eq!(found, mode, "{path}");
    }
    // As after a crash between the two.
    std::fs::remove_file(folder.path().join("tls/certificate.pem")).unwrap();
    assert_ne!(*self_made(folder.path()).fingerprint().borrow(), first);
}

#[tokio::test]
async fn whoever_is_pinned_or_vouched_for_is_believed_and_nobody_else() {
    let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (certificates, others) = (self_made(folder.path()), self_made(other.path()));
    let server = Server::start(&certificates).await;
    assert_eq!(server.hears(&pinned(&certificates)).await.unwrap(), "true");
    let file = folder.path().join("tls/certificate.pem");
    assert_eq!(server.hears(&Trust::of(Some(&file), &[]).unwrap()).await.unwrap(), "true");
    let both = [others.fingerprint().borrow().to_string(), certificates.fingerprint().borrow().to_string()];
    assert_eq!(server.hears(&Trust::of(None, &both).unwrap()).await.unwrap(), "true");
    let other_file = other.path().join("tls/certificate.pem");
    for wrong in [Trust::default(), pinned(&others), Trust::of(Some(&other_file), &[]).unwrap()] {
        assert!(server.hears(&wrong).await.is_err(), "{wrong:?}");
    }
}

#[tokio::test]
async fn what_is_wrong_with_a_certificate_is_said_with_what_to_do() {
    let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let certificates = self_made(folder.path());
    let server = Server::start(&certificates).await;
    let servers = std::slice::from_ref(&server.url);
    let client = Client::trusting(servers, None, &pinned(&self_made(other.path()))).unwrap();
    let error = client.nodes().await.unwrap_err();
    let fingerprint = certificates.fingerprint().borrow().to_string();
    assert!(error.to_string().contains(&fingerprint), "{error}");
    assert!(error.hint().unwrap().contains("--tls-fingerprint"));
    let error = Client::new(servers, None).unwrap().nodes().await.unwrap_err();
    assert!(error.hint().unwrap().contains("--tls-fingerprint"), "{error}");
    assert_eq!(Client::trusting(servers, None, &pinned(&certificates)).unwrap().nodes().await.unwrap(), []);
}

#[tokio::test]
async fn plain_http_is_told_to_come_with_tls() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(&self_made(folder.path())).await;
    let plain = server.url.replace("https", "http");
    let answer = connections(&Trust::default()).unwrap().get(plain).send().await.unwrap();
    assert_eq!(answer.status(), 400);
    let problem: crate::api::Problem = answer.json().await.unwrap();
    assert_eq!(problem.kind, "urn:workrs:problem:tls-needed");
}

#[tokio::test]
async fn a_renewed_certificate_is_shown_and_a_broken_one_is_not() {
    let (folder, renewed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let old = self_made(folder.path());
    self_made(renewed.path());
    let files = |name: &str| folder.path().join("tls").join(name);
    let source = Source::Files { certificate: files("certificate.pem"), key: files("key.pem") };
    let shown = Certificates::open(&source, Path::new("/nowhere"), &[]).unwrap();
    let server = Server::start(&shown).await;
    assert!(!shown.look().unwrap(), "nothing has changed");
    std::fs::copy(renewed.path().join("tls/certificate.pem"), files("certificate.pem")).unwrap();
    let error = shown.look().unwrap_err().to_string();
    assert!(error.contains("key.pem is another one's"), "{error}");
    assert_eq!(server.hears(&pinned(&old)).await.unwrap(), "true", "the old one stays");
    std::fs::copy(renewed.path().join("tls/key.pem"), files("key.pem")).unwrap();
    let mut told = shown.fingerprint();
    assert!(shown.look().unwrap());
    assert!(told.has_changed().unwrap());
    let fresh = Trust::pinned(*told.borrow_and_update());
    assert_eq!(server.hears(&fresh).await.unwrap(), "true");
    assert!(server.hears(&pinned(&old)).await.is_err());
    std::fs::write(files("certificate.pem"), "no certificate").unwrap();
    assert!(shown.look().unwrap_err().to_string().contains("PEM"));
    assert_eq!(server.hears(&fresh).await.unwrap(), "true");
}

#[test]
fn fingerprints_are_read_as_others_print_them() {
    let plain = "0123456789abcdef".repeat(4);
    let read: Fingerprint = plain.parse().unwrap();
    assert_eq!(read.to_string(), plain);
    let pairs: Vec<_> = plain.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap()).collect();
    for same in [pairs.join(":").to_uppercase(), format!("sha256:{plain}"), format!(" {plain}\n")] {
        assert_eq!(same.parse(), Ok(read), "{same}");
    }
    let long = format!("{plain}0");
    for wrong in ["", "abc", &plain[1..], &long, &plain.replace('0', "g")] {
        assert!(wrong.parse::<Fingerprint>().is_err(), "{wrong}");
    }
}

#[test]
fn files_without_certificates_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let empty = folder.path().join("ca.pem");
    std::fs::write(&empty, "").unwrap();
    for path in [empty, folder.path().join("none.pem")] {
        let error = Trust::of(Some(&path), &[]).unwrap_err().to_string();
        assert!(error.contains(path.to_str().unwrap()), "{error}");
    }
}
