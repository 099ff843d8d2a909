//! A browser as tests see it. However a test ends, its browser ends with it: driver and browser run in a namespace of
//! processes of their own, whose first one dies with the test.
#![allow(dead_code, reason = "each test uses a part")]

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::OnceLock,
};

use fantoccini::{Client, ClientBuilder, Locator, elements::Element, wd::WebDriverCompatibleCommand};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Map, Value, json};

use crate::{host, tools::PATIENCE};

const DRIVER: &str = "chromedriver";
const BROWSER: &str = "chromium";
/// What ChromeDriver says before the port that it chose.
const STARTED: &str = "started successfully on port ";
/// Set, it has pictures written.
const SCREENSHOTS: &str = "WORKRS_SCREENSHOTS";
/// The property of `window` that hostile content of tests sets if it is ever run.
pub const MARK: &str = "hostileRan";

/// The window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Screen {
    /// 390 × 844 points, with touch.
    Phone,
    /// 1280 × 800 points.
    Desktop,
}

impl Screen {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Phone, Self::Desktop];

    fn name(self) -> &'static str {
        match self {
            Self::Phone => "phone",
            Self::Desktop => "desktop",
        }
    }

    fn metrics(self) -> Value {
        match self {
            Self::Phone => json!({"width": 390, "height": 844, "pixelRatio": 2, "mobile": true, "touch": true}),
            Self::Desktop => json!({"width": 1280, "height": 800, "pixelRatio": 1, "mobile": false, "touch": false}),
        }
    }
}

/// Whether there are a browser, and a node for it to look at. If not, says so; in CI that is a failure.
pub fn can_run() -> bool {
    static MISSING: OnceLock<Option<String>> = OnceLock::new();
    let missing = MISSING.get_or_init(|| {
        let is_there = |program: &&str| Command::new(program).arg("--version").output().is_ok();
        let program = [DRIVER, BROWSER].into_iter().find(|program| !is_there(program))?;
        Some(format!("{program} is not installed (scripts/setup.sh --cluster)"))
    });
    host::can_run() && host::nothing_missing(missing.as_deref())
}

/// A browser with one window.
pub struct Browser {
    /// What it is asked by.
    pub page: Client,
    screen: Screen,
    driver: Child,
    _profile: tempfile::TempDir,
}

impl Browser {
    /// Starts a browser with an empty profile.
    pub async fn open(screen: Screen) -> Self {
        let profile = tempfile::tempdir().unwrap();
        // Whoever ends the tests by force ends their browsers, too.
        let mut driver = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "unshare", "--pid", "--fork", "--kill-child=KILL", "--mount-proc"])
            .args([DRIVER, "--port=0"])
            .env("HOME", profile.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let url = format!("http://127.0.0.1:{}", port(&mut driver));
        let mut connector = ClientBuilder::new(HttpConnector::new());
        let page = connector.capabilities(capabilities(screen, profile.path())).connect(&url).await.unwrap();
        Self { page, screen, driver, _profile: profile }
    }

    /// Its window.
    pub fn screen(&self) -> Screen {
        self.screen
    }

    /// Opens an address.
    pub async fn go(&self, url: &str) {
        self.page.goto(url).await.unwrap();
    }

    /// Waits for the first element of this selector.
    pub async fn find(&self, css: &str) -> Element {
        let found = self.page.wait().at_most(PATIENCE).for_element(Locator::Css(css)).await;
        match found {
            Ok(element) => element,
            Err(error) => {
                panic!("waited in vain for {css} ({error}) on a page that says:\n{}", self.text("body").await)
            }
        }
    }

    /// How many elements this selector has now.
    pub async fn count(&self, css: &str) -> usize {
        self.page.find_all(Locator::Css(css)).await.unwrap().len()
    }

    /// What the first element of this selector shows.
    pub async fn text(&self, css: &str) -> String {
        let script = "const found = document.querySelector(arguments[0]); return found ? found.innerText : null";
        let text = self.page.execute(script, vec![css.into()]).await.unwrap();
        text.as_str().unwrap_or_default().to_owned()
    }

    /// Waits until the first element of this selector shows a text.
    pub async fn shows(&self, css: &str, text: &str) {
        let script = "const found = document.querySelector(arguments[0]); \
                      return found !== null && found.innerText.includes(arguments[1])";
        self.holds(script, vec![css.into(), text.into()], &format!("{css} shows {text:?}")).await;
    }

    /// Waits until a script returns true.
    pub async fn holds(&self, script: &str, arguments: Vec<Value>, what: &str) {
        let began = std::time::Instant::now();
        loop {
            // While another page comes there may be none to ask.
            if let Ok(Value::Bool(true)) = self.page.execute(script, arguments.clone()).await {
                return;
            }
            let late = began.elapsed() > PATIENCE;
            assert!(!late, "waited in vain until {what}, on a page that says:\n{}", self.text("body").await);
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    }

    /// Clicks the first element of this selector.
    pub async fn click(&self, css: &str) {
        self.find(css).await.click().await.unwrap();
    }

    /// Types into the first element of this selector, in place of what stands there.
    pub async fn fill(&self, css: &str, text: &str) {
        let field = self.find(css).await;
        field.clear().await.unwrap();
        field.send_keys(text).await.unwrap();
    }

    /// Chooses files in the field of this selector.
    pub async fn choose(&self, css: &str, files: &[&Path]) {
        let paths: Vec<_> = files.iter().map(|path| path.to_str().unwrap()).collect();
        self.find(css).await.send_keys(&paths.join("\n")).await.unwrap();
    }

    /// Drags files in from outside the browser, and drops them on the first element of this selector.
    pub async fn drag_in(&self, css: &str, files: &[&Path]) {
        self.find(css).await;
        let script = "const element = document.querySelector(arguments[0]); element.scrollIntoView({block: 'center'}); \
                      const box = element.getBoundingClientRect(); \
                      return [box.x + box.width / 2, box.y + box.height / 2]";
        let place = self.page.execute(script, vec![css.into()]).await.unwrap();
        let data = json!({"items": [], "files": files, "dragOperationsMask": 1});
        for kind in ["dragEnter", "dragOver", "drop"] {
            let event = json!({"type": kind, "x": place[0], "y": place[1], "data": data});
            let params = json!({"cmd": "Input.dispatchDragEvent", "params": event});
            self.ask_driver("goog/cdp/execute", params).await;
        }
    }

    /// Lets the browser send no more than this many bytes a second from now on.
    pub async fn slow_uploads(&self, bytes_per_second: u32) {
        let conditions = json!({"latency": 0, "download_throughput": 1 << 30, "upload_throughput": bytes_per_second});
        self.ask_driver("chromium/network_conditions", json!({"network_conditions": conditions})).await;
    }

    async fn ask_driver(&self, path: &'static str, body: Value) -> Value {
        self.page.issue_cmd(OfDriver { path, body }).await.unwrap()
    }

    /// Writes a picture of the window into docs/screenshots, if pictures are wanted.
    pub async fn picture(&self, name: &str) {
        if std::env::var_os(SCREENSHOTS).is_none() {
            return;
        }
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/screenshots");
        fs::create_dir_all(&folder).unwrap();
        let picture = self.page.screenshot().await.unwrap();
        fs::write(folder.join(format!("{name}-{}.png", self.screen.name())), picture).unwrap();
    }

    /// Nothing that a job left was run: no dialog is open, no mark is set, nothing was asked of another host, and the page
    /// broke no rule of its own about content. Clears what the console said.
    pub async fn assert_inert(&self) {
        match self.page.get_alert_text().await {
            Ok(text) => panic!("a dialog is open: {text}"),
            Err(error) if error.is_no_such_alert() => {}
            Err(error) => panic!("cannot see whether a dialog is open: {error}"),
        }
        let ran = self.page.execute(&format!("return window.{MARK} === undefined"), Vec::new()).await.unwrap();
        assert_eq!(ran, Value::Bool(true), "something was run that a job left");
        let script = "return performance.getEntriesByType('resource').map(entry => entry.name) \
                      .filter(name => new URL(name).origin !== location.origin)";
        let foreign = self.page.execute(script, Vec::new()).await.unwrap();
        assert_eq!(foreign, json!([]), "the page asked another host");
        let broken: Vec<_> = self.console().await.into_iter().filter(|line| is_violation(line)).collect();
        assert!(broken.is_empty(), "the page broke its own rules: {broken:#?}");
    }

    /// The page fits the window's width: nothing is cut off, and there is nothing to scroll sideways.
    pub async fn assert_fits(&self) {
        let script = "return document.documentElement.scrollWidth - document.documentElement.clientWidth";
        let over = self.page.execute(script, Vec::new()).await.unwrap();
        assert_eq!(over, json!(0), "the page is wider than the window");
    }

    /// What the console said since this was last asked.
    pub async fn console(&self) -> Vec<String> {
        let lines = self.ask_driver("se/log", json!({"type": "browser"})).await;
        let text = |line: &Value| line["message"].as_str().unwrap_or_default().to_owned();
        lines.as_array().into_iter().flatten().map(text).collect()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The first process of the namespace dies with this one, and all others with it.
        let _gone = self.driver.kill();
        let _gone = self.driver.wait();
    }
}

fn is_violation(line: &str) -> bool {
    line.contains("Content Security Policy") || line.contains("Refused to")
}

/// The port that the driver chose. What else it says is thrown away.
fn port(driver: &mut Child) -> u16 {
    let mut lines = BufReader::new(driver.stdout.take().unwrap()).lines();
    let port = lines.find_map(|line| {
        let line = line.unwrap();
        line.split_once(STARTED).map(|(_, rest)| rest.trim_end_matches('.').parse().unwrap())
    });
    std::thread::spawn(move || lines.count());
    port.expect("the driver starts")
}

fn capabilities(screen: Screen, profile: &Path) -> Map<String, Value> {
    let profile = format!("--user-data-dir={}", profile.join("profile").display());
    let arguments = [
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--disable-dev-shm-usage",
        // Self-made certificates of test nodes.
        "--ignore-certificate-errors",
        &profile,
    ];
    let capabilities = json!({
        "browserName": "chrome",
        "unhandledPromptBehavior": "ignore",
        "goog:loggingPrefs": {"browser": "ALL"},
        "goog:chromeOptions": {"args": arguments, "mobileEmulation": {"deviceMetrics": screen.metrics()}},
    });
    capabilities.as_object().cloned().unwrap_or_default()
}

/// A command that only ChromeDriver knows.
#[derive(Debug)]
struct OfDriver {
    path: &'static str,
    body: Value,
}

impl WebDriverCompatibleCommand for OfDriver {
    fn endpoint(&self, base: &url::Url, session: Option<&str>) -> Result<url::Url, url::ParseError> {
        base.join(&format!("session/{}/{}", session.unwrap_or_default(), self.path))
    }

    fn method_and_body(&self, _: &url::Url) -> (::http::Method, Option<String>) {
        (::http::Method::POST, Some(self.body.to_string()))
    }
}
