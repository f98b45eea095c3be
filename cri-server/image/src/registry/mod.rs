//! A client of image registries (distribution-spec 1.1, and what Docker's registry does besides).
//!
//! It resolves names and fetches manifests and blobs, from the first of several hosts that has
//! them. It checks the digest of what it returns whole; content that it hands on as a stream is
//! checked by whoever reads it. It stores nothing.
//!
//! Beside the folder of `hosts.toml` files may lie `registries.conf` (and `.d`), for registries that
//! have no folder, and `credentials.json`, for pulls that bring no credentials.

mod auth;
mod body;
mod certificates;
pub(crate) mod challenge;
mod conf;
mod explain;
mod foreign;
pub(crate) mod hosts;
mod lanes;
mod link;
mod node;
mod proxy;
pub(crate) mod referrers;
mod send;
mod sources;
pub(crate) mod span;
pub(crate) mod stream;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use reqwest::header::{ACCEPT_RANGES, CONTENT_RANGE, CONTENT_TYPE};
use reqwest::{Method, Response, StatusCode};
use tokio::sync::Semaphore;

use crate::digest::Digest;
use crate::manifest::{
    DOCKER_LIST, DOCKER_MANIFEST, Descriptor, MAX_DOCUMENT, OCI_INDEX, OCI_MANIFEST, outdated,
};
use crate::reference::Reference;
use crate::{Credentials, Error};
use auth::Identity;
use body::Pace;
use hosts::{Host, Site};
pub use referrers::Referrer;
pub(crate) use send::Limits;
use send::{Ask, Failure, Sender, backoff};
use sources::{Source, Sources};
use span::Span;

/// Names of files beside the folder of `hosts.toml` files.
const REGISTRIES: &str = "registries.conf";
const CREDENTIALS: &str = "credentials.json";
/// How many parts of layers may be fetched ahead of what is being unpacked, over all layers; see
/// [`Limits::part`] for their length.
const MAX_PARTS_AHEAD: usize = 8;

/// All registries.
#[derive(Debug)]
pub(crate) struct Registry {
    folder: PathBuf,
    sender: Sender,
    /// Room for parts that are fetched ahead.
    ahead: Arc<Semaphore>,
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
    sources: Sources,
    /// Whether layers may come from outside of the registry.
    foreign_layers: bool,
    /// The file that says where it is.
    told_by: Option<PathBuf>,
}

impl Registry {
    /// `folder` has the `hosts.toml` files; a wrong one is an error now.
    pub(crate) fn new(folder: PathBuf, limits: Limits) -> Result<Arc<Self>, Error> {
        hosts::check_all(&folder)?;
        conf::check(&folder.with_file_name(REGISTRIES))?;
        Ok(Arc::new(Self {
            folder,
            sender: Sender::new(limits),
            ahead: Arc::new(Semaphore::new(MAX_PARTS_AHEAD)),
        }))
    }

    /// Prepares to ask about a name.
    pub(crate) async fn repository(
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
            registry: Arc::clone(self),
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

    /// The limits in force.
    pub(crate) fn limits(&self) -> &Limits {
        self.sender.limits()
    }
}

/// How long to wait after the failure of that number.
fn pause(limits: &Limits, failures: u32) -> Duration {
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
        for source in self.able(|host| host.resolve) {
            match self.resolve_at(source, path).await {
                Ok(resolved) => return Ok(resolved),
                Err(failure) => failures.note(&source.host, failure),
            }
        }
        Err(failures.verdict(&self.name))
    }

    async fn resolve_at(&self, source: &Source, path: &str) -> Result<Resolved, Failure> {
        let head = Ask {
            method: Method::HEAD,
            ..self.documents(path)
        };
        match self.ask(source, &head).await {
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
        let response = self.ask(source, &self.documents(path)).await?;
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
            span: Span::default(),
            page: None,
        }
    }

    /// Fetches a manifest or a list by its digest.
    pub(crate) async fn document(&self, digest: &Digest) -> Result<Served, Error> {
        let mut failures = Failures::default();
        for source in self.able(|host| host.pull) {
            match self.document_at(source, digest).await {
                Ok(served) => return Ok(served),
                Err(failure) => failures.note(&source.host, failure),
            }
        }
        Err(failures.verdict(&self.name).about(digest))
    }

    async fn document_at(&self, source: &Source, digest: &Digest) -> Result<Served, Failure> {
        let path = format!("manifests/{digest}");
        let ask = self.documents(&path);
        let served = self.all_of(source, &ask, MAX_DOCUMENT).await?;
        if let Some(text) = outdated(served.content_type.as_deref()) {
            return Err(Failure::Wrong(text));
        }
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
        for source in self.able(|host| host.pull) {
            match self.small_blob_at(source, blob).await {
                Ok(bytes) => return Ok(bytes),
                Err(failure) => failures.note(&source.host, failure),
            }
        }
        Err(failures.verdict(&self.name).about(&blob.digest))
    }

    async fn small_blob_at(&self, source: &Source, blob: &Descriptor) -> Result<Bytes, Failure> {
        let path = format!("blobs/{}", blob.digest);
        let bytes = self
            .all_of(source, &blob_ask(&path), blob.size)
            .await?
            .bytes;
        if bytes.len() as u64 != blob.size {
            let (count, size) = (bytes.len(), blob.size);
            return Err(Failure::Wrong(format!(
                "{}: {count} bytes were sent instead of {size}",
                blob.digest
            )));
        }
        verify(&bytes, &blob.digest, "configuration").map(|()| bytes)
    }

    /// Asks for something small, once more if the answer breaks off.
    async fn all_of(&self, source: &Source, ask: &Ask<'_>, most: u64) -> Result<Served, Failure> {
        let once = async || self.whole(self.ask(source, ask).await?, most).await;
        match once().await {
            Err(Failure::Broken(_)) => once().await,
            served => served,
        }
    }

    /// Begins to fetch a part of a blob. What broke or lied before is asked last or not at all.
    async fn blob(&self, blob: &Descriptor, span: Span) -> Result<Answer, Error> {
        let mut failures = Failures::default();
        for (index, source) in self.sources.in_order(|host| self.is_away(host)) {
            match self.blob_at(source, blob, span).await {
                Ok(answer) => {
                    self.sources.note(&blob.digest, index);
                    return Ok(Answer {
                        source: Some(index),
                        ..answer
                    });
                }
                Err(failure) => failures.note(&source.host, failure),
            }
        }
        let error = failures.verdict(&self.name).about(&blob.digest);
        if blob.is_foreign() && !blob.urls().is_empty() {
            return foreign::fetch(self, blob, span, error).await;
        }
        Err(error)
    }

    async fn blob_at(
        &self,
        source: &Source,
        blob: &Descriptor,
        span: Span,
    ) -> Result<Answer, Failure> {
        let path = format!("blobs/{}", blob.digest);
        let ask = Ask {
            span,
            ..blob_ask(&path)
        };
        let response = match self.ask(source, &ask).await {
            // All of it holds the part, too.
            Err(Failure::NoPart(_)) => {
                let span = Span::default();
                self.ask(source, &Ask { span, ..ask }).await?
            }
            answer => answer?,
        };
        Answer::of(response, span, blob.size)
    }

    /// The hosts that may be asked for something.
    fn able(&self, may: impl Fn(&Host) -> bool) -> Vec<&Source> {
        self.sources.all(may, |host| self.is_away(host))
    }

    fn is_away(&self, host: &Host) -> bool {
        self.registry.sender.is_away(host)
    }

    /// After a blob turned out wrong: whether another host can be asked for it. The one that sent
    /// it is not asked for blobs any more.
    pub(crate) fn blame(&self, digest: &Digest) -> bool {
        self.sources.blame(digest)
    }

    /// The limits in force.
    pub(crate) fn limits(&self) -> &Limits {
        self.registry.limits()
    }

    async fn ask(&self, source: &Source, ask: &Ask<'_>) -> Result<Response, Failure> {
        let Source { host, identity } = source;
        let sender = &self.registry.sender;
        sender.send(host, &self.name, identity, ask).await
    }

    /// Reads a body that must not be longer than `most`.
    async fn whole(&self, mut response: Response, most: u64) -> Result<Served, Failure> {
        let content_type = response
            .headers()
            .get(CONTENT_TYPE)
            .and_then(|v| v.to_str().ok());
        let content_type = content_type.map(|t| t.split(';').next().unwrap_or(t).trim().to_owned());
        let (mut bytes, mut pace) = (BytesMut::new(), Pace::default());
        let until = Instant::now() + self.limits().whole;
        while let Some(chunk) = pace
            .chunk(&mut response, self.limits())
            .await
            .map_err(Failure::Broken)?
        {
            if (bytes.len() + chunk.len()) as u64 > most {
                return Err(Failure::Wrong(format!("more than {most} bytes were sent")));
            }
            bytes.extend_from_slice(&chunk);
            if Instant::now() > until {
                let (place, whole) = (send::place(response.url()), self.limits().whole);
                let text = format!("{place} took more than {whole:?} for a document");
                return Err(Failure::Broken(text));
            }
        }
        Ok(Served {
            bytes: bytes.freeze(),
            content_type,
        })
    }
}

/// A blob, or a part of one, that begins to come in.
#[derive(Debug)]
struct Answer {
    response: Response,
    /// Which of the hosts sends it, if it is one of them.
    source: Option<usize>,
    /// Where in the blob it begins.
    begins: u64,
    /// Whether the host sends parts.
    partial: bool,
}

impl Answer {
    fn of(response: Response, span: Span, size: u64) -> Result<Self, Failure> {
        let partial = response.status() == StatusCode::PARTIAL_CONTENT;
        let range = response.headers().get(CONTENT_RANGE);
        let range = range.and_then(|value| value.to_str().ok());
        Ok(Self {
            begins: span.begins(partial, range.unwrap_or_default(), size)?,
            response,
            source: None,
            partial,
        })
    }

    /// Whether the host says that it can send parts.
    fn knows_parts(&self) -> bool {
        let accepted = self.response.headers().get(ACCEPT_RANGES);
        self.partial || accepted.is_some_and(|value| value == "bytes")
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
            Failure::Failing(_) | Failure::Refused(_) | Failure::NoPart(_) => 3,
            Failure::Missing => 4,
            Failure::Unreachable(_) => 5,
        };
        match self.0.into_iter().min_by_key(weight) {
            None => Error::Other(format!("no host may be asked for {name}")),
            Some(Failure::Missing) => Error::NotFound(name.to_string()),
            Some(Failure::Denied(text)) => {
                Error::Denied(format!("access to {name} denied: {text}"))
            }
            Some(Failure::Unreachable(text) | Failure::Broken(text) | Failure::Failing(text)) => {
                Error::Unavailable(text)
            }
            Some(Failure::Wrong(text)) => Error::Corrupt(text),
            Some(Failure::Refused(text) | Failure::NoPart(text)) => Error::Other(text),
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

fn blob_ask(path: &str) -> Ask<'_> {
    Ask {
        method: Method::GET,
        path,
        accept: None,
        span: Span::default(),
        page: None,
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
