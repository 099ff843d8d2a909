//! Who sees what, once there are tokens.

use crate::{
    browser::{Browser, Screen, can_run},
    harness::Node,
};

/// Makes a token.
fn token(node: &Node, owner: &str, role: &str) -> String {
    let said = node.workrs(&["token", "create", "--owner", owner, "--role", role, "--json"]);
    let made: serde_json::Value = serde_json::from_str(&said.out).unwrap_or_else(|error| panic!("{error}: {said:?}"));
    made["token"].as_str().unwrap().to_owned()
}

async fn log_in(browser: &Browser, token: &str) {
    browser.fill("#token", token).await;
    browser.click(".login button").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn people_log_in_and_see_what_is_theirs() {
    if !can_run() {
        return;
    }
    let mut node = Node::new(&[], crate::harness::Images::Shared).with_token("of-the-node");
    node.restart();
    let theirs = node.submit(&["--name", "of-the-operator", "--", "sleep", "1000"]);
    let (user, reader) = (token(&node, "ann", "user"), token(&node, "ann", "read-only"));
    for screen in Screen::ALL {
        let browser = Browser::open(screen).await;
        browser.go(&format!("{}/nodes", node.url())).await;
        browser.shows("h1", "Log in").await;
        browser.assert_fits().await;
        browser.picture("login").await;
        log_in(&browser, "workrs_wrong").await;
        browser.shows(".login .error", "no token").await;
        log_in(&browser, &user).await;
        // Where they wanted to go.
        browser.shows("h1", "Nodes").await;
        assert_eq!(browser.count(".node > .actions").await, 0, "only admins drain");
        browser.go(&format!("{}/jobs/{theirs}", node.url())).await;
        browser.shows(".empty", "no job has the id").await;

        browser.go(&format!("{}/jobs/new", node.url())).await;
        browser.click("input[name=what][value=command]").await;
        browser.fill("#command", "sh -c 'echo of ann; sleep 1000'").await;
        browser.click(".fold:nth-of-type(1) > summary").await;
        browser.fill("#disk", "32M").await;
        browser.click("#submit button[type=submit]").await;
        browser.shows(".log-text", "of ann").await;
        browser.click("#sure > summary").await;
        browser.click("#sure button").await;
        browser.shows(".title .state", "cancelled").await;
        browser.click(".who form button").await;
        browser.shows("h1", "Log in").await;

        log_in(&browser, &reader).await;
        browser.shows("tbody", "sh").await;
        assert_eq!(browser.count("a[href='/jobs/new']").await, 0, "readers hand nothing over");
        browser.click("tbody a").await;
        browser.shows(".title .state", "cancelled").await;
        assert_eq!(browser.count(".actions a, .actions button").await, 0, "and change nothing");
        browser.assert_inert().await;
    }
    node.workrs(&["cancel", &theirs]);
}

#[tokio::test(flavor = "multi_thread")]
async fn admins_make_tokens_see_what_was_done_and_take_tokens_back() {
    if !can_run() {
        return;
    }
    let mut node = Node::new(&["--role", "none"], crate::harness::Images::Shared).with_token("of-the-node");
    node.restart();
    for screen in Screen::ALL {
        let browser = Browser::open(screen).await;
        browser.go(&format!("{}/access", node.url())).await;
        log_in(&browser, "of-the-node").await;
        browser.shows("h1", "Access").await;
        browser.fill("#owner", "not a name").await;
        browser.click("#make-token button").await;
        browser.shows("main .error", "an owner has the character").await;
        browser.fill("#owner", "ben").await;
        browser.click("#make-token button").await;
        browser.shows(".made", "workrs_").await;
        browser.shows("#access tbody tr", "ben").await;
        browser.shows("#audit-title ~ .wide", "POST /api/v1/tokens").await;
        browser.assert_fits().await;
        // Loaded anew, the page does not tell the token any more.
        browser.go(&format!("{}/access", node.url())).await;
        browser.shows("#access tbody tr", "ben").await;
        assert!(!browser.text("main").await.contains("workrs_"));
        set_quotas(&browser).await;
        browser.assert_fits().await;
        browser.picture("access").await;
        take_quotas_away(&browser).await;
        browser.click("#access .sure > summary").await;
        browser.click("#access .sure button").await;
        browser.shows("#access tbody tr .state", "revoked").await;
        browser.assert_inert().await;
    }
}

async fn set_quotas(browser: &Browser) {
    browser.fill("#whose", "ben").await;
    browser.fill("#running", "2").await;
    browser.fill("#memory", "lots").await;
    browser.click("#set-quota button").await;
    browser.shows("#set-quota ~ .error", "lots is no size").await;
    browser.fill("#memory", "1.5G").await;
    browser.fill("#cpus", "-1").await;
    browser.click("#set-quota button").await;
    // The API's own words.
    browser.shows("#set-quota ~ .error", "cpus must lie between 0 and").await;
    browser.fill("#cpus", "0.5").await;
    browser.click("#set-quota button").await;
    browser.shows("#quotas-title ~ .wide", "2 jobs at a time, 0.5 cores, 1.5 GiB of memory").await;
    browser.fill("#queued", "9").await;
    browser.click("#set-quota button").await;
    browser.shows("#quotas-title ~ .wide", "everybody else").await;
}

async fn take_quotas_away(browser: &Browser) {
    for left in [1, 0] {
        browser.click("#quota-1 > summary").await;
        browser.click("#quota-1 button").await;
        let script = "return document.querySelectorAll('[id^=quota-]').length === arguments[0]";
        browser.holds(script, vec![left.into()], "a quota is taken away").await;
    }
}
