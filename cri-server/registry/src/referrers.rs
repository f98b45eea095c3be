//! What refers to an image: signatures, attestations, lists of contents (distribution-spec,
//! "Listing Referrers", and "Referrers Tag Schema" for registries that do not know that).
//!
//! Who may be believed is not decided here: anybody who may write to a repository can refer to
//! what is in it.

use std::collections::BTreeMap;

use reqwest::header::LINK;
use reqwest::{Method, Response, Url};

use crate::Error;
use crate::digest::Digest;
use crate::failures::{Failure, Failures};
use crate::manifest::{Descriptor, Document, MAX_DOCUMENT, OCI_INDEX};
use crate::repository::{Repository, Served};
use crate::send::Ask;
use crate::sources::Source;
use crate::span::Span;

/// Most pages of one answer that are read.
const MAX_PAGES: usize = 16;
/// Most referrers of one image that are told.
const MAX_REFERRERS: usize = 1000;
/// How much of a digest's parts goes into a tag.
const MAX_ALGORITHM: usize = 32;
const MAX_HEX: usize = 64;

/// Something that refers to an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Referrer {
    /// Digest of its manifest.
    pub digest: String,
    /// Length of that, in bytes.
    pub size: u64,
    /// What kind of a manifest it is.
    pub media_type: String,
    /// What it is; empty if the registry does not say.
    pub artifact_type: String,
    /// Notes.
    pub annotations: BTreeMap<String, String>,
}

impl Repository {
    /// What refers to the manifest of that digest, of one kind or of all kinds.
    pub async fn referrers(
        &self,
        subject: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<Vec<Referrer>, Error> {
        let mut failures = Failures::default();
        for source in self.able(|host| host.referrers) {
            match self.referrers_at(source, subject, artifact_type).await {
                Ok(found) => return Ok(found),
                Err(failure) => failures.note(&source.host, failure),
            }
        }
        Err(failures.verdict(&self.name))
    }

    async fn referrers_at(
        &self,
        source: &Source,
        subject: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<Vec<Referrer>, Failure> {
        let entries = match self.listed(source, subject, artifact_type).await {
            // A registry that does not know the question answers in many ways.
            Err(Failure::Missing | Failure::Refused(_)) => self.tagged(source, subject).await?,
            listed => listed?,
        };
        // Also what should be filtered already: a registry need not.
        let wanted = |entry: &Descriptor| {
            artifact_type.is_none_or(|kind| entry.artifact_type.as_deref() == Some(kind))
        };
        Ok(entries
            .into_iter()
            .filter(wanted)
            .map(Referrer::from)
            .collect())
    }

    /// Asks the registry, page by page.
    async fn listed(
        &self,
        source: &Source,
        subject: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<Vec<Descriptor>, Failure> {
        let (path, mut page) = (path(subject, artifact_type), None);
        let mut entries = Vec::new();
        for _ in 0..MAX_PAGES {
            let ask = Ask {
                page,
                ..indexes(&path)
            };
            let response = self.ask(source, &ask).await?;
            page = next_page(&response);
            let served = self.whole(response, MAX_DOCUMENT).await?;
            entries.extend(read(&served)?);
            if entries.len() > MAX_REFERRERS {
                let text = format!("{subject} has more than {MAX_REFERRERS} referrers");
                return Err(Failure::Wrong(text));
            }
            if page.is_none() {
                return Ok(entries);
            }
        }
        let text = format!("the referrers of {subject} fill more than {MAX_PAGES} pages");
        Err(Failure::Wrong(text))
    }

    /// Reads the tag under which clients keep the list for registries that do not.
    async fn tagged(&self, source: &Source, subject: &Digest) -> Result<Vec<Descriptor>, Failure> {
        let path = format!("manifests/{}", tag(subject));
        match self.ask(source, &indexes(&path)).await {
            Err(Failure::Missing) => Ok(Vec::new()),
            response => read(&self.whole(response?, MAX_DOCUMENT).await?),
        }
    }
}

impl From<Descriptor> for Referrer {
    fn from(entry: Descriptor) -> Self {
        Self {
            digest: entry.digest.as_str().to_owned(),
            size: entry.size,
            media_type: entry.media_type,
            artifact_type: entry.artifact_type.unwrap_or_default(),
            annotations: entry.annotations.unwrap_or_default(),
        }
    }
}

fn indexes(path: &str) -> Ask<'_> {
    Ask {
        method: Method::GET,
        path,
        accept: Some(OCI_INDEX.to_owned()),
        span: Span::default(),
        page: None,
    }
}

fn path(subject: &Digest, artifact_type: Option<&str>) -> String {
    let mut url = Url::parse("http://localhost").expect("a constant URL");
    let pairs = artifact_type.map(|kind| ("artifactType", kind));
    if let Some((key, value)) = pairs {
        url.query_pairs_mut().append_pair(key, value);
    }
    let query = url.query().map(|query| format!("?{query}"));
    format!("referrers/{subject}{}", query.unwrap_or_default())
}

fn tag(subject: &Digest) -> String {
    let text = subject.as_str();
    let (algorithm, hex) = text.split_once(':').unwrap_or((text, ""));
    let cut = |text: &str, most: usize| text.get(..most).unwrap_or(text).to_owned();
    format!("{}-{}", cut(algorithm, MAX_ALGORITHM), cut(hex, MAX_HEX))
}

fn read(served: &Served) -> Result<Vec<Descriptor>, Failure> {
    // Some registries answer what they do not know with a page for people.
    let refused = |error: Error| Failure::Refused(format!("the list of referrers: {error}"));
    match Document::parse(&served.bytes, served.content_type.as_deref()).map_err(refused)? {
        Document::Index(entries) => Ok(entries),
        Document::Manifest(_) => Err(Failure::Refused("the list of referrers is none".into())),
    }
}

/// Where the answer goes on: `Link: <...>; rel="next"` (RFC 8288).
fn next_page(response: &Response) -> Option<Url> {
    let values = response.headers().get_all(LINK).iter();
    let texts = values.filter_map(|value| value.to_str().ok());
    let target = texts.flat_map(|text| text.split(',')).find_map(next)?;
    response.url().join(target).ok()
}

/// One link of such a header.
pub(crate) fn next(link: &str) -> Option<&str> {
    let (target, parameters) = link.trim().strip_prefix('<')?.split_once('>')?;
    let mut parameters = parameters.split(';').map(str::trim);
    parameters
        .any(|parameter| matches!(parameter, "rel=next" | "rel=\"next\""))
        .then_some(target)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_and_tags_are_made_of_the_digest() {
        let digest = Digest::of(b"");
        let hex = digest.hex();
        assert_eq!(path(&digest, None), format!("referrers/sha256:{hex}"));
        assert_eq!(
            path(&digest, Some("a/b+c&d")),
            format!("referrers/sha256:{hex}?artifactType=a%2Fb%2Bc%26d")
        );
        assert_eq!(tag(&digest), format!("sha256-{hex}"));
        let long = Digest::parse(&format!("sha512:{}", "ab".repeat(64))).unwrap();
        assert_eq!(tag(&long), format!("sha512-{}", "ab".repeat(32)));
    }

    #[test]
    fn links_are_read() {
        assert_eq!(next("</v2/a?n=1>; rel=\"next\""), Some("/v2/a?n=1"));
        assert_eq!(next(" <x>; title=y; rel=next"), Some("x"));
        assert_eq!(next("</v2/a>; rel=\"prev\""), None);
        assert_eq!(next("rel=next"), None);
    }
}
