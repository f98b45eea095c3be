//! Images: names, registries, the store, unpacking, mounts, garbage.
//!
//! Knows nothing of pods, of the front ends or of shims.

use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where the store lies and how registries are reached.
#[derive(Clone, Debug)]
pub struct Config {
    /// Folder of the store; made if missing.
    pub root: PathBuf,
    /// Folder with `<host>/hosts.toml`; need not exist.
    pub registry_config: PathBuf,
}

/// The image store of one daemon.
#[derive(Debug)]
pub struct Store {}

/// Credentials for a registry, as a client gave them. Empty strings are not given.
#[derive(Clone, Default)]
pub struct Credentials {
    /// User name.
    pub username: String,
    /// Password.
    pub password: String,
    /// `base64(user:password)`.
    pub auth: String,
    /// The registry that they are for; empty means the one asked.
    pub server_address: String,
    /// OAuth2 refresh token.
    pub identity_token: String,
    /// Bearer token.
    pub registry_token: String,
}

/// An image of the store.
#[derive(Clone, Debug)]
pub struct Image {
    /// Digest of its configuration, `sha256:...`; its one identity.
    pub id: String,
    /// Names with tags, normalised.
    pub tags: Vec<String>,
    /// Names with digests, normalised.
    pub digests: Vec<String>,
    /// Bytes that its layers take on disk.
    pub size: u64,
    /// Its configuration, parsed.
    pub config: Arc<oci_spec::image::ImageConfiguration>,
    /// Its configuration, as received.
    pub raw_config: Arc<[u8]>,
    /// Annotations of its manifest.
    pub annotations: std::collections::BTreeMap<String, String>,
    /// Never collected.
    pub pinned: bool,
}

/// How much of a file system is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes.
    pub bytes: u64,
    /// Inodes.
    pub inodes: u64,
}

/// Why an operation on images failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A name that can never be one.
    #[error("invalid image reference {reference:?}: {reason}")]
    Reference {
        /// The name.
        reference: String,
        /// What is wrong.
        reason: String,
    },
    /// No such image, here or in the registry.
    #[error("image {0:?} not found")]
    NotFound(String),
    /// The registry refuses these credentials.
    #[error("{0}")]
    Denied(String),
    /// No registry could be reached.
    #[error("RegistryUnavailable: {0}")]
    Unavailable(String),
    /// What was received is not what was promised, or not an image.
    #[error("{0}")]
    Corrupt(String),
    /// The disk is full.
    #[error("{0}")]
    NoSpace(String),
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("username", &self.username).finish_non_exhaustive()
    }
}

#[expect(clippy::todo, clippy::unused_async, unused_variables, reason = "signatures first")]
impl Store {
    /// Opens the store, making it if missing. Half-made layers of an earlier run are dropped.
    ///
    /// # Errors
    ///
    /// The folder cannot be used, or the registry configuration is wrong.
    pub fn open(config: &Config) -> Result<Arc<Self>, Error> {
        todo!()
    }

    /// Gets an image from its registry; answers with its id. Callers that ask for the same image at
    /// the same time share one download. Dropping the future cancels (the last one does).
    ///
    /// # Errors
    ///
    /// See [`Error`]; nothing half-made is left.
    pub async fn pull(
        self: &Arc<Self>,
        reference: &str,
        credentials: Option<&Credentials>,
    ) -> Result<String, Error> {
        todo!()
    }

    /// Reads an OCI layout (folder or tar) or a docker archive; answers with the ids.
    ///
    /// # Errors
    ///
    /// See [`Error`]; nothing half-made is left.
    pub async fn import(self: &Arc<Self>, path: &Path) -> Result<Vec<String>, Error> {
        todo!()
    }

    /// Finds an image by tag, digest, id or unambiguous start of an id. Never touches the disk.
    pub fn resolve(&self, name: &str) -> Option<Arc<Image>> {
        todo!()
    }

    /// All images.
    pub fn list(&self) -> Vec<Arc<Image>> {
        todo!()
    }

    /// Removes the image with all its names; none of that name is no error. Its layers go once no
    /// container uses them.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub async fn remove(self: &Arc<Self>, name: &str) -> Result<(), Error> {
        todo!()
    }

    /// What the images use. Never fails, never walks the disk.
    pub fn usage(&self) -> Usage {
        todo!()
    }

    /// What all writable layers use (a value at most some seconds old).
    pub fn writable_usage(&self) -> Usage {
        todo!()
    }

    /// What one container's writable layer uses (a value at most some seconds old).
    pub fn container_usage(&self, container: &str) -> Usage {
        todo!()
    }

    /// A path on the file system of the store, for `statfs`.
    pub fn mountpoint(&self) -> &Path {
        todo!()
    }

    /// Mounts the root file system of a container at `target` (a folder that exists), with a
    /// writable layer of its own; keeps the image's layers from then on until
    /// [`Store::unmount_rootfs`].
    ///
    /// # Errors
    ///
    /// See [`Error`]; nothing is left mounted.
    pub async fn mount_rootfs(
        self: &Arc<Self>,
        image: &str,
        container: &str,
        target: &Path,
    ) -> Result<(), Error> {
        todo!()
    }

    /// Unmounts it and removes its writable layer. Already gone is no error.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub async fn unmount_rootfs(self: &Arc<Self>, container: &str, target: &Path) -> Result<(), Error> {
        todo!()
    }

    /// Told once at start: the containers that live on. All other writable layers are removed.
    pub async fn retain(self: &Arc<Self>, containers: &std::collections::HashSet<String>) {
        todo!()
    }
}
