//! Where a registry is reached: `hosts.toml` files, and what holds without one.
//!
//! The files are those of containerd (its documentation, hosts.md): `<folder>/<registry>/hosts.toml`,
//! or `<folder>/_default/hosts.toml` for registries without a folder. Hosts are tried in the order
//! of the file, then the server. They are read anew for each pull, so that a change needs no
//! restart. An unknown key is an error: a misspelt `skip_verify` must not pass in silence.
//!
//! Keys of our own, which containerd passes over: of the file, `fallback` (whether the server is
//! asked after the hosts) and `foreign_layers` (whether layers may come from elsewhere; see
//! `foreign`); of a host and the server, `proxy`; of a host, `share_credentials`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::Url;
use serde::Deserialize;
use serde::de::{MapAccess, Visitor};

use crate::Error;
use crate::error::During;
use crate::proxy::Route;
use crate::reference::Reference;

/// How long connecting may take if the file does not say.
pub(crate) const DIAL_TIMEOUT: Duration = Duration::from_secs(10);

/// One place that is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Host {
    /// Where its API begins, such as `https://registry.example/v2`.
    pub(crate) api: Url,
    /// May turn tags into digests.
    pub(crate) resolve: bool,
    /// May send content.
    pub(crate) pull: bool,
    /// May tell what refers to an image.
    pub(crate) referrers: bool,
    /// It is the registry itself, not a mirror.
    pub(crate) upstream: bool,
    /// A mirror that may see the credentials for the registry.
    pub(crate) shares_credentials: bool,
    /// How it is connected to.
    pub(crate) link: Link,
    /// Sent with each request.
    pub(crate) headers: Vec<(String, String)>,
    /// The repository's name there, if it is another one than that which was asked for.
    pub(crate) repository: Option<String>,
}

/// Where the content of a registry is to be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Site {
    /// Who is asked, in this order.
    pub(crate) hosts: Vec<Host>,
    /// Whether layers may come from where a manifest says, outside of any registry.
    pub(crate) foreign_layers: bool,
    /// The file that says so, if one does.
    pub(crate) told_by: Option<PathBuf>,
}

impl Site {
    /// Only these hosts.
    pub(crate) fn of(hosts: Vec<Host>, told_by: Option<PathBuf>) -> Self {
        Self {
            hosts,
            foreign_layers: false,
            told_by,
        }
    }
}

impl Host {
    /// Its name, with the port if it is not the usual one.
    pub(crate) fn authority(&self) -> String {
        let host = self.api.host_str().unwrap_or_default();
        match self.api.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        }
    }

    /// The repository's name at this host.
    pub(crate) fn repository<'a>(&'a self, name: &'a Reference) -> &'a str {
        self.repository.as_deref().unwrap_or(name.path())
    }
}

/// How a host is connected to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Link {
    /// Files of authorities to trust, besides those of the system.
    pub(crate) ca: Vec<PathBuf>,
    /// Files with a certificate of ours, and with its key if that lies elsewhere.
    pub(crate) client: Vec<(PathBuf, Option<PathBuf>)>,
    /// Trust anybody.
    pub(crate) skip_verify: bool,
    /// How long connecting may take.
    pub(crate) dial_timeout: Duration,
    /// Through which proxy.
    pub(crate) route: Route,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    server: Option<String>,
    #[serde(default)]
    host: Hosts,
    capabilities: Option<Vec<String>>,
    ca: Option<OneOrMany>,
    client: Option<Client>,
    #[serde(default)]
    skip_verify: bool,
    #[serde(default)]
    header: toml::Table,
    #[serde(default)]
    override_path: bool,
    dial_timeout: Option<String>,
    proxy: Option<String>,
    fallback: Option<bool>,
    #[serde(default)]
    foreign_layers: bool,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    capabilities: Option<Vec<String>>,
    ca: Option<OneOrMany>,
    client: Option<Client>,
    #[serde(default)]
    skip_verify: bool,
    #[serde(default)]
    header: toml::Table,
    #[serde(default)]
    override_path: bool,
    dial_timeout: Option<String>,
    proxy: Option<String>,
    #[serde(default)]
    share_credentials: bool,
}

#[derive(Clone, Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    fn list(self) -> Vec<String> {
        match self {
            Self::One(one) => vec![one],
            Self::Many(many) => many,
        }
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Client {
    One(String),
    Many(Vec<OneOrMany>),
}

/// The hosts in the order of the file.
#[derive(Default)]
struct Hosts(Vec<(String, Table)>);

impl<'de> Deserialize<'de> for Hosts {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Hosts;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("tables named by the URLs of hosts")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Hosts, A::Error> {
                let mut hosts = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    hosts.push(entry);
                }
                Ok(Hosts(hosts))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

/// The hosts to ask about a registry, in order; nothing if no file speaks of it.
pub(crate) fn read(folder: &Path, registry: &str) -> Result<Option<Site>, Error> {
    for name in [&*underscored(registry), registry, "_default"] {
        let path = folder.join(name).join("hosts.toml");
        match std::fs::read_to_string(&path) {
            Ok(text) => return parse(&text, registry, &path).map(Some),
            Err(cause)
                if matches!(
                    cause.kind(),
                    std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory
                ) => {}
            Err(cause) => return Err(Error::io(format!("reading {}", path.display()), &cause)),
        }
    }
    Ok(None)
}

/// The other name of a registry's folder: a colon is no part of a file's name everywhere.
pub(crate) fn underscored(registry: &str) -> String {
    registry.replace(':', "_") + "_"
}

/// Reads all files, so that a wrong one is known from the start.
pub(crate) fn check_all(folder: &Path) -> Result<(), Error> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(cause) => return Err(Error::io(format!("reading {}", folder.display()), &cause)),
    };
    for entry in entries {
        let path = entry
            .during(|| format!("reading {}", folder.display()))?
            .path()
            .join("hosts.toml");
        if let Ok(text) = std::fs::read_to_string(&path) {
            parse(&text, "registry.invalid", &path)?;
        }
    }
    Ok(())
}

fn parse(text: &str, registry: &str, path: &Path) -> Result<Site, Error> {
    let wrong = |reason: String| Error::Other(format!("{}: {reason}", path.display()));
    let file: File = toml::from_str(text).map_err(|cause| wrong(cause.message().to_owned()))?;
    let base = path.parent().expect("a file lies in a folder");
    let mut hosts = Vec::new();
    for (url, table) in file.host.0 {
        let host = table
            .host(&url, base)
            .map_err(|reason| wrong(format!("host {url:?}: {reason}")))?;
        hosts.push(host);
    }
    let server = Table {
        capabilities: file.capabilities,
        ca: file.ca,
        client: file.client,
        skip_verify: file.skip_verify,
        header: file.header,
        override_path: file.override_path,
        dial_timeout: file.dial_timeout,
        proxy: file.proxy,
        share_credentials: false,
    };
    let url = match file.server {
        Some(url) => url,
        None => default_url(registry),
    };
    let server = server
        .host(&url, base)
        .map_err(|reason| wrong(format!("server {url:?}: {reason}")))?;
    if file.fallback.unwrap_or(true) {
        hosts.push(Host {
            upstream: true,
            ..server
        });
    }
    if hosts.is_empty() {
        return Err(wrong("fallback = false, but no other host".into()));
    }
    Ok(Site {
        hosts,
        foreign_layers: file.foreign_layers,
        told_by: Some(path.to_path_buf()),
    })
}

impl Table {
    fn host(self, url: &str, base: &Path) -> Result<Host, String> {
        let file = |name: String| base.join(name);
        let allowed = |what: &str| {
            self.capabilities
                .as_ref()
                .is_none_or(|list| list.iter().any(|c| c == what))
        };
        let known = ["pull", "resolve", "push", "referrers"];
        if let Some(odd) = self
            .capabilities
            .iter()
            .flatten()
            .find(|c| !known.contains(&c.as_str()))
        {
            return Err(format!("unknown capability {odd:?}"));
        }
        Ok(Host {
            api: api(url, self.override_path)?,
            resolve: allowed("resolve"),
            pull: allowed("pull"),
            referrers: allowed("referrers"),
            upstream: false,
            shares_credentials: self.share_credentials,
            headers: headers(&self.header)?,
            repository: None,
            link: Link {
                ca: self
                    .ca
                    .map(OneOrMany::list)
                    .unwrap_or_default()
                    .into_iter()
                    .map(file)
                    .collect(),
                client: self
                    .client
                    .map(|client| client.pairs(file))
                    .transpose()?
                    .unwrap_or_default(),
                skip_verify: self.skip_verify,
                dial_timeout: self
                    .dial_timeout
                    .as_deref()
                    .map_or(Ok(DIAL_TIMEOUT), duration)?,
                route: self
                    .proxy
                    .as_deref()
                    .map_or(Ok(Route::default()), Route::parse)?,
            },
        })
    }
}

impl Client {
    fn pairs(
        self,
        file: impl Fn(String) -> PathBuf,
    ) -> Result<Vec<(PathBuf, Option<PathBuf>)>, String> {
        let list = match self {
            Self::One(one) => vec![OneOrMany::One(one)],
            Self::Many(many) => many,
        };
        let pair = |entry: OneOrMany| {
            let mut names = entry.list().into_iter();
            match (names.next(), names.next(), names.next()) {
                (Some(certificate), key, None) => Ok((
                    file(certificate),
                    key.filter(|key| !key.is_empty()).map(&file),
                )),
                _ => Err("client: a certificate file, or a pair of certificate and key".to_owned()),
            }
        };
        list.into_iter().map(pair).collect()
    }
}

fn headers(table: &toml::Table) -> Result<Vec<(String, String)>, String> {
    let mut headers = Vec::new();
    for (name, value) in table {
        let values = OneOrMany::deserialize(value.clone())
            .map_err(|cause| format!("header {name:?}: {}", cause.message()))?;
        headers.extend(values.list().into_iter().map(|value| (name.clone(), value)));
    }
    Ok(headers)
}

fn api(text: &str, override_path: bool) -> Result<Url, String> {
    let with_scheme = if text.contains("://") {
        text.to_owned()
    } else {
        format!("https://{text}")
    };
    let mut url = Url::parse(&with_scheme).map_err(|cause| cause.to_string())?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Err("not the URL of an HTTP server".into());
    }
    let path = url.path().trim_end_matches('/').to_owned();
    let path = if override_path || path.ends_with("/v2") {
        path
    } else {
        path + "/v2"
    };
    url.set_path(&path);
    Ok(url)
}

/// `10s`, `500ms`, `1m`, or a number of seconds.
fn duration(text: &str) -> Result<Duration, String> {
    let split = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let number: u32 = text[..split]
        .parse()
        .map_err(|cause| format!("dial_timeout {text:?} is no time: {cause}"))?;
    let unit = match &text[split..] {
        "ms" => Duration::from_millis(1),
        "" | "s" => Duration::from_secs(1),
        "m" => Duration::from_secs(60),
        _ => return Err(format!("dial_timeout {text:?} is no time")),
    };
    Ok(unit * number)
}

/// A registry that no file speaks of. One on this very machine is spoken to in plain HTTP.
pub(crate) fn default_server(registry: &str) -> Result<Host, Error> {
    let url = default_url(registry);
    let host = Table::default().host(&url, Path::new("/"));
    let host = host.map_err(|reason| Error::Other(format!("registry {registry:?}: {reason}")))?;
    Ok(Host {
        upstream: true,
        ..host
    })
}

/// The host of a name, and the same without encryption if that will do.
pub(crate) fn plain_and_encrypted(host: &str, insecure: bool) -> Result<Vec<Host>, Error> {
    let encrypted = default_server(host)?;
    if !insecure || encrypted.api.scheme() == "http" {
        return Ok(vec![Host {
            upstream: false,
            ..encrypted
        }]);
    }
    let wrong = |reason: String| Error::Other(format!("registry {host:?}: {reason}"));
    let plain = Table::default().host(&format!("http://{host}"), Path::new("/"));
    let anybody = Link {
        skip_verify: true,
        ..encrypted.link.clone()
    };
    let encrypted = Host {
        upstream: false,
        link: anybody,
        ..encrypted
    };
    Ok(vec![encrypted, plain.map_err(wrong)?])
}

fn default_url(registry: &str) -> String {
    match registry {
        "docker.io" => "https://registry-1.docker.io".to_owned(),
        local if is_loopback(local) => format!("http://{local}"),
        other => format!("https://{other}"),
    }
}

/// Whether a registry's name, with or without a port, is that of this machine.
pub(crate) fn is_loopback(registry: &str) -> bool {
    let host = match registry.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => registry,
    };
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || address
            .parse::<std::net::IpAddr>()
            .is_ok_and(|a| a.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, registry: &str, expect: &[&str]) {
        let hosts = parse(text, registry, Path::new("/etc/x/hosts.toml"))
            .unwrap()
            .hosts;
        let urls: Vec<_> = hosts.iter().map(|h| h.api.as_str()).collect();
        assert_eq!(urls, expect, "{text}");
    }

    #[test]
    fn hosts_come_in_the_order_of_the_file_then_the_server() {
        check("", "docker.io", &["https://registry-1.docker.io/v2"]);
        check("", "127.0.0.1:5000", &["http://127.0.0.1:5000/v2"]);
        check(
            "server = \"https://a.b\"\n[host.\"http://z:1\"]\n[host.\"http://y:1\"]\n[host.\"x.y\"]",
            "q.io",
            &[
                "http://z:1/v2",
                "http://y:1/v2",
                "https://x.y/v2",
                "https://a.b/v2",
            ],
        );
        check(
            "[host.\"http://z/v2/mirror\"]\noverride_path = true\n[host.\"http://z/sub/\"]",
            "q.io",
            &["http://z/v2/mirror", "http://z/sub/v2", "https://q.io/v2"],
        );
    }

    #[test]
    fn settings_of_a_host_are_read() {
        let text = "[host.\"https://z\"]\ncapabilities = [\"pull\"]\nca = \"ca.crt\"\nskip_verify = true\n\
                    client = [[\"c.crt\", \"c.key\"]]\ndial_timeout = \"1500ms\"\n\
                    [host.\"https://z\".header]\nx-a = [\"1\", \"2\"]";
        let hosts = parse(text, "q.io", Path::new("/etc/x/hosts.toml"))
            .unwrap()
            .hosts;
        assert!(
            hosts[0].pull && !hosts[0].resolve && hosts[0].link.skip_verify && !hosts[0].upstream
        );
        assert_eq!(hosts[0].link.ca, [Path::new("/etc/x/ca.crt")]);
        assert_eq!(
            hosts[0].link.client,
            [("/etc/x/c.crt".into(), Some("/etc/x/c.key".into()))]
        );
        assert_eq!(hosts[0].link.dial_timeout, Duration::from_millis(1500));
        assert_eq!(
            hosts[0].headers,
            [("x-a".into(), "1".into()), ("x-a".into(), "2".into())]
        );
        assert!(hosts[1].upstream);
    }

    #[test]
    fn keys_of_our_own_are_read() {
        let text = "fallback = false\nforeign_layers = true\nproxy = \"none\"\n\
                    [host.\"https://z:1\"]\nproxy = \"http://p:3128\"\nshare_credentials = true";
        let site = parse(text, "q.io", Path::new("/etc/x/hosts.toml")).unwrap();
        assert!(site.foreign_layers && site.hosts.len() == 1);
        let host = &site.hosts[0];
        assert!(host.shares_credentials && !host.upstream && host.referrers);
        let proxy = Url::parse("http://p:3128").unwrap();
        assert_eq!(host.link.route, Route::Through(proxy));
        assert_eq!(host.authority(), "z:1");
        let plain = parse("proxy = \"none\"", "q.io", Path::new("/etc/x/hosts.toml")).unwrap();
        assert_eq!(plain.hosts[0].link.route, Route::Direct);
        assert!(!plain.foreign_layers);
    }

    #[test]
    fn mistakes_name_file_and_key() {
        for (text, named) in [
            ("skip_verfiy = true", "skip_verfiy"),
            ("[host.\"https://z\"]\nserver = \"x\"", "server"),
            ("[host.\"ftp://z\"]", "ftp://z"),
            ("capabilities = [\"fetch\"]", "fetch"),
            ("dial_timeout = \"soon\"", "dial_timeout"),
            ("proxy = \"gopher://p\"", "gopher://p"),
            ("fallback = false", "fallback"),
            ("share_credentials = true", "share_credentials"),
            ("nonsense", "/etc/x/hosts.toml"),
        ] {
            let error = parse(text, "q.io", Path::new("/etc/x/hosts.toml"))
                .unwrap_err()
                .to_string();
            assert!(
                error.contains("/etc/x/hosts.toml") && error.contains(named),
                "{error}"
            );
        }
    }

    #[test]
    fn the_folder_is_looked_up() {
        let temp = tempfile::tempdir().unwrap();
        let write = |name: &str, url: &str| {
            std::fs::create_dir(temp.path().join(name)).unwrap();
            std::fs::write(
                temp.path().join(name).join("hosts.toml"),
                format!("server = \"{url}\""),
            )
            .unwrap();
        };
        write("_default", "http://default");
        write("a.io:1", "http://plain");
        write("b.io_1_", "http://underscored");
        let first = |registry: &str| {
            let site = read(temp.path(), registry).unwrap().unwrap();
            site.hosts[0].api.to_string()
        };
        assert_eq!(first("a.io:1"), "http://plain/v2");
        assert_eq!(first("b.io:1"), "http://underscored/v2");
        assert_eq!(first("c.io"), "http://default/v2");
        check_all(temp.path()).unwrap();
        assert_eq!(read(Path::new("/nonexistent"), "c.io").unwrap(), None);
        let server = default_server("c.io").unwrap();
        assert_eq!(server.api.as_str(), "https://c.io/v2");
    }

    #[test]
    fn this_machine_is_known_by_its_names() {
        for name in [
            "localhost",
            "localhost:5000",
            "127.0.0.1:1",
            "127.9.9.9",
            "[::1]:5000",
            "[::1]",
        ] {
            assert!(is_loopback(name), "{name}");
        }
        for name in ["docker.io", "10.0.0.1:5000", "localhost.example:1"] {
            assert!(!is_loopback(name), "{name}");
        }
    }
}
