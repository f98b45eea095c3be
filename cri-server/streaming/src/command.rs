//! Exec and attach: gathers the streams of a process, lets the target work, tells the outcome.

use std::collections::HashMap;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use crate::mux::{Incoming, Mux, Reader, Writer};
use crate::outcome::Form;
use crate::resize::Resizes;
use crate::session::{Command, Outcome, Streams, Wanted};

/// How long a client may take to open the streams that it asked for.
const STREAM_CREATION: Duration = Duration::from_secs(30);

/// What a version of the protocol can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Version {
    /// How the outcome is told.
    pub(crate) form: Form,
    /// Whether a client with a terminal tells its size.
    pub(crate) resizes: bool,
}

/// What a stream of a process is for; its number is the channel in WebSocket protocols.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Role {
    Stdin = 0,
    Stdout = 1,
    Stderr = 2,
    Error = 3,
    Resize = 4,
}

impl Role {
    const ALL: [Self; 5] = [
        Self::Stdin,
        Self::Stdout,
        Self::Stderr,
        Self::Error,
        Self::Resize,
    ];

    /// The role of a SPDY stream, by its header `streamType`.
    fn of_header(value: &str) -> Option<Self> {
        match value {
            "stdin" => Some(Self::Stdin),
            "stdout" => Some(Self::Stdout),
            "stderr" => Some(Self::Stderr),
            "error" => Some(Self::Error),
            "resize" => Some(Self::Resize),
            _ => None,
        }
    }

    fn is_expected(self, wanted: Wanted, version: Version) -> bool {
        match self {
            Self::Stdin => wanted.stdin,
            Self::Stdout => wanted.stdout,
            Self::Stderr => wanted.stderr,
            Self::Error => true,
            Self::Resize => wanted.tty && version.resizes,
        }
    }

    fn expected(wanted: Wanted, version: Version) -> impl Iterator<Item = Self> {
        Self::ALL
            .into_iter()
            .filter(move |role| role.is_expected(wanted, version))
    }
}

/// Ends of the streams by role, both directions of each.
type Gathered = HashMap<Role, (Reader, Writer)>;

/// Serves a client that opens its streams by itself.
pub(crate) async fn serve_opened(mux: &Mux, version: Version, command: Command) {
    let mut gathered = Gathered::new();
    let all = gather(mux, &mut gathered, command.wanted, version);
    match timeout(STREAM_CREATION, all).await {
        Ok(Some(())) => serve(gathered, version, command).await,
        Ok(None) => {}
        Err(_) => {
            if let Some((_, error)) = gathered.remove(&Role::Error) {
                let text = format!("not all streams were opened within {STREAM_CREATION:?}");
                tell(error, &Outcome::Error(text), version).await;
            }
        }
    }
}

/// Serves a client whose streams exist from the start, numbered by role.
pub(crate) async fn serve_channels(mux: &Mux, version: Version, command: Command) {
    let roles = Role::expected(command.wanted, version);
    let gathered: Gathered = roles.map(|role| (role, mux.ends(role as u32))).collect();
    announce(mux, command.wanted);
    serve(gathered, version, command).await;
}

/// Clients of the first versions take an empty message for "it is connected".
fn announce(mux: &Mux, wanted: Wanted) {
    let role = match wanted {
        Wanted { stdout: true, .. } => Role::Stdout,
        Wanted { stderr: true, .. } => Role::Stderr,
        _ => Role::Error,
    };
    mux.accept(role as u32);
}

/// Waits for exactly the expected streams; others are refused. None when the client left.
async fn gather(
    mux: &Mux,
    gathered: &mut Gathered,
    wanted: Wanted,
    version: Version,
) -> Option<()> {
    while Role::expected(wanted, version).any(|role| !gathered.contains_key(&role)) {
        let Incoming {
            stream,
            headers,
            reader,
            writer,
        } = mux.incoming().await?;
        let role = headers.get("streamtype").and_then(Role::of_header);
        match role.filter(|role| role.is_expected(wanted, version)) {
            Some(role) if !gathered.contains_key(&role) => {
                mux.accept(stream);
                gathered.insert(role, (reader, writer));
            }
            _ => mux.refuse(stream),
        }
    }
    Some(())
}

async fn serve(mut gathered: Gathered, version: Version, command: Command) {
    let Some((_, error)) = gathered.remove(&Role::Error) else {
        return;
    };
    // The halves that carry nothing stay open until the outcome is told: clients take the end of
    // any stream for the end of the session.
    let (stdin, stdin_back) = gathered.remove(&Role::Stdin).unzip();
    let (resize, resize_back) = gathered.remove(&Role::Resize).unzip();
    let streams = Streams {
        stdin,
        stdout: gathered.remove(&Role::Stdout).map(|(_, writer)| writer),
        stderr: gathered.remove(&Role::Stderr).map(|(_, writer)| writer),
        resizes: resize.map(Resizes::new),
    };
    let outcome = command.target.run(streams).await;
    tell(error, &outcome, version).await;
    drop((stdin_back, resize_back));
}

/// The last thing that a client reads.
async fn tell(mut error: Writer, outcome: &Outcome, version: Version) {
    tracing::debug!(?outcome, "a session is over");
    if let Err(problem) = error.write_all(&outcome.tell(version.form)).await {
        tracing::debug!(%problem, "the client left before it could read the outcome");
    }
}
