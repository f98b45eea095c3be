//! Image names, as people write them, made complete the way Docker does it.
//!
//! Pure. `busybox` means `docker.io/library/busybox:latest`: the first component is a registry only
//! if it holds a dot or a colon or is `localhost`; `docker.io` names of one component live under
//! `library/`; a name without tag and digest has the tag `latest`. The grammar is that of the
//! distribution project's reference package (its documentation, "Grammar").
//!
//! It does not know where a registry is reached; see `registry::hosts`.

use std::fmt;

use crate::Error;
use crate::digest::Digest;

/// Longest name without tag and digest, in bytes.
const MAX_NAME: usize = 255;
/// Longest tag, in bytes.
const MAX_TAG: usize = 128;
/// The registry that is meant when none is named.
const DEFAULT_DOMAIN: &str = "docker.io";

/// A complete image name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// Reads a name and completes it.
    pub fn parse(text: &str) -> Result<Self, Error> {
        Self::read(text).map_err(|reason| Error::Reference {
            reference: text.to_owned(),
            reason,
        })
    }

    fn read(text: &str) -> Result<Self, String> {
        if is_whole_id(text) {
            return Err("64 hexadecimal digits are an image id, not a name".into());
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(Digest::parse(digest)?)),
            None => (text, None),
        };
        let (name, tag) = split_tag(rest)?;
        let (domain, path) = split_domain(name);
        check_domain(&domain)?;
        check_path(&path)?;
        if domain.len() + 1 + path.len() > MAX_NAME {
            return Err(format!("the name is longer than {MAX_NAME} bytes"));
        }
        let tag = match (tag, &digest) {
            (None, None) => Some("latest".to_owned()),
            (tag, _) => tag.map(str::to_owned),
        };
        Ok(Self {
            domain,
            path,
            tag,
            digest,
        })
    }

    /// The registry's name, such as `docker.io` or `127.0.0.1:5000`.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The repository within the registry.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Registry and repository.
    pub fn name(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// The digest that was asked for.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// `name:tag`, if it has a tag.
    pub fn tagged(&self) -> Option<String> {
        self.tag
            .as_ref()
            .map(|tag| format!("{}:{tag}", self.name()))
    }

    /// The tag, if it has one.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// Another tag of the same repository.
    pub fn in_same_repository(&self, tag: &str) -> Self {
        Self {
            tag: Some(tag.to_owned()),
            digest: None,
            ..self.clone()
        }
    }

    /// `name@digest` for a digest that this name was found to mean.
    pub fn with_digest(&self, digest: &Digest) -> String {
        format!("{}@{digest}", self.name())
    }

    /// What a registry is asked for: the digest, which wins, or the tag.
    pub fn target(&self) -> &str {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.as_str(),
            (None, Some(tag)) => tag,
            (None, None) => "latest",
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.domain, self.path)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        match &self.digest {
            Some(digest) => write!(f, "@{digest}"),
            None => Ok(()),
        }
    }
}

fn is_whole_id(text: &str) -> bool {
    text.len() == 64 && crate::digest::is_hex(text)
}

/// A colon after the last slash starts a tag; one before it belongs to a port.
fn split_tag(text: &str) -> Result<(&str, Option<&str>), String> {
    let after_slash = text.rfind('/').map_or(0, |at| at + 1);
    let Some(colon) = text[after_slash..].find(':').map(|at| at + after_slash) else {
        return Ok((text, None));
    };
    let tag = &text[colon + 1..];
    let mut bytes = tag.bytes();
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let good = bytes.next().is_some_and(word) && bytes.all(|b| word(b) || b == b'.' || b == b'-');
    if !good || tag.len() > MAX_TAG {
        return Err(format!("{tag:?} is not a tag"));
    }
    Ok((&text[..colon], Some(tag)))
}

fn split_domain(name: &str) -> (String, String) {
    let (domain, path) = match name.split_once('/') {
        Some((first, rest)) if names_a_registry(first) => (first, rest),
        _ => (DEFAULT_DOMAIN, name),
    };
    let domain = if domain == "index.docker.io" {
        DEFAULT_DOMAIN
    } else {
        domain
    };
    if domain == DEFAULT_DOMAIN && !path.contains('/') {
        return (domain.to_owned(), format!("library/{path}"));
    }
    (domain.to_owned(), path.to_owned())
}

fn names_a_registry(first: &str) -> bool {
    first.contains(['.', ':'])
        || first == "localhost"
        || first.bytes().any(|b| b.is_ascii_uppercase())
}

fn check_domain(domain: &str) -> Result<(), String> {
    let bad = || Err(format!("{domain:?} is not a registry"));
    let (host, port) = match domain.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, rest)) if address.parse::<std::net::Ipv6Addr>().is_ok() => (
                None,
                rest.strip_prefix(':').or((!rest.is_empty()).then_some("")),
            ),
            _ => return bad(),
        },
        None => match domain.split_once(':') {
            Some((host, port)) => (Some(host), Some(port)),
            None => (Some(domain), None),
        },
    };
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    if host.is_some_and(|host| !host.split('.').all(label))
        || port.is_some_and(|port| {
            !port.bytes().all(|b| b.is_ascii_digit()) || port.parse::<u16>().is_err()
        })
    {
        return bad();
    }
    Ok(())
}

fn check_path(path: &str) -> Result<(), String> {
    if path.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err("a repository name must be lower case".into());
    }
    match path.split('/').find(|component| !is_component(component)) {
        Some("") => Err("a component of the name is empty".into()),
        Some(bad) => Err(format!("{bad:?} is not a component of a repository name")),
        None => Ok(()),
    }
}

/// Words of letters and digits, joined by `.`, `_`, `__` or any number of `-`.
fn is_component(text: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else {
        return false;
    };
    alphanumeric(*first)
        && alphanumeric(*last)
        && bytes.split(|b| alphanumeric(*b)).all(|joint| {
            matches!(joint, b"" | b"." | b"_" | b"__") || joint.iter().all(|b| *b == b'-')
        })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const D: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn check(text: &str, expect: &str) {
        assert_eq!(
            Reference::parse(text).unwrap().to_string(),
            expect,
            "{text}"
        );
    }

    #[test]
    fn names_are_completed() {
        check("busybox", "docker.io/library/busybox:latest");
        check("busybox:1", "docker.io/library/busybox:1");
        check("me/busybox", "docker.io/me/busybox:latest");
        check("docker.io/busybox", "docker.io/library/busybox:latest");
        check(
            "index.docker.io/library/busybox",
            "docker.io/library/busybox:latest",
        );
        check("localhost/a", "localhost/a:latest");
        check("localhost:5000/a/b:c", "localhost:5000/a/b:c");
        check("127.0.0.1:5000/a", "127.0.0.1:5000/a:latest");
        check("[::1]:5000/a", "[::1]:5000/a:latest");
        check(
            "gcr.io/k8s-staging-cri-tools/test__a.b-c:1.2",
            "gcr.io/k8s-staging-cri-tools/test__a.b-c:1.2",
        );
    }

    #[test]
    fn a_digest_wins_and_a_tag_beside_it_is_kept() {
        check(&format!("a@{D}"), &format!("docker.io/library/a@{D}"));
        check(&format!("a:b@{D}"), &format!("docker.io/library/a:b@{D}"));
        let both = Reference::parse(&format!("a:b@{D}")).unwrap();
        assert_eq!(both.target(), D);
        assert_eq!(Reference::parse(&format!("a@{D}")).unwrap().tagged(), None);
    }

    #[test]
    fn what_can_be_no_name_is_refused() {
        for bad in [
            "",
            " ",
            "/",
            "a/",
            "/a",
            "a//b",
            "a:",
            "a:-b",
            "A",
            "a/B",
            "UPPER.example/a b",
            "a@sha256:12",
            "a@md5:00",
            "-a",
            "a-",
            "a..b",
            "a___b",
            "a:b:c",
            "host:port/a",
            "exa_mple.com/a",
            "a\n",
            "a b",
            "[::1/a",
            "[::1]x/a",
            "http://a.b/c",
            &"a".repeat(256),
            &format!("a:{}", "b".repeat(129)),
            &"a".repeat(64),
        ] {
            assert!(
                matches!(Reference::parse(bad), Err(Error::Reference { .. })),
                "{bad:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn parsing_never_panics_and_a_complete_name_means_itself(text in "\\PC{0,80}") {
            if let Ok(once) = Reference::parse(&text) {
                prop_assert_eq!(&Reference::parse(&once.to_string()).unwrap(), &once);
            }
        }

        #[test]
        fn likely_names_are_stable(text in "([a-z0-9.]{1,9}(:[0-9]{1,4})?/)?[a-z0-9_.-]{1,9}(:[a-z0-9.]{1,5})?") {
            if let Ok(once) = Reference::parse(&text) {
                prop_assert_eq!(&Reference::parse(&once.to_string()).unwrap(), &once);
            }
        }
    }
}
