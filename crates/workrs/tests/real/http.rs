//! Requests as other clients send them.

use std::sync::OnceLock;

use reqwest::{Method, multipart::Form};
use tokio::runtime::Runtime;

/// What came back.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
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
        let client = CLIENT.get_or_init(|| reqwest::Client::builder().no_proxy().build().unwrap());
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

    pub fn json(self, body: &str) -> Self {
        Self(self.0.header("content-type", "application/json").body(body.to_owned()))
    }

    pub fn form(self, form: Form) -> Self {
        Self(self.0.multipart(form))
    }

    pub fn send(self) -> reqwest::Result<Answer> {
        runtime().block_on(async {
            let response = self.0.send().await?;
            Ok(Answer { status: response.status().as_u16(), body: response.text().await? })
        })
    }
}

pub fn get(url: &str) -> reqwest::Result<Answer> {
    Request::get(url).send()
}

fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap())
}
