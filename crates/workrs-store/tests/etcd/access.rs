//! Who may ask: passwords and certificates.

use etcd_client::{Client, Permission};
use services::Certificates;

use super::*;

async fn open_as(cluster: &Cluster, user: &str, password: &str) -> EtcdStore {
    let options: EtcdOptions = cluster.url("own").parse().unwrap();
    EtcdStore::open(&options.with_credentials(user, password)).await.unwrap()
}

async fn refusal(store: &EtcdStore) -> String {
    let refused = commit(store, [], put("k", "v")).await;
    let Err(StateError::Unavailable(text)) = refused else { panic!("{refused:?} is not known to be a refusal") };
    assert!(matches!(store.get("k").await, Err(StateError::Unavailable(_))));
    text
}

/// A user who may only do what is below its prefix, and whose token ends after a second.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_have_to_say_who_they_are() {
    let Some(cluster) = Cluster::start_with(1, &["--auth-token-ttl", "2", "--bcrypt-cost", "4"]) else { return };
    let open_store = open(&cluster, "own").await;
    must_put(&*open_store, "before", "v").await;
    let mut admin = Client::connect(cluster.endpoints(), None).await.unwrap().auth_client();
    for (user, role) in [("root", "root"), ("node", "node")] {
        admin.user_add(user, format!("{user}'s password"), None).await.unwrap();
        admin.role_add(role).await.unwrap();
        admin.user_grant_role(user, role).await.unwrap();
    }
    admin.role_grant_permission("node", Permission::read_write("own/").with_prefix()).await.unwrap();
    admin.auth_enable().await.unwrap();

    let text = refusal(&open_store).await;
    assert!(text.contains("asks for a user"), "{text}");
    let text = refusal(&open_as(&cluster, "node", "wrong").await).await;
    assert!(text.contains("authentication failed") && !text.contains("wrong"), "{text}");

    let store = open_as(&cluster, "node", "node's password").await;
    let revision = must_put(&store, "k", "1").await;
    let mut watch = store.watch("", revision).await.unwrap();
    let lease = store.grant_lease(Duration::from_secs(60)).await.unwrap();
    let foreign = commit(&store, [], put("k", "2")).await.unwrap();
    assert!(matches!(next(&mut watch).await, WatchEvent::Put(entry) if entry.revision == foreign));
    let elsewhere: EtcdOptions = cluster.url("other").parse().unwrap();
    let elsewhere = EtcdStore::open(&elsewhere.with_credentials("node", "node's password")).await.unwrap();
    let text = refusal(&elsewhere).await;
    assert!(text.contains("permission denied"), "{text}");
    for refused in [store.usage().await.map(drop), store.compact(revision).await] {
        assert!(matches!(&refused, Err(StateError::Unavailable(text)) if text.contains("role root")), "{refused:?}");
    }
    let administrator = open_as(&cluster, "root", "root's password").await;
    administrator.compact(revision).await.unwrap();
    assert!(administrator.usage().await.unwrap().used_bytes > 0);

    // Longer than a token lives.
    tokio::time::sleep(Duration::from_secs(4)).await;
    store.renew_lease(lease).await.unwrap();
    assert_eq!(store.list("", None, 10).await.unwrap().entries.len(), 2);
    tokio::time::sleep(Duration::from_secs(4)).await;
    must_put(&store, "k", "3").await;
    assert_eq!(put_key(next(&mut watch).await), "k");
    let mut new = store.watch("", foreign).await.unwrap();
    assert_eq!(put_key(next(&mut new).await), "k");

    // Whose rights were changed needs a new token.
    let options = etcd_client::ConnectOptions::new().with_user("root", "root's password");
    let mut admin = Client::connect(cluster.endpoints(), Some(options)).await.unwrap().auth_client();
    admin.role_grant_permission("node", Permission::read("more")).await.unwrap();
    must_put(&store, "k", "4").await;
    assert_eq!(put_key(next(&mut watch).await), "k");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_and_clients_show_certificates() {
    let Some(certificates) = Certificates::make() else {
        services::tell("skipped: openssl not found");
        return;
    };
    let Some(cluster) = Cluster::start_with_tls(1, &certificates) else { return };
    let file = |name: &str| certificates.file(name).to_string_lossy().into_owned();
    let url = cluster.url("secure").replacen("etcd://", "etcds://", 1);
    let open = async |query: &str| {
        let options: EtcdOptions = format!("{url}?{query}").parse().unwrap();
        EtcdStore::open(&options).await.unwrap()
    };
    let (ca, cert, key) = (file("ca.pem"), file("client.pem"), file("client-key.pem"));
    let store = open(&format!("ca={ca}&cert={cert}&key={key}")).await;
    let revision = must_put(&store, "k", "v").await;
    let mut watch = store.watch("", Revision(revision.0 - 1)).await.unwrap();
    assert_eq!(put_key(next(&mut watch).await), "k");
    refusal(&open(&format!("ca={ca}")).await).await;
    // Signed by somebody else.
    let others = Certificates::make().unwrap();
    let other_ca = others.file("ca.pem").to_string_lossy().into_owned();
    let text = refusal(&open(&format!("ca={other_ca}&cert={cert}&key={key}")).await).await;
    assert!(text.contains("certificate"), "{text}");
    let plain: EtcdOptions = cluster.url("secure").parse().unwrap();
    refusal(&EtcdStore::open(&plain).await.unwrap()).await;
}
