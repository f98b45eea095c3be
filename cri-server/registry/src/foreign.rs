//! Layers that lie outside of any registry, where their manifest says (image-spec, layer.md,
//! "Non-Distributable Layers").
//!
//! A manifest is written by whoever made the image, and must not lead this machine to places that
//! only this machine can reach: such layers are fetched only if the operator allows it for the
//! registry, without credentials, and not from this machine itself or from its own links.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use reqwest::header::{ACCEPT_ENCODING, RANGE};
use reqwest::{Response, Url};
use tokio::time::timeout;

use crate::Error;
use crate::failures::Failure;
use crate::hosts::{DIAL_TIMEOUT, Link};
use crate::limits::Limits;
use crate::link::Clients;
use crate::manifest::Descriptor;
use crate::proxy::Route;
use crate::repository::{Answer, Repository};
use crate::send::{MAX_REDIRECTS, dispatch, place, redirect};
use crate::span::Span;

/// Most places of one layer that are tried.
const MAX_PLACES: usize = 8;
/// How long finding the addresses of a name may take.
const LOOKUP_TIME: Duration = Duration::from_secs(10);

/// Fetches a layer from where its manifest says, after no host of the registry had it.
pub(crate) async fn fetch(
    repository: &Repository,
    layer: &Descriptor,
    span: Span,
    missing: Error,
) -> Result<Answer, Error> {
    if !matches!(missing, Error::Corrupt(_) | Error::NotFound(_)) {
        return Err(missing);
    }
    if !repository.foreign_layers {
        let (digest, url, registry) = (&layer.digest, &layer.urls()[0], repository.name.domain());
        return Err(Error::Denied(format!(
            "layer {digest} is not in the registry but at {url:?}; it is only fetched from there if \
             hosts.toml of {registry} says foreign_layers = true"
        )));
    }
    let mut failures = Vec::new();
    for url in layer.urls().iter().take(MAX_PLACES) {
        match fetch_from(url, layer, span, repository.limits()).await {
            Ok(answer) => return Ok(answer),
            Err(failure) => failures.push(format!("{url}: {}", failure.text())),
        }
    }
    let (digest, all) = (&layer.digest, failures.join("; "));
    Err(Error::Unavailable(format!("layer {digest}: {all}")))
}

async fn fetch_from(
    url: &str,
    layer: &Descriptor,
    span: Span,
    limits: &Limits,
) -> Result<Answer, Failure> {
    let mut url = Url::parse(url).map_err(|cause| Failure::Refused(cause.to_string()))?;
    for _ in 0..=MAX_REDIRECTS {
        let response = ask(&url, span, limits).await?;
        match redirect(&response, &url)? {
            Some(to) if url.scheme() == "https" && to.scheme() != "https" => {
                let text = format!("leads to {}, which is not encrypted", place(&to));
                return Err(Failure::Refused(text));
            }
            Some(to) => url = to,
            None if response.status().is_success() => {
                return Answer::of(response, span, layer.size);
            }
            None => return Err(Failure::Refused(response.status().to_string())),
        }
    }
    let text = format!("more than {MAX_REDIRECTS} redirects");
    Err(Failure::Refused(text))
}

async fn ask(url: &Url, span: Span, limits: &Limits) -> Result<Response, Failure> {
    let addresses = addresses(url).await.map_err(Failure::Refused)?;
    let link = Link {
        ca: Vec::new(),
        client: Vec::new(),
        skip_verify: false,
        dial_timeout: DIAL_TIMEOUT,
        route: Route::Environment,
    };
    let client = Clients::pinned(&link, url, &addresses).map_err(Failure::Refused)?;
    let mut request = client.get(url.clone()).header(ACCEPT_ENCODING, "identity");
    if let Some(range) = span.header() {
        request = request.header(RANGE, range);
    }
    dispatch(request, limits).await
}

/// Where a URL leads; all of it must be outside.
async fn addresses(url: &Url) -> Result<Vec<SocketAddr>, String> {
    if !matches!(url.scheme(), "http" | "https") {
        return Err("only http and https are asked".into());
    }
    let port = url.port_or_known_default().unwrap_or_default();
    let host = url.host_str().ok_or("names no host")?;
    let bare = host.trim_matches(['[', ']']);
    let found: Vec<_> = timeout(LOOKUP_TIME, tokio::net::lookup_host((bare, port)))
        .await
        .map_err(|late| format!("finding {host}: {late}"))?
        .map_err(|cause| format!("finding {host}: {cause}"))?
        .collect();
    match found.iter().find(|address| !is_outside(address.ip())) {
        Some(address) => Err(format!("{} is not asked for layers", address.ip())),
        None => Ok(found),
    }
}

/// Whether an address is neither that of this machine nor one that only its own links have, such
/// as a cloud's service for credentials.
fn is_outside(address: IpAddr) -> bool {
    let address = address.to_canonical();
    let inside = address.is_loopback() || address.is_unspecified() || address.is_multicast();
    let on_link = match address {
        IpAddr::V4(address) => address.is_link_local() || address.is_broadcast(),
        IpAddr::V6(address) => address.is_unicast_link_local() || address == METADATA,
    };
    !inside && !on_link
}

/// The one service for credentials that has another address.
const METADATA: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_what_is_outside_is_asked() {
        for inside in [
            "http://127.0.0.1/x",
            "http://localhost:8080/x",
            "http://[::1]/x",
            "http://[::ffff:127.0.0.1]/x",
            "http://169.254.169.254/latest",
            "http://[fe80::1]/x",
            "http://[fd00:ec2::254]/x",
            "http://0.0.0.0/x",
            "http://2130706433/x",
            "http://224.0.0.1/x",
            "file:///etc/passwd",
            "ftp://198.51.100.1/x",
        ] {
            let url = Url::parse(inside).unwrap();
            assert!(addresses(&url).await.is_err(), "{inside}");
        }
        for outside in ["https://198.51.100.1/x", "http://10.0.0.1:8080/x"] {
            let url = Url::parse(outside).unwrap();
            assert_eq!(addresses(&url).await.unwrap().len(), 1, "{outside}");
        }
    }
}
