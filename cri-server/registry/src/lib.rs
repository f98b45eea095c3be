//! A client of image registries (distribution-spec 1.1, and what Docker's registry does besides).
//!
//! It resolves names and fetches manifests and blobs, from the first of several hosts that has
//! them. It checks the digest of what it returns whole; content that it hands on as a stream is
//! checked by whoever reads it. It stores nothing, and does not know what becomes of what it brings:
//! a layer is bytes to it.
//!
//! ```text
//! name -> Reference;  Reference, Credentials -> Registry::repository -> Repository
//!         resolve, document, small_blob, referrers: whole, with the digest checked
//!         stream::feed: a blob piece by piece, whatever happens to the connections
//! ```
//!
//! Beside the folder of `hosts.toml` files may lie `registries.conf` (and `.d`), for registries that
//! have no folder, and `credentials.json`, for pulls that bring no credentials.

mod auth;
mod body;
mod certificates;
mod challenge;
mod conf;
mod digest;
mod error;
mod explain;
mod failures;
mod foreign;
mod hosts;
pub mod judge;
mod lanes;
mod limits;
mod link;
pub mod manifest;
mod node;
mod proxy;
mod reference;
mod referrers;
mod repository;
mod send;
mod sources;
mod span;
pub mod stream;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::Semaphore;

use auth::Identity;
pub use auth::{Credentials, fingerprint};
pub use digest::{Digest, Hasher, is_hex};
pub use error::Error;
use hosts::Site;
pub use limits::Limits;
pub use reference::Reference;
pub use referrers::Referrer;
pub use repository::{Repository, Resolved, Served};
use send::Sender;
use sources::{Source, Sources};

/// Names of files beside the folder of `hosts.toml` files.
const REGISTRIES: &str = "registries.conf";
const CREDENTIALS: &str = "credentials.json";
/// How many parts of layers may be fetched ahead of what is being unpacked, over all layers; see
/// [`Limits::part`] for their length.
const MAX_PARTS_AHEAD: usize = 8;

/// All registries.
#[derive(Debug)]
pub struct Registry {
    folder: PathBuf,
    sender: Arc<Sender>,
    /// Room for parts that are fetched ahead.
    ahead: Arc<Semaphore>,
}

impl Registry {
    /// `folder` has the `hosts.toml` files.
    ///
    /// # Errors
    ///
    /// A file there or beside it is wrong: which, and what in it.
    pub fn new(folder: PathBuf, limits: Limits) -> Result<Arc<Self>, Error> {
        hosts::check_all(&folder)?;
        conf::check(&folder.with_file_name(REGISTRIES))?;
        Ok(Arc::new(Self {
            folder,
            sender: Arc::new(Sender::new(limits)),
            ahead: Arc::new(Semaphore::new(MAX_PARTS_AHEAD)),
        }))
    }

    /// Prepares to ask about a name, by what the files say at this moment; asks nobody but the
    /// node's credential helpers. Without credentials those of the node serve.
    ///
    /// # Errors
    ///
    /// A file is wrong, a helper failed, or the credentials are none.
    pub async fn repository(
        self: &Arc<Self>,
        name: &Reference,
        credentials: Option<&Credentials>,
    ) -> Result<Repository, Error> {
        let Site {
            mut hosts,
            foreign_layers,
            told_by,
        } = self.site(name)?;
        certificates::add(&self.folder, &mut hosts)?;
        let file = self.folder.with_file_name(CREDENTIALS);
        let own = match credentials {
            Some(_) => None,
            None => node::credentials(&file, name.domain()).await?,
        };
        let credentials = credentials
            .or(own.as_ref())
            .filter(|c| auth::is_meant_for(&c.server_address, name.domain()));
        let identity = Identity::of(credentials).map_err(Error::Denied)?;
        let mut sources = Vec::new();
        for host in hosts {
            // A mirror is another party: it gets what the node has for it, and what was given for
            // the registry only if the operator says so.
            let identity = if host.upstream || host.shares_credentials {
                identity.clone()
            } else {
                self.own_at(&host.authority()).await
            };
            sources.push(Source { host, identity });
        }
        Ok(Repository {
            sender: Arc::clone(&self.sender),
            ahead: Arc::clone(&self.ahead),
            name: name.clone(),
            sources: Sources::new(sources),
            foreign_layers,
            told_by,
        })
    }

    /// Who the node is at a mirror. Without an answer it is nobody: other hosts can be asked.
    async fn own_at(&self, authority: &str) -> Identity {
        let file = self.folder.with_file_name(CREDENTIALS);
        let own = node::credentials(&file, authority).await;
        let identity = own.and_then(|own| Identity::of(own.as_ref()).map_err(Error::Denied));
        identity.unwrap_or_else(|error| {
            tracing::warn!(mirror = authority, %error, "a mirror is asked without credentials");
            Identity::Anonymous
        })
    }

    /// A folder of its own says most about a registry, then `registries.conf`, then what is usual.
    fn site(&self, name: &Reference) -> Result<Site, Error> {
        if let Some(site) = hosts::read(&self.folder, name.domain())? {
            return Ok(site);
        }
        if let Some(site) = conf::read(&self.folder.with_file_name(REGISTRIES), name)? {
            return Ok(site);
        }
        Ok(Site::of(vec![hosts::default_server(name.domain())?], None))
    }
}
