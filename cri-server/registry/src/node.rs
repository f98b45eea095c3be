//! Credentials of the node itself, for pulls that bring none.
//!
//! The file has the form of Docker's `config.json` (docker's documentation, "docker login"):
//! `auths` with credentials by registry, `credHelpers` and `credsStore` with programs that know
//! them. A program is asked as `docker-credential-<name> get`, with the registry on its standard
//! input, and answers in JSON (docker-credential-helpers, "Development"). Read anew for each pull.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::auth::is_meant_for;
use crate::error::During;
use crate::{Credentials, Error};

/// How long a program may take to answer.
const HELPER_TIME: Duration = Duration::from_secs(10);
/// Most of its answer that is read, in bytes.
const MAX_ANSWER: u64 = 1 << 20;
/// What a program says that knows nothing of the registry.
const UNKNOWN: &str = "credentials not found";
/// Under which name Docker's own registry is kept.
const DOCKER_KEY: &str = "https://index.docker.io/v1/";

#[derive(Debug, Default, Deserialize)]
struct File {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
    #[serde(default, rename = "credHelpers")]
    helpers: BTreeMap<String, String>,
    #[serde(default, rename = "credsStore")]
    store: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct Entry {
    #[serde(default)]
    auth: String,
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
    #[serde(default, rename = "identitytoken")]
    identity_token: String,
    #[serde(default, rename = "registrytoken")]
    registry_token: String,
}

/// Where the credentials for a registry come from.
#[derive(Debug, PartialEq, Eq)]
enum Source {
    /// They are known.
    Known(Box<Known>),
    /// A program is to be asked: its name, and the registry as it knows it.
    Helper(String, String),
    /// There are none.
    Nowhere,
}

/// What an entry of the file holds.
#[derive(Debug, PartialEq, Eq)]
struct Known {
    auth: String,
    username: String,
    password: String,
    identity_token: String,
    registry_token: String,
}

/// What the node knows for a registry; nothing if there is no file.
pub(crate) async fn credentials(path: &Path, registry: &str) -> Result<Option<Credentials>, Error> {
    let text = match std::fs::read(path) {
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        read => read.during(|| format!("reading {}", path.display()))?,
    };
    let file: File = serde_json::from_slice(&text)
        .map_err(|cause| Error::Other(format!("{}: {cause}", path.display())))?;
    match find(&file, registry) {
        Source::Nowhere => Ok(None),
        Source::Known(known) => Ok(Some(Credentials {
            auth: known.auth,
            username: known.username,
            password: known.password,
            identity_token: known.identity_token,
            registry_token: known.registry_token,
            server_address: String::new(),
        })),
        Source::Helper(name, server) => ask(&name, &server).await,
    }
}

/// A program for just this registry comes first, then the entry, then the program for all.
fn find(file: &File, registry: &str) -> Source {
    let fits = |key: &str| !key.is_empty() && is_meant_for(key, registry);
    if let Some((key, helper)) = file.helpers.iter().find(|(key, _)| fits(key)) {
        return Source::Helper(helper.clone(), key.clone());
    }
    let entry = file.auths.iter().find(|(key, _)| fits(key));
    if let Some((_, entry)) = entry.filter(|(_, entry)| entry.has_something()) {
        return Source::Known(Box::new(entry.clone().into()));
    }
    if file.store.is_empty() {
        return Source::Nowhere;
    }
    let known_as = entry.map(|(key, _)| key.clone());
    let own = || match registry {
        "docker.io" => DOCKER_KEY.to_owned(),
        other => other.to_owned(),
    };
    Source::Helper(file.store.clone(), known_as.unwrap_or_else(own))
}

impl Entry {
    fn has_something(&self) -> bool {
        let all = [
            &self.auth,
            &self.username,
            &self.identity_token,
            &self.registry_token,
        ];
        all.iter().any(|text| !text.is_empty())
    }
}

impl From<Entry> for Known {
    fn from(entry: Entry) -> Self {
        Self {
            auth: entry.auth,
            username: entry.username,
            password: entry.password,
            identity_token: entry.identity_token,
            registry_token: entry.registry_token,
        }
    }
}

/// What a program answers.
#[derive(Deserialize)]
struct Answer {
    #[serde(rename = "Username")]
    username: String,
    #[serde(rename = "Secret")]
    secret: String,
}

async fn ask(name: &str, server: &str) -> Result<Option<Credentials>, Error> {
    if name.contains('/') || name.contains('\0') {
        return Err(Error::Other(format!(
            "{name:?} is not the name of a credential helper"
        )));
    }
    let program = format!("docker-credential-{name}");
    let (success, said) = timeout(HELPER_TIME, run(&program, server))
        .await
        .map_err(|late| Error::Other(format!("{program} did not answer: {late}")))?
        .during(|| format!("asking {program} about {server}"))?;
    let text = || String::from_utf8_lossy(&said).trim().to_owned();
    if !success && text().contains(UNKNOWN) {
        return Ok(None);
    }
    if !success {
        return Err(Error::Denied(format!(
            "{program}, asked about {server}: {}",
            text()
        )));
    }
    let answer: Answer = serde_json::from_slice(&said)
        .map_err(|cause| Error::Other(format!("the answer of {program}: {cause}")))?;
    Ok(Some(Credentials {
        username: answer.username,
        password: answer.secret,
        ..Credentials::default()
    }))
}

/// Whether it ended well, and what it said.
async fn run(program: &str, server: &str) -> std::io::Result<(bool, Vec<u8>)> {
    #[expect(
        clippy::disallowed_methods,
        reason = "waited for right here, and killed when dropped"
    )]
    let mut command = tokio::process::Command::new(program);
    let mut child = command
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    if let Some(mut input) = child.stdin.take() {
        // A program that answers without reading is no failure of ours.
        drop(input.write_all(server.as_bytes()).await);
    }
    let mut said = Vec::new();
    if let Some(output) = child.stdout.take() {
        output.take(MAX_ANSWER).read_to_end(&mut said).await?;
    }
    Ok((child.wait().await?.success(), said))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(json: &str, registry: &str, expect: &Source) {
        let file: File = serde_json::from_str(json).unwrap();
        assert_eq!(find(&file, registry), *expect, "{json} {registry}");
    }

    fn known(auth: &str) -> Source {
        let entry = Entry {
            auth: auth.to_owned(),
            ..Entry::default()
        };
        Source::Known(Box::new(entry.into()))
    }

    #[test]
    fn the_most_specific_source_is_taken() {
        let json = r#"{"auths": {"https://index.docker.io/v1/": {"auth": "d"}, "a.io:5000": {"auth": "a"},
            "empty.io": {}}, "credHelpers": {"b.io": "ecr"}, "HttpHeaders": {}}"#;
        check(json, "docker.io", &known("d"));
        check(json, "a.io:5000", &known("a"));
        check(json, "a.io", &Source::Nowhere);
        check(json, "empty.io", &Source::Nowhere);
        check(json, "b.io", &Source::Helper("ecr".into(), "b.io".into()));
        let all = r#"{"auths": {"https://a.io/v2/": {}}, "credsStore": "pass"}"#;
        check(
            all,
            "a.io",
            &Source::Helper("pass".into(), "https://a.io/v2/".into()),
        );
        check(
            all,
            "docker.io",
            &Source::Helper("pass".into(), DOCKER_KEY.into()),
        );
    }

    #[tokio::test]
    async fn a_missing_file_is_no_credentials_and_a_wrong_one_is_told() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("credentials.json");
        assert!(credentials(&path, "a.io").await.unwrap().is_none());
        std::fs::write(&path, "{").unwrap();
        let error = credentials(&path, "a.io").await.unwrap_err().to_string();
        assert!(error.contains("credentials.json"), "{error}");
        std::fs::write(&path, r#"{"credHelpers": {"a.io": "../x"}}"#).unwrap();
        assert!(credentials(&path, "a.io").await.is_err());
    }
}
