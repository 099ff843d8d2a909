//! Who may pull.

use std::{os::unix::fs::PermissionsExt, process::Command};

use serde_json::json;
use workrs_engine::image::source::{Credentials, PullOptions, SourceError};

use super::{
    FolderSink, options, pull_into, refused,
    registry::{BASIC, PASSWORD, Registry, USERNAME},
};

fn given(password: &str) -> PullOptions {
    let credentials = Credentials { username: USERNAME.to_owned(), password: password.to_owned() };
    PullOptions { credentials: Some(credentials), ..options() }
}

#[tokio::test]
async fn only_who_may_pull_does() {
    let Some(registry) = Registry::start_with_credentials() else { return };
    registry.push_image("private", "1", &json!({}), &[b"layer"]);
    let reference = format!("{}/private:1", registry.name());

    let error = refused(&reference, &options()).await;
    assert!(matches!(error, SourceError::CredentialsNeeded { .. }), "{error}");
    assert!(error.to_string().contains("there is no /nonexistent/config.json"), "{error}");
    let error = refused(&reference, &given("wrong")).await;
    assert!(matches!(error, SourceError::CredentialsRefused { .. }), "{error}");
    assert!(!format!("{error} {error:?}").contains("wrong"), "passwords are not for logs");

    pull_into(&FolderSink::new(), &reference, &given(PASSWORD)).await.unwrap();
    // Whether a tag is missing is for those who may know.
    let error = refused(&format!("{}/private:2", registry.name()), &given(PASSWORD)).await;
    assert!(matches!(error, SourceError::NoSuchTag { .. }), "{error}");
}

#[tokio::test]
async fn dockers_configuration_is_used() {
    let Some(registry) = Registry::start_with_credentials() else { return };
    registry.push_image("private", "1", &json!({}), &[b"layer"]);
    let reference = format!("{}/private:1", registry.name());
    let folder = tempfile::tempdir().unwrap();
    let options = PullOptions { docker_config: Some(folder.path().to_owned()), ..PullOptions::default() };
    let write = |content: &str| std::fs::write(folder.path().join("config.json"), content).unwrap();

    write(&json!({ "auths": { registry.name(): { "auth": BASIC } } }).to_string());
    pull_into(&FolderSink::new(), &reference, &options).await.unwrap();
    let parts = json!({ "username": USERNAME, "password": PASSWORD });
    write(&json!({ "auths": { format!("http://{}", registry.name()): parts } }).to_string());
    pull_into(&FolderSink::new(), &reference, &options).await.unwrap();

    for (content, expect) in [
        (json!({ "auths": { "elsewhere:5000": { "auth": BASIC } } }).to_string(), "has none for it"),
        (json!({ "credsStore": "that-does-not-exist" }).to_string(), "is of no use"),
        (json!({ "auths": { registry.name(): { "identitytoken": "x" } } }).to_string(), "identity token"),
        ("{".to_owned(), "is of no use"),
    ] {
        write(&content);
        let error = refused(&reference, &options).await;
        assert!(matches!(error, SourceError::CredentialsNeeded { .. }), "{error}");
        assert!(error.to_string().contains(expect), "{error}");
    }
}

/// Names the image that this test, run again as a process with an environment of its own, is to pull.
const INNER: &str = "WORKRS_TEST_PULL";

#[tokio::test]
async fn the_environment_and_helper_programs_are_used() {
    if let Ok(reference) = std::env::var(INNER) {
        pull_into(&FolderSink::new(), &reference, &PullOptions::default()).await.unwrap();
        return;
    }
    let Some(registry) = Registry::start_with_credentials() else { return };
    registry.push_image("private", "1", &json!({}), &[b"layer"]);
    let folder = tempfile::tempdir().unwrap();
    let helper = folder.path().join("docker-credential-workrs-test");
    let says = json!({ "ServerURL": registry.name(), "Username": USERNAME, "Secret": PASSWORD });
    let script =
        format!("#!/bin/sh\nread -r server\n[ \"$1 $server\" = 'get {}' ] || exit 1\necho '{says}'\n", registry.name());
    std::fs::write(&helper, script).unwrap();
    std::fs::set_permissions(&helper, std::fs::Permissions::from_mode(0o755)).unwrap();
    let home = tempfile::tempdir().unwrap();
    std::fs::create_dir(home.path().join(".docker")).unwrap();
    let path = format!("{}:{}", folder.path().display(), std::env::var("PATH").unwrap());

    let config = |folder: &std::path::Path, content: serde_json::Value| {
        std::fs::write(folder.join("config.json"), content.to_string()).unwrap();
    };
    let pulls = |docker_config: &std::path::Path| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "credentials::the_environment_and_helper_programs_are_used"]);
        command.env(INNER, format!("{}/private:1", registry.name())).env("PATH", &path).env("HOME", home.path());
        command.env("DOCKER_CONFIG", docker_config);
        command.output().unwrap().status.success()
    };
    let none = std::path::Path::new("");
    assert!(!pulls(none), "there are no credentials yet");
    config(&home.path().join(".docker"), json!({ "credsStore": "workrs-test" }));
    assert!(pulls(none), "the home folder's, by the helper for all");
    assert!(!pulls(folder.path()), "the folder that the environment names counts alone");
    config(folder.path(), json!({ "credHelpers": { registry.name(): "workrs-test" } }));
    assert!(pulls(folder.path()), "by the helper for this registry");
}
