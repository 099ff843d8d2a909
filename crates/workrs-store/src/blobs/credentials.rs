//! The access key of an S3 store. It comes from the environment or from a file, never from a URL, and is never shown.

use std::{
    fmt, fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use super::BlobError;

/// An access key, its secret and, if it is a temporary one, its session token.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Credentials {
    pub(super) access_key: String,
    pub(super) secret: String,
    pub(super) token: Option<String>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials(access key {})", self.access_key)
    }
}

/// Where credentials are looked for.
#[derive(Debug, Default)]
pub(super) struct Source<'a> {
    /// A file that must have them.
    pub(super) file: Option<&'a Path>,
    /// Which section of a file.
    pub(super) profile: Option<&'a str>,
}

impl Source<'_> {
    /// Looks in the file, if one is named; else in the environment, then in the file that the environment names, and
    /// last in `~/.aws/credentials`.
    pub(super) fn find(&self, env: &dyn Fn(&str) -> Option<String>) -> Result<Credentials, BlobError> {
        let profile = self.profile.map(str::to_owned).or_else(|| env("AWS_PROFILE"));
        let profile = profile.as_deref().unwrap_or("default");
        if let Some(file) = self.file {
            return read(file, profile);
        }
        if let Some(found) = from_environment(env)? {
            return Ok(found);
        }
        if let Some(file) = env("AWS_SHARED_CREDENTIALS_FILE") {
            return read(file.as_ref(), profile);
        }
        let file = env("HOME").map(|home| PathBuf::from(home).join(".aws/credentials"));
        match file.filter(|file| file.exists()) {
            Some(file) => read(&file, profile),
            None => Err(unusable(
                "there are no credentials for the S3 store: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or name a \
                 file that has them by AWS_SHARED_CREDENTIALS_FILE or by ?credentials=FILE in the URL",
            )),
        }
    }
}

fn from_environment(env: &dyn Fn(&str) -> Option<String>) -> Result<Option<Credentials>, BlobError> {
    match (env("AWS_ACCESS_KEY_ID"), env("AWS_SECRET_ACCESS_KEY")) {
        (Some(access_key), Some(secret)) => {
            Ok(Some(Credentials { access_key, secret, token: env("AWS_SESSION_TOKEN") }))
        }
        (None, None) => Ok(None),
        (Some(_), None) => Err(unusable("AWS_ACCESS_KEY_ID is set, but AWS_SECRET_ACCESS_KEY is not")),
        (None, Some(_)) => Err(unusable("AWS_SECRET_ACCESS_KEY is set, but AWS_ACCESS_KEY_ID is not")),
    }
}

fn read(file: &Path, profile: &str) -> Result<Credentials, BlobError> {
    let shown = file.display();
    let cannot = |error: std::io::Error| unusable(format!("the credentials file {shown} cannot be read: {error}"));
    if fs::metadata(file).map_err(cannot)?.permissions().mode() & 0o007 != 0 {
        return Err(unusable(format!(
            "every user of this machine may use the credentials file {shown}; run `chmod o= {shown}`"
        )));
    }
    let text = fs::read_to_string(file).map_err(cannot)?;
    let value = |key| value(&text, profile, key);
    match (value("aws_access_key_id"), value("aws_secret_access_key")) {
        (Some(access_key), Some(secret)) => Ok(Credentials { access_key, secret, token: value("aws_session_token") }),
        _ => Err(unusable(format!(
            "the credentials file {shown} has no aws_access_key_id and aws_secret_access_key in a section [{profile}]"
        ))),
    }
}

/// The value of a key in a section of an INI file.
fn value(text: &str, section: &str, key: &str) -> Option<String> {
    let mut inside = false;
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            inside = name.trim() == section;
        } else if let Some((name, value)) = line.split_once('=')
            && inside
            && name.trim() == key
            && !value.trim().is_empty()
        {
            return Some(value.trim().to_owned());
        }
    }
    None
}

fn unusable(text: impl Into<String>) -> BlobError {
    BlobError::InvalidUrl(text.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "# a comment\n[default]\naws_access_key_id = AK\naws_secret_access_key=se=cret\n\n\
                        [ other ]\naws_secret_access_key = s2\naws_access_key_id=A2\n aws_session_token = t2\n[half]\n\
                        aws_access_key_id = A3\naws_secret_access_key =\n";

    fn find(source: &Source<'_>, env: &[(&str, &str)]) -> Result<Credentials, String> {
        let env = |name: &str| env.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        source.find(&env).map_err(|error| error.to_string())
    }

    fn credentials(access_key: &str, secret: &str, token: Option<&str>) -> Credentials {
        Credentials { access_key: access_key.into(), secret: secret.into(), token: token.map(str::to_owned) }
    }

    fn file(mode: u32) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("credentials");
        fs::write(&file, FILE).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        (folder, file)
    }

    #[test]
    fn the_nearest_source_wins() {
        let (_folder, file) = file(0o600);
        let path = file.to_str().unwrap();
        let keys = [("AWS_ACCESS_KEY_ID", "E"), ("AWS_SECRET_ACCESS_KEY", "s"), ("AWS_SHARED_CREDENTIALS_FILE", path)];
        let nowhere = Source::default();
        assert_eq!(find(&nowhere, &keys), Ok(credentials("E", "s", None)));
        assert_eq!(find(&nowhere, &keys[2..]), Ok(credentials("AK", "se=cret", None)));
        assert_eq!(find(&nowhere, &[keys[2], ("AWS_PROFILE", "other")]), Ok(credentials("A2", "s2", Some("t2"))));
        let named = Source { file: Some(&file), profile: Some("other") };
        assert_eq!(find(&named, &keys), Ok(credentials("A2", "s2", Some("t2"))));
        let with_token = [keys[0], keys[1], ("AWS_SESSION_TOKEN", "t")];
        assert_eq!(find(&nowhere, &with_token), Ok(credentials("E", "s", Some("t"))));
        let home = file.parent().unwrap();
        fs::create_dir(home.join(".aws")).unwrap();
        fs::rename(&file, home.join(".aws/credentials")).unwrap();
        assert_eq!(find(&nowhere, &[("HOME", home.to_str().unwrap())]), Ok(credentials("AK", "se=cret", None)));
    }

    #[test]
    fn what_is_missing_is_named_and_no_secret_is_shown() {
        let (_folder, open) = file(0o604);
        let (_other, closed) = file(0o640);
        let source = |file, profile| Source { file: Some(file), profile: Some(profile) };
        let nothing = Path::new("/proc/nothing");
        let refused = [
            (find(&Source::default(), &[]), "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
            (find(&Source::default(), &[("AWS_ACCESS_KEY_ID", "E")]), "AWS_SECRET_ACCESS_KEY is not"),
            (find(&Source::default(), &[("AWS_SECRET_ACCESS_KEY", "s2")]), "AWS_ACCESS_KEY_ID is not"),
            (find(&source(&open, "default"), &[]), "chmod o="),
            (find(&source(&closed, "half"), &[]), "[half]"),
            (find(&source(&closed, "none"), &[]), "[none]"),
            (find(&source(nothing, "none"), &[]), "/proc/nothing cannot be read"),
        ];
        for (result, expect) in refused {
            let text = result.unwrap_err();
            assert!(text.contains(expect) && !text.contains("se=cret") && !text.contains("s2"), "{text}");
        }
        let shown = format!("{:?}", find(&source(&closed, "other"), &[]));
        assert!(shown.contains("A2") && !shown.contains("s2") && !shown.contains("t2"), "{shown}");
    }
}
