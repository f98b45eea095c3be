//! `registries.conf`, version 2: the same [`Host`]s from the other common form of configuration.
//!
//! The format is that of containers-registries.conf(5); files of `registries.conf.d` come after the
//! file, in the order of their names, and a later `[[registry]]` of the same prefix wins. Read:
//! `prefix`, `location`, `insecure`, `blocked` and `mirror`. Short names always mean Docker's
//! registry here, as kubelets expect, so the keys about them are left alone.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::Error;
use crate::error::During;
use crate::hosts::{Host, Site, plain_and_encrypted};
use crate::reference::Reference;

#[derive(Debug, Default, Deserialize)]
struct File {
    #[serde(default)]
    registry: Vec<Registry>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Registry {
    #[serde(default)]
    prefix: String,
    #[serde(default)]
    location: String,
    #[serde(default)]
    insecure: bool,
    #[serde(default)]
    blocked: bool,
    #[serde(default, rename = "mirror-by-digest-only")]
    mirror_by_digest_only: bool,
    #[serde(default)]
    mirror: Vec<Mirror>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Mirror {
    location: String,
    #[serde(default)]
    insecure: bool,
    #[serde(default, rename = "pull-from-mirror")]
    pull: PullFrom,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum PullFrom {
    #[default]
    All,
    DigestOnly,
    TagOnly,
}

/// The hosts to ask about a name; nothing if no entry is about it.
pub(crate) fn read(path: &Path, name: &Reference) -> Result<Option<Site>, Error> {
    let registries = load(path)?;
    let full = format!("{}/{}", name.domain(), name.path());
    let Some(registry) = best(&registries, &full) else {
        return Ok(None);
    };
    let hosts = registry.hosts(name, &full)?;
    Ok(Some(Site::of(hosts, Some(path.to_path_buf()))))
}

/// Reads all files, so that a wrong one is known from the start.
pub(crate) fn check(path: &Path) -> Result<(), Error> {
    load(path).map(drop)
}

fn load(path: &Path) -> Result<Vec<Registry>, Error> {
    let mut registries: Vec<Registry> = Vec::new();
    for file in files(path)? {
        let text =
            std::fs::read_to_string(&file).during(|| format!("reading {}", file.display()))?;
        let parsed: File = toml::from_str(&text)
            .map_err(|cause| Error::Other(format!("{}: {}", file.display(), cause.message())))?;
        for registry in parsed.registry {
            if registry.key().is_empty() {
                let text = format!("{}: a registry without prefix and location", file.display());
                return Err(Error::Other(text));
            }
            registries.retain(|known| known.key() != registry.key());
            registries.push(registry);
        }
    }
    Ok(registries)
}

fn files(path: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut folder = path.as_os_str().to_owned();
    folder.push(".d");
    let mut more = match std::fs::read_dir(&folder) {
        Ok(entries) => entries
            .map(|entry| Ok(entry?.path()))
            .collect::<std::io::Result<Vec<_>>>()
            .during(|| format!("reading {}", folder.display()))?,
        Err(_) => Vec::new(),
    };
    more.retain(|file| {
        file.extension()
            .is_some_and(|extension| extension == "conf")
    });
    more.sort();
    let first = path.exists().then(|| path.to_path_buf());
    Ok(first.into_iter().chain(more).collect())
}

/// The entry with the longest prefix that fits.
fn best<'a>(registries: &'a [Registry], full: &str) -> Option<&'a Registry> {
    let fitting = registries
        .iter()
        .filter(|registry| rest(registry.key(), full).is_some());
    fitting.max_by_key(|registry| registry.key().len())
}

/// What follows a prefix; nothing if it does not fit. `*.example.com` stands for any host below.
fn rest<'a>(prefix: &str, full: &'a str) -> Option<&'a str> {
    let rest = match prefix.strip_prefix('*') {
        None => full.strip_prefix(prefix)?,
        Some(suffix) => {
            let host = full.split('/').next().unwrap_or_default();
            let bare = host.split(':').next().unwrap_or_default();
            let end = [host, bare]
                .into_iter()
                .find(|host| host.ends_with(suffix))?;
            &full[end.len()..]
        }
    };
    (rest.is_empty() || rest.starts_with(['/', ':', '@'])).then_some(rest)
}

impl Registry {
    fn key(&self) -> &str {
        if self.prefix.is_empty() {
            &self.location
        } else {
            &self.prefix
        }
    }

    fn hosts(&self, name: &Reference, full: &str) -> Result<Vec<Host>, Error> {
        if self.blocked {
            let text = format!("registries.conf blocks {}", self.key());
            return Err(Error::Denied(text));
        }
        let rest = rest(self.key(), full).unwrap_or_default();
        let by_digest = name.digest().is_some();
        let usable = |mirror: &&Mirror| match mirror.pull {
            PullFrom::All => by_digest || !self.mirror_by_digest_only,
            PullFrom::DigestOnly => by_digest,
            PullFrom::TagOnly => !by_digest,
        };
        let mut hosts = Vec::new();
        for mirror in self.mirror.iter().filter(usable) {
            hosts.extend(place(
                &format!("{}{rest}", mirror.location),
                mirror.insecure,
            )?);
        }
        // A wildcard has no location: the name stays as it is.
        let own = match self.location.as_str() {
            "" => full.to_owned(),
            location => format!("{location}{rest}"),
        };
        let same = own == full;
        for host in place(&own, self.insecure)? {
            // Credentials belong to the name that was asked for, not to where it was moved to.
            hosts.push(Host {
                upstream: same,
                ..host
            });
        }
        Ok(hosts)
    }
}

/// The hosts for `host/repository`.
fn place(full: &str, insecure: bool) -> Result<Vec<Host>, Error> {
    let (host, repository) = full
        .split_once('/')
        .ok_or_else(|| Error::Other(format!("registries.conf: {full:?} names no repository")))?;
    let hosts = plain_and_encrypted(host, insecure)?;
    let moved = hosts.into_iter().map(|host| Host {
        repository: Some(repository.to_owned()),
        ..host
    });
    Ok(moved.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, name: &str, expect: &[&str]) {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("registries.conf");
        std::fs::write(&path, text).unwrap();
        let name = Reference::parse(name).unwrap();
        let site = read(&path, &name).unwrap();
        let hosts = site.map(|site| site.hosts).unwrap_or_default();
        let shown: Vec<_> = hosts
            .iter()
            .map(|host| {
                let mark = if host.upstream { " own" } else { "" };
                format!("{}/{}{mark}", host.api, host.repository.as_deref().unwrap())
            })
            .collect();
        assert_eq!(shown, expect, "{text}");
    }

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn the_longest_prefix_decides_and_moves_the_name() {
        let text = "unqualified-search-registries = [\"docker.io\"]\n\
            [[registry]]\nlocation = \"a.io\"\n\
            [[registry]]\nprefix = \"a.io/team\"\nlocation = \"b.io/moved\"\n\
            [[registry]]\nprefix = \"*.c.io\"\n[[registry.mirror]]\nlocation = \"m.io/c\"\n";
        check(text, "a.io/x/y:1", &["https://a.io/v2/x/y own"]);
        check(text, "a.io/team/y:1", &["https://b.io/v2/moved/y"]);
        check(text, "a.io/teams/y:1", &["https://a.io/v2/teams/y own"]);
        check(
            text,
            "sub.c.io/z:1",
            &["https://m.io/v2/c/z", "https://sub.c.io/v2/z own"],
        );
        check(text, "d.io/z:1", &[]);
    }

    #[test]
    fn mirrors_come_first_and_may_want_digests() {
        let text = "[[registry]]\nlocation = \"docker.io\"\n\
            [[registry.mirror]]\nlocation = \"m1\"\npull-from-mirror = \"digest-only\"\n\
            [[registry.mirror]]\nlocation = \"m2:5000\"\ninsecure = true\n\
            pull-from-mirror = \"tag-only\"\n";
        check(
            text,
            "busybox",
            &[
                "https://m2:5000/v2/library/busybox",
                "http://m2:5000/v2/library/busybox",
                "https://registry-1.docker.io/v2/library/busybox own",
            ],
        );
        check(
            text,
            &format!("busybox@{DIGEST}"),
            &[
                "https://m1/v2/library/busybox",
                "https://registry-1.docker.io/v2/library/busybox own",
            ],
        );
    }

    #[test]
    fn later_files_win_and_what_is_blocked_is_refused() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("registries.conf");
        let folder = temp.path().join("registries.conf.d");
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(&path, "[[registry]]\nlocation = \"a.io\"\n").unwrap();
        let blocked = "[[registry]]\nlocation = \"a.io\"\nblocked = true\n";
        std::fs::write(folder.join("10.conf"), blocked).unwrap();
        let name = Reference::parse("a.io/x").unwrap();
        assert!(matches!(read(&path, &name), Err(Error::Denied(_))));
        std::fs::write(folder.join("20.conf"), "[[registry]]\nlocatoin = \"a\"\n").unwrap();
        let error = super::check(&path).unwrap_err().to_string();
        assert!(
            error.contains("20.conf") && error.contains("locatoin"),
            "{error}"
        );
    }
}
