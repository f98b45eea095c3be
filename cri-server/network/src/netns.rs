//! Work inside a pod's network namespace, from outside.
//!
//! A thread that has entered a namespace is never used for anything else: each call starts its
//! own and ends it. What it hands back is a socket, which stays in the namespace by itself.

use std::fs::File;
use std::io;
use std::path::Path;

use nix::sched::{CloneFlags, setns};

use crate::netlink::socket::Socket;
use crate::{Error, failed};

/// A pod's pinned namespace, open.
#[derive(Debug)]
pub(crate) struct Netns {
    /// Its descriptor, to be named in messages to the kernel.
    pub(crate) file: File,
    /// A route socket inside.
    pub(crate) socket: Socket,
}

/// Opens the namespace and a route socket inside.
pub(crate) fn open(path: &Path) -> Result<Netns, Error> {
    let what = || format!("entering network namespace {}", path.display());
    let file = File::open(path).map_err(failed(what()))?;
    let socket = socket_inside(&file).map_err(failed(what()))?;
    Ok(Netns { file, socket })
}

fn socket_inside(file: &File) -> io::Result<Socket> {
    std::thread::scope(|scope| {
        let enter = || {
            setns(file, CloneFlags::CLONE_NEWNET)?;
            Socket::route()
        };
        let thread = std::thread::Builder::new()
            .name("netns".to_owned())
            .spawn_scoped(scope, enter)?;
        thread
            .join()
            .expect("entering a namespace and opening a socket never panics")
    })
}
