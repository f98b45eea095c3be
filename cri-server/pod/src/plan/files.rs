//! The texts of a pod's `/etc/hostname`, `/etc/hosts` and `/etc/resolv.conf`.

use super::{PlanError, check};
use crate::facts::NodeFacts;
use crate::sandbox::Dns;

/// What `/etc/hosts` says where the host has none.
const LOCALHOST: &str = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n";

/// `/etc/hostname`.
pub(super) fn hostname(name: &str) -> String {
    format!("{name}\n")
}

/// `/etc/hosts`: the host's. A client that knows the pod's names mounts its own over it.
pub(super) fn hosts(facts: &NodeFacts) -> String {
    match facts.hosts.as_str() {
        "" => LOCALHOST.to_owned(),
        text => text.to_owned(),
    }
}

/// `/etc/resolv.conf` (resolv.conf(5)): search, servers, options; the host's where nothing is said.
pub(super) fn resolv_conf(dns: Option<&Dns>, facts: &NodeFacts) -> Result<String, PlanError> {
    let Some(dns) = dns.filter(|dns| **dns != Dns::default()) else {
        return Ok(facts.resolv_conf.clone());
    };
    for (list, words) in [
        ("servers", &dns.servers),
        ("searches", &dns.searches),
        ("options", &dns.options),
    ] {
        for (place, word) in words.iter().enumerate() {
            check::one_word(&format!("dns_config.{list}[{place}]"), word)?;
        }
    }
    let mut text = line("search", &dns.searches);
    for server in &dns.servers {
        text += &format!("nameserver {server}\n");
    }
    Ok(text + &line("options", &dns.options))
}

fn line(keyword: &str, words: &[String]) -> String {
    match words {
        [] => String::new(),
        words => format!("{keyword} {}\n", words.join(" ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dns(servers: &[&str], searches: &[&str], options: &[&str]) -> Dns {
        let own = |words: &[&str]| words.iter().map(ToString::to_string).collect();
        Dns {
            servers: own(servers),
            searches: own(searches),
            options: own(options),
        }
    }

    fn text(dns: Option<&Dns>) -> Result<String, PlanError> {
        let facts = NodeFacts {
            resolv_conf: "nameserver 9.9.9.9\n".into(),
            ..Default::default()
        };
        resolv_conf(dns, &facts)
    }

    #[test]
    fn resolv_conf_is_written_in_order() {
        let full = dns(
            &["10.0.0.10", "fd00::a"],
            &["a.local", "b"],
            &["ndots:5", "edns0"],
        );
        assert_eq!(
            text(Some(&full)).unwrap(),
            "search a.local b\nnameserver 10.0.0.10\nnameserver fd00::a\noptions ndots:5 edns0\n"
        );
        assert_eq!(
            text(Some(&dns(&["1.1.1.1"], &[], &[]))).unwrap(),
            "nameserver 1.1.1.1\n"
        );
    }

    #[test]
    fn nothing_said_means_the_hosts() {
        assert_eq!(text(None).unwrap(), "nameserver 9.9.9.9\n");
        assert_eq!(text(Some(&Dns::default())).unwrap(), "nameserver 9.9.9.9\n");
    }

    #[test]
    fn no_word_can_add_a_line() {
        let error = text(Some(&dns(&["1.1.1.1\nsearch evil"], &[], &[]))).unwrap_err();
        assert!(
            error.to_string().starts_with("dns_config.servers[0]: "),
            "{error}"
        );
        assert!(text(Some(&dns(&[], &["a b"], &[]))).is_err());
        assert!(text(Some(&dns(&[], &[], &[""]))).is_err());
    }

    #[test]
    fn hosts_without_a_host_file() {
        assert!(hosts(&NodeFacts::default()).contains("127.0.0.1\tlocalhost\n"));
        let facts = NodeFacts {
            hosts: "1.2.3.4 x\n".into(),
            ..Default::default()
        };
        assert_eq!(hosts(&facts), "1.2.3.4 x\n");
    }
}
