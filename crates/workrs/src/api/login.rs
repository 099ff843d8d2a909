//! Logging in to the page: a token in a form becomes a cookie.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use axum::{
    body::Bytes,
    extract::{ConnectInfo, Query, State},
    http::{Extensions, HeaderMap, StatusCode, header},
    response::{IntoResponse, Redirect, Response},
};
use serde::Deserialize;
use workrs_store::fresh;

use super::{Api, Problem, access};
use crate::access::{Credential, Denied, session};

/// How long an answer to a failed login is held back.
const FAILED_FOR: Duration = Duration::from_millis(500);

/// The page on which people log in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoginPage {
    /// Why the last try came to nothing.
    pub error: Option<String>,
    /// Where to go afterwards: a path of this node.
    pub next: String,
}

/// Where to go afterwards.
#[derive(Debug, Deserialize)]
pub struct LoginQuery {
    next: Option<String>,
}

/// A path of this node; anything else could lead to another site.
fn own_path(next: Option<&str>) -> String {
    let is_own =
        |next: &&str| next.starts_with('/') && !next.starts_with("//") && !next.contains(['\\', '\n', '\r', '\t']);
    next.filter(is_own).unwrap_or("/").to_owned()
}

/// Shows the form.
pub async fn page(Query(query): Query<LoginQuery>) -> Response {
    crate::page::login(&LoginPage { error: None, next: own_path(query.next.as_deref()) })
}

/// Takes the form: fields `token` and `next`.
pub async fn login(
    State(api): State<Api>,
    headers: HeaderMap,
    extensions: Extensions,
    body: Bytes,
) -> Result<Response, Problem> {
    access::from_no_other_site(&headers)?;
    let field = |name: &str| {
        form_urlencoded::parse(&body).find(|(field, _)| field == name).map(|(_, value)| value.trim().to_owned())
    };
    let (token, next) = (field("token").unwrap_or_default(), own_path(field("next").as_deref()));
    let from = address(&extensions);
    if let Some(wait) = api.access.login_waits(from) {
        let seconds = wait.as_secs() + 1;
        let detail = format!("there were too many failed ones from this address; try again in {seconds} s");
        let problem = Problem::new(StatusCode::TOO_MANY_REQUESTS, "rate-limited", "the login is refused", detail);
        return Ok(([(header::RETRY_AFTER, seconds.to_string())], problem).into_response());
    }
    match api.access.identify(Some(&Credential::Cookie(token.clone()))).await {
        Ok(caller) => {
            let cookie = session::cookie(&token, lasts(&api, &token).await?, api.access.is_tls());
            let mut response = ([(header::SET_COOKIE, cookie)], Redirect::to(&next)).into_response();
            response.extensions_mut().insert(caller);
            Ok(response)
        }
        Err(Denied::State(error)) => Err(error.into()),
        Err(denied) => {
            api.access.login_failed(from);
            tokio::time::sleep(FAILED_FOR).await;
            let error = match denied {
                Denied::NoToken => "This is no token of the group.",
                Denied::Expired => "This token has expired: ask an admin for a new one.",
                _ => "This token was revoked: ask an admin for a new one.",
            };
            let page = LoginPage { error: Some(error.to_owned()), next };
            Ok((StatusCode::UNAUTHORIZED, crate::page::login(&page)).into_response())
        }
    }
}

/// Makes the browser forget the token.
pub async fn logout(State(api): State<Api>, headers: HeaderMap) -> Result<Response, Problem> {
    access::from_no_other_site(&headers)?;
    Ok(([(header::SET_COOKIE, session::forgotten(api.access.is_tls()))], Redirect::to("/login")).into_response())
}

/// How long the token still counts.
async fn lasts(api: &Api, token: &str) -> Result<Option<Duration>, Problem> {
    let found = api.access.tokens().find(token).await?;
    Ok(found.and_then(|(_, note, _)| note.expires_at).map(|expires_at| expires_at.since(fresh::now())))
}

/// Who is at the other end of the connection.
pub(super) fn address(extensions: &Extensions) -> IpAddr {
    let info = extensions.get::<ConnectInfo<SocketAddr>>();
    info.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |ConnectInfo(address)| address.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_leads_nowhere_else() {
        for (next, expect) in [
            (Some("/jobs/a?b=c"), "/jobs/a?b=c"),
            (None, "/"),
            (Some("https://evil.example"), "/"),
            (Some("//evil.example"), "/"),
            (Some("/\\evil.example"), "/"),
            (Some("/\t/evil.example"), "/"),
        ] {
            assert_eq!(own_path(next), expect, "{next:?}");
        }
    }
}
