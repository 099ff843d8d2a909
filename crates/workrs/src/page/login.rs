//! The page that asks who somebody is.

use askama::Template;
use axum::response::Response;

use super::{Shell, Viewer, html};
use crate::api::LoginPage;

#[derive(Template)]
#[template(path = "login.html")]
struct Login<'a> {
    shell: Shell,
    page: &'a LoginPage,
}

/// Draws the form.
pub(crate) fn login(page: &LoginPage) -> Response {
    html(&Login { shell: Shell::new("Log in", "", Viewer::nobody()), page })
}

#[cfg(test)]
mod tests {
    use axum::body::to_bytes;

    use super::*;

    #[tokio::test]
    async fn what_stands_in_the_address_is_data() {
        let page = LoginPage { error: Some("<b>".to_owned()), next: "/\"><script>".to_owned() };
        let body = to_bytes(login(&page).into_body(), 1 << 20).await.unwrap();
        let text = String::from_utf8(body.to_vec()).unwrap();
        assert!(!text.contains("\"><script>") && !text.contains("<b>"), "{text}");
        assert!(text.contains("name=\"token\""), "{text}");
    }
}
