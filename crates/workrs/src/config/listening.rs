//! Where the API listens, what it shows of itself there, and how many requests it takes.

use std::{net::SocketAddr, path::PathBuf};

use super::ConfigError;
use crate::tls;

const DEFAULT_LISTEN: &str = "127.0.0.1:7480";
/// Far above what any one client needs: submits of small jobs were measured at hundreds a second.
const DEFAULT_RATE_LIMIT: &str = "1000/s";
/// What `rate-limit` takes instead of a rate.
const OFF: &str = "off";
/// What `tls` takes.
const SELF_MADE: &str = "self-made";

/// The options that belong together here, from flags, environment or file.
pub(super) struct Options {
    pub(super) listen: Option<String>,
    pub(super) tls_cert: Option<PathBuf>,
    pub(super) tls_key: Option<PathBuf>,
    pub(super) tls: Option<String>,
    pub(super) insecure: bool,
    pub(super) rate_limit: Option<String>,
}

/// What they come to.
pub(super) struct Listening {
    pub(super) address: SocketAddr,
    pub(super) tls: Option<tls::Source>,
    pub(super) rate_limit: Option<u32>,
}

impl Options {
    /// Beyond loopback there must be a token and TLS, or the word of the operator that the network is safe.
    pub(super) fn resolve(self, has_token: bool) -> Result<Listening, ConfigError> {
        let invalid = |option, reason| ConfigError::Value { option, reason };
        let listen = self.listen.as_deref().unwrap_or(DEFAULT_LISTEN);
        let address: SocketAddr =
            listen.parse().map_err(|_| invalid("listen", format!("{listen:?} is not ADDRESS:PORT")))?;
        let tls = tls_source((self.tls_cert, self.tls_key), self.tls.as_deref())?;
        if self.insecure && tls.is_some() {
            return Err(invalid("insecure", "TLS is asked for, too; give one of them".to_owned()));
        }
        if !address.ip().is_loopback() && !has_token {
            let reason = format!(
                "{address} can be reached from other machines; set WORKRS_TOKEN to a secret that every request must \
                 carry, or listen on 127.0.0.1"
            );
            return Err(invalid("listen", reason));
        }
        if !address.ip().is_loopback() && tls.is_none() && !self.insecure {
            let reason = format!(
                "{address} can be reached from other machines, and whoever is on the way could read what goes there, \
                 tokens too; use --tls self-made, or --tls-cert and --tls-key for a certificate of yours, or --insecure \
                 where nobody else is on the network"
            );
            return Err(invalid("listen", reason));
        }
        let rate_limit = rate_limit(self.rate_limit.as_deref().unwrap_or(DEFAULT_RATE_LIMIT))?;
        Ok(Listening { address, tls, rate_limit })
    }
}

/// What the API shows: files of which there must be both, or what `--tls` says.
fn tls_source(
    files: (Option<PathBuf>, Option<PathBuf>),
    kind: Option<&str>,
) -> Result<Option<tls::Source>, ConfigError> {
    let invalid = |option, reason: &str| Err(ConfigError::Value { option, reason: reason.to_owned() });
    match (files, kind) {
        ((None, None), None) => Ok(None),
        ((None, None), Some(SELF_MADE)) => Ok(Some(tls::Source::SelfMade)),
        ((None, None), Some(other)) => {
            invalid("tls", &format!("{other:?} is not {SELF_MADE}; files are given by --tls-cert and --tls-key"))
        }
        ((Some(certificate), Some(key)), None) => Ok(Some(tls::Source::Files { certificate, key })),
        ((Some(_), Some(_)), Some(_)) => invalid("tls", "--tls-cert and --tls-key are given, too; give one of them"),
        ((Some(_), None), _) => invalid("tls-cert", "its key is missing: give --tls-key, too"),
        ((None, Some(_)), _) => invalid("tls-key", "its certificate is missing: give --tls-cert, too"),
    }
}

fn rate_limit(text: &str) -> Result<Option<u32>, ConfigError> {
    if text == OFF {
        return Ok(None);
    }
    let number = text.strip_suffix("/s").unwrap_or(text);
    match number.trim().parse() {
        Ok(rate) if (1..=1_000_000).contains(&rate) => Ok(Some(rate)),
        _ => {
            let reason = format!("{text:?} is not a number of requests a second, as in 1000/s, or off");
            Err(ConfigError::Value { option: "rate-limit", reason })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What flags of `up` come to; WORKRS_TOKEN is set, or not.
    fn resolve(flags: &[&str], has_token: bool) -> Result<Listening, String> {
        let mut options =
            Options { listen: None, tls_cert: None, tls_key: None, tls: None, insecure: false, rate_limit: None };
        for flag in flags {
            let (name, value) = flag.split_once('=').unwrap_or((flag, ""));
            match name {
                "listen" => options.listen = Some(value.to_owned()),
                "tls-cert" => options.tls_cert = Some(value.into()),
                "tls-key" => options.tls_key = Some(value.into()),
                "tls" => options.tls = Some(value.to_owned()),
                "insecure" => options.insecure = true,
                "rate-limit" => options.rate_limit = Some(value.to_owned()),
                other => panic!("{other}"),
            }
        }
        options.resolve(has_token).map_err(|error| error.to_string())
    }

    fn refused(flags: &[&str], has_token: bool) -> String {
        resolve(flags, has_token).err().expect("it is refused")
    }

    #[test]
    fn beyond_loopback_a_token_and_tls_are_needed() {
        assert!(resolve(&[], false).is_ok());
        for safe in [&["tls=self-made"][..], &["insecure"], &["tls-cert=c", "tls-key=k"]] {
            let flags = [&["listen=192.0.2.1:1"], safe].concat();
            assert!(resolve(&flags, true).is_ok(), "{flags:?}");
            assert!(refused(&flags, false).contains("WORKRS_TOKEN"), "{flags:?}");
        }
        insta::assert_snapshot!(refused(&["listen=0.0.0.0:1"], false), @"invalid listen: 0.0.0.0:1 can be reached from other machines; set WORKRS_TOKEN to a secret that every request must carry, or listen on 127.0.0.1");
        insta::assert_snapshot!(refused(&["listen=[::]:1"], true), @"invalid listen: [::]:1 can be reached from other machines, and whoever is on the way could read what goes there, tokens too; use --tls self-made, or --tls-cert and --tls-key for a certificate of yours, or --insecure where nobody else is on the network");
    }

    #[test]
    fn what_the_api_shows_is_said_once_and_wholly() {
        let shown = |flags: &[&str]| resolve(flags, false).unwrap().tls;
        assert_eq!(shown(&[]), None);
        assert_eq!(shown(&["tls=self-made"]), Some(tls::Source::SelfMade));
        let files = tls::Source::Files { certificate: "c".into(), key: "k".into() };
        assert_eq!(shown(&["tls-cert=c", "tls-key=k"]), Some(files));
        assert!(refused(&["tls=self-made", "insecure"], false).contains("insecure"));
        assert!(refused(&["tls=self-made", "tls-cert=c", "tls-key=k"], false).contains("--tls-cert"));
        assert!(refused(&["tls-cert=c"], false).contains("--tls-key"));
        assert!(refused(&["tls-key=k"], false).contains("--tls-cert"));
        assert!(refused(&["tls=home-made"], false).contains("self-made"));
    }

    #[test]
    fn rates_are_numbers_or_off() {
        let rate = |flags: &[&str]| resolve(flags, false).unwrap().rate_limit;
        assert_eq!(rate(&[]), Some(1_000));
        assert_eq!((rate(&["rate-limit=50/s"]), rate(&["rate-limit=7"])), (Some(50), Some(7)));
        assert_eq!(rate(&["rate-limit=off"]), None);
        for wrong in ["rate-limit=0/s", "rate-limit=fast", "rate-limit=-1", "rate-limit="] {
            assert!(refused(&[wrong], false).contains("rate-limit"), "{wrong}");
        }
    }
}
