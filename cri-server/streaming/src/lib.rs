//! Exec, attach and port-forward: byte streams of clients, over SPDY/3.1 and WebSocket.
//!
//! Knows nothing of pods, containers or CRI. A caller gives a [`Session`] and gets a URL with a
//! ticket; whoever comes with it gets the session's streams:
//!
//! ```text
//!   caller --Session--> ticket -URL-> ... client --HTTP upgrade--> server -> negotiate (pure)
//!                                                                     |
//!       Target / Dialer <--Reader, Writer-- command, forward <--- mux + driver <-> socket
//!                                                                     |
//!                                                    spdy, websocket (bytes in, events out)
//! ```
//!
//! ```no_run
//! use streaming::{Command, Config, Outcome, Server, Session, Streams, Wanted};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let server = Server::bind(Config::default()).await?;
//! let wanted = Wanted { stdin: true, stdout: true, stderr: false, tty: false };
//! wanted.check()?;
//! let target = Box::new(|streams: Streams| async move {
//!     let (Some(mut stdin), Some(mut stdout)) = (streams.stdin, streams.stdout) else {
//!         return Outcome::Error("both were asked for".to_owned());
//!     };
//!     match tokio::io::copy(&mut stdin, &mut stdout).await {
//!         Ok(_) => Outcome::Exit(0),
//!         Err(error) => Outcome::Error(error.to_string()),
//!     }
//! });
//! let url = server.ticket(Session::Exec(Command { wanted, target }))?;
//! # Ok(()) }
//! ```
//!
//! # Who may have a session
//!
//! Who has its ticket: 128 random bits, used once, gone after a minute. There is nothing else,
//! because the client is a proxy (kubelet) that hands on others' requests. A page in a browser on
//! the same machine may reach the listener, but it does not know a ticket, and no answer lets it
//! read one. Requests with an `Origin` are not refused for that reason alone: the proxy hands on
//! that header of its own clients, which may be web pages that it let in.
//!
//! # Slow and vanished clients
//!
//! Nobody waits for a client but its own session: buffers are bounded, writers to a slow client
//! wait, and a session whose client left is dropped. On a session nothing may be still for four
//! hours; TCP keep-alive finds vanished machines in two minutes.

mod command;
mod forward;
pub mod judge;
mod mux;
mod negotiate;
mod outcome;
mod resize;
mod server;
mod session;
mod spdy;
mod ticket;
mod tls;
mod websocket;
mod wire;

pub use mux::{Reader, Writer};
pub use resize::{Resizes, Size};
pub use server::{BindError, Config, Server};
pub use session::{
    Boxed, Command, Connection, Dialer, Forward, Outcome, Session, Streams, Target, Unfit, Wanted,
};
pub use ticket::{MAX_TICKETS, TICKET_LIFE, TooMany};
pub use tls::{Tls, TlsError};
