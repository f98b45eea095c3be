//! crictl on one socket.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::process::{self, Output, Running};
use crate::{peers, wait};

/// crictl and the socket that it talks to.
#[derive(Clone, Debug)]
pub struct Crictl {
    program: PathBuf,
    endpoint: String,
}

impl Crictl {
    /// crictl on a socket; `None`, said so, if there is no crictl.
    pub fn of(socket: &Path) -> Option<Crictl> {
        let program = peers::peer("bin/crictl")?;
        Some(Crictl {
            program,
            endpoint: format!("unix://{}", socket.display()),
        })
    }

    fn flags(&self) -> [String; 7] {
        let timeout = format!("{}s", wait::LIMIT.as_secs());
        // A configuration file of the machine must not count.
        let flags = [
            "--config=/dev/null",
            "-r",
            &self.endpoint,
            "-i",
            &self.endpoint,
            "-t",
            &timeout,
        ];
        flags.map(str::to_owned)
    }

    /// Runs a command.
    ///
    /// # Errors
    ///
    /// If it cannot be started.
    pub fn run(&self, args: &[&str]) -> Result<Output> {
        process::run(
            process::bounded(&self.program)
                .args(self.flags())
                .args(args),
        )
    }

    /// Runs a command that must work; gives its output without the last line's end.
    ///
    /// # Errors
    ///
    /// If it ends with anything but 0.
    pub fn ok(&self, args: &[&str]) -> Result<String> {
        let output = self.run(args)?.ok();
        Ok(output
            .with_context(|| format!("crictl {}", args.join(" ")))?
            .trim_end()
            .to_owned())
    }

    /// Runs a command that must work and writes JSON.
    ///
    /// # Errors
    ///
    /// If it ends with anything but 0, or writes something else.
    pub fn json(&self, args: &[&str]) -> Result<Value> {
        Ok(serde_json::from_str(&self.ok(args)?)?)
    }

    /// Starts a command that does not end by itself.
    ///
    /// # Errors
    ///
    /// If it cannot be started.
    pub fn start(&self, args: &[&str], output: &Path) -> Result<Running> {
        let flags = self.flags();
        let args: Vec<&std::ffi::OsStr> = flags
            .iter()
            .map(AsRef::as_ref)
            .chain(args.iter().map(AsRef::as_ref))
            .collect();
        Running::start(&self.program, &args, output)
    }

    /// A field of a container's status, such as `state` or `exitCode`.
    ///
    /// # Errors
    ///
    /// If there is no such container or field.
    pub fn container(&self, id: &str, field: &str) -> Result<Value> {
        let status = self.json(&["inspect", id])?;
        status["status"]
            .get(field)
            .cloned()
            .with_context(|| format!("no {field} in {status}"))
    }

    /// Waits until a container has ended and gives its exit code.
    ///
    /// # Errors
    ///
    /// If it does not end in time.
    pub fn exit_code(&self, id: &str) -> Result<i64> {
        wait::until("the container to end", || {
            let status = self.json(&["inspect", id]).ok()?["status"].take();
            (status["state"] == "CONTAINER_EXITED").then(|| status["exitCode"].as_i64())?
        })
    }
}
