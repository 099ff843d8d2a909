//! Who we are at a registry: as the caller says, else as Docker's configuration has it.

use std::{
    fs::File,
    io::{self, BufReader},
    path::PathBuf,
};

use docker_credential::{CredentialRetrievalError, DockerCredential};
use oci_client::secrets::RegistryAuth;

use crate::image::source::{PullOptions, Reference, reference::DOCKER_HUB};

/// Docker's own name for its registry, under which its configuration keeps the credentials.
const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";

/// Who asks.
#[derive(Debug)]
pub(super) struct Identity {
    /// For the client.
    pub auth: RegistryAuth,
    /// Where that is from, or why there is none, for people.
    pub origin: String,
}

impl Identity {
    /// Finds out who asks the registry of `reference`. Where there is nothing, or nothing that can be used, nobody in
    /// particular asks: most images may be read by all.
    pub async fn find(reference: &Reference, options: &PullOptions) -> Self {
        if let Some(given) = &options.credentials {
            let auth = RegistryAuth::Basic(given.username.clone(), given.password.clone());
            return Self { auth, origin: "given with the request".to_owned() };
        }
        let Some(folder) = options.docker_config.clone().or_else(docker_folder) else {
            return Self::nobody("this process has no home folder".to_owned());
        };
        let file = folder.join("config.json");
        let key = if reference.registry() == DOCKER_HUB { DOCKER_HUB_KEY } else { reference.registry() }.to_owned();
        // It may run a helper program, which may wait for something.
        let place = file.display().to_string();
        let looking = tokio::task::spawn_blocking(move || look_up(&file, &key));
        match tokio::time::timeout(options.patience, looking).await {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => Self::nobody(format!("looking for them failed: {error}")),
            Err(_) => Self::nobody(format!("the helper that {place} names does not answer")),
        }
    }

    /// The user's name, if there is one.
    pub fn username(&self) -> Option<&str> {
        match &self.auth {
            RegistryAuth::Basic(username, _) => Some(username),
            RegistryAuth::Anonymous | RegistryAuth::Bearer(_) => None,
        }
    }

    fn nobody(origin: String) -> Self {
        Self { auth: RegistryAuth::Anonymous, origin }
    }
}

fn docker_folder() -> Option<PathBuf> {
    let home = || std::env::home_dir().map(|home| home.join(".docker"));
    std::env::var_os("DOCKER_CONFIG").filter(|folder| !folder.is_empty()).map(PathBuf::from).or_else(home)
}

fn look_up(file: &std::path::Path, key: &str) -> Identity {
    let place = file.display();
    let opened = match File::open(file) {
        Ok(opened) => opened,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Identity::nobody(format!("there is no {place}"));
        }
        Err(error) => return Identity::nobody(format!("{place} cannot be read: {error}")),
    };
    match docker_credential::get_credential_from_reader(BufReader::new(opened), key) {
        Ok(DockerCredential::UsernamePassword(username, password)) => {
            Identity { auth: RegistryAuth::Basic(username, password), origin: format!("from {place}") }
        }
        // It would have to be changed for a token first, which the client cannot.
        Ok(DockerCredential::IdentityToken(_)) => Identity::nobody(format!(
            "{place} has an identity token for it, which cannot be used; log in with a password"
        )),
        Err(CredentialRetrievalError::NoCredentialConfigured) => Identity::nobody(format!("{place} has none for it")),
        // Helpers also fail, with exit code 1, for what they do not know.
        Err(CredentialRetrievalError::HelperFailure { helper, .. }) => {
            Identity::nobody(format!("{helper}, which {place} names, gives none for it"))
        }
        Err(error) => {
            tracing::warn!(%error, file = %place, "credentials for registries cannot be read");
            Identity::nobody(format!("{place} is of no use: {}", error.to_string().to_lowercase()))
        }
    }
}
