//! The operator's socket: what `wherryd`'s own commands ask the running daemon.
//!
//! Both ends are here: [`service`] answers in the daemon; [`client`], [`debug`], [`report`], [`fsck`] and
//! [`reset`] ask. It is no
//! second CRI: only what an operator needs and CRI has no verb for, or needs a client for.

mod bar;
pub(crate) mod client;
pub(crate) mod debug;
pub(crate) mod fsck;
mod pulling;
pub(crate) mod report;
pub(crate) mod reset;
pub(crate) mod service;
