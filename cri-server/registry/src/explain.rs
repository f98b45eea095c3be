//! In words, for an operator: who would be asked for an image, in which order, and how.
//!
//! It asks nobody but the node's credential helpers. Secrets are not shown.

use std::path::{Path, PathBuf};

use reqwest::Url;

use crate::auth::Identity;
use crate::hosts::{Host, Link};
use crate::proxy::Environment;
use crate::repository::Repository;
use crate::sources::Source;

impl Repository {
    /// One line for the name, some for each host.
    pub fn explain(&self) -> Vec<String> {
        let told = match &self.told_by {
            Some(file) => format!("as {} says", file.display()),
            None => "by default: no file is about that registry".to_owned(),
        };
        let mut lines = vec![format!("{}, {told}", self.name)];
        for source in self.able(|_| true) {
            lines.push(self.place(&source.host));
            let more = self.details(source);
            lines.extend(more.into_iter().map(|line| format!("    {line}")));
        }
        if self.foreign_layers {
            lines.push("layers may also come from where a manifest says".to_owned());
        }
        lines
    }

    fn place(&self, host: &Host) -> String {
        let kind = if host.upstream { "registry" } else { "mirror" };
        let api = host.api.as_str().trim_end_matches('/');
        format!("  {kind} {api}/{}", host.repository(&self.name))
    }

    fn details(&self, source: &Source) -> Vec<String> {
        let Source { host, identity } = source;
        let mut lines = vec![credentials(host, identity), route(host)];
        let able = [
            (host.resolve, "tells digests"),
            (host.pull, "sends content"),
            (host.referrers, "tells referrers"),
        ];
        let able: Vec<_> = able.iter().filter(|(may, _)| *may).map(|a| a.1).collect();
        if able.len() < 3 {
            lines.push(format!("only {}", able.join(", ")));
        }
        if host.api.scheme() == "https" {
            lines.extend(certificates(&host.link));
        } else {
            lines.push("not encrypted".to_owned());
        }
        let headers: Vec<_> = host.headers.iter().map(|(name, _)| name.as_str()).collect();
        if !headers.is_empty() {
            lines.push(format!("with headers {}", headers.join(", ")));
        }
        if self.is_away(host) {
            lines.push("could not be reached a moment ago, asked last".to_owned());
        }
        lines
    }
}

fn credentials(host: &Host, identity: &Identity) -> String {
    let own = match identity {
        Identity::Anonymous => "without credentials".to_owned(),
        Identity::Basic(user, _) => format!("as user {user:?} of credentials.json"),
        Identity::Refresh(_) | Identity::Token(_) => "with a token of credentials.json".to_owned(),
    };
    if host.upstream || host.shares_credentials {
        return format!("{own}, unless a pull brings some");
    }
    own
}

fn route(host: &Host) -> String {
    match host.link.route.to(&host.api, &Environment::of_process()) {
        Ok(None) => "without a proxy".to_owned(),
        Ok(Some(proxy)) => format!("through {}", without_secrets(&proxy)),
        Err(reason) => reason,
    }
}

/// A proxy's URL may hold a password.
fn without_secrets(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    let port = url.port_or_known_default();
    let port = port.map(|port| format!(":{port}")).unwrap_or_default();
    format!("{}://{host}{port}", url.scheme())
}

fn certificates(link: &Link) -> Vec<String> {
    let list = |files: Vec<&PathBuf>| {
        let files = files
            .into_iter()
            .map(|file| Path::display(file).to_string());
        files.collect::<Vec<_>>().join(", ")
    };
    let mut lines = Vec::new();
    if link.skip_verify {
        lines.push("whoever answers is trusted".to_owned());
    } else if !link.ca.is_empty() {
        lines.push(format!("trusts {} too", list(link.ca.iter().collect())));
    }
    if !link.client.is_empty() {
        let ours = link.client.iter().map(|(certificate, _)| certificate);
        lines.push(format!("shows {}", list(ours.collect())));
    }
    lines
}
