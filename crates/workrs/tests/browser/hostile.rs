//! What jobs write and are called is data, wherever the page shows it.

use std::fs;

use crate::{
    browser::{Browser, MARK, Screen, can_run},
    harness::Node,
};

/// Prints and leaves what would be run if any of it were taken for more than text.
fn program(attack: &str) -> String {
    format!(
        r#"import os
attack = '''{attack}'''
print(attack)
print('\x1b]0;' + attack + '\x07\x1b[31m' + attack + '\x1b[0m\x1b[9999C\x1b]8;;javascript:alert(1)\x07link\x1b]8;;\x07')
print('\x00\x08\x1b[1;31;999;38;5;300m odd \x1b[')
for name in ['<img src=x onerror=window.{MARK}=1>.txt', 'a"onmouseover="window.{MARK}=1', "it's & #?%41.txt", 'page.html', 'picture.svg']:
    open(name, 'w').write(attack)
os.symlink('javascript:window.{MARK}=1', '<script>window.{MARK}=1<')
"#
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_names_lines_and_files_stay_inert() {
    if !can_run() {
        return;
    }
    let node = Node::start(&["--allow-drills"]);
    let attack = format!(
        "<script>window.{MARK}=1</script><img src=x onerror=\"window.{MARK}=1\"><svg onload=\"window.{MARK}=1\">{{{{7*7}}}}"
    );
    let script = node.scratch().join("hostile.py");
    fs::write(&script, program(&attack)).unwrap();
    let name = &attack[..90];
    let id = node.submit(&["--name", name, "--env", &format!("X={attack}"), script.to_str().unwrap()]);
    node.succeeded(&id);
    let running = node.submit(&["--name", name, "--", "sh", "-c", &format!("echo '{attack}'; sleep 1000")]);
    node.running(&running);
    for screen in Screen::ALL {
        let browser = Browser::open(screen).await;
        for page in ["/", "/nodes", "/group", &format!("/?q={name}"), &format!("/jobs/new?from={id}")] {
            let page = page.replace('<', "%3C").replace(' ', "%20").replace('"', "%22");
            browser.go(&format!("{}{page}", node.url())).await;
            browser.find("main h1").await;
            browser.assert_fits().await;
            browser.assert_inert().await;
        }
        browser.go(&format!("{}/jobs/{running}", node.url())).await;
        browser.shows(".log-text", &attack).await;
        browser.assert_inert().await;
        browser.go(&format!("{}/jobs/{id}", node.url())).await;
        browser.shows(".log-text", &attack).await;
        browser.shows(".log-text .a-red", "<script>").await;
        browser.shows("h1", "<script>").await;
        let looks = browser.count("[data-look]").await;
        assert_eq!(looks, 5, "{}", browser.text(".files").await);
        for number in 1..=looks {
            browser.click(&format!(".files li:nth-child({number}) [data-look]")).await;
            browser.shows(&format!(".files li:nth-child({number}) .look"), "<script>").await;
            browser.assert_fits().await;
        }
        assert_eq!(browser.count("main script, main img, main svg[onload], main iframe").await, 0);
        browser.assert_fits().await;
        browser.assert_inert().await;
    }
    node.workrs(&["cancel", &running]);
}
