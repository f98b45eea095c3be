//! Netlink: links, addresses and routes (rtnetlink), firewall tables (nf_tables), tracked
//! connections (ctnetlink), each as a few synchronous verbs.
//!
//! It does what it is told and decides nothing: what a bridge is for, and which rules a pod needs,
//! is said in `builtin`. It is no general netlink library: it reads and writes the handful of
//! attributes that we use and skips all others, so a link of an odd kind never fails a dump.

pub(crate) mod conntrack;
pub(crate) mod nft;
pub(crate) mod route;

pub(crate) use ::netlink::{message, socket};
