//! The bridge: made with the first pod, recognised as ours, refused where it would collide.
//!
//! Ours is the bridge that carries our mark as its alias; or, in the moment between its making
//! and its marking, our hardware address. Both come from the path of the daemon's root folder.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use sha2::{Digest, Sha256};

use super::forwarding::allow_loopback_addresses;
use crate::netlink::route::{self, Link, Mac, Route};
use crate::netlink::socket::Socket;
use crate::{Error, failed};

/// A link's name has at most this many bytes (`IFNAMSIZ` less the zero byte).
const LONGEST_NAME: usize = 15;
/// Smallest packet that IPv4 must carry whole.
const SMALLEST_MTU: u32 = 576;
/// Where nothing says otherwise.
const USUAL_MTU: u32 = 1500;

/// The bridge as it shall be.
#[derive(Debug)]
pub(crate) struct Bridge {
    pub(crate) name: String,
    pub(crate) range: Ipv4Net,
    pub(crate) gateway: Ipv4Addr,
    /// What is written onto our links and our table: `wherry:` and a hash of the root's path.
    pub(crate) mark: String,
    mac: Mac,
}

impl Bridge {
    pub(crate) fn new(
        name: &str,
        range: Ipv4Net,
        gateway: Ipv4Addr,
        root: &std::path::Path,
    ) -> Result<Self, Error> {
        check_name(name)?;
        let hash = digest(&[root.as_os_str().as_encoded_bytes()]);
        // 02: locally administered, no multicast.
        let mac = [0x02, b'w', hash[0], hash[1], hash[2], hash[3]];
        let mark = format!("wherry:{}", hex(&hash[..8]));
        Ok(Self {
            name: name.to_owned(),
            range,
            gateway,
            mark,
            mac,
        })
    }

    /// Our bridge, if it is there. Another link of that name, or a route into our range, is a
    /// conflict.
    pub(crate) fn find(&self, socket: &mut Socket) -> Result<Option<Link>, Error> {
        let what = || format!("looking for bridge {}", self.name);
        match route::link(socket, &self.name).map_err(failed(what()))? {
            Some(link) if self.is_ours(&link) => Ok(Some(link)),
            Some(link) => Err(Error::Conflict(format!(
                "link {} exists and is not ours (alias {:?}); set another bridge name",
                link.name, link.alias
            ))),
            None => {
                let routes = route::routes(socket).map_err(failed(what()))?;
                self.check_routes(&routes).map(|()| None)
            }
        }
    }

    /// Makes what is missing of the bridge; gives its index.
    pub(crate) fn ensure(&self, socket: &mut Socket) -> Result<u32, Error> {
        let what = |step: &str| failed(format!("{step} bridge {}", self.name));
        let link = match self.find(socket)? {
            Some(link) => link,
            None => {
                route::add_bridge(socket, &self.name, self.mac).map_err(what("making"))?;
                route::link(socket, &self.name)
                    .map_err(what("looking for"))?
                    .ok_or_else(|| Error::Other(format!("bridge {} went away", self.name)))?
            }
        };
        route::set_alias(socket, link.index, &self.mark).map_err(what("marking"))?;
        route::add_address(socket, link.index, self.gateway, self.range)
            .map_err(what("addressing"))?;
        route::set_up(socket, link.index).map_err(what("starting"))?;
        allow_loopback_addresses(&self.name)?;
        Ok(link.index)
    }

    /// Whether the link is a bridge of this daemon, of whatever name.
    pub(crate) fn is_ours(&self, link: &Link) -> bool {
        link.kind == "bridge"
            && (link.alias == self.mark || (link.alias.is_empty() && link.mac == self.mac))
    }

    fn check_routes(&self, routes: &[Route]) -> Result<(), Error> {
        let overlaps = |other: Ipv4Net| {
            other.prefix_len() > 0 && (other.contains(&self.range) || self.range.contains(&other))
        };
        match routes.iter().find(|route| overlaps(route.destination)) {
            None => Ok(()),
            Some(route) => Err(Error::Conflict(format!(
                "the host has a route to {} inside or around our range {}; set another subnet",
                route.destination, self.range
            ))),
        }
    }
}

/// Parses a range that has room for a gateway and pods.
pub(crate) fn parse_range(text: &str) -> Result<Ipv4Net, Error> {
    let refuse = |why: &str| Error::Invalid(format!("subnet {text:?}: {why}"));
    let range: Ipv4Net = text
        .parse()
        .map_err(|error: ipnet::AddrParseError| refuse(&error.to_string()))?;
    if range.trunc() != range {
        return Err(refuse("has bits behind its prefix"));
    }
    if !(8..=29).contains(&range.prefix_len()) {
        return Err(refuse("its prefix length is not between 8 and 29"));
    }
    if range.addr().is_loopback() || range.addr().is_multicast() || range.addr().octets()[0] == 0 {
        return Err(refuse("is no range for hosts"));
    }
    Ok(range)
}

/// Parses ranges that are reached without masquerade.
pub(crate) fn parse_routed(texts: &[String]) -> Result<Vec<Ipv4Net>, Error> {
    let parse = |text: &String| match text.parse::<Ipv4Net>() {
        Ok(range) if range.trunc() == range => Ok(range),
        _ => Err(Error::Invalid(format!(
            "routed range {text:?} is no IPv4 range such as 10.213.0.0/16"
        ))),
    };
    texts.iter().map(parse).collect()
}

fn check_name(name: &str) -> Result<(), Error> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
    if name.is_empty() || name.len() > LONGEST_NAME || !name.chars().all(plain) {
        return Err(Error::Invalid(format!(
            "bridge name {name:?}: 1 to {LONGEST_NAME} letters, digits, - and _ are wanted"
        )));
    }
    Ok(())
}

/// Bytes of a packet that the host's way out carries.
pub(crate) fn uplink_mtu(socket: &mut Socket) -> std::io::Result<u32> {
    let routes = route::routes(socket)?;
    let Some(out) = routes
        .iter()
        .find(|it| it.destination.prefix_len() == 0 && it.link != 0)
    else {
        return Ok(USUAL_MTU);
    };
    // Not found in a list of all links: where pods come and go, such a list is torn each time.
    let mtu = route::link_at(socket, out.link)?.map_or(USUAL_MTU, |link| link.mtu);
    Ok(mtu.clamp(SMALLEST_MTU, USUAL_MTU))
}

/// Name of the host's end of a pod's pair: stable, so that a torn record still leads to it.
pub(crate) fn veth_name(mark: &str, id: &str) -> String {
    format!(
        "vw{}",
        hex(&digest(&[mark.as_bytes(), b"/", id.as_bytes()])[..6])
    )
}

/// Hardware address of a pod: it follows from its IP address, so that neighbours who remember an
/// earlier pod of that address are right.
pub(crate) fn pod_mac(ip: Ipv4Addr) -> Mac {
    let [a, b, c, d] = ip.octets();
    [0x06, b'w', a, b, c, d]
}

fn digest(parts: &[&[u8]]) -> Vec<u8> {
    let mut hasher = Sha256::new();
    parts.iter().for_each(|part| hasher.update(part));
    hasher.finalize().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bridge() -> Bridge {
        let range = parse_range("10.97.0.0/16").unwrap();
        let root = std::path::Path::new("/var/lib/wherry");
        Bridge::new("wherry0", range, Ipv4Addr::new(10, 97, 0, 1), root).unwrap()
    }

    #[test]
    fn ranges_without_sense_are_refused() {
        for text in [
            "",
            "10.97.0.0",
            "10.97.0.1/16",
            "10.0.0.0/30",
            "0.0.0.0/0",
            "127.0.0.0/16",
            "224.0.0.0/8",
            "fd00::/64",
            "10.97.0.0/33",
        ] {
            assert!(
                matches!(parse_range(text), Err(Error::Invalid(_))),
                "{text}"
            );
        }
        assert_eq!(parse_range("10.97.0.0/16").unwrap().prefix_len(), 16);
    }

    #[test]
    fn routes_into_or_around_our_range_collide() {
        let check = |destination: &str, expect: bool| {
            let route = Route {
                destination: destination.parse().unwrap(),
                link: 1,
            };
            assert_eq!(
                bridge().check_routes(&[route]).is_err(),
                expect,
                "{destination}"
            );
        };
        check("0.0.0.0/0", false);
        check("10.96.0.0/16", false);
        check("10.97.3.0/24", true);
        check("10.97.0.0/16", true);
        check("10.0.0.0/8", true);
    }

    #[test]
    fn ours_is_what_carries_our_mark_or_waits_for_it() {
        let ours = bridge();
        let link = |alias: &str, mac: &[u8], kind: &str| Link {
            alias: alias.to_owned(),
            mac: mac.to_vec(),
            kind: kind.to_owned(),
            ..Link::default()
        };
        assert!(ours.is_ours(&link(&ours.mark, &[1; 6], "bridge")));
        assert!(ours.is_ours(&link("", &ours.mac, "bridge")));
        assert!(!ours.is_ours(&link("", &[1; 6], "bridge")));
        assert!(!ours.is_ours(&link("wherry:0", &ours.mac, "bridge")));
        assert!(!ours.is_ours(&link(&ours.mark, &ours.mac, "dummy")));
    }

    #[test]
    fn names_of_links_fit_and_differ() {
        let one = veth_name("wherry:1", "a");
        assert_eq!(one.len(), 14);
        assert_ne!(one, veth_name("wherry:2", "a"));
        assert_ne!(one, veth_name("wherry:1", "b"));
        for name in ["", "a/b", "a-name-of-16-byt", "wherry 0"] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
    }
}
