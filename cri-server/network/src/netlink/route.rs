//! Links, addresses and routes: rtnetlink(7) in the verbs that we need.
//!
//! Every verb takes the socket, hence the namespace, that it works in.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, BorrowedFd};

use ipnet::Ipv4Net;
use rustix::io::Errno;

use super::message::{Message, Received, attribute, flag, text, u32_at};
use super::socket::Socket;

// Types of messages, from linux/rtnetlink.h.
const NEWLINK: u16 = 16;
const DELLINK: u16 = 17;
const GETLINK: u16 = 18;
const NEWADDR: u16 = 20;
const NEWROUTE: u16 = 24;
const GETROUTE: u16 = 26;

// Attributes of a link, from linux/if_link.h.
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_EXT_MASK: u16 = 29;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_INFO_SLAVE_KIND: u16 = 4;
const IFLA_INFO_SLAVE_DATA: u16 = 5;
const VETH_INFO_PEER: u16 = 1;
/// Hairpin: a frame may leave by the port that it came in by.
const IFLA_BRPORT_MODE: u16 = 4;
/// Leave the counters out.
const RTEXT_FILTER_SKIP_STATS: u32 = 1 << 3;
const IFF_UP: u32 = 1;

// Attributes of an address and of a route.
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const AF_UNSPEC: u8 = 0;
const AF_INET: u8 = 2;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_BOOT: u8 = 3;
const RTN_UNICAST: u8 = 1;
/// Index of loopback in every namespace.
const LOOPBACK: u32 = 1;

/// A hardware address.
pub(crate) type Mac = [u8; 6];

/// What we want to know of a link.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    /// What an administrator, or we, wrote onto it.
    pub(crate) alias: String,
    /// `bridge`, `veth`; empty for hardware.
    pub(crate) kind: String,
    pub(crate) mac: Vec<u8>,
    pub(crate) mtu: u32,
    /// Index of the bridge that it is a port of, 0 for none.
    pub(crate) master: u32,
}

/// A pair of links, one end here, one in the pod.
#[derive(Debug)]
pub(crate) struct Veth<'a> {
    /// Name of our end.
    pub(crate) name: &'a str,
    /// Index of the bridge that our end is plugged into.
    pub(crate) bridge: u32,
    /// Bytes of a packet, on both ends.
    pub(crate) mtu: u32,
    /// Name of the pod's end.
    pub(crate) peer_name: &'a str,
    /// Hardware address of the pod's end.
    pub(crate) peer_mac: Mac,
    /// Network namespace of the pod's end.
    pub(crate) netns: BorrowedFd<'a>,
}

/// An IPv4 route, as far as its range goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) destination: Ipv4Net,
    /// Index of the link that it leaves by, 0 for none.
    pub(crate) link: u32,
}

/// `struct ifinfomsg`.
fn link_header(index: u32, flags: u32, change: u32) -> Vec<u8> {
    let mut header = vec![0; 4];
    for field in [index, flags, change] {
        header.extend(field.to_ne_bytes());
    }
    header
}

/// The link of that name, if there is one.
pub(crate) fn link(socket: &mut Socket, name: &str) -> io::Result<Option<Link>> {
    let mut message = Message::new(GETLINK, 0, &link_header(0, 0, 0));
    message.put_str(IFLA_IFNAME, name);
    one_link(socket, message)
}

/// The link of that index, if there is one.
pub(crate) fn link_at(socket: &mut Socket, index: u32) -> io::Result<Option<Link>> {
    let message = Message::new(GETLINK, 0, &link_header(index, 0, 0));
    one_link(socket, message)
}

fn one_link(socket: &mut Socket, mut message: Message) -> io::Result<Option<Link>> {
    message.put_u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS);
    let mut found = None;
    match socket.get(message, |received| found = parse_link(received.payload)) {
        Err(error) if Errno::from_io_error(&error) == Some(Errno::NODEV) => Ok(None),
        other => other.map(|()| found),
    }
}

/// All links.
pub(crate) fn links(socket: &mut Socket) -> io::Result<Vec<Link>> {
    let mut message = Message::new(GETLINK, 0, &link_header(0, 0, 0));
    message.put_u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS);
    socket.list(&message, |received| parse_link(received.payload))
}

fn parse_link(payload: &[u8]) -> Option<Link> {
    let index = u32_at(payload, 4)?;
    let body = payload.get(16..)?;
    let number = |kind| {
        attribute(body, kind)
            .and_then(|value| u32_at(value, 0))
            .unwrap_or(0)
    };
    let string = |kind| attribute(body, kind).map(text).unwrap_or_default();
    let kind = attribute(body, IFLA_LINKINFO).and_then(|info| attribute(info, IFLA_INFO_KIND));
    Some(Link {
        index,
        name: string(IFLA_IFNAME),
        alias: string(IFLA_IFALIAS),
        kind: kind.map(text).unwrap_or_default(),
        mac: attribute(body, IFLA_ADDRESS).unwrap_or_default().to_vec(),
        mtu: number(IFLA_MTU),
        master: number(IFLA_MASTER),
    })
}

/// Makes a bridge with that hardware address, down.
pub(crate) fn add_bridge(socket: &mut Socket, name: &str, mac: Mac) -> io::Result<()> {
    let mut message = Message::new(NEWLINK, flag::CREATE | flag::EXCL, &link_header(0, 0, 0));
    message
        .put_str(IFLA_IFNAME, name)
        .put(IFLA_ADDRESS, &mac)
        .nest(IFLA_LINKINFO, |info| {
            info.put_str(IFLA_INFO_KIND, "bridge");
        });
    socket.request(message)
}

/// Makes a pair of links, our end up and plugged in, the other in the pod, down.
pub(crate) fn add_veth(socket: &mut Socket, veth: &Veth<'_>) -> io::Result<()> {
    let mut message = Message::new(
        NEWLINK,
        flag::CREATE | flag::EXCL,
        &link_header(0, IFF_UP, IFF_UP),
    );
    message
        .put_str(IFLA_IFNAME, veth.name)
        .put_u32(IFLA_MTU, veth.mtu)
        .put_u32(IFLA_MASTER, veth.bridge)
        .nest(IFLA_LINKINFO, |info| {
            info.put_str(IFLA_INFO_KIND, "veth")
                .nest(IFLA_INFO_DATA, |data| {
                    data.nest(VETH_INFO_PEER, |peer| fill_peer(peer, veth));
                });
        });
    socket.request(message)
}

fn fill_peer(peer: &mut Message, veth: &Veth<'_>) {
    peer.raw(&link_header(0, 0, 0))
        .put_str(IFLA_IFNAME, veth.peer_name)
        .put(IFLA_ADDRESS, &veth.peer_mac)
        .put_u32(IFLA_MTU, veth.mtu)
        .put(IFLA_NET_NS_FD, &veth.netns.as_raw_fd().to_ne_bytes());
}

/// Plugs a link into a bridge.
pub(crate) fn set_master(socket: &mut Socket, index: u32, bridge: u32) -> io::Result<()> {
    let mut message = Message::new(NEWLINK, 0, &link_header(index, IFF_UP, IFF_UP));
    message.put_u32(IFLA_MASTER, bridge);
    socket.request(message)
}

/// Lets the port of a bridge send a frame back where it came from.
pub(crate) fn set_hairpin(socket: &mut Socket, index: u32) -> io::Result<()> {
    let mut message = Message::new(NEWLINK, 0, &link_header(index, 0, 0));
    message.nest(IFLA_LINKINFO, |info| {
        info.put_str(IFLA_INFO_SLAVE_KIND, "bridge")
            .nest(IFLA_INFO_SLAVE_DATA, |data| {
                data.put(IFLA_BRPORT_MODE, &[1]);
            });
    });
    socket.request(message)
}

/// Writes an alias onto a link.
pub(crate) fn set_alias(socket: &mut Socket, index: u32, alias: &str) -> io::Result<()> {
    let mut message = Message::new(NEWLINK, 0, &link_header(index, 0, 0));
    message.put(IFLA_IFALIAS, alias.as_bytes());
    socket.request(message)
}

/// Brings a link up; up already is no error.
pub(crate) fn set_up(socket: &mut Socket, index: u32) -> io::Result<()> {
    socket.request(Message::new(
        NEWLINK,
        0,
        &link_header(index, IFF_UP, IFF_UP),
    ))
}

/// Brings loopback up.
pub(crate) fn loopback_up(socket: &mut Socket) -> io::Result<()> {
    set_up(socket, LOOPBACK)
}

/// Removes a link by its name; gone already is no error.
pub(crate) fn delete_link(socket: &mut Socket, name: &str) -> io::Result<()> {
    let mut message = Message::new(DELLINK, 0, &link_header(0, 0, 0));
    message.put_str(IFLA_IFNAME, name);
    accept(socket.request(message), Errno::NODEV)
}

/// Whether a change of links is that the link of this name has gone.
pub(crate) fn tells_removal(change: &Received<'_>, name: &str) -> bool {
    // A bridge tells with its own family that it has lost a port, which comes earlier.
    change.kind == DELLINK
        && change.payload.first() == Some(&AF_UNSPEC)
        && parse_link(change.payload).is_some_and(|link| link.name == name)
}

/// Gives a link an address; having it already is no error.
pub(crate) fn add_address(
    socket: &mut Socket,
    index: u32,
    address: Ipv4Addr,
    range: Ipv4Net,
) -> io::Result<()> {
    let mut header = vec![AF_INET, range.prefix_len(), 0, 0];
    header.extend(index.to_ne_bytes());
    let mut message = Message::new(NEWADDR, flag::CREATE | flag::EXCL, &header);
    message
        .put(IFA_LOCAL, &address.octets())
        .put(IFA_ADDRESS, &address.octets())
        .put(IFA_BROADCAST, &range.broadcast().octets());
    accept(socket.request(message), Errno::EXIST)
}

/// Sends all that has no better way to the gateway; having that route already is no error.
pub(crate) fn add_default_route(
    socket: &mut Socket,
    index: u32,
    gateway: Ipv4Addr,
) -> io::Result<()> {
    let mut header = [0; 12];
    (header[0], header[4], header[5], header[7]) =
        (AF_INET, RT_TABLE_MAIN, RTPROT_BOOT, RTN_UNICAST);
    let mut message = Message::new(NEWROUTE, flag::CREATE | flag::EXCL, &header);
    message
        .put(RTA_GATEWAY, &gateway.octets())
        .put_u32(RTA_OIF, index);
    accept(socket.request(message), Errno::EXIST)
}

/// All IPv4 routes of all tables.
pub(crate) fn routes(socket: &mut Socket) -> io::Result<Vec<Route>> {
    let mut header = [0; 12];
    header[0] = AF_INET;
    let message = Message::new(GETROUTE, 0, &header);
    socket.list(&message, |received| parse_route(received.payload))
}

fn parse_route(payload: &[u8]) -> Option<Route> {
    let (family, length) = (*payload.first()?, *payload.get(1)?);
    let body = payload.get(12..)?;
    let address = match attribute(body, RTA_DST) {
        Some(bytes) => Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?),
        None => Ipv4Addr::UNSPECIFIED,
    };
    let link = attribute(body, RTA_OIF)
        .and_then(|value| u32_at(value, 0))
        .unwrap_or(0);
    let destination = Ipv4Net::new(address, length).ok()?;
    (family == AF_INET).then_some(Route { destination, link })
}

fn accept(result: io::Result<()>, harmless: Errno) -> io::Result<()> {
    match result {
        Err(error) if Errno::from_io_error(&error) == Some(harmless) => Ok(()),
        other => other,
    }
}
