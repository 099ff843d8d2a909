//! Blobs in a bucket of any S3.
//!
//! Only PUT, ranged GET, LIST, DELETE and multipart uploads are used, so that small servers do. A server that is
//! hung or out of reach is given up on after a bounded time, and what it answered is turned into an error that says
//! what to do; its own text may be a page of XML, or of a proxy in between.

use std::{path::PathBuf, sync::Arc, time::Duration};

use object_store::{
    BackoffConfig, ClientOptions, ObjectStore, RetryConfig,
    aws::AmazonS3Builder,
    client::{HttpClient, HttpConnector, HttpError, HttpRequest, HttpResponse, HttpService},
    path::Path,
    prefix::PrefixStore,
};
use reqwest::Url;

use super::{BlobError, causes, credentials::Source};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a server may take to answer, or to send or take the next bytes.
const SILENCE: Duration = Duration::from_secs(30);
/// How long it may take until a request of many bytes is answered: all of them have to go over a weak link before.
const LONG_SILENCE: Duration = Duration::from_secs(90);
/// From here on a request has many bytes.
const LONG_BYTES: usize = 1 << 20;
/// No request is tried again when this long has passed since it was made.
const RETRY_TIMEOUT: Duration = Duration::from_secs(15);
const MAX_RETRIES: usize = 10;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// What a URL and the environment say of a store.
#[derive(Debug, PartialEq, Eq)]
struct Location {
    bucket: String,
    prefix: Path,
    region: String,
    /// `None` means that of AWS.
    endpoint: Option<Url>,
    virtual_host: bool,
    credentials: Option<PathBuf>,
    profile: Option<String>,
}

/// Opens `s3://bucket/prefix?endpoint=…`.
pub(super) fn open(url: &str) -> Result<Arc<dyn ObjectStore>, BlobError> {
    let env = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let location = Location::parse(url, &env)?;
    let source = Source { file: location.credentials.as_deref(), profile: location.profile.as_deref() };
    let credentials = source.find(&env)?;
    let retry = RetryConfig {
        backoff: BackoffConfig { init_backoff: FIRST_PAUSE, max_backoff: LONGEST_PAUSE, base: 2.0 },
        max_retries: MAX_RETRIES,
        retry_timeout: RETRY_TIMEOUT,
    };
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(&location.bucket)
        .with_region(&location.region)
        .with_virtual_hosted_style_request(location.virtual_host)
        .with_access_key_id(credentials.access_key)
        .with_secret_access_key(credentials.secret)
        .with_http_connector(Connector { is_plain: location.is_plain() })
        .with_retry(retry);
    if let Some(endpoint) = location.bucket_endpoint() {
        builder = builder.with_endpoint(endpoint);
    }
    if let Some(token) = credentials.token {
        builder = builder.with_token(token);
    }
    let store =
        builder.build().map_err(|error| BlobError::InvalidUrl(format!("the S3 store cannot be used: {error}")))?;
    Ok(Arc::new(PrefixStore::new(store, location.prefix)))
}

impl Location {
    fn parse(url: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<Self, BlobError> {
        // The URL itself is not shown: someone may have put a secret into it.
        let invalid = |what: &str| BlobError::InvalidUrl(format!("the URL of the S3 store cannot be used: {what}"));
        let parsed = Url::parse(url).map_err(|error| invalid(&error.to_string()))?;
        if !parsed.username().is_empty() || parsed.password().is_some() {
            return Err(invalid(NO_SECRETS));
        }
        let bucket = parsed.host_str().filter(|_| parsed.port().is_none() && parsed.fragment().is_none());
        let bucket = bucket.ok_or_else(|| invalid("it has to be s3://BUCKET/PREFIX?endpoint=URL"))?.to_owned();
        let prefix = Path::from_url_path(parsed.path()).map_err(|error| invalid(&error.to_string()))?;
        let (mut endpoint, mut region, mut virtual_host) = (None, None, false);
        let (mut credentials, mut profile) = (None, None);
        for (name, value) in parsed.query_pairs() {
            let value = value.into_owned();
            match (&*name, &*value) {
                ("endpoint", _) => endpoint = Some(value),
                ("region", _) => region = Some(value),
                ("virtual-host", "true") => virtual_host = true,
                ("virtual-host", "false") => virtual_host = false,
                ("virtual-host", _) => return Err(invalid("virtual-host is true or false")),
                ("credentials", _) => credentials = Some(PathBuf::from(value)),
                ("profile", _) => profile = Some(value),
                _ => {
                    return Err(invalid(&format!(
                        "it has a parameter {name:?}, but the ones known are endpoint, region, virtual-host, \
                         credentials and profile"
                    )));
                }
            }
        }
        let endpoint = endpoint.or_else(|| env("AWS_ENDPOINT_URL_S3")).or_else(|| env("AWS_ENDPOINT_URL"));
        let endpoint = endpoint.map(|endpoint| parse_endpoint(&endpoint)).transpose().map_err(invalid)?;
        let region = region.or_else(|| env("AWS_REGION")).or_else(|| env("AWS_DEFAULT_REGION"));
        let region = region.unwrap_or_else(|| "us-east-1".to_owned());
        Ok(Self { bucket, prefix, region, endpoint, virtual_host, credentials, profile })
    }

    /// Whether the store is asked without TLS, which it is only if the endpoint says so.
    fn is_plain(&self) -> bool {
        self.endpoint.as_ref().is_some_and(|endpoint| endpoint.scheme() == "http")
    }

    /// The endpoint as the client takes it: that of virtual hosts has the bucket's name in it.
    fn bucket_endpoint(&self) -> Option<String> {
        let endpoint = self.endpoint.as_ref()?;
        let text = endpoint.as_str().trim_end_matches('/');
        Some(match text.split_once("://").filter(|_| self.virtual_host) {
            Some((scheme, rest)) => format!("{scheme}://{}.{rest}", self.bucket),
            None => text.to_owned(),
        })
    }
}

const NO_SECRETS: &str = "credentials never stand in a URL; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY";

fn parse_endpoint(text: &str) -> Result<Url, &'static str> {
    let endpoint = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    let endpoint = endpoint.ok_or("its endpoint has to be http://HOST:PORT or https://HOST")?;
    if !endpoint.username().is_empty() || endpoint.password().is_some() {
        return Err(NO_SECRETS);
    }
    let is_bare = endpoint.query().is_none() && endpoint.fragment().is_none();
    if is_bare { Ok(endpoint) } else { Err("its endpoint must have no parameters") }
}

/// Makes the client, whose own options know one time-out for all requests.
#[derive(Debug)]
struct Connector {
    is_plain: bool,
}

impl HttpConnector for Connector {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        // Another part of this program may have installed it already.
        crate::tls::provide();
        let client = |silence| {
            let builder = reqwest::Client::builder()
                .user_agent(concat!("workrs/", env!("CARGO_PKG_VERSION")))
                .connect_timeout(CONNECT_TIMEOUT)
                .read_timeout(silence)
                .tcp_user_timeout(SILENCE)
                .http1_only()
                // A signature holds for one address only.
                .redirect(reqwest::redirect::Policy::none())
                .https_only(!self.is_plain);
            // Whoever uses no TLS needs no certificates of authorities.
            let builder = if self.is_plain { builder.tls_certs_only([]) } else { builder };
            builder.build().map_err(|error| object_store::Error::Generic { store: "S3", source: Box::new(error) })
        };
        Ok(HttpClient::new(Client { short: client(SILENCE)?, long: client(LONG_SILENCE)? }))
    }
}

#[derive(Debug)]
struct Client {
    short: reqwest::Client,
    long: reqwest::Client,
}

#[async_trait::async_trait]
impl HttpService for Client {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let is_long = request.body().content_length() > LONG_BYTES;
        if is_long { self.long.call(request).await } else { self.short.call(request).await }
    }
}

/// Whether a server gave no answer.
pub(super) fn is_unanswered(error: &object_store::Error) -> bool {
    causes(error).any(<dyn std::error::Error>::is::<HttpError>)
}

/// What an answer of a server, or the lack of one, means; `None` if the error is of another kind.
///
/// The client tells the status and the body only in its text. "Not found" proves that an object is absent only if an
/// S3 store says so of the object: it may be the bucket that is absent, or the store.
pub(super) fn diagnose(name: &str, error: &object_store::Error) -> Option<BlobError> {
    let text = error.to_string();
    let request = between(&text, "Error performing ", " in ").unwrap_or("the request");
    if is_unanswered(error) {
        let cause = causes(error).last().map(ToString::to_string).unwrap_or_default();
        let hint = "see that the server runs and that its endpoint is right";
        return Some(BlobError::Unavailable(format!("no answer to {request}: {cause}; {hint}")));
    }
    let (_, answer) = text.split_once("Server returned non-2xx status code: ")?;
    let (status, body) = answer.split_once(": ").unwrap_or((answer, ""));
    let code = between(body, "<Code>", "</Code>").unwrap_or_default();
    let message = between(body, "<Message>", "</Message>").unwrap_or_else(|| first_line(body));
    if status.starts_with("404") && code == "NoSuchKey" {
        return Some(BlobError::Missing(name.to_owned()));
    }
    let told = format!("{request} was answered by {}", [status, code, message].join(" ").trim_end());
    if is_full(status, code, message) {
        return Some(BlobError::Full(told));
    }
    let hint = hint(status, code);
    Some(BlobError::Unavailable(if hint.is_empty() { told } else { format!("{told}; {hint}") }))
}

fn is_full(status: &str, code: &str, message: &str) -> bool {
    let is_quota = status.starts_with("403") && message.to_ascii_lowercase().contains("quota");
    is_quota || status.starts_with("507") || code.contains("QuotaExceeded") || code.contains("StorageFull")
}

fn hint(status: &str, code: &str) -> &'static str {
    match (code, status.get(..3).unwrap_or_default()) {
        ("NoSuchBucket", _) => "create the bucket, or correct the URL of the blobs",
        ("NoSuchUpload", _) => "the upload was ended at the server",
        ("RequestTimeTooSkewed", _) => "set this machine's clock and the server's",
        ("AuthorizationHeaderMalformed" | "PermanentRedirect", _) | (_, "301" | "307" | "308") => {
            "give the bucket's region and endpoint as ?region=REGION&endpoint=URL"
        }
        (_, "401" | "403") => {
            "see that the access key and its secret are right and that the key may read and write the bucket"
        }
        (_, "404") => "this does not look like an S3 store: see that the endpoint is right",
        _ => "",
    }
}

fn between<'a>(text: &'a str, start: &str, end: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(start)?;
    rest.split_once(end).map(|(found, _)| found)
}

fn first_line(body: &str) -> &str {
    const LONGEST: usize = 120;
    let line = body.lines().next().unwrap_or_default();
    let end = (0..=LONGEST.min(line.len())).rev().find(|end| line.is_char_boundary(*end)).unwrap_or(0);
    &line[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str, env: &[(&str, &str)]) -> Result<Location, String> {
        let env = |name: &str| env.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        Location::parse(url, &env).map_err(|error| error.to_string())
    }

    #[test]
    fn a_url_says_all_but_the_credentials() {
        let location = parse("s3://bucket/a/b/?endpoint=http://host:3900/&region=garage&profile=p", &[]).unwrap();
        assert_eq!((&*location.bucket, location.prefix.as_ref()), ("bucket", "a/b"));
        assert_eq!((&*location.region, location.profile.as_deref()), ("garage", Some("p")));
        assert_eq!(location.bucket_endpoint().as_deref(), Some("http://host:3900"));
        assert!(location.is_plain() && !location.virtual_host);
        let location = parse("s3://b?endpoint=https://host:1&virtual-host=true&credentials=/f", &[]).unwrap();
        assert_eq!(location.bucket_endpoint().as_deref(), Some("https://b.host:1"));
        assert_eq!(location.credentials, Some("/f".into()));
        assert!(!location.is_plain());
    }

    #[test]
    fn the_environment_says_the_rest() {
        let env = [("AWS_ENDPOINT_URL", "http://host"), ("AWS_REGION", "r")];
        let location = parse("s3://bucket", &env).unwrap();
        assert_eq!((&*location.region, location.bucket_endpoint().as_deref()), ("r", Some("http://host")));
        let location = parse("s3://bucket?endpoint=https://other&region=q", &env).unwrap();
        assert_eq!((&*location.region, location.bucket_endpoint().as_deref()), ("q", Some("https://other")));
        let location = parse("s3://bucket", &[]).unwrap();
        assert_eq!((&*location.region, location.bucket_endpoint()), ("us-east-1", None));
        assert!(!location.is_plain());
    }

    #[test]
    fn what_a_url_cannot_say_is_refused_and_not_repeated() {
        for (url, expect) in [
            ("s3://", "s3://BUCKET/PREFIX"),
            ("s3:///prefix", "s3://BUCKET/PREFIX"),
            ("s3://key:secret@bucket", "AWS_SECRET_ACCESS_KEY"),
            ("s3://bucket?endpoint=http://key:secret@host", "AWS_SECRET_ACCESS_KEY"),
            ("s3://bucket?secret_access_key=hidden", "the ones known are endpoint, region"),
            ("s3://bucket?endpoint=host:3900", "http://HOST:PORT"),
            ("s3://bucket?endpoint=", "http://HOST:PORT"),
            ("s3://bucket?virtual-host=yes", "true or false"),
        ] {
            let text = parse(url, &[]).unwrap_err();
            assert!(text.contains(expect) && !text.contains("key:") && !text.contains("hidden"), "{url}: {text}");
        }
    }

    /// An answer as the client words it.
    fn answered(status: &str, body: &str) -> BlobError {
        let text = format!(
            "Error performing GET http://host/b/x in 2.1ms - Server returned non-2xx status code: {status}: {body}"
        );
        let error = object_store::Error::NotFound { path: "b".into(), source: text.into() };
        diagnose("x", &error).unwrap()
    }

    fn body(code: &str, message: &str) -> String {
        format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>{message}</Message></Error>")
    }

    #[test]
    fn only_a_store_that_has_the_bucket_can_say_that_a_blob_is_absent() {
        assert_eq!(answered("404 Not Found", &body("NoSuchKey", "")), BlobError::Missing("x".into()));
        for (status, body, expect) in [
            ("404 Not Found", body("NoSuchBucket", "Bucket not found: b"), "create the bucket"),
            ("404 Not Found", "<html>\nNoSuchKey".into(), "does not look like an S3 store"),
            ("404 Not Found", String::new(), "does not look like an S3 store"),
            ("200 OK", body("NoSuchKey", ""), "200 OK"),
            ("403 Forbidden", body("SignatureDoesNotMatch", "no"), "403 Forbidden SignatureDoesNotMatch no; see"),
            ("403 Forbidden", body("RequestTimeTooSkewed", "15 minutes"), "15 minutes; set this machine's clock"),
            ("400 Bad Request", body("AuthorizationHeaderMalformed", "scope"), "?region="),
            ("503 Service Unavailable", "x".repeat(9999), "503 Service Unavailable"),
        ] {
            let BlobError::Unavailable(text) = answered(status, &body) else { panic!("{status} {body}") };
            assert!(text.contains(expect) && text.contains("GET http://host/b/x") && text.len() < 400, "{text}");
        }
        let quota = body("AccessDenied", "Forbidden: Bucket size quota is reached");
        for (status, body) in [("403 Forbidden", quota), ("507 Insufficient Storage", body("XMinioStorageFull", ""))] {
            assert!(matches!(answered(status, &body), BlobError::Full(_)), "{status}");
        }
    }

    #[test]
    fn errors_of_other_stores_are_left_alone() {
        let io = std::io::Error::from(std::io::ErrorKind::NotFound);
        assert_eq!(diagnose("x", &object_store::Error::NotFound { path: "x".into(), source: Box::new(io) }), None);
    }
}
