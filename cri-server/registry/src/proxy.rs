//! Through which proxy a host is reached, if through any.
//!
//! The rules are those that operators know from the variables `HTTP_PROXY`, `HTTPS_PROXY`,
//! `ALL_PROXY` and `NO_PROXY`, in upper or lower case (lower case wins, as for curl(1)). What
//! `hosts.toml` says of a host comes first. This machine itself is never reached through a proxy
//! of the environment. Pure: connecting is the business of `link`.

use std::net::IpAddr;

use ipnet::IpNet;
use reqwest::Url;

/// Most rules of `NO_PROXY` that are read.
const MAX_RULES: usize = 1000;

/// How a host is to be reached.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) enum Route {
    /// As the environment says.
    #[default]
    Environment,
    /// Through no proxy.
    Direct,
    /// Through this one.
    Through(Url),
}

impl Route {
    /// What a configuration says: the URL of a proxy, or `none`.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Self::Direct),
            text => proxy(text)
                .map(Self::Through)
                .map_err(|reason| format!("proxy {text:?}: {reason}")),
        }
    }

    /// The proxy for a URL.
    pub(crate) fn to(&self, url: &Url, environment: &Environment) -> Result<Option<Url>, String> {
        match self {
            Self::Direct => Ok(None),
            Self::Through(proxy) => Ok(Some(proxy.clone())),
            Self::Environment => environment.proxy(url),
        }
    }
}

/// What the environment says of proxies.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Environment {
    http: Option<String>,
    https: Option<String>,
    direct: Vec<Rule>,
}

/// Hosts that are reached without a proxy.
#[derive(Debug, PartialEq, Eq)]
enum Rule {
    /// All.
    Any,
    /// Those with an address in a network.
    Network(IpNet),
    /// Those below a domain, and that of the name itself unless the rule began with a dot.
    Domain {
        name: String,
        only_below: bool,
        port: Option<u16>,
    },
    /// That with this address.
    Address(IpAddr, Option<u16>),
}

impl Environment {
    /// Reads the variables of this process.
    pub(crate) fn of_process() -> Self {
        Self::of(|name| std::env::var(name).ok())
    }

    fn of(variable: impl Fn(&str) -> Option<String>) -> Self {
        let either = |name: &str| {
            [name.to_owned(), name.to_uppercase()]
                .iter()
                .find_map(|name| variable(name).filter(|value| !value.trim().is_empty()))
        };
        let all = either("all_proxy");
        let rules = either("no_proxy").unwrap_or_default();
        Self {
            http: either("http_proxy").or_else(|| all.clone()),
            https: either("https_proxy").or(all),
            direct: rules
                .split(|c: char| c == ',' || c.is_whitespace())
                .filter_map(Rule::parse)
                .take(MAX_RULES)
                .collect(),
        }
    }

    fn proxy(&self, url: &Url) -> Result<Option<Url>, String> {
        let named = match url.scheme() {
            "https" => &self.https,
            _ => &self.http,
        };
        let Some(named) = named.as_ref().filter(|_| !self.is_direct(url)) else {
            return Ok(None);
        };
        proxy(named)
            .map(Some)
            .map_err(|reason| format!("the proxy of the environment, {named:?}: {reason}"))
    }

    fn is_direct(&self, url: &Url) -> bool {
        let host = url.host_str().unwrap_or_default();
        let host = host.trim_matches(['[', ']']).trim_end_matches('.');
        let address: Option<IpAddr> = host.parse().ok();
        let local = host == "localhost" || address.is_some_and(|address| address.is_loopback());
        let port = url.port_or_known_default();
        local
            || self
                .direct
                .iter()
                .any(|rule| rule.fits(host, address, port))
    }
}

impl Rule {
    /// One entry of the list; what is none is left out, as others do.
    fn parse(text: &str) -> Option<Self> {
        if text == "*" {
            return Some(Self::Any);
        }
        if let Ok(network) = text.parse() {
            return Some(Self::Network(network));
        }
        if let Ok(address) = text.trim_matches(['[', ']']).parse() {
            return Some(Self::Address(address, None));
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) => (host, Some(port.parse().ok()?)),
            None => (text, None),
        };
        if let Ok(address) = host.trim_matches(['[', ']']).parse() {
            return Some(Self::Address(address, port));
        }
        let without_star = host.strip_prefix('*').unwrap_or(host);
        let name = without_star.trim_start_matches('.').trim_end_matches('.');
        (!name.is_empty()).then(|| Self::Domain {
            name: name.to_ascii_lowercase(),
            only_below: without_star.starts_with('.'),
            port,
        })
    }

    fn fits(&self, host: &str, address: Option<IpAddr>, asked: Option<u16>) -> bool {
        let same_port = |port: &Option<u16>| port.is_none() || *port == asked;
        match self {
            Self::Any => true,
            Self::Network(network) => address.is_some_and(|address| network.contains(&address)),
            Self::Address(own, port) => address == Some(*own) && same_port(port),
            Self::Domain {
                name,
                only_below,
                port,
            } => {
                let host = host.to_ascii_lowercase();
                let below = host
                    .strip_suffix(name.as_str())
                    .is_some_and(|rest| rest.ends_with('.'));
                same_port(port) && (below || (!only_below && host == *name))
            }
        }
    }
}

/// The URL of a proxy; without a scheme it speaks HTTP.
fn proxy(text: &str) -> Result<Url, String> {
    let text = text.trim();
    let url = match text.contains("://") {
        true => Url::parse(text),
        false => Url::parse(&format!("http://{text}")),
    };
    let url = url.map_err(|cause| cause.to_string())?;
    let known = ["http", "https", "socks4", "socks4a", "socks5", "socks5h"];
    if !known.contains(&url.scheme()) || url.host_str().is_none_or(str::is_empty) {
        return Err(format!("not a URL of {}", known.join(", ")));
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(pairs: &[(&str, &str)]) -> Environment {
        Environment::of(|name| {
            let pair = pairs.iter().find(|(key, _)| *key == name)?;
            Some(pair.1.to_owned())
        })
    }

    fn check(pairs: &[(&str, &str)], url: &str, expect: Option<&str>) {
        let url = Url::parse(url).unwrap();
        let found = Route::Environment.to(&url, &environment(pairs)).unwrap();
        assert_eq!(
            found.as_ref().map(Url::as_str),
            expect,
            "{pairs:?} for {url}"
        );
    }

    #[test]
    fn each_scheme_has_its_variable() {
        let both = [("HTTP_PROXY", "http://a:1"), ("https_proxy", "b:2")];
        check(&both, "http://x.io", Some("http://a:1/"));
        check(&both, "https://x.io", Some("http://b:2/"));
        let all = [("ALL_PROXY", "socks5h://c:3"), ("http_proxy", "")];
        check(&all, "http://x.io", Some("socks5h://c:3"));
        check(&all, "https://x.io", Some("socks5h://c:3"));
        let cases = [("http_proxy", "http://low"), ("HTTP_PROXY", "http://up")];
        check(&cases, "http://x.io", Some("http://low/"));
        check(&[], "http://x.io", None);
    }

    #[test]
    fn exceptions_are_domains_addresses_networks_and_ports() {
        let check = |rules: &str, url: &str, direct: bool| {
            let pairs = [
                ("http_proxy", "http://p"),
                ("https_proxy", "http://p"),
                ("no_proxy", rules),
            ];
            check(&pairs, url, (!direct).then_some("http://p/"));
        };
        check("", "https://a.io", false);
        check("", "http://localhost:5000", true);
        check("", "http://127.1.2.3", true);
        check("", "http://[::1]:5000", true);
        check("*", "https://a.io", true);
        check("a.io", "https://a.io", true);
        check("a.io", "https://sub.A.io", true);
        check("a.io", "https://ba.io", false);
        check(".a.io", "https://sub.a.io", true);
        check(".a.io", "https://a.io", false);
        check("*.a.io", "https://sub.a.io", true);
        check("x, a.io b.io", "https://b.io", true);
        check("a.io:443", "https://a.io", true);
        check("a.io:443", "http://a.io", false);
        check("a.io:5000", "https://a.io:5000", true);
        check("10.0.0.0/8", "http://10.9.8.7:5000", true);
        check("10.0.0.0/8", "http://11.0.0.1", false);
        check("10.0.0.0/8", "http://ten.io", false);
        check("fd00::/8", "http://[fd00::1]:80", true);
        check("192.0.2.1", "http://192.0.2.1:99", true);
        check("192.0.2.1:98", "http://192.0.2.1:99", false);
        check("[2001:db8::1]:99", "http://[2001:db8::1]:99", true);
        check("a.io:none,,", "https://a.io", false);
    }

    #[test]
    fn a_host_may_have_a_proxy_of_its_own_or_none() {
        let environment = environment(&[("http_proxy", "http://p"), ("no_proxy", "*")]);
        let url = Url::parse("http://127.0.0.1:5000").unwrap();
        let route = |text: &str| {
            let route = Route::parse(text).unwrap();
            route
                .to(&url, &environment)
                .unwrap()
                .map(|url| url.to_string())
        };
        assert_eq!(route("none"), None);
        assert_eq!(
            route("http://u:p@own:3128"),
            Some("http://u:p@own:3128/".into())
        );
        for bad in ["", "ftp://x", "http://", "socks5://"] {
            assert!(
                Route::parse(bad).unwrap_err().starts_with("proxy "),
                "{bad}"
            );
        }
    }
}
