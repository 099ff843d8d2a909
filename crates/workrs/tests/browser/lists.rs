//! The list of many jobs, and what is not there.

use serde_json::json;

use crate::{
    browser::{Browser, Screen, can_run},
    harness::Node,
    http::Request,
};

#[tokio::test(flavor = "multi_thread")]
async fn many_jobs_are_paged_filtered_and_searched() {
    if !can_run() {
        return;
    }
    let node = Node::start(&["--role", "none"]);
    let jobs = format!("{}/api/v1/jobs", node.url());
    for number in 0..120 {
        let job = json!({"command": ["true"], "name": format!("sweep {number}"), "disk": "32M"});
        let answer = Request::new(reqwest::Method::POST, &jobs).json(&job.to_string()).send();
        assert_eq!(answer.unwrap().status, 201);
    }
    for screen in Screen::ALL {
        let browser = Browser::open(screen).await;
        browser.go(node.url()).await;
        browser.shows(".foot", "50 of 120 jobs").await;
        browser.assert_fits().await;
        browser.picture("jobs-many").await;
        browser.shows("tbody tr", "sweep 119").await;
        browser.click("a[rel=next]").await;
        browser.shows("tbody tr", "sweep 69").await;
        browser.fill("#q", "SWEEP 11").await;
        browser.shows(".foot", "11 jobs").await;
        browser
            .holds("return location.search.includes('q=SWEEP')", Vec::new(), "the address says what is searched")
            .await;
        browser.click(".tabs a:nth-child(2)").await;
        browser.shows(".empty", "No job is running").await;
        browser.shows("body", "SWEEP 11").await;
        browser.page.back().await.unwrap();
        browser.shows(".foot", "11 jobs").await;
        // What comes while the page is open is shown.
        let job = json!({"command": ["true"], "name": "sweep 11 again", "disk": "32M"});
        let answer = Request::new(reqwest::Method::POST, &jobs).json(&job.to_string()).send();
        let id = answer.unwrap().json()["id"].as_str().unwrap().to_owned();
        browser.shows("tbody", "sweep 11 again").await;
        browser.assert_inert().await;
        node.workrs(&["cancel", &id]);
        let delete = Request::new(reqwest::Method::DELETE, &format!("{jobs}/{id}"));
        delete.send().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_told_in_the_pages_dress() {
    if !can_run() {
        return;
    }
    let node = Node::start(&["--role", "none"]);
    for screen in Screen::ALL {
        let browser = Browser::open(screen).await;
        browser.go(node.url()).await;
        browser.shows(".empty", "No jobs yet").await;
        browser.picture("empty").await;
        browser.go(&format!("{}/jobs/none-such", node.url())).await;
        browser.shows(".empty", "no job has the id none-such").await;
        browser.go(&format!("{}/nowhere", node.url())).await;
        browser.shows(".empty", "there is nothing at this address").await;
        browser.picture("not-found").await;
        browser.assert_fits().await;
        browser.assert_inert().await;
    }
}
