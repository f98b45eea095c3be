//! Clients: each way of connecting has one, which keeps its connections.
//!
//! It knows certificates, proxies and deadlines of connecting, not what is asked over them.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use reqwest::{Certificate, Client, ClientBuilder, Proxy, Url};

use crate::hosts::{DIAL_TIMEOUT, Link, is_loopback};
use crate::proxy::Environment;

/// Most clients that are kept, one for each way of connecting.
const MAX_CLIENTS: usize = 64;

/// All clients in use.
#[derive(Debug, Default)]
pub(crate) struct Clients {
    known: Mutex<HashMap<String, Client>>,
}

/// What distinguishes one client from another.
struct Way<'a> {
    link: &'a Link,
    plain: bool,
    local: bool,
    proxy: Option<Url>,
}

impl Clients {
    /// The client for a URL. Certificates and the environment's proxies are looked at each time:
    /// a renewed certificate needs no restart.
    pub(crate) fn get(&self, link: &Link, url: &Url) -> Result<Client, String> {
        let way = Way::to(link, url)?;
        let key = way.key();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = known.get(&key) {
            return Ok(client.clone());
        }
        let client = way.client(|builder| builder)?;
        if known.len() >= MAX_CLIENTS {
            known.clear();
        }
        known.insert(key, client.clone());
        Ok(client)
    }

    /// A client for one URL that connects to these addresses only, whatever the name stands for by
    /// then. Not kept.
    pub(crate) fn pinned(link: &Link, url: &Url, to: &[SocketAddr]) -> Result<Client, String> {
        let host = url.host_str().unwrap_or_default();
        Way::to(link, url)?.client(|builder| builder.resolve_to_addrs(host, to))
    }
}

impl<'a> Way<'a> {
    fn to(link: &'a Link, url: &Url) -> Result<Self, String> {
        Ok(Self {
            link,
            plain: url.scheme() == "http",
            local: is_loopback(url.host_str().unwrap_or_default()),
            proxy: link.route.to(url, &Environment::of_process())?,
        })
    }

    fn key(&self) -> String {
        let Self {
            link,
            plain,
            local,
            proxy,
        } = self;
        let certificates = (!plain).then_some((link, changed(link)));
        let dial = link.dial_timeout;
        format!("{plain} {local} {dial:?} {proxy:?} {certificates:?}")
    }

    fn client(&self, more: impl FnOnce(ClientBuilder) -> ClientBuilder) -> Result<Client, String> {
        let link = self.link;
        let mut builder = Client::builder()
            .user_agent(concat!("wherry/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(if self.plain && self.local {
                DIAL_TIMEOUT.min(link.dial_timeout)
            } else {
                link.dial_timeout
            })
            .retry(reqwest::retry::never())
            // Several connections carry several layers faster than one that is shared.
            .http1_only()
            .no_proxy();
        if let Some(proxy) = &self.proxy {
            let through = Proxy::all(proxy.clone());
            let place = proxy.origin().ascii_serialization();
            builder = builder.proxy(through.map_err(|cause| format!("proxy {place}: {cause}"))?);
        }
        let encrypted_proxy = self.proxy.as_ref().is_some_and(|p| p.scheme() == "https");
        builder = match self.plain && !encrypted_proxy {
            // Without the system's authorities, which a machine need not have for this.
            true => builder.tls_certs_only([]),
            false => certificates(builder, link)?,
        };
        more(builder)
            .build()
            .map_err(|error| format!("preparing to connect: {}", innermost(&error)))
    }
}

fn certificates(mut builder: ClientBuilder, link: &Link) -> Result<ClientBuilder, String> {
    let read = |path: &Path| {
        std::fs::read(path).map_err(|cause| format!("reading {}: {cause}", path.display()))
    };
    for path in &link.ca {
        let certificates = Certificate::from_pem_bundle(&read(path)?);
        let certificates = certificates.map_err(|cause| format!("{}: {cause}", path.display()))?;
        builder = builder.tls_certs_merge(certificates);
    }
    for (certificate, key) in &link.client {
        let mut pem = read(certificate)?;
        pem.extend(key.as_deref().map(read).transpose()?.unwrap_or_default());
        let identity = reqwest::Identity::from_pem(&pem);
        builder = builder
            .identity(identity.map_err(|cause| format!("{}: {cause}", certificate.display()))?);
    }
    Ok(builder.tls_danger_accept_invalid_certs(link.skip_verify))
}

/// When the files that a link names were written last.
fn changed(link: &Link) -> Vec<Option<SystemTime>> {
    let files = link
        .client
        .iter()
        .flat_map(|(certificate, key)| [Some(certificate), key.as_ref()]);
    let files = link.ca.iter().map(Some).chain(files).flatten();
    files
        .map(|path| {
            std::fs::metadata(path)
                .and_then(|meta| meta.modified())
                .ok()
        })
        .collect()
}

/// The cause that helps.
pub(crate) fn innermost(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}
