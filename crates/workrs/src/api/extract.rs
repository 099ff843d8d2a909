//! What handlers take from a request. A request that does not fit is a [`Problem`] like all others.

use axum::{
    body::Bytes,
    extract::{FromRequest, FromRequestParts, Request},
    http::{HeaderValue, StatusCode, header, request::Parts},
};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::Problem;

/// The path's parameters.
pub struct Path<T>(pub T);

/// The query.
pub struct Query<T>(pub T);

/// The whole body.
pub struct Body(pub Bytes);

/// A body of JSON.
pub struct JsonBody<T>(pub T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match axum::extract::Path::from_request_parts(parts, state).await {
            Ok(axum::extract::Path(value)) => Ok(Self(value)),
            Err(rejection) => Err(Problem::bad_request(rejection.body_text())),
        }
    }
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match axum::extract::Query::from_request_parts(parts, state).await {
            Ok(axum::extract::Query(value)) => Ok(Self(value)),
            Err(rejection) => Err(Problem::bad_request(rejection.body_text())),
        }
    }
}

impl<S: Send + Sync> FromRequest<S> for Body {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        match Bytes::from_request(request, state).await {
            Ok(bytes) => Ok(Self(bytes)),
            Err(rejection) if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE => Err(Problem::too_large()),
            Err(rejection) => Err(Problem::bad_request(rejection.body_text())),
        }
    }
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for JsonBody<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let is_json = |value: &HeaderValue| value.as_bytes().to_ascii_lowercase().starts_with(b"application/json");
        if !request.headers().get(header::CONTENT_TYPE).is_some_and(is_json) {
            let detail = "this address takes JSON, with the header Content-Type: application/json";
            let title = "the request cannot be understood";
            return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "media-type", title, detail));
        }
        let Body(bytes) = Body::from_request(request, state).await?;
        match object(&bytes) {
            Ok(value) => Ok(Self(value)),
            Err(error) => Err(Problem::bad_request(format!("the JSON is not valid: {error}"))),
        }
    }
}

/// Whether what may be JSON begins as an object does. serde would also take an array of its values.
pub(super) fn begins_an_object(bytes: &[u8]) -> bool {
    bytes.trim_ascii_start().first() == Some(&b'{')
}

/// Reads an object. JSON has one kind of numbers, so that 3.0 is 3.
fn object<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, serde_json::Error> {
    let mut object: Map<String, Value> = serde_json::from_slice(bytes)?;
    object.values_mut().for_each(|value| {
        if let Some(whole) = value.as_f64().filter(|_| value.is_f64()).and_then(whole) {
            *value = whole.into();
        }
    });
    serde_json::from_value(Value::Object(object))
}

/// The number without a fraction that this is, if all such numbers around it can be told apart.
fn whole(number: f64) -> Option<u64> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    ((0.0..EXACT).contains(&number) && number.fract() == 0.0).then_some(number as u64)
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields, default)]
    struct Request {
        count: Option<u32>,
        share: Option<f64>,
    }

    #[test]
    fn a_whole_number_is_one_however_it_is_written_and_an_array_is_no_object() {
        let check = |text: &str, expect: Option<Request>| {
            assert_eq!(object::<Request>(text.as_bytes()).ok(), expect, "{text}");
        };
        check(r#"{"count": 3.0, "share": 2.0}"#, Some(Request { count: Some(3), share: Some(2.0) }));
        check(r#"{"count": 3, "share": 0.5}"#, Some(Request { count: Some(3), share: Some(0.5) }));
        check("{}", Some(Request::default()));
        for bad in [r#"{"count": 3.5}"#, r#"{"count": -1.0}"#, r#"{"count": 1e300}"#, "[null, null]", "null", ""] {
            check(bad, None);
        }
        assert!(begins_an_object(b" {}") && !begins_an_object(b"[]") && !begins_an_object(b""));
    }
}
