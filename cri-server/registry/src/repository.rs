//! One repository, asked over all of its hosts: what a name stands for, documents, blobs.
//!
//! It checks the digest of what it returns whole. How a single host is asked lies in `send`, how a
//! large blob becomes one stream in `stream`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use reqwest::header::{ACCEPT_RANGES, CONTENT_RANGE, CONTENT_TYPE};
use reqwest::{Method, Response, StatusCode};
use tokio::sync::Semaphore;

use crate::Error;
use crate::body::Pace;
use crate::digest::Digest;
use crate::failures::{Failure, Failures};
use crate::foreign;
use crate::hosts::Host;
use crate::limits::Limits;
use crate::manifest::{
    DOCKER_LIST, DOCKER_MANIFEST, Descriptor, MAX_DOCUMENT, OCI_INDEX, OCI_MANIFEST, outdated,
};
use crate::reference::Reference;
use crate::send::{self, Ask, Sender};
use crate::sources::{Source, Sources};
use crate::span::Span;

/// What a name stands for now.
#[derive(Debug)]
pub struct Resolved {
    /// Digest of the manifest or the list.
    pub digest: Digest,
    /// The document, if it came along.
    pub document: Option<Served>,
}

/// A document as a registry serves it.
#[derive(Clone, Debug)]
pub struct Served {
    /// Its bytes; their digest has been checked.
    pub bytes: Bytes,
    /// What the registry calls it.
    pub content_type: Option<String>,
}

/// The repository that a name is in, and who asks.
#[derive(Debug)]
pub struct Repository {
    pub(crate) sender: Arc<Sender>,
    /// Room for parts that are fetched ahead.
    pub(crate) ahead: Arc<Semaphore>,
    pub(crate) name: Reference,
    pub(crate) sources: Sources,
    /// Whether layers may come from outside of the registry.
    pub(crate) foreign_layers: bool,
    /// The file that says where it is.
    pub(crate) told_by: Option<PathBuf>,
}

impl Repository {
    /// Asks what the name stands for.
    ///
    /// # Errors
    ///
    /// See [`Error`]: that of the host that knew most.
    pub async fn resolve(&self) -> Result<Resolved, Error> {
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

    /// A question for a manifest or a list.
    pub(crate) fn documents<'a>(&self, path: &'a str) -> Ask<'a> {
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
    ///
    /// # Errors
    ///
    /// As [`Self::resolve`].
    pub async fn document(&self, digest: &Digest) -> Result<Served, Error> {
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
    ///
    /// # Errors
    ///
    /// As [`Self::resolve`]; it is larger than [`MAX_DOCUMENT`].
    pub async fn small_blob(&self, blob: &Descriptor) -> Result<Bytes, Error> {
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
    pub(crate) async fn all_of(
        &self,
        source: &Source,
        ask: &Ask<'_>,
        most: u64,
    ) -> Result<Served, Failure> {
        let once = async || self.whole(self.ask(source, ask).await?, most).await;
        match once().await {
            Err(Failure::Broken(_)) => once().await,
            served => served,
        }
    }

    /// Begins to fetch a part of a blob. What broke or lied before is asked last or not at all.
    pub(crate) async fn blob(&self, blob: &Descriptor, span: Span) -> Result<Answer, Error> {
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
    pub(crate) fn able(&self, may: impl Fn(&Host) -> bool) -> Vec<&Source> {
        self.sources.all(may, |host| self.is_away(host))
    }

    /// Whether a host could not be reached a moment ago.
    pub(crate) fn is_away(&self, host: &Host) -> bool {
        self.sender.is_away(host)
    }

    /// After a blob turned out wrong: whether another host can be asked for it. The one that sent
    /// it is not asked for blobs any more.
    pub fn blame(&self, digest: &Digest) -> bool {
        self.sources.blame(digest)
    }

    /// The limits in force.
    pub(crate) fn limits(&self) -> &Limits {
        self.sender.limits()
    }

    /// Puts a question to one host.
    pub(crate) async fn ask(&self, source: &Source, ask: &Ask<'_>) -> Result<Response, Failure> {
        let Source { host, identity } = source;
        self.sender.send(host, &self.name, identity, ask).await
    }

    /// Reads a body that must not be longer than `most`.
    pub(crate) async fn whole(&self, mut response: Response, most: u64) -> Result<Served, Failure> {
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
pub(crate) struct Answer {
    pub(crate) response: Response,
    /// Which of the hosts sends it, if it is one of them.
    pub(crate) source: Option<usize>,
    /// Where in the blob it begins.
    pub(crate) begins: u64,
    /// Whether the host sends parts.
    pub(crate) partial: bool,
}

impl Answer {
    /// Takes what a host sends for a part of a blob of that size.
    pub(crate) fn of(response: Response, span: Span, size: u64) -> Result<Self, Failure> {
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
    pub(crate) fn knows_parts(&self) -> bool {
        let accepted = self.response.headers().get(ACCEPT_RANGES);
        self.partial || accepted.is_some_and(|value| value == "bytes")
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
