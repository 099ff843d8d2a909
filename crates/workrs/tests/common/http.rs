//! Requests as other clients send them.
#![allow(dead_code, reason = "each of the test programs that share this uses a part")]

use std::{sync::OnceLock, time::Duration};

use reqwest::Method;
use tokio::runtime::Runtime;

use crate::tools::PATIENCE;

pub const BOUNDARY: &str = "workrs-test-boundary";

/// The content type of [`Request::form`].
pub fn form_type() -> String {
    format!("multipart/form-data; boundary={BOUNDARY}")
}

/// A file of a form.
pub fn file_part(field: &str, name: &str, content: &str) -> String {
    format!("Content-Disposition: form-data; name=\"{field}\"; filename=\"{name}\"\r\n\r\n{content}")
}

/// A text of a form.
pub fn text_part(field: &str, content: &str) -> String {
    format!("Content-Disposition: form-data; name=\"{field}\"\r\n\r\n{content}")
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// Its content type.
    pub kind: String,
    pub body: String,
}

impl Answer {
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// What a person would read: title, detail and hint of a problem.
    pub fn problem(&self) -> String {
        let problem = self.json();
        let text = |field: &str| problem[field].as_str().unwrap_or_default().to_owned();
        format!("{}: {}: {} ({})", self.status, text("title"), text("detail"), text("hint"))
    }
}

/// A request on its way.
pub struct Request(reqwest::RequestBuilder);

impl Request {
    pub fn new(method: Method, url: &str) -> Self {
        static CLIENT: OnceLock<reqwest::Client> = OnceLock::new();
        let client = CLIENT.get_or_init(|| {
            workrs_store::tls::provide();
            // Whom nodes and clients believe is for those tests to see that use the real client.
            let client = reqwest::Client::builder().no_proxy().tls_danger_accept_invalid_certs(true);
            client.timeout(PATIENCE).build().unwrap()
        });
        Self(client.request(method, url))
    }

    pub fn get(url: &str) -> Self {
        Self::new(Method::GET, url)
    }

    pub fn post(url: &str) -> Self {
        Self::new(Method::POST, url)
    }

    pub fn token(self, token: Option<&str>) -> Self {
        match token {
            Some(token) => Self(self.0.bearer_auth(token)),
            None => self,
        }
    }

    /// The answer must be there by then.
    pub fn within(self, limit: Duration) -> Self {
        Self(self.0.timeout(limit))
    }

    pub fn json(self, body: &str) -> Self {
        Self(self.0.header("content-type", "application/json").body(body.to_owned()))
    }

    /// A form of parts as they go over the wire: headers, an empty line, content.
    pub fn form(self, parts: &[String]) -> Self {
        let body: String = parts.iter().map(|part| format!("--{BOUNDARY}\r\n{part}\r\n")).collect();
        let body = format!("{body}--{BOUNDARY}--\r\n");
        Self(self.0.header("content-type", form_type()).body(body))
    }

    pub fn header(self, name: &str, value: &str) -> Self {
        Self(self.0.header(name, value))
    }

    pub fn send(self) -> reqwest::Result<Answer> {
        let answered = async {
            let response = self.0.send().await?;
            let kind = response.headers().get("content-type").and_then(|value| value.to_str().ok());
            let kind = kind.unwrap_or_default().to_owned();
            Ok(Answer { status: response.status().as_u16(), kind, body: response.text().await? })
        };
        // Tests that wait for a browser run in a runtime of their own, which has to know that this waits, too.
        match tokio::runtime::Handle::try_current() {
            Ok(_) => tokio::task::block_in_place(|| runtime().block_on(answered)),
            Err(_) => runtime().block_on(answered),
        }
    }
}

pub fn get(url: &str) -> reqwest::Result<Answer> {
    Request::get(url).send()
}

fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap())
}
