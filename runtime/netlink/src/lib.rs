//! Netlink: the bytes of its messages, and a socket that does, lists and transacts.
//!
//! Synchronous: the kernel answers within the call. It knows the framing and no attribute's meaning:
//! that is said where links, addresses, routes or firewall rules are spoken of. It is no general
//! netlink library: it has what our two users need, pod networks and the network devices of `wrun`.

pub mod message;
pub mod socket;
