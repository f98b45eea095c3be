//! Moves links of the host into a container's network namespace (`linux.netDevices`).
//!
//! From the parent: its sockets see both namespaces. A link loses its addresses on the way, so those
//! that somebody gave it on purpose are read before and given again. When the namespace ends, the
//! kernel itself gives hardware back to the host.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use ::netlink::message::{Message, attribute, flag, u32_at};
use ::netlink::socket::Socket;
use rustix::fs::{Mode, OFlags, open};

use crate::failure::{Attempt, Result};
use crate::plan::{NamespaceKind, NetDevice};

// linux/rtnetlink.h
const NEWLINK: u16 = 16;
const GETLINK: u16 = 18;
const NEWADDR: u16 = 20;
const GETADDR: u16 = 22;
// linux/if_link.h, linux/if_addr.h
const IFLA_IFNAME: u16 = 3;
const IFLA_NET_NS_FD: u16 = 28;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const IFA_FLAGS: u16 = 8;
const IFF_UP: u32 = 1;
/// Somebody gave it; others come from routers and end with their lease.
const IFA_F_PERMANENT: u32 = 0x80;
/// `RT_SCOPE_UNIVERSE`: valid everywhere, not only on this link.
const SCOPE_GLOBAL: u8 = 0;

/// Moves `devices` into the namespace of process `pid`.
pub(crate) fn move_all(devices: &[NetDevice<'_>], pid: i32) -> Result<()> {
    if devices.is_empty() {
        return Ok(());
    }
    let namespace = namespace(&format!("/proc/{pid}/ns/net"))?;
    let mut host = Socket::route().attempt(|| "open a netlink socket".to_owned())?;
    let mut container = socket_in(namespace.as_fd())?;
    for device in devices {
        let what = || format!("move the network device {:?}", device.host);
        let addresses = take(&mut host, device, namespace.as_fd()).attempt(what)?;
        set_up(&mut container, device.container, &addresses).attempt(what)?;
    }
    Ok(())
}

fn namespace(path: &str) -> Result<OwnedFd> {
    open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .attempt(|| format!("open the network namespace {path}"))
}

/// A socket stays in the namespace that it was made in, and so this process need not.
fn socket_in(other: BorrowedFd<'_>) -> Result<Socket> {
    let what = || "enter the container's network namespace".to_owned();
    let own = namespace("/proc/self/ns/net")?;
    let kind = NamespaceKind::Network.flag();
    sys::process::setns(other, kind).attempt(what)?;
    let socket = Socket::route().attempt(what);
    sys::process::setns(&own, kind)
        .attempt(|| "go back to the own network namespace".to_owned())?;
    socket
}

/// An address, as the kernel gives and takes it.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Address {
    family: u8,
    prefix: u8,
    /// Of the other end where there are just two, else the address itself.
    peer: Vec<u8>,
    local: Vec<u8>,
    broadcast: Option<Vec<u8>>,
}

/// Takes a link down and out; gives the addresses that it had. Name and namespace change at once,
/// so that its new name only has to be free where it goes.
fn take(
    socket: &mut Socket,
    device: &NetDevice<'_>,
    namespace: BorrowedFd<'_>,
) -> io::Result<Vec<Address>> {
    let index = index(socket, device.host)?;
    // First: going down takes those of IPv6 already.
    let all = Message::new(GETADDR, 0, &[0; 8]);
    let addresses = socket.list(&all, |received| lasting(received.payload, index))?;
    socket.request(Message::new(NEWLINK, 0, &link_header(index, 0, IFF_UP)))?;
    let mut message = Message::new(NEWLINK, 0, &link_header(index, 0, 0));
    message
        .put_str(IFLA_IFNAME, device.container)
        .put(IFLA_NET_NS_FD, &namespace.as_raw_fd().to_ne_bytes());
    socket.request(message)?;
    Ok(addresses)
}

fn set_up(socket: &mut Socket, name: &str, addresses: &[Address]) -> io::Result<()> {
    let index = index(socket, name)?;
    for address in addresses {
        socket.request(new_address(index, address))?;
    }
    socket.request(Message::new(
        NEWLINK,
        0,
        &link_header(index, IFF_UP, IFF_UP),
    ))
}

fn new_address(index: u32, address: &Address) -> Message {
    let mut header = vec![address.family, address.prefix, 0, SCOPE_GLOBAL];
    header.extend(index.to_ne_bytes());
    let mut message = Message::new(NEWADDR, flag::CREATE | flag::EXCL, &header);
    message
        .put(IFA_LOCAL, &address.local)
        .put(IFA_ADDRESS, &address.peer);
    if let Some(broadcast) = &address.broadcast {
        message.put(IFA_BROADCAST, broadcast);
    }
    message
}

fn index(socket: &mut Socket, name: &str) -> io::Result<u32> {
    let mut message = Message::new(GETLINK, 0, &link_header(0, 0, 0));
    message.put_str(IFLA_IFNAME, name);
    let mut found = None;
    socket.get(message, |received| found = u32_at(received.payload, 4))?;
    found.ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// `struct ifinfomsg`.
fn link_header(index: u32, flags: u32, change: u32) -> Vec<u8> {
    let mut header = vec![0; 4];
    for field in [index, flags, change] {
        header.extend(field.to_ne_bytes());
    }
    header
}

/// The address of a `struct ifaddrmsg` on link `index`, if it is to go with it.
fn lasting(payload: &[u8], index: u32) -> Option<Address> {
    let [family, prefix, short_flags, scope, ..] = *payload else {
        return None;
    };
    let body = payload.get(8..)?;
    let long_flags = attribute(body, IFA_FLAGS).and_then(|value| u32_at(value, 0));
    let flags = long_flags.unwrap_or(u32::from(short_flags));
    let wanted =
        u32_at(payload, 4) == Some(index) && scope == SCOPE_GLOBAL && flags & IFA_F_PERMANENT != 0;
    // IPv6 has only IFA_ADDRESS unless there is a peer.
    let peer = attribute(body, IFA_ADDRESS).filter(|_| wanted)?.to_vec();
    let local = attribute(body, IFA_LOCAL).map_or_else(|| peer.clone(), <[u8]>::to_vec);
    Some(Address {
        family,
        prefix,
        peer,
        local,
        broadcast: attribute(body, IFA_BROADCAST).map(<[u8]>::to_vec),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::netlink::message::messages;

    fn check(scope: u8, flags: u8, index: u32, expect: bool) {
        let mut header = vec![2, 24, flags, scope];
        header.extend(index.to_ne_bytes());
        let mut message = Message::new(NEWADDR, 0, &header);
        message.put(IFA_ADDRESS, &[10, 0, 0, 1]);
        let bytes = message.finish(1);
        let received = messages(&bytes).next().unwrap();
        assert_eq!(lasting(received.payload, 7).is_some(), expect);
    }

    #[test]
    fn addresses_that_were_given_for_good_go_along() {
        check(0, 0x80, 7, true);
        check(0, 0, 7, false);
        check(253, 0x80, 7, false);
        check(0, 0x80, 8, false);
        assert_eq!(lasting(&[], 7), None);
    }

    #[test]
    fn an_address_is_given_as_it_was_read() {
        let address = Address {
            family: 10,
            prefix: 64,
            peer: vec![1; 16],
            local: vec![2; 16],
            broadcast: Some(vec![3; 16]),
        };
        let bytes = new_address(3, &address).finish(1);
        let mut payload = messages(&bytes).next().unwrap().payload.to_vec();
        payload[2] = 0x80;
        assert_eq!(lasting(&payload, 3), Some(address));
    }
}
