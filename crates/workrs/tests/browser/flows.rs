//! What people do with the page, from handing a job over to its outputs.

use std::{fs, path::PathBuf};

use serde_json::json;

use crate::{
    browser::{Browser, Screen, can_run},
    harness::Node,
    http::Request,
};

/// Prints for a while in colours, and leaves files.
const COUNT: &str = "import sys, time
n = int(sys.argv[1])
for i in range(n):
    print(f'\\x1b[32mstep\\x1b[0m {i} of {n}', flush=True)
    time.sleep(0.1)
open('result.txt', 'w').write(open('data.txt').read() + str(n))
";

/// A part of the upload was sent, and the page says so in words and as a bar.
const UNDER_WAY: &str = "const sending = document.querySelector('.sending'); \
                         const bar = sending.querySelector('progress'); \
                         return !sending.hidden && bar.value > 0 && bar.value < 100 \
                             && / of 4.* sent$/.test(sending.innerText.replace('Stop', '').trim())";

fn written(node: &Node, name: &str, content: &str) -> PathBuf {
    let path = node.scratch().join(name);
    fs::write(&path, content).unwrap();
    path
}

/// The job of the page that is open.
async fn shown_job(browser: &Browser) -> String {
    browser.find("#job").await;
    browser.page.current_url().await.unwrap().path().rsplit('/').next().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_is_handed_over_watched_and_its_outputs_are_looked_at() {
    if !can_run() {
        return;
    }
    let node = Node::start(&[]);
    let (script, data) = (written(&node, "count.py", COUNT), written(&node, "data.txt", "counted to "));
    for screen in Screen::ALL {
        let browser = Browser::open(screen).await;
        browser.go(node.url()).await;
        browser.click("a[href='/jobs/new']").await;
        browser.choose("input.files", &[&data, &script]).await;
        browser.shows(".chosen", "count.py").await;
        browser.fill("#args", "20").await;
        browser.fill("#name", "count").await;
        browser.fill("#forecast", "soon").await;
        browser.click("#submit button[type=submit]").await;
        // The API's own words, at the field.
        browser.shows("[data-field=forecast] .error", "soon").await;
        browser.holds("return document.activeElement.id === 'forecast'", Vec::new(), "the field is in focus").await;
        browser.picture("hand-over-refused").await;
        browser.fill("#forecast", "10s").await;
        browser.click("#submit button[type=submit]").await;
        // The default disk is larger than what this node has; its fold opens.
        browser.shows("[data-field=disk] .error", "disk").await;
        browser.fill("#disk", "32M").await;
        browser.assert_fits().await;
        browser.picture("hand-over").await;
        browser.click("#submit button[type=submit]").await;

        let id = shown_job(&browser).await;
        browser.shows(".log-text", "step 3 of 20").await;
        browser.picture("job-running").await;
        browser.shows(".title .state", "succeeded").await;
        browser.shows(".log-text", "step 19 of 20").await;
        assert!(browser.count(".log-text .a-green").await >= 20, "colours of the log");
        assert_eq!(browser.count(".log-text .line").await, 20, "each line once");
        browser.shows(".files", "result.txt").await;
        browser.click("[data-look$='/result.txt']").await;
        browser.shows(".look pre", "counted to 20").await;
        browser.assert_fits().await;
        browser.assert_inert().await;
        assert_eq!(node.outputs(&id)["result.txt"], b"counted to 20");

        // To run it again, the files have to be given again, which the page says.
        browser.click(".actions a").await;
        browser.shows(".notice", "had files").await;
        browser
            .holds(
                "return document.getElementById('command').value === \"python3 ./count.py 20\"",
                Vec::new(),
                "the command stands there",
            )
            .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_dragged_in_and_their_upload_tells_how_far_it_is() {
    if !can_run() {
        return;
    }
    let node = Node::start(&[]);
    let (script, data) = (written(&node, "count.py", COUNT), node.scratch().join("data.txt"));
    fs::write(&data, "x".repeat(4 << 20)).unwrap();
    for screen in Screen::ALL {
        let browser = Browser::open(screen).await;
        browser.go(&format!("{}/jobs/new", node.url())).await;
        browser.drag_in(".drop", &[&data, &script]).await;
        browser.shows(".chosen", "data.txt").await;
        browser.fill("#args", "1").await;
        browser.fill("#name", "dragged").await;
        browser.click("details:has(#disk) > summary").await;
        browser.fill("#disk", "32M").await;
        browser.slow_uploads(128 << 10).await;
        browser.click("#submit button[type=submit]").await;
        browser.holds(UNDER_WAY, Vec::new(), "the upload is under way").await;
        browser.assert_fits().await;
        // What is stopped was never handed over, and can be sent again.
        browser.click(".sending .stop").await;
        browser.holds("return document.querySelector('.sending').hidden", Vec::new(), "the upload has stopped").await;
        browser.slow_uploads(1 << 30).await;
        browser.click("#submit button[type=submit]").await;
        let id = shown_job(&browser).await;
        browser.shows(".title .state", "succeeded").await;
        assert_eq!(node.outputs(&id)["result.txt"].len(), (4 << 20) + 1);
        let jobs = format!("{}/api/v1/jobs", node.url());
        let list = Request::new(reqwest::Method::GET, &jobs).send().unwrap().json();
        assert_eq!(list["total"], json!(1), "handed over once: {list}");
        Request::new(reqwest::Method::DELETE, &format!("{jobs}/{id}")).send().unwrap();
        browser.assert_inert().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_cancelled_and_run_again() {
    if !can_run() {
        return;
    }
    let node = Node::start(&[]);
    for screen in Screen::ALL {
        let browser = Browser::open(screen).await;
        let id = node.submit(&["--name", "sleeper", "--", "sleep", "1000"]);
        browser.go(&format!("{}/jobs/{id}", node.url())).await;
        browser.shows(".title .state", "running").await;
        browser.click("#sure > summary").await;
        browser.click("#sure button").await;
        browser.shows(".title .state", "cancelled").await;
        browser.click(".actions a").await;
        browser.click("#submit button[type=submit]").await;
        let again = shown_job(&browser).await;
        assert_ne!(again, id);
        let job = node.running(&again);
        assert_eq!((job.name.as_str(), &job.spec["command"]), ("sleeper", &json!(["sleep", "1000"])));
        assert_eq!(job.spec["disk_bytes"], json!(32 << 20), "what was asked for comes along");
        node.workrs(&["cancel", &again]);
        browser.assert_inert().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drill_shows_that_a_job_outlives_a_fault() {
    if !can_run() {
        return;
    }
    let node = Node::start(&["--allow-drills"]);
    let script = written(&node, "count.py", COUNT);
    written(&node, "data.txt", "counted to ");
    for screen in Screen::ALL {
        let data = node.scratch().join("data.txt");
        let arguments = ["--checkpoint", "every=1s", "--forecast", "20s", "--input", data.to_str().unwrap()];
        let id = node.submit(&[&arguments[..], &[script.to_str().unwrap(), "150"]].concat());
        node.checkpointed(&id, 3);
        let browser = Browser::open(screen).await;
        browser.go(&format!("{}/nodes", node.url())).await;
        browser.shows(".runs", "count.py").await;
        browser.assert_fits().await;
        browser.picture("nodes").await;
        browser.click(".runs .sure > summary").await;
        browser.click(".runs .sure button").await;
        browser.go(&format!("{}/jobs/{id}", node.url())).await;
        browser.shows("#job", "resumed from checkpoint").await;
        browser
            .holds("return document.querySelectorAll('.life .fault').length === 1", Vec::new(), "a fault is drawn")
            .await;
        browser.shows(".log-text", "step 149 of 150").await;
        browser.shows(".title .state", "succeeded").await;
        assert_eq!(browser.count(".log-text .line").await, 150, "each line once, in spite of the fault");
        let job = node.succeeded(&id);
        assert_eq!(job.totals.losses, 1);
        assert!(job.attempts.last().unwrap().spared_ms.is_some_and(|spared| spared > 0), "{job:#?}");
        browser.picture("job").await;
        browser.go(&format!("{}/group?over=1h", node.url())).await;
        browser.shows(".headline", "work saved by checkpoints").await;
        browser.shows(".headline", "resume").await;
        browser.assert_fits().await;
        browser.picture("group").await;
        browser.assert_inert().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_drained_and_taken_back_and_killed_by_a_drill() {
    if !can_run() {
        return;
    }
    let mut node = Node::start(&["--allow-drills"]);
    let browser = Browser::open(Screen::Desktop).await;
    browser.go(&format!("{}/nodes", node.url())).await;
    browser.click(".node > .actions .sure:first-child > summary").await;
    browser.click(".node > .actions .sure:first-child button").await;
    browser.shows(".node .state", "drained").await;
    browser.click(".node > .actions > button").await;
    browser.shows(".node .state", "up").await;
    let id = node.submit(&[
        "--checkpoint",
        "every=1s",
        "--",
        "sh",
        "-c",
        "for i in $(seq 100); do echo $i; sleep 0.1; done",
    ]);
    node.checkpointed(&id, 2);
    browser.click(".node > .actions .sure:last-child > summary").await;
    browser.click(".node > .actions .sure:last-child button").await;
    let status = crate::tools::wait_until("the node has killed itself", || node.ended());
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9), "{status}");
    node.restart();
    let job = node.succeeded(&id);
    assert_ne!(job.attempts.last().unwrap().start, "clean", "{job:#?}");
    let lines: Vec<_> = (1..=100).map(|line| line.to_string()).collect();
    assert_eq!(node.log(&id).lines().collect::<Vec<_>>(), lines);
}
