//! A client of image registries (distribution-spec 1.1, and what Docker's registry does besides).
//!
//! It resolves names and fetches manifests and blobs, from the first of several hosts that has
//! them. It checks the digest of what it returns whole; content that it hands on as a stream is
//! checked by whoever reads it. It stores nothing.
//!
//! Beside the folder of `hosts.toml` files may lie `registries.conf` (and `.d`), for registries that
//! have no folder, and `credentials.json`, for pulls that bring no credentials.

mod auth;
pub(crate) mod challenge;
mod conf;
pub(crate) mod hosts;
mod node;
mod send;

use std::path::PathBuf;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use reqwest::header::CONTENT_TYPE;
use reqwest::{Method, Response, StatusCode};

use crate::digest::Digest;
use crate::manifest::{
    DOCKER_LIST, DOCKER_MANIFEST, Descriptor, MAX_DOCUMENT, OCI_INDEX, OCI_MANIFEST,
};
use crate::reference::Reference;
use crate::{Credentials, Error};
use auth::Identity;
use hosts::Host;
use send::{Ask, Failure, Sender, backoff};
pub(crate) use send::{Limits, Pace};

/// Names of files beside the folder of `hosts.toml` files.
const REGISTRIES: &str = "registries.conf";
const CREDENTIALS: &str = "credentials.json";

/// All registries.
#[derive(Debug)]
pub(crate) struct Registry {
    folder: PathBuf,
    sender: Sender,
}

/// What a name stands for now.
#[derive(Debug)]
pub(crate) struct Resolved {
    /// Digest of the manifest or the list.
    pub(crate) digest: Digest,
    /// The document, if it came along.
    pub(crate) document: Option<Served>,
}

/// A document as a registry serves it.
#[derive(Clone, Debug)]
pub(crate) struct Served {
    /// Its bytes; their digest has been checked.
    pub(crate) bytes: Bytes,
    /// What the registry calls it.
    pub(crate) content_type: Option<String>,
}

/// The repository that a name is in, and who asks.
#[derive(Debug)]
pub(crate) struct Repository {
    registry: Arc<Registry>,
    name: Reference,
    hosts: Vec<Host>,
    identity: Identity,
}

impl Registry {
    /// `folder` has the `hosts.toml` files; a wrong one is an error now.
    pub(crate) fn new(folder: PathBuf, limits: Limits) -> Result<Arc<Self>, Error> {
        hosts::check_all(&folder)?;
        conf::check(&folder.with_file_name(REGISTRIES))?;
        Ok(Arc::new(Self {
            folder,
            sender: Sender::new(limits),
        }))
    }

    /// Prepares to ask about a name.
    pub(crate) async fn repository(
        self: &Arc<Self>,
        name: &Reference,
        credentials: Option<&Credentials>,
    ) -> Result<Repository, Error> {
        let hosts = self.hosts(name)?;
        let own = match credentials {
            Some(_) => None,
            None => {
                node::credentials(&self.folder.with_file_name(CREDENTIALS), name.domain()).await?
            }
        };
        let credentials = credentials
            .or(own.as_ref())
            .filter(|c| auth::is_meant_for(&c.server_address, name.domain()));
        Ok(Repository {
            registry: Arc::clone(self),
            name: name.clone(),
            hosts,
            identity: Identity::of(credentials).map_err(Error::Denied)?,
        })
    }

    /// A folder of its own says most about a registry, then `registries.conf`, then what is usual.
    fn hosts(&self, name: &Reference) -> Result<Vec<Host>, Error> {
        if let Some(hosts) = hosts::read(&self.folder, name.domain())? {
            return Ok(hosts);
        }
        if let Some(hosts) = conf::read(&self.folder.with_file_name(REGISTRIES), name)? {
            return Ok(hosts);
        }
        Ok(vec![hosts::default_server(name.domain())?])
    }

    /// The limits in force.
    pub(crate) fn limits(&self) -> &Limits {
        self.sender.limits()
    }
}

/// How long to wait after the failure of that number.
pub(crate) fn pause(limits: &Limits, failures: u32) -> std::time::Duration {
    backoff(limits.pause, failures)
}

/// Tells who is asking apart, without keeping secrets.
pub(crate) fn fingerprint(credentials: Option<&Credentials>) -> String {
    let identity = Identity::of(credentials).unwrap_or(Identity::Anonymous);
    let server = credentials.map_or("", |c| c.server_address.as_str());
    format!("{}@{server}", identity.fingerprint())
}

impl Repository {
    /// Asks what the name stands for.
    pub(crate) async fn resolve(&self) -> Result<Resolved, Error> {
        let path = format!("manifests/{}", self.name.target());
        let resolved = self.resolve_somewhere(&path).await?;
        match self.name.digest() {
            Some(asked) if *asked != resolved.digest => Err(Error::Corrupt(format!(
                "asked for {asked}, the registry sent {}",
                resolved.digest
            ))),
            _ => Ok(resolved),
        }
    }

    async fn resolve_somewhere(&self, path: &str) -> Result<Resolved, Error> {
        let mut failures = Failures::default();
        for host in self.hosts.iter().filter(|host| host.resolve) {
            match self.resolve_at(host, path).await {
                Ok(resolved) => return Ok(resolved),
                Err(failure) => failures.note(host, failure),
            }
        }
        Err(failures.verdict(&self.name))
    }

    async fn resolve_at(&self, host: &Host, path: &str) -> Result<Resolved, Failure> {
        let head = Ask {
            method: Method::HEAD,
            ..self.documents(path)
        };
        match self.ask(host, &head).await {
            Ok(response) => {
                if let Some(digest) = header_digest(&response) {
                    return Ok(Resolved {
                        digest,
                        document: None,
                    });
                }
            }
            // A registry may not know HEAD, and its refusals have no text: asking with GET tells.
            Err(Failure::Unreachable(text)) => return Err(Failure::Unreachable(text)),
            Err(_) => {}
        }
        let response = self.ask(host, &self.documents(path)).await?;
        let stated = header_digest(&response);
        let served = self.whole(response, MAX_DOCUMENT).await?;
        let digest = match (stated, self.name.digest()) {
            (_, Some(asked)) => asked.same_kind_of(&served.bytes),
            (Some(stated), None) => stated.same_kind_of(&served.bytes),
            (None, None) => Digest::of(&served.bytes),
        };
        Ok(Resolved {
            digest,
            document: Some(served),
        })
    }

    fn documents<'a>(&self, path: &'a str) -> Ask<'a> {
        let accept = Some([OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST].join(", "));
        Ask {
            method: Method::GET,
            path,
            accept,
            from: 0,
        }
    }

    /// Fetches a manifest or a list by its digest.
    pub(crate) async fn document(&self, digest: &Digest) -> Result<Served, Error> {
        let mut failures = Failures::default();
        for host in self.hosts.iter().filter(|host| host.pull) {
            match self.document_at(host, digest).await {
                Ok(served) => return Ok(served),
                Err(failure) => failures.note(host, failure),
            }
        }
        Err(failures.verdict(&self.name).about(digest))
    }

    async fn document_at(&self, host: &Host, digest: &Digest) -> Result<Served, Failure> {
        let response = self
            .ask(host, &self.documents(&format!("manifests/{digest}")))
            .await?;
        let served = self.whole(response, MAX_DOCUMENT).await?;
        verify(&served.bytes, digest, "manifest").map(|()| served)
    }

    /// Fetches a small blob whole, such as a configuration.
    pub(crate) async fn small_blob(&self, blob: &Descriptor) -> Result<Bytes, Error> {
        if blob.size > MAX_DOCUMENT {
            let text = format!(
                "{} has {} bytes; at most {MAX_DOCUMENT} are read",
                blob.digest, blob.size
            );
            return Err(Error::Corrupt(text));
        }
        let mut failures = Failures::default();
        for host in self.hosts.iter().filter(|host| host.pull) {
            match self.small_blob_at(host, blob).await {
                Ok(bytes) => return Ok(bytes),
                Err(failure) => failures.note(host, failure),
            }
        }
        Err(failures.verdict(&self.name).about(&blob.digest))
    }

    async fn small_blob_at(&self, host: &Host, blob: &Descriptor) -> Result<Bytes, Failure> {
        let (response, _) = self.blob_at(host, &blob.digest, 0).await?;
        let bytes = self.whole(response, blob.size).await?.bytes;
        if bytes.len() as u64 != blob.size {
            let (count, size) = (bytes.len(), blob.size);
            return Err(Failure::Wrong(format!(
                "{}: {count} bytes were sent instead of {size}",
                blob.digest
            )));
        }
        verify(&bytes, &blob.digest, "configuration").map(|()| bytes)
    }

    /// Begins to fetch a blob from byte `from` on; also tells where what comes begins: a host
    /// may answer with all of it.
    pub(crate) async fn blob(&self, digest: &Digest, from: u64) -> Result<(Response, u64), Error> {
        let mut failures = Failures::default();
        for host in self.hosts.iter().filter(|host| host.pull) {
            match self.blob_at(host, digest, from).await {
                Ok(answer) => return Ok(answer),
                Err(failure) => failures.note(host, failure),
            }
        }
        Err(failures.verdict(&self.name).about(digest))
    }

    async fn blob_at(
        &self,
        host: &Host,
        digest: &Digest,
        from: u64,
    ) -> Result<(Response, u64), Failure> {
        let path = format!("blobs/{digest}");
        let ask = Ask {
            method: Method::GET,
            path: &path,
            accept: None,
            from,
        };
        let response = self.ask(host, &ask).await?;
        let start = if response.status() == StatusCode::PARTIAL_CONTENT {
            from
        } else {
            0
        };
        Ok((response, start))
    }

    /// The limits in force.
    pub(crate) fn limits(&self) -> &Limits {
        self.registry.limits()
    }

    async fn ask(&self, host: &Host, ask: &Ask<'_>) -> Result<Response, Failure> {
        // A mirror is another party: it does not get what was given for the registry.
        let identity = if host.upstream {
            &self.identity
        } else {
            &Identity::Anonymous
        };
        self.registry
            .sender
            .send(host, &self.name, identity, ask)
            .await
    }

    /// Reads a body that must not be longer than `most`.
    async fn whole(&self, mut response: Response, most: u64) -> Result<Served, Failure> {
        let content_type = response
            .headers()
            .get(CONTENT_TYPE)
            .and_then(|v| v.to_str().ok());
        let content_type = content_type.map(|t| t.split(';').next().unwrap_or(t).trim().to_owned());
        let mut bytes = BytesMut::new();
        while let Some(chunk) = send::chunk(&mut response, self.limits())
            .await
            .map_err(Failure::Broken)?
        {
            if (bytes.len() + chunk.len()) as u64 > most {
                return Err(Failure::Wrong(format!("more than {most} bytes were sent")));
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(Served {
            bytes: bytes.freeze(),
            content_type,
        })
    }
}

/// Why hosts did not serve, in the order in which they were asked.
#[derive(Debug, Default)]
struct Failures(Vec<Failure>);

impl Failures {
    fn note(&mut self, host: &Host, failure: Failure) {
        tracing::debug!(host = %host.api, ?failure, "a registry did not serve");
        self.0.push(failure);
    }

    /// The error to tell: the first that is about the content if any host had an answer, else that
    /// none could be reached.
    fn verdict(self, name: &Reference) -> Error {
        let weight = |failure: &Failure| match failure {
            Failure::Wrong(_) => 0,
            Failure::Denied(_) => 1,
            Failure::Broken(_) => 2,
            Failure::Refused(_) => 3,
            Failure::Missing => 4,
            Failure::Unreachable(_) => 5,
        };
        match self.0.into_iter().min_by_key(weight) {
            None => Error::Other(format!("no host may be asked for {name}")),
            Some(Failure::Missing) => Error::NotFound(name.to_string()),
            Some(Failure::Denied(text)) => {
                Error::Denied(format!("access to {name} denied: {text}"))
            }
            Some(Failure::Unreachable(text) | Failure::Broken(text)) => Error::Unavailable(text),
            Some(Failure::Wrong(text)) => Error::Corrupt(text),
            Some(Failure::Refused(text)) => Error::Other(text),
        }
    }
}

impl Error {
    /// If a part of an image is missing, the image is not what is missing.
    fn about(self, part: &Digest) -> Self {
        match self {
            Self::NotFound(name) => Self::Corrupt(format!(
                "the registry does not have {part}, which {name} needs"
            )),
            other => other,
        }
    }
}

fn header_digest(response: &Response) -> Option<Digest> {
    let value = response
        .headers()
        .get("docker-content-digest")?
        .to_str()
        .ok()?;
    Digest::parse(value).ok()
}

fn verify(bytes: &[u8], digest: &Digest, what: &str) -> Result<(), Failure> {
    let found = digest.same_kind_of(bytes);
    if found == *digest {
        return Ok(());
    }
    Err(Failure::Wrong(format!(
        "{what} {digest}: what was sent has the digest {found}"
    )))
}
