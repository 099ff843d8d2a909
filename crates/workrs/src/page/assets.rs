//! Style, script and icon, built into the program. Their addresses carry a hash of their content, so browsers may keep
//! them as long as they like.

use std::sync::LazyLock;

use axum::{
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};

use crate::api::{Problem, extract::Path};

struct Asset {
    name: &'static str,
    content_type: &'static str,
    content: &'static [u8],
}

const ASSETS: [Asset; 9] = [
    Asset {
        name: "page.css",
        content_type: "text/css; charset=utf-8",
        content: include_bytes!("../../assets/page.css"),
    },
    Asset {
        name: "parts.css",
        content_type: "text/css; charset=utf-8",
        content: include_bytes!("../../assets/parts.css"),
    },
    script("htmx.min.js", include_bytes!("../../assets/htmx.min.js")),
    script("page.js", include_bytes!("../../assets/page.js")),
    script("log.js", include_bytes!("../../assets/log.js")),
    script("submit.js", include_bytes!("../../assets/submit.js")),
    script("access.js", include_bytes!("../../assets/access.js")),
    script("outputs.js", include_bytes!("../../assets/outputs.js")),
    Asset { name: "icon.svg", content_type: "image/svg+xml", content: include_bytes!("../../assets/icon.svg") },
];

const fn script(name: &'static str, content: &'static [u8]) -> Asset {
    Asset { name, content_type: "text/javascript; charset=utf-8", content }
}

static VERSIONS: LazyLock<Vec<String>> = LazyLock::new(|| {
    ASSETS.iter().map(|asset| blake3::hash(asset.content).to_hex().as_str()[..12].to_owned()).collect()
});

/// Where an asset is.
pub(super) fn address(name: &str) -> String {
    let version = ASSETS.iter().zip(&*VERSIONS).find(|(asset, _)| asset.name == name);
    version.map_or_else(|| format!("/assets/{name}"), |(_, version)| format!("/assets/{name}?v={version}"))
}

pub(super) async fn serve(Path(name): Path<String>) -> Response {
    let Some(asset) = ASSETS.iter().find(|asset| asset.name == name) else {
        return Problem::new(StatusCode::NOT_FOUND, "no-route", "there is nothing at this address", name)
            .into_response();
    };
    let headers = [
        (header::CONTENT_TYPE, asset.content_type),
        (header::CACHE_CONTROL, "public, max-age=31536000, immutable"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (headers, asset.content).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_change_with_the_content() {
        let address = address("page.css");
        let version = address.strip_prefix("/assets/page.css?v=").unwrap();
        assert_eq!(version, &blake3::hash(ASSETS[0].content).to_hex().as_str()[..12]);
    }

    #[test]
    fn own_scripts_make_no_html_of_text() {
        for asset in ASSETS
            .iter()
            .filter(|asset| asset.content_type.starts_with("text/javascript") && asset.name != "htmx.min.js")
        {
            let text = std::str::from_utf8(asset.content).unwrap();
            for dangerous in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"]
            {
                assert!(!text.contains(dangerous), "{} has {dangerous}", asset.name);
            }
        }
    }
}
