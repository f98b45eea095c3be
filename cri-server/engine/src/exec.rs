//! Running a command in a container to its end, with both streams bounded.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{Gid, Uid};
use rustix::pipe::PipeFlags;
use shim_api::{Exec, ExecExited, KillExec, request};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::error::Error;
use crate::shim::Shim;

/// Most bytes kept of each stream; the rest is read and dropped.
const MAX_OUTPUT: usize = 16 << 20;

/// How long output may still come after the process has ended: what it left running in the
/// background may hold the streams for ever.
const DRAIN: Duration = Duration::from_secs(1);

/// What a command gave.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExecOutput {
    /// Standard output, at most 16 MiB.
    pub stdout: Vec<u8>,
    /// Standard error, at most 16 MiB.
    pub stderr: Vec<u8>,
    /// 0 to 255; 128 + N where signal N ended it.
    pub exit_code: i32,
}

/// Collects a stream; what came so far can be taken at any time.
struct Collector {
    bytes: Arc<std::sync::Mutex<Vec<u8>>>,
    task: JoinHandle<()>,
}

/// Runs the command that `process` (an OCI process object) describes.
pub(crate) async fn run(
    shim: &Arc<Shim>,
    id: String,
    process: Vec<u8>,
    root: (u32, u32),
    timeout: Option<Duration>,
) -> Result<ExecOutput, Error> {
    let (stdout, stdout_writer) = stream(root)?;
    let (stderr, stderr_writer) = stream(root)?;
    let ended = shim.expect_exec(&id);
    let mut session = Session::new(shim, &id);
    let call = request::Call::Exec(Exec {
        id,
        process,
        terminal: false,
        stdin: false,
        stdout: true,
        stderr: true,
        deadline_ms: timeout.map_or(0, milliseconds),
    });
    let started = shim
        .call(call, &[stdout_writer.as_fd(), stderr_writer.as_fd()])
        .await;
    drop((stdout_writer, stderr_writer));
    if let Err(error) = started {
        session.refused(&error);
        return Err(error);
    }
    let exited = wait(ended, timeout).await?;
    session.ended();
    drain([stdout, stderr], &exited).await
}

/// A session of the shim: forgotten, and ended if it is not over, when the caller stops waiting.
#[derive(Debug)]
pub(crate) struct Session {
    shim: Arc<Shim>,
    id: String,
    over: bool,
}

impl Session {
    pub(crate) fn new(shim: &Arc<Shim>, id: &str) -> Self {
        Self {
            shim: Arc::clone(shim),
            id: id.to_owned(),
            over: false,
        }
    }

    /// Takes note that it could not be begun. After a time-out the command may run yet: then it is
    /// ended with this session.
    pub(crate) fn refused(&mut self, error: &Error) {
        self.over = !matches!(error, Error::DeadlineExceeded(_));
    }

    /// Takes note that the command has ended.
    pub(crate) fn ended(&mut self) {
        self.over = true;
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.shim.forget_exec(&self.id);
        if !self.over {
            let (shim, id) = (Arc::clone(&self.shim), self.id.clone());
            #[expect(
                clippy::disallowed_methods,
                reason = "ends with one answer of the shim"
            )]
            drop(tokio::spawn(async move {
                drop(
                    shim.call(request::Call::KillExec(KillExec { id }), &[])
                        .await,
                );
            }));
        }
    }
}

pub(crate) fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The end of the command. The shim keeps the time; should the kernel not end what the shim has
/// killed, the wait is over all the same.
async fn wait(
    ended: oneshot::Receiver<ExecExited>,
    timeout: Option<Duration>,
) -> Result<ExecExited, Error> {
    let over = || Error::WrongState("the container ended while the command ran".into());
    let Some(timeout) = timeout else {
        return ended.await.map_err(|_closed| over());
    };
    let patience = timeout.saturating_add(crate::teardown::KILL_PATIENCE);
    match tokio::time::timeout(patience, ended).await {
        Ok(exited) => exited.map_err(|_closed| over()),
        Err(_elapsed) => Err(Error::DeadlineExceeded(
            "the command was killed, but does not end".into(),
        )),
    }
}

/// Gives a process's end of a pipe to the root of its container (user and group id on the host),
/// which otherwise could not reopen it by `/dev/stdout`, nor pass it on to its other users.
pub(crate) fn give(pipe: &OwnedFd, root: (u32, u32)) -> io::Result<()> {
    if root == (0, 0) {
        return Ok(());
    }
    let (uid, gid) = (Uid::from_raw(root.0), Gid::from_raw(root.1));
    Ok(rustix::fs::fchown(pipe, Some(uid), Some(gid))?)
}

fn stream(root: (u32, u32)) -> Result<(Collector, OwnedFd), Error> {
    let failed = |error: io::Error| Error::failed("making a pipe", error);
    let (reader, writer) =
        rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(|error| failed(error.into()))?;
    give(&writer, root).map_err(failed)?;
    rustix::io::ioctl_fionbio(&reader, true).map_err(|error| failed(error.into()))?;
    let reader = Receiver::from_owned_fd(reader).map_err(failed)?;
    Ok((collect(reader), writer))
}

fn collect(mut reader: Receiver) -> Collector {
    let bytes = Arc::new(std::sync::Mutex::new(Vec::new()));
    let kept = Arc::clone(&bytes);
    #[expect(
        clippy::disallowed_methods,
        reason = "ends with the stream, or is aborted after it"
    )]
    let task = tokio::spawn(async move {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(count @ 1..) = reader.read(&mut buffer).await {
            let mut kept = kept
                .lock()
                .expect("no thread panics while it holds this lock");
            let room = MAX_OUTPUT - kept.len();
            kept.extend_from_slice(&buffer[..count.min(room)]);
        }
    });
    Collector { bytes, task }
}

async fn drain(streams: [Collector; 2], exited: &ExecExited) -> Result<ExecOutput, Error> {
    let until = tokio::time::Instant::now() + DRAIN;
    let [stdout, stderr] = streams;
    let output = ExecOutput {
        stdout: stdout.finish(until).await,
        stderr: stderr.finish(until).await,
        exit_code: exited.exit_code,
    };
    if exited.deadline_passed {
        return Err(Error::DeadlineExceeded(
            "the command did not end in the time given".into(),
        ));
    }
    Ok(output)
}

impl Collector {
    async fn finish(mut self, until: tokio::time::Instant) -> Vec<u8> {
        if tokio::time::timeout_at(until, &mut self.task)
            .await
            .is_err()
        {
            self.task.abort();
        }
        let mut bytes = self
            .bytes
            .lock()
            .expect("no thread panics while it holds this lock");
        std::mem::take(&mut *bytes)
    }
}

/// The OCI process object of another command in a container, from that of its init.
pub(crate) fn process(config: &[u8], command: &[String], terminal: bool) -> Result<Vec<u8>, Error> {
    let broken = |error: serde_json::Error| Error::failed("reading the container's config", error);
    let mut config: serde_json::Value = serde_json::from_slice(config).map_err(broken)?;
    let mut process = config["process"].take();
    process["args"] = command.into();
    process["terminal"] = terminal.into();
    if let Some(fields) = process.as_object_mut() {
        fields.remove("consoleSize");
    }
    serde_json::to_vec(&process).map_err(broken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_command_keeps_rights_and_loses_the_terminal() {
        let config = br#"{"process":{"terminal":true,"consoleSize":{"height":1,"width":1},
            "args":["top"],"cwd":"/x","noNewPrivileges":true}}"#;
        let process = process(config, &["ls".into(), "-l".into()], false).unwrap();
        let process: serde_json::Value = serde_json::from_slice(&process).unwrap();
        let expect = serde_json::json!({
            "terminal": false, "args": ["ls", "-l"], "cwd": "/x", "noNewPrivileges": true,
        });
        assert_eq!(process, expect);
    }
}
