//! How a browser keeps a token, and what proves that a request comes from the page.
//!
//! The cookie holds the token itself, in hex digits. So there is nothing to keep on a node and no key that all nodes would have
//! to share, and a token that expires or is revoked ends its sessions at once, on every node. No script can read it
//! (`HttpOnly`), and no other site makes a browser send it (`SameSite=Strict`). Whoever changes something has to show
//! [`csrf`] besides, which the page has in itself and other sites cannot read.

use std::time::Duration;

use super::token::hex;

/// The cookie's name.
pub const COOKIE: &str = "workrs_session";
/// The header that carries [`csrf`].
pub const CSRF_HEADER: &str = "x-workrs-csrf";
/// The field of a form that carries [`csrf`].
pub const CSRF_FIELD: &str = "csrf";
/// The longest time that a browser keeps a token.
const LONGEST: Duration = Duration::from_secs(30 * 24 * 3_600);

/// What a change has to carry when its token came as a cookie. It follows from the token, and the token not from it.
pub fn csrf(token: &str) -> String {
    hex(&blake3::derive_key("workrs 2026-11 cross-site request forgery", token.as_bytes())[..16])
}

/// What makes a browser keep `token`, until it expires after `lasts`.
pub fn cookie(token: &str, lasts: Option<Duration>, is_tls: bool) -> String {
    let seconds = lasts.unwrap_or(LONGEST).min(LONGEST).as_secs();
    format!("{COOKIE}={}; {}; Max-Age={seconds}", hex(token.as_bytes()), attributes(is_tls))
}

/// What makes a browser forget it.
pub fn forgotten(is_tls: bool) -> String {
    format!("{COOKIE}=; {}; Max-Age=0", attributes(is_tls))
}

fn attributes(is_tls: bool) -> &'static str {
    if is_tls { "Path=/; HttpOnly; SameSite=Strict; Secure" } else { "Path=/; HttpOnly; SameSite=Strict" }
}

/// The token in the value of a header `Cookie`.
pub fn token_in(cookies: &str) -> Option<String> {
    let digits = cookies.split(';').find_map(|cookie| cookie.trim().strip_prefix(COOKIE)?.strip_prefix('='))?;
    let digit = |byte: &u8| char::from(*byte).to_digit(16).map(|digit| digit as u8);
    let (pairs, []) = digits.as_bytes().as_chunks::<2>() else { return None };
    let bytes: Option<Vec<u8>> = pairs.iter().map(|[high, low]| Some(digit(high)? << 4 | digit(low)?)).collect();
    String::from_utf8(bytes?).ok().filter(|token| !token.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_browser_gives_back_what_it_was_given() {
        for token in ["s3cret", "with; spaces=and \"more\"", "ä"] {
            let cookie = cookie(token, None, true);
            let (pair, _) = cookie.split_once(';').unwrap();
            assert_eq!(token_in(pair).as_deref(), Some(token));
            assert_eq!(token_in(&format!("a=b; {pair}; c=d")).as_deref(), Some(token));
        }
        for other in ["", "a=b", "workrs_session=", "workrs_session=7", "workrs_session=xx", "workrs_sessions=7373"] {
            assert_eq!(token_in(other), None, "{other:?}");
        }
    }

    #[test]
    fn the_cookie_is_out_of_reach_of_scripts_and_other_sites() {
        let day = Duration::from_secs(24 * 3_600);
        insta::assert_snapshot!(cookie("t", Some(day), false), @"workrs_session=74; Path=/; HttpOnly; SameSite=Strict; Max-Age=86400");
        insta::assert_snapshot!(cookie("t", Some(day * 99), true), @"workrs_session=74; Path=/; HttpOnly; SameSite=Strict; Secure; Max-Age=2592000");
        insta::assert_snapshot!(forgotten(false), @"workrs_session=; Path=/; HttpOnly; SameSite=Strict; Max-Age=0");
        assert_ne!(csrf("t"), csrf("u"));
    }
}
