//! Exec, Attach and PortForward: a ticket now, the streams when somebody comes with it.
//!
//! Here the engine's streams and the client's meet; neither side knows the other.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use cri_api as cri;
use engine::{Engine, Error, ExecSession, Followed};
use streaming::{
    Boxed, Command, Connection, Dialer, Forward, Outcome, Resizes, Server, Session, Streams, Wanted,
};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};

use super::request;

/// How long output may still come after a command has ended: what it left running in the
/// background may hold the streams for ever.
const DRAIN: Duration = Duration::from_secs(1);

pub(super) fn exec(
    engine: &Arc<Engine>,
    server: &Server,
    asked: cri::ExecRequest,
) -> Result<cri::ExecResponse, Error> {
    let wanted = check(Wanted {
        stdin: asked.stdin,
        stdout: asked.stdout,
        stderr: asked.stderr,
        tty: asked.tty,
    })?;
    let command = request::command("cmd", asked.cmd)?;
    let id = running(engine, &asked.container_id)?;
    let engine = Arc::clone(engine);
    let target = Box::new(move |streams| async move {
        let session = engine.exec(&id, &command, followed(wanted)).await;
        match session {
            Ok(session) => Box::pin(carry_exec(session, streams)).await,
            Err(error) => Outcome::Error(error.to_string()),
        }
    });
    let session = Session::Exec(Command { wanted, target });
    Ok(cri::ExecResponse {
        url: ticket(server, session)?,
    })
}

pub(super) fn attach(
    engine: &Arc<Engine>,
    server: &Server,
    asked: &cri::AttachRequest,
) -> Result<cri::AttachResponse, Error> {
    let wanted = check(Wanted {
        stdin: asked.stdin,
        stdout: asked.stdout,
        stderr: asked.stderr,
        tty: asked.tty,
    })?;
    let id = running(engine, &asked.container_id)?;
    let engine = Arc::clone(engine);
    let target = Box::new(move |streams| async move {
        match Box::pin(carry_attach(&engine, &id, wanted, streams)).await {
            Ok(()) => Outcome::Exit(0),
            Err(error) => Outcome::Error(error.to_string()),
        }
    });
    let session = Session::Attach(Command { wanted, target });
    Ok(cri::AttachResponse {
        url: ticket(server, session)?,
    })
}

pub(super) fn port_forward(
    engine: &Arc<Engine>,
    server: &Server,
    asked: cri::PortForwardRequest,
) -> Result<cri::PortForwardResponse, Error> {
    let sandbox = engine.sandbox(&asked.pod_sandbox_id)?.id.clone();
    let ports = asked.port.into_iter().map(port).collect::<Result<_, _>>()?;
    let dialer = Arc::new(Pod {
        engine: Arc::clone(engine),
        sandbox,
    });
    let session = Session::PortForward(Forward { ports, dialer });
    Ok(cri::PortForwardResponse {
        url: ticket(server, session)?,
    })
}

/// Refuses streams that contradict each other.
fn check(wanted: Wanted) -> Result<Wanted, Error> {
    let fit = wanted.check().map(|()| wanted);
    fit.map_err(|error| Error::Invalid(error.to_string()))
}

fn followed(wanted: Wanted) -> Followed {
    Followed {
        stdin: wanted.stdin,
        stdout: wanted.stdout,
        stderr: wanted.stderr,
        tty: wanted.tty,
    }
}

/// The whole id of a container that runs.
fn running(engine: &Engine, id: &str) -> Result<String, Error> {
    let container = engine.container(id)?;
    pod::lifecycle::in_use(container.phase)
        .map_err(|refusal| Error::WrongState(format!("container {id}: {refusal}")))?;
    Ok(container.id.clone())
}

fn port(port: i32) -> Result<u16, Error> {
    let fit = u16::try_from(port).ok().filter(|port| *port != 0);
    fit.ok_or_else(|| Error::Invalid(format!("port: {port} is not between 1 and 65535")))
}

fn ticket(server: &Server, session: Session) -> Result<String, Error> {
    server
        .ticket(session)
        .map_err(|error| Error::Exhausted(error.to_string()))
}

/// Carries the streams of a command to its end.
async fn carry_exec(session: ExecSession, streams: Streams) -> Outcome {
    let ExecSession {
        stdin,
        stdout,
        stderr,
        terminal,
        mut end,
    } = session;
    let sizes = {
        let terminal = terminal.clone();
        resize(streams.resizes, move |width, height| {
            let result = terminal
                .as_ref()
                .map(|terminal| terminal.resize(width, height));
            async move { drop(result) }
        })
    };
    let screen = terminal.clone();
    let output = async {
        match screen {
            Some(terminal) => copy(Some(terminal), streams.stdout).await,
            None => {
                tokio::join!(copy(stdout, streams.stdout), copy(stderr, streams.stderr));
            }
        }
    };
    let input = async {
        match terminal {
            Some(terminal) => copy(streams.stdin, Some(terminal)).await,
            None => copy(streams.stdin, stdin).await,
        }
    };
    let (mut output, mut beside) = (
        std::pin::pin!(output),
        std::pin::pin!(async {
            tokio::join!(input, sizes);
            std::future::pending::<()>().await;
        }),
    );
    let mut drained = false;
    let ended = loop {
        tokio::select! {
            ended = end.wait() => break ended,
            () = &mut output, if !drained => drained = true,
            () = &mut beside => {}
        }
    };
    if !drained {
        // What still holds the streams then is none of this command any more.
        drop(tokio::time::timeout(DRAIN, output).await);
    }
    match ended {
        Ok(code) => Outcome::Exit(u8::try_from(code).unwrap_or(u8::MAX)),
        Err(error) => Outcome::Error(error.to_string()),
    }
}

/// Carries the streams of an attachment until the container or the client ends them.
async fn carry_attach(
    engine: &Engine,
    id: &str,
    wanted: Wanted,
    streams: Streams,
) -> Result<(), Error> {
    let attachment = engine.attach(id, followed(wanted)).await?;
    let resizer = Arc::new(attachment.resizer());
    let sizes = resize(streams.resizes, move |width, height| {
        let resizer = Arc::clone(&resizer);
        async move { drop(resizer.resize(width, height).await) }
    });
    let output = async {
        tokio::join!(
            copy(attachment.stdout, streams.stdout),
            copy(attachment.stderr, streams.stderr)
        );
    };
    let input = copy(streams.stdin, attachment.stdin);
    if wanted.stdout || wanted.stderr {
        tokio::select! {
            () = output => {}
            () = async { tokio::join!(input, sizes); std::future::pending::<()>().await } => {}
        }
    } else {
        input.await;
    }
    Ok(())
}

/// Copies one way until either side ends, then closes the writer. A stream that was not asked for
/// has ended.
async fn copy<R, W>(reader: Option<R>, writer: Option<W>)
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let (Some(mut reader), Some(mut writer)) = (reader, writer) else {
        return;
    };
    // Whichever side fails has gone, which is an end like another.
    drop(tokio::io::copy(&mut reader, &mut writer).await);
    drop(writer.shutdown().await);
}

/// Hands on the sizes that the client's terminal takes.
async fn resize<F: Future<Output = ()>>(
    resizes: Option<Resizes>,
    mut set: impl FnMut(u16, u16) -> F,
) {
    let Some(mut resizes) = resizes else { return };
    while let Some(size) = resizes.next().await {
        set(size.width, size.height).await;
    }
}

/// A pod whose ports are forwarded.
struct Pod {
    engine: Arc<Engine>,
    sandbox: String,
}

impl Dialer for Pod {
    fn dial(&self, port: u16) -> Boxed<'_, io::Result<Box<dyn Connection>>> {
        Box::pin(async move {
            let connection = self.engine.dial(&self.sandbox, port).await;
            let connection = connection.map_err(|error| io::Error::other(error.to_string()))?;
            Ok(Box::new(connection) as Box<dyn Connection>)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_checked() {
        assert_eq!(port(80).unwrap(), 80);
        for bad in [0, -1, 65536] {
            assert!(matches!(port(bad), Err(Error::Invalid(_))));
        }
    }

    #[test]
    fn contradictory_streams_are_refused() {
        let refused = |wanted| matches!(check(wanted), Err(Error::Invalid(_)));
        let terminal = Wanted {
            stdin: true,
            stdout: true,
            stderr: false,
            tty: true,
        };
        assert!(check(terminal).is_ok());
        assert!(refused(Wanted {
            stderr: true,
            ..terminal
        }));
        assert!(refused(Wanted {
            stdin: false,
            stdout: false,
            ..terminal
        }));
    }
}
