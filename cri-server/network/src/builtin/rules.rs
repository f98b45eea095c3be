//! Which firewall rules the pods need: a plain value from plain values.
//!
//! ```text
//! raw          drop 127/8 that does not come from loopback: a port published on 127.0.0.1 only
//!              must not be reachable from outside by a forged destination
//! prerouting   to an address of this host -> ports      (from outside, from pods)
//! output       to an address of this host -> ports      (from the host itself)
//! ports        protocol, port [, host address] -> pod
//! postrouting  leaves the range, but not for a routed one -> masquerade; from a pod or 127/8 by a
//!              host port back into the bridge -> masquerade too, or the answer would not come back
//!              through the host
//! forward      from pods: accept; to pods: only answers, host ports, and from routed ranges
//! ```
//!
//! An `accept` here overrules no `drop` in another table; that is the administrator's right.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::Ipv4Net;

use crate::Port;
use crate::netlink::nft::{Base, Chain, End, Hook, Is, Rule, Side, Table, Tracked};

/// The chain of host ports.
const PORTS: &str = "ports";

/// A pod's host ports.
#[derive(Clone, Debug)]
pub(crate) struct Published {
    pub(crate) address: Ipv4Addr,
    pub(crate) ports: Vec<Port>,
}

/// The number of the protocol in an IP header; `None` if we know none of that name.
pub(crate) fn protocol_number(name: &str) -> Option<u8> {
    match name {
        "tcp" => Some(6),
        "udp" => Some(17),
        "sctp" => Some(132),
        _ => None,
    }
}

/// The whole table.
pub(crate) fn table(
    bridge: &str,
    owner: &str,
    range: Ipv4Net,
    routed: &[Ipv4Net],
    pods: &[Published],
) -> Table {
    let base = |kind, hook, priority| {
        Some(Base {
            kind,
            hook,
            priority,
        })
    };
    let ports = pods.iter().flat_map(|pod| {
        pod.ports
            .iter()
            .filter_map(|port| publish(pod.address, port))
    });
    let to_ports = vec![Rule::new().for_this_host().jump(PORTS)];
    let chain = |name, base, rules| Chain { name, base, rules };
    let chains = vec![
        chain(PORTS, None, ports.collect()),
        chain("raw", base("filter", Hook::Prerouting, -300), raw()),
        chain(
            "prerouting",
            base("nat", Hook::Prerouting, -100),
            to_ports.clone(),
        ),
        chain("output", base("nat", Hook::Output, -100), to_ports),
        chain(
            "postrouting",
            base("nat", Hook::Postrouting, 100),
            postrouting(bridge, range, routed),
        ),
        chain(
            "forward",
            base("filter", Hook::Forward, 0),
            forward(bridge, routed),
        ),
    ];
    Table {
        name: bridge.to_owned(),
        owner: owner.to_owned(),
        chains,
    }
}

fn publish(address: Ipv4Addr, port: &Port) -> Option<Rule> {
    let rule = match port.host_ip {
        Some(IpAddr::V4(ip)) if !ip.is_unspecified() => {
            Rule::new().address(End::Destination, Is::Equal, Ipv4Net::from(ip))
        }
        _ => Rule::new().ipv4(),
    };
    let rule = rule.port(protocol_number(&port.protocol)?, port.host);
    Some(rule.redirect(address, port.container))
}

fn raw() -> Vec<Rule> {
    let rule = Rule::new().link(Side::Incoming, Is::Other, "lo");
    vec![rule.address(End::Destination, Is::Equal, loopback()).drop()]
}

fn postrouting(bridge: &str, range: Ipv4Net, routed: &[Ipv4Net]) -> Vec<Rule> {
    let back = || Rule::new().link(Side::Outgoing, Is::Equal, bridge);
    let out = || {
        let rule = Rule::new().link(Side::Outgoing, Is::Other, bridge);
        rule.address(End::Source, Is::Equal, range)
    };
    let multicast = Ipv4Net::new(Ipv4Addr::new(224, 0, 0, 0), 4).expect("4 is a prefix length");
    let as_they_are = routed
        .iter()
        .map(|range| out().address(End::Destination, Is::Equal, *range).accept());
    let masquerades = [
        back()
            .address(End::Source, Is::Equal, range)
            .tracked(Tracked::Redirected)
            .masquerade(),
        back()
            .address(End::Source, Is::Equal, loopback())
            .masquerade(),
        out()
            .address(End::Destination, Is::Other, multicast)
            .masquerade(),
    ];
    as_they_are.chain(masquerades).collect()
}

fn forward(bridge: &str, routed: &[Ipv4Net]) -> Vec<Rule> {
    let into = || Rule::new().link(Side::Outgoing, Is::Equal, bridge);
    let answers = [
        Rule::new().link(Side::Incoming, Is::Equal, bridge).accept(),
        into().tracked(Tracked::Known).accept(),
        into().tracked(Tracked::Redirected).accept(),
    ];
    let from_routed = routed
        .iter()
        .map(|range| into().address(End::Source, Is::Equal, *range).accept());
    let others = [into().drop()];
    answers
        .into_iter()
        .chain(from_routed)
        .chain(others)
        .collect()
}

fn loopback() -> Ipv4Net {
    Ipv4Net::new(Ipv4Addr::new(127, 0, 0, 0), 8).expect("8 is a prefix length")
}
