//! Who asks and who may, as a client asks for it.

use reqwest::Method;

use super::{Client, ClientError, encode, endpoints::ANSWER_TIMEOUT};
use crate::api::{AuditPage, MeView, QuotaRequest, QuotaView, TokenCreatedView, TokenRequest, TokenView};

impl Client {
    /// Who this client is to the group.
    pub async fn me(&self) -> Result<MeView, ClientError> {
        self.json(Method::GET, "/api/v1/me").await
    }

    /// All tokens.
    pub async fn tokens(&self) -> Result<Vec<TokenView>, ClientError> {
        self.json(Method::GET, "/api/v1/tokens").await
    }

    /// Makes a token.
    pub async fn create_token(&self, request: &TokenRequest) -> Result<TokenCreatedView, ClientError> {
        let build = |outgoing: reqwest::RequestBuilder| outgoing.json(request);
        self.endpoints.whole(&Method::POST, "/api/v1/tokens", Some(ANSWER_TIMEOUT), build).await?.parse()
    }

    /// Takes a token back.
    pub async fn revoke_token(&self, id: &str) -> Result<TokenView, ClientError> {
        self.json(Method::DELETE, &format!("/api/v1/tokens/{}", encode(id))).await
    }

    /// A page of the audit trail of the last `since`, such as `24h`.
    pub async fn audit(&self, since: &str, after: Option<&str>) -> Result<AuditPage, ClientError> {
        let query = [("limit", Some("500")), ("since", Some(since)), ("after", after)];
        let query: Vec<_> = query.into_iter().filter_map(|(key, value)| Some((key, value?))).collect();
        let build = |request: reqwest::RequestBuilder| request.query(&query);
        self.endpoints.whole(&Method::GET, "/api/v1/audit", Some(ANSWER_TIMEOUT), build).await?.parse()
    }

    /// The quotas that were set.
    pub async fn quotas(&self) -> Result<Vec<QuotaView>, ClientError> {
        self.json(Method::GET, "/api/v1/quotas").await
    }

    /// The quota that counts for an owner, and what they have; of nobody, that of all who have none of their own.
    pub async fn quota(&self, owner: Option<&str>) -> Result<QuotaView, ClientError> {
        self.json(Method::GET, &quota_path(owner)).await
    }

    /// Sets an owner's quota; of nobody, that of all who have none of their own.
    pub async fn set_quota(&self, owner: Option<&str>, request: &QuotaRequest) -> Result<QuotaView, ClientError> {
        let build = |outgoing: reqwest::RequestBuilder| outgoing.json(request);
        self.endpoints.whole(&Method::PUT, &quota_path(owner), Some(ANSWER_TIMEOUT), build).await?.parse()
    }

    /// Takes an owner's quota away; of nobody, that of all who have none of their own.
    pub async fn remove_quota(&self, owner: Option<&str>) -> Result<(), ClientError> {
        let build = |outgoing| outgoing;
        self.endpoints.whole(&Method::DELETE, &quota_path(owner), Some(ANSWER_TIMEOUT), build).await.map(drop)
    }
}

fn quota_path(owner: Option<&str>) -> String {
    match owner {
        Some(owner) => format!("/api/v1/quotas/{}", encode(owner)),
        None => "/api/v1/default-quota".to_owned(),
    }
}
