//! Host ports as asked for, checked before anything is done. Pure.

use std::net::IpAddr;

use super::rules::protocol_number;
use crate::records::clash;
use crate::{Error, Port};

/// Most host ports of one pod: each is a rule in the kernel.
const MOST_PORTS: usize = 1024;

/// The ports, each once, in a form that the rules can say.
pub(crate) fn check(asked: &[Port]) -> Result<Vec<Port>, Error> {
    if asked.len() > MOST_PORTS {
        return Err(Error::Invalid(format!("more than {MOST_PORTS} host ports")));
    }
    let mut ports: Vec<Port> = Vec::new();
    for port in asked {
        check_one(port)?;
        if ports.contains(port) {
            continue;
        }
        if ports.iter().any(|other| clash(other, port)) {
            return Err(Error::Invalid(format!(
                "host port {}/{} is asked for twice",
                port.host, port.protocol
            )));
        }
        ports.push(port.clone());
    }
    Ok(ports)
}

fn check_one(port: &Port) -> Result<(), Error> {
    let refuse = |why: String| {
        Err(Error::Invalid(format!(
            "host port {}/{}: {why}",
            port.host, port.protocol
        )))
    };
    if protocol_number(&port.protocol).is_none() {
        return refuse("the protocol is not tcp, udp or sctp".to_owned());
    }
    if port.host == 0 || port.container == 0 {
        return refuse(format!(
            "leads to port {}; neither may be 0",
            port.container
        ));
    }
    match port.host_ip {
        Some(IpAddr::V6(ip)) if !ip.is_unspecified() => refuse(format!(
            "address {ip}: the built-in network speaks IPv4 only"
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(protocol: &str, host: u16, container: u16, host_ip: &str) -> Port {
        let host_ip = host_ip.parse().ok();
        Port {
            protocol: protocol.to_owned(),
            host,
            container,
            host_ip,
        }
    }

    #[test]
    fn ports_without_sense_are_refused() {
        let check = |ports: &[Port], expect: &str| {
            let refused = super::check(ports).unwrap_err().to_string();
            assert!(refused.contains(expect), "{refused}");
        };
        check(&[port("icmp", 1, 1, "")], "not tcp, udp or sctp");
        check(&[port("tcp", 0, 1, "")], "may be 0");
        check(&[port("tcp", 1, 0, "")], "may be 0");
        check(&[port("tcp", 1, 1, "::1")], "IPv4 only");
        check(&[port("tcp", 1, 1, ""), port("tcp", 1, 2, "")], "twice");
        check(&vec![port("tcp", 1, 1, ""); 1025], "more than 1024");
    }

    #[test]
    fn the_same_port_said_twice_counts_once() {
        let twice = [
            port("tcp", 1, 1, ""),
            port("tcp", 1, 1, ""),
            port("udp", 1, 1, "::"),
        ];
        assert_eq!(check(&twice).unwrap().len(), 2);
    }
}
