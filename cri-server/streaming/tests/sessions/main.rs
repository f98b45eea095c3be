//! Sessions as clients have them: over real sockets, with clients of our own for SPDY and
//! WebSocket that know only what the protocols say.

#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test fails as the test does"
)]

mod client;
#[path = "../../src/spdy/dictionary.rs"]
mod dictionary;
mod forward;
mod http;
mod slow;
mod spdy;
mod websocket;

use std::future::Future;
use std::time::Duration;

use streaming::{Command, Config, Outcome, Server, Session, Streams, Wanted};

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);

const IN_OUT: Wanted = Wanted {
    stdin: true,
    stdout: true,
    stderr: false,
    tty: false,
};
const OUTPUTS: Wanted = Wanted {
    stdin: false,
    stdout: true,
    stderr: true,
    tty: false,
};

async fn server() -> Server {
    Server::bind(Config::default()).await.unwrap()
}

/// A session whose target is `run`.
fn exec<R>(wanted: Wanted, run: impl FnOnce(Streams) -> R + Send + 'static) -> Session
where
    R: Future<Output = Outcome> + Send + 'static,
{
    Session::Exec(Command {
        wanted,
        target: Box::new(run),
    })
}

/// What `cat` does.
async fn cat(streams: Streams) -> Outcome {
    let (mut stdin, mut stdout) = (streams.stdin.unwrap(), streams.stdout.unwrap());
    match tokio::io::copy(&mut stdin, &mut stdout).await {
        Ok(_) => Outcome::Exit(0),
        Err(error) => Outcome::Error(error.to_string()),
    }
}

/// Writes to both outputs and fails.
async fn complain(streams: Streams) -> Outcome {
    use tokio::io::AsyncWriteExt;
    streams.stdout.unwrap().write_all(b"out").await.unwrap();
    streams.stderr.unwrap().write_all(b"err").await.unwrap();
    Outcome::Exit(3)
}

async fn in_time<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future)
        .await
        .expect("it takes much less")
}
