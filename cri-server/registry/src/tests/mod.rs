//! The client as its users see it, against registries on loopback, truthful or not, and Debian's.
//!
//! What a store makes of it, such as that nothing half-made is left, is tested in `image`.

mod authorization;
mod debian;
mod node;
mod parts;
mod referrers;
mod registries;
mod tls;

use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use crate::manifest::{Descriptor, Document};
use crate::{Credentials, Error, Limits, Reference, Registry, Repository, stream};

/// Asks registries as a pull does, and keeps nothing.
struct Client(Arc<Registry>);

impl Client {
    /// With the configuration below `root`, and waits that are short.
    fn at(root: &Path) -> Self {
        Self::with(root, limits())
    }

    fn with(root: &Path, limits: Limits) -> Self {
        Self(Registry::new(root.join("certs.d"), limits).unwrap())
    }

    /// Fetches all of an image, whose layers are looked at as bytes; answers with its id.
    async fn pull(&self, name: &str, credentials: Option<&Credentials>) -> Result<String, Error> {
        let name = Reference::parse(name)?;
        let repository = Arc::new(self.0.repository(&name, credentials).await?);
        let resolved = repository.resolve().await?;
        let served = match resolved.document {
            Some(served) => served,
            None => repository.document(&resolved.digest).await?,
        };
        let document = Document::parse(&served.bytes, served.content_type.as_deref())?;
        let Document::Manifest(manifest) = document else {
            panic!("a list was sent");
        };
        repository.small_blob(&manifest.config).await?;
        let mut layers = JoinSet::new();
        for layer in manifest.layers {
            layers.spawn(fetch(Arc::clone(&repository), layer));
        }
        while let Some(fetched) = layers.join_next().await {
            fetched.unwrap()?;
        }
        Ok(manifest.config.digest.to_string())
    }
}

/// A layer, from another host if it was wrong.
async fn fetch(repository: Arc<Repository>, layer: Descriptor) -> Result<(), Error> {
    loop {
        match fetch_once(&repository, &layer).await {
            Err(Error::Corrupt(_)) if repository.blame(&layer.digest) => {}
            fetched => return fetched,
        }
    }
}

async fn fetch_once(repository: &Arc<Repository>, layer: &Descriptor) -> Result<(), Error> {
    let (sink, mut stream) = stream::pipe(|_| ());
    let reading = tokio::task::spawn_blocking(move || {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).map(|_| bytes)
    });
    let ((), read) = tokio::join!(stream::feed(repository, layer, sink), reading);
    let bytes = read
        .unwrap()
        .map_err(|cause| cause.downcast::<Error>().unwrap())?;
    if layer.digest.same_kind_of(&bytes) != layer.digest {
        return Err(Error::Corrupt(format!(
            "{} is something else",
            layer.digest
        )));
    }
    Ok(())
}

/// Waits that are short, but for the one in which a server has to answer.
fn limits() -> Limits {
    Limits {
        // Long enough for a machine that has much other work.
        silence: Duration::from_secs(3),
        attempts: 3,
        pause: Duration::from_millis(2),
        longest_pause: Duration::from_secs(2),
        slowest: 100,
        slow_for: Duration::from_millis(400),
        patience: Duration::from_millis(100),
        ..Limits::default()
    }
}

fn temp() -> tempfile::TempDir {
    tempfile::Builder::new()
        .prefix("wherry-registry-")
        .tempdir()
        .unwrap()
}

/// Writes `hosts.toml` for a registry.
fn hosts_toml(root: &Path, registry: &str, text: &str) {
    let folder = root.join("certs.d").join(registry);
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("hosts.toml"), text).unwrap();
}

fn user() -> Credentials {
    Credentials {
        username: "u".into(),
        password: "p".into(),
        ..Credentials::default()
    }
}
