//! One run of one plugin: environment and standard input in, standard output or an error out.
//!
//! The one place of this crate that owns children. A plugin has a process group of its own, which
//! is killed when the plugin takes too long, says too much, or nobody waits for it any more.
//! Source: CNI specification 1.1.0, sections 2 and 5.

use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};

/// How long a plugin may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// Longest result that is read.
const LONGEST_OUTPUT: usize = 1024 * 1024;
/// How much of what a plugin complains about is kept.
const LONGEST_COMPLAINT: usize = 4096;
/// Where plugins find the programs that they execute, if we were started without a `PATH`.
const USUAL_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Error code: the plugin knows no such container, so there is nothing to clean.
const UNKNOWN_CONTAINER: u64 = 3;

/// What a plugin is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    Add,
    Del,
    Check,
}

impl Verb {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
        }
    }
}

/// The environment of a run.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) verb: Verb,
    pub(crate) container: String,
    /// Empty if the namespace is gone.
    pub(crate) netns: OsString,
    pub(crate) interface: String,
    /// `K=V;K=V`.
    pub(crate) args: String,
    /// Folders of plugins, for plugins that execute others.
    pub(crate) path: OsString,
    pub(crate) patience: Duration,
}

/// Why a run failed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// The plugin's own code, if it gave one.
    code: Option<u64>,
    pub(crate) message: String,
}

impl Failure {
    /// Whether the plugin says that there is nothing to undo.
    pub(crate) fn nothing_there(&self) -> bool {
        self.code == Some(UNKNOWN_CONTAINER)
    }

    /// A failure of which the plugin itself said nothing.
    pub(crate) fn plain(message: String) -> Self {
        Self {
            code: None,
            message,
        }
    }
}

/// The error object of the specification.
#[derive(Deserialize)]
struct Refusal {
    code: u64,
    #[serde(default)]
    msg: String,
    #[serde(default)]
    details: String,
}

/// Kills a process group when dropped before it is known to have ended.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(pid) = self.0 {
            // It may have ended between our decision and this: then there is nobody to kill.
            kill_process_group(pid, Signal::KILL).ok();
        }
    }
}

/// Runs the program; gives what it wrote.
pub(crate) async fn run(program: &Path, call: &Call, input: &[u8]) -> Result<Vec<u8>, Failure> {
    let said = |what: String| Failure::plain(format!("{}: {what}", program.display()));
    let mut child = spawn(program, call).map_err(|error| said(error.to_string()))?;
    let mut group = Group(child.id().and_then(|id| Pid::from_raw(id.cast_signed())));
    let finished = tokio::time::timeout(call.patience, talk(&mut child, input)).await;
    let (status, output, complaint) = match finished {
        Ok(result) => result.map_err(|error| said(error.to_string()))?,
        Err(_elapsed) => return Err(said(format!("took longer than {:?}", call.patience))),
    };
    group.0 = None;
    if status.success() {
        Ok(output)
    } else {
        Err(failure(&output, &complaint, &status))
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the one place of this crate that owns children"
)]
fn spawn(program: &Path, call: &Call) -> io::Result<Child> {
    let path = std::env::var_os("PATH").unwrap_or_else(|| USUAL_PATH.into());
    Command::new(program)
        .current_dir("/")
        .env_clear()
        .env("PATH", path)
        .env("CNI_COMMAND", call.verb.name())
        .env("CNI_CONTAINERID", &call.container)
        .env("CNI_NETNS", &call.netns)
        .env("CNI_IFNAME", &call.interface)
        .env("CNI_ARGS", &call.args)
        .env("CNI_PATH", &call.path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
}

/// Feeds the plugin, hears it out, and waits for its end.
async fn talk(
    child: &mut Child,
    input: &[u8],
) -> io::Result<(std::process::ExitStatus, Vec<u8>, String)> {
    let stdin = child.stdin.take().expect("asked for a pipe");
    let stdout = child.stdout.take().expect("asked for a pipe");
    let stderr = child.stderr.take().expect("asked for a pipe");
    let (_fed, output, complaint) =
        tokio::try_join!(feed(stdin, input), whole(stdout), tail(stderr))?;
    Ok((child.wait().await?, output, complaint))
}

async fn feed(mut stdin: tokio::process::ChildStdin, input: &[u8]) -> io::Result<()> {
    match stdin.write_all(input).await {
        // A plugin need not read what it is told.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

async fn whole(stdout: impl AsyncRead + Unpin) -> io::Result<Vec<u8>> {
    let mut output = Vec::new();
    let limit = u64::try_from(LONGEST_OUTPUT).expect("a constant that fits") + 1;
    stdout.take(limit).read_to_end(&mut output).await?;
    if output.len() > LONGEST_OUTPUT {
        return Err(io::Error::other(format!(
            "wrote more than {LONGEST_OUTPUT} bytes"
        )));
    }
    Ok(output)
}

/// The last of what is written, so that the plugin never waits for us.
async fn tail(mut stderr: impl AsyncRead + Unpin) -> io::Result<String> {
    let mut kept = Vec::new();
    let mut buffer = [0; 1024];
    loop {
        let length = stderr.read(&mut buffer).await?;
        if length == 0 {
            return Ok(String::from_utf8_lossy(&kept).trim().to_owned());
        }
        kept.extend(&buffer[..length]);
        kept.drain(..kept.len().saturating_sub(LONGEST_COMPLAINT));
    }
}

fn failure(output: &[u8], complaint: &str, status: &std::process::ExitStatus) -> Failure {
    let Ok(refusal) = serde_json::from_slice::<Refusal>(output) else {
        let said = String::from_utf8_lossy(&output[..output.len().min(LONGEST_COMPLAINT)]);
        let why = if complaint.is_empty() {
            said.trim()
        } else {
            complaint
        };
        return Failure::plain(format!("{status}: {why}"));
    };
    let mut message = format!("{} (code {})", refusal.msg, refusal.code);
    if !refusal.details.is_empty() {
        message = format!("{message}: {}", refusal.details);
    }
    Failure {
        code: Some(refusal.code),
        message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The shell as a plugin: it executes its standard input.
    fn shell(script: &str, patience: Duration) -> Result<String, Failure> {
        let call = Call {
            verb: Verb::Add,
            container: "c".to_owned(),
            netns: "/netns".into(),
            interface: "eth0".to_owned(),
            args: "A=B".to_owned(),
            path: "/bin".into(),
            patience,
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let output = runtime.block_on(run(Path::new("/bin/sh"), &call, script.as_bytes()));
        output.map(|bytes| String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn a_plugin_gets_a_clean_environment_and_the_root_folder() {
        let got = shell(
            "echo $CNI_COMMAND $CNI_NETNS $CNI_ARGS $(pwd) ${HOME-none}",
            PATIENCE,
        );
        assert_eq!(got.unwrap(), "ADD /netns A=B / none\n");
    }

    #[test]
    fn a_refusal_becomes_a_message() {
        let script = r#"echo '{"code":7,"msg":"bad","details":"very"}'; exit 1"#;
        let refused = shell(script, PATIENCE).unwrap_err();
        assert_eq!(refused.message, "bad (code 7): very");
        assert!(!refused.nothing_there());
        let script = r#"echo '{"code":3,"msg":"who?"}'; exit 1"#;
        assert!(shell(script, PATIENCE).unwrap_err().nothing_there());
    }

    #[test]
    fn without_a_refusal_the_complaint_is_told() {
        let refused = shell("echo oh no >&2; exit 4", PATIENCE).unwrap_err();
        assert_eq!(refused.message, "exit status: 4: oh no");
    }

    #[test]
    fn a_plugin_that_hangs_is_killed_with_all_its_children() {
        let folder = tempfile::tempdir().unwrap();
        let note = folder.path().join("pid");
        let script = format!("sleep 1000 & echo $! > {}; wait", note.display());
        let refused = shell(&script, Duration::from_millis(300)).unwrap_err();
        assert!(
            refused.message.contains("took longer than"),
            "{}",
            refused.message
        );
        let pid: i32 = std::fs::read_to_string(note)
            .unwrap()
            .trim()
            .parse()
            .unwrap();
        let gone = |pid| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            stat.is_empty() || stat.contains(") Z ")
        };
        let deadline = std::time::Instant::now() + Duration::from_secs(5);
        while !gone(pid) {
            assert!(std::time::Instant::now() < deadline, "the child lives on");
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_plugin_that_never_stops_talking_is_stopped() {
        let refused = shell("exec cat /dev/zero", PATIENCE).unwrap_err();
        assert!(
            refused.message.contains("more than 1048576 bytes"),
            "{}",
            refused.message
        );
    }
}
