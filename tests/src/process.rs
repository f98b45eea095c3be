//! Every process that a test starts, and its end.
//!
//! Commands are bounded by coreutils' `timeout`; programs that stay are killed by their own pid
//! when they are dropped.

use std::ffi::OsStr;
use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::wait::LIMIT;

/// Seconds from `timeout`'s SIGTERM to its SIGKILL.
const GRACE: u64 = 5;

/// What a command left.
#[derive(Clone, Debug)]
pub struct Output {
    /// Exit code; 128 + n after signal n, 124 when it took too long.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Output {
    /// Its output, if it ended with 0.
    ///
    /// # Errors
    ///
    /// With all that it wrote otherwise.
    pub fn ok(self) -> Result<String> {
        if self.code != 0 {
            bail!("exit code {}\n{}{}", self.code, self.stdout, self.stderr);
        }
        Ok(self.stdout)
    }
}

/// A command that ends by itself, stopped after [`LIMIT`] if it does not.
pub fn bounded(program: impl AsRef<OsStr>) -> Command {
    limited(program, LIMIT.as_secs())
}

/// A command that ends by itself, stopped after some seconds if it does not.
#[expect(
    clippy::disallowed_methods,
    reason = "this module owns the tests' children"
)]
pub fn limited(program: impl AsRef<OsStr>, seconds: u64) -> Command {
    let mut command = Command::new("timeout");
    command
        .arg("-k")
        .arg(GRACE.to_string())
        .arg(seconds.to_string())
        .arg(program);
    command.stdin(Stdio::null());
    command
}

/// A command that runs until its [`Running`] is dropped.
#[expect(
    clippy::disallowed_methods,
    reason = "this module owns the tests' children"
)]
pub fn lasting(program: impl AsRef<OsStr>) -> Command {
    Command::new(program)
}

/// Runs a command to its end.
///
/// # Errors
///
/// If it cannot be started; how it ended is for the caller to judge.
pub fn run(command: &mut Command) -> Result<Output> {
    let said = format!("{command:?}");
    let output = command
        .output()
        .with_context(|| format!("starting {said}"))?;
    let code = {
        use std::os::unix::process::ExitStatusExt;
        output
            .status
            .code()
            .unwrap_or_else(|| 128 + output.status.signal().unwrap_or_default())
    };
    Ok(Output {
        code,
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// Runs a command that must end with 0 and gives its output back.
///
/// # Errors
///
/// If it cannot be started or ends otherwise.
pub fn ok(command: &mut Command) -> Result<String> {
    let said = format!("{command:?}");
    run(command)?.ok().with_context(|| said)
}

/// A program that runs until it is dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
}

impl Running {
    /// Starts a program with its output going to a file.
    ///
    /// # Errors
    ///
    /// If it cannot be started.
    #[expect(
        clippy::disallowed_methods,
        reason = "this module owns the tests' children"
    )]
    pub fn start(program: &Path, args: &[&OsStr], log: &Path) -> Result<Running> {
        Running::spawn(Command::new(program).args(args), log)
    }

    /// Starts a [`lasting`] command with its output going to a file.
    ///
    /// # Errors
    ///
    /// If it cannot be started.
    pub fn spawn(command: &mut Command, log: &Path) -> Result<Running> {
        let log = File::options().create(true).append(true).open(log)?;
        let said = format!("starting {}", command.get_program().display());
        let command = command.stdin(Stdio::null()).stdout(log.try_clone()?);
        let child = command.stderr(log).spawn().context(said)?;
        Ok(Running { child })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has ended by itself.
    pub fn ended(&mut self) -> Option<std::process::ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Ends it with SIGKILL and waits for that.
    pub fn kill(&mut self) {
        // Only an ended child cannot be killed, and that is what is wanted.
        self.child.kill().ok();
        self.child.wait().ok();
    }

    /// Asks it to end with SIGTERM and waits for that.
    ///
    /// # Errors
    ///
    /// If it has not ended after [`LIMIT`].
    pub fn terminate(&mut self) -> Result<std::process::ExitStatus> {
        ok(bounded("kill").arg(self.pid().to_string()))?;
        crate::wait::until("the program to end", || self.ended())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}
