//! What each OCI runtime can do, asked once when the engine is opened.
//!
//! The runtime tells by its "features" document (runtime-spec, features.md); how it is called is
//! the shim's business. One that does not answer, or not in that form, offers nothing.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use tokio::io::AsyncReadExt;
use tokio::task::JoinSet;

use crate::Config;
use crate::error::Error;

/// How long a runtime may take to say what it can do.
const PATIENCE: Duration = Duration::from_secs(5);

/// Most that it may say, bytes.
const MAX_ANSWER: u64 = 1 << 20;

/// The annotation by which runc, and those who do as it does, tell whether criu is there.
const CHECKPOINTS: &str = "org.opencontainers.runc.checkpoint.enabled";

/// What a runtime handler can do for a pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// Mounts can be made read-only with all mounts below them.
    pub recursive_read_only: bool,
    /// Pods can have a user namespace of their own, with idmapped mounts.
    pub user_namespaces: bool,
}

/// A runtime handler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handler {
    /// Its name.
    pub name: String,
    /// What it can do here: kernel and runtime together.
    pub features: Features,
}

/// The parts of the document that matter.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Document {
    mount_options: Vec<String>,
    linux: Linux,
    annotations: BTreeMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Linux {
    namespaces: Vec<String>,
    mount_extensions: MountExtensions,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct MountExtensions {
    idmap: Extension,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Extension {
    enabled: bool,
}

impl From<Document> for Features {
    fn from(document: Document) -> Self {
        let has = |list: &[String], word: &str| list.iter().any(|one| one == word);
        let linux = &document.linux;
        Self {
            recursive_read_only: has(&document.mount_options, "rro"),
            user_namespaces: has(&linux.namespaces, "user") && linux.mount_extensions.idmap.enabled,
        }
    }
}

/// Asks all runtimes at once. `kernel` is what the node can do; a runtime adds nothing to that.
pub(crate) async fn gather(config: &Config, kernel: Features) -> BTreeMap<String, Features> {
    let mut asked = JoinSet::new();
    for (name, runtime) in &config.runtimes {
        let (name, shim, runtime) = (name.clone(), config.shim.clone(), runtime.path.clone());
        asked.spawn(async move {
            let told = tokio::time::timeout(PATIENCE, ask(&shim, &runtime)).await;
            let told = told.unwrap_or_else(|elapsed| Err(elapsed.to_string()));
            (name, told)
        });
    }
    let mut features = BTreeMap::new();
    while let Some(Ok((name, told))) = asked.join_next().await {
        let own = told.map(Features::from).unwrap_or_else(|error| {
            tracing::warn!(
                handler = name,
                error,
                "asking an OCI runtime for its features"
            );
            Features::default()
        });
        let both = Features {
            recursive_read_only: own.recursive_read_only && kernel.recursive_read_only,
            user_namespaces: own.user_namespaces && kernel.user_namespaces,
        };
        features.insert(name, both);
    }
    features
}

/// Whether a runtime can make and restore checkpoints now: what it needs for that may be installed
/// at any time.
///
/// # Errors
///
/// Says what is missing.
pub(crate) async fn can_checkpoint(shim: &Path, runtime: &Path) -> Result<(), Error> {
    let told = tokio::time::timeout(PATIENCE, ask(shim, runtime)).await;
    let told = told.unwrap_or_else(|elapsed| Err(elapsed.to_string()));
    let what = || format!("asking {} for its features", runtime.display());
    let document = told.map_err(|error| Error::failed(what(), error))?;
    match document.annotations.get(CHECKPOINTS).map(String::as_str) {
        Some("true") => Ok(()),
        _ => Err(Error::Unsupported(format!(
            "{} says that it has no checkpoints: is the program criu in the daemon's PATH?",
            runtime.display()
        ))),
    }
}

async fn ask(shim: &Path, runtime: &Path) -> Result<Document, String> {
    #[expect(
        clippy::disallowed_methods,
        reason = "ends here, or is killed when its time is over"
    )]
    let mut child = tokio::process::Command::new(shim)
        .args(["features", "--runtime"])
        .arg(runtime)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| error.to_string())?;
    let mut text = Vec::new();
    if let Some(output) = child.stdout.take() {
        let read = output.take(MAX_ANSWER).read_to_end(&mut text).await;
        read.map_err(|error| error.to_string())?;
    }
    let status = child.wait().await.map_err(|error| error.to_string())?;
    if !status.success() {
        return Err(status.to_string());
    }
    parse(&text)
}

fn parse(text: &[u8]) -> Result<Document, String> {
    serde_json::from_slice(text).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_said_is_offered() {
        let check = |text: &str, recursive_read_only, user_namespaces| {
            let expect = Features {
                recursive_read_only,
                user_namespaces,
            };
            let found = parse(text.as_bytes()).map(Features::from);
            assert_eq!(found, Ok(expect), "{text}");
        };
        check(
            r#"{"ociVersionMin":"1.0.0","mountOptions":["ro","rro"],"linux":{"namespaces":["pid",
                "user"],"mountExtensions":{"idmap":{"enabled":true}}}}"#,
            true,
            true,
        );
        check(
            r#"{"mountOptions":["ro"],"linux":{"namespaces":["user"]}}"#,
            false,
            false,
        );
        check(
            r#"{"linux":{"mountExtensions":{"idmap":{"enabled":true}}}}"#,
            false,
            false,
        );
        check("{}", false, false);
        assert!(parse(b"usage: runc").is_err());
    }
}
