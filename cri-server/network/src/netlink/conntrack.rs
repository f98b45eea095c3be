//! Tracked connections: forgetting those of a UDP port.
//!
//! A UDP sender that never pauses keeps its entry alive, so packets for a host port would go on
//! to where they went before the port changed hands. TCP needs none of this: its connections end.

use std::io;

use rustix::io::Errno;

use super::message::{Message, attribute};
use super::socket::Socket;

const SUBSYSTEM: u16 = 1 << 8;
const GET: u16 = SUBSYSTEM | 1;
const DELETE: u16 = SUBSYSTEM | 2;
const AF_INET: u8 = 2;
const TUPLE_ORIG: u16 = 1;
const TUPLE_PROTO: u16 = 2;
const PROTO_NUM: u16 = 1;
const PROTO_DST_PORT: u16 = 3;
const UDP: u8 = 17;

/// Forgets every UDP connection over IPv4 that was made to one of these ports.
pub(crate) fn forget_udp(socket: &mut Socket, ports: &[u16]) -> io::Result<()> {
    let all = Message::new(GET, 0, &[AF_INET, 0, 0, 0]);
    let tuples = socket.list(&all, |received| {
        let tuple = attribute(received.payload.get(4..)?, TUPLE_ORIG)?;
        ports
            .contains(&udp_destination(tuple)?)
            .then(|| tuple.to_vec())
    })?;
    for tuple in tuples {
        let mut message = Message::new(DELETE, 0, &[AF_INET, 0, 0, 0]);
        message.nest(TUPLE_ORIG, |inner| {
            inner.raw(&tuple);
        });
        match socket.request(message) {
            // It ended by itself meanwhile.
            Err(error) if Errno::from_io_error(&error) == Some(Errno::NOENT) => {}
            other => other?,
        }
    }
    Ok(())
}

fn udp_destination(tuple: &[u8]) -> Option<u16> {
    let protocol = attribute(tuple, TUPLE_PROTO)?;
    if attribute(protocol, PROTO_NUM)? != [UDP] {
        return None;
    }
    let port = attribute(protocol, PROTO_DST_PORT)?;
    Some(u16::from_be_bytes(port.try_into().ok()?))
}
