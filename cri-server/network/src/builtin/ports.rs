//! Host ports as asked for, checked before anything is done: whether they make sense, and whether
//! a program of the host listens there already. Which pod owns which port, `records` knows.

use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::rules::protocol_number;
use crate::records::clash;
use crate::{Error, Port, failed};

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

/// Fails if a program of the host listens on one of the ports: our rules would hide it silently.
pub(crate) fn check_programs(ports: &[Port]) -> Result<(), Error> {
    for port in ports {
        let what = || {
            format!(
                "looking whether host port {}/{} is free",
                port.host, port.protocol
            )
        };
        match bind(port) {
            // Taken only counts where it can be tried: an address may come to the host later, and
            // a kernel need not know SCTP.
            Ok(()) | Err(Errno::ADDRNOTAVAIL | Errno::PROTONOSUPPORT) => {}
            Err(Errno::ADDRINUSE) => {
                return Err(Error::Conflict(format!(
                    "host port {}/{} is used by a program of the host",
                    port.host, port.protocol
                )));
            }
            Err(errno) => return Err(failed(what())(errno.into())),
        }
    }
    Ok(())
}

/// Binds the port for a moment. It never listens, so no client ever meets us there.
fn bind(port: &Port) -> Result<(), Errno> {
    let kind = match port.protocol.as_str() {
        "tcp" => SocketType::STREAM,
        "udp" => SocketType::DGRAM,
        _ => return Ok(()),
    };
    let socket = rustix::net::socket_with(AddressFamily::INET, kind, SocketFlags::CLOEXEC, None)?;
    if kind == SocketType::STREAM {
        // Connections that linger from before are no listeners.
        rustix::net::sockopt::set_socket_reuseaddr(&socket, true)?;
    }
    let ip = match port.host_ip {
        Some(IpAddr::V4(ip)) => ip,
        _ => Ipv4Addr::UNSPECIFIED,
    };
    rustix::net::bind(&socket, &SocketAddrV4::new(ip, port.host))
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
