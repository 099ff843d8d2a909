//! What a node shows first.

use crate::{
    browser::{Browser, Screen, can_run},
    harness::Node,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_node_shows_something_at_its_address() {
    if !can_run() {
        return;
    }
    let node = Node::start(&[]);
    for screen in Screen::ALL {
        let browser = Browser::open(screen).await;
        browser.go(node.url()).await;
        browser.shows("body", "workrs").await;
        browser.assert_inert().await;
    }
}
