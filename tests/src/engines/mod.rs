//! Engines of others with an OCI runtime of ours in runc's place: docker, podman, containerd.
//!
//! Each runs in folders of its own, with no network and no systemd, from what `hack/peers` brings.
//! docker and podman have nearly one command line, so that one test can drive both: [`Engine`].
//! The tests of a program share an engine while any of them uses it; the last one ends it and
//! fails if a process, a mount or a control group of it is left.

mod containerd;
mod docker;
mod podman;

pub use containerd::Containerd;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::conformance::images;
use crate::process::{self, Output, Running};
use crate::traces::{Marks, Traces, remove_parent};
use crate::{Registry, Scratch, daemon, peers, wait};

/// Where the tests' image lies in its registry.
const IMAGE: &str = "e2e-test-images/busybox";

/// Its tag.
const TAG: &str = "1.29-2";

/// The runtime under test: `$WHERRY_ENGINE_RUNTIME` (to see what runc does in a test), else `wrun`.
pub fn runtime() -> PathBuf {
    let given = std::env::var_os("WHERRY_ENGINE_RUNTIME").map(PathBuf::from);
    given.unwrap_or_else(|| daemon::programs().join("wrun"))
}

/// Which engine it is, where a test has to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// dockerd and its client.
    Docker,
    /// dockerd with every container in a user namespace.
    DockerRemapped,
    /// podman, which has no daemon.
    Podman,
}

/// An engine that has the tests' image.
#[derive(Debug)]
pub struct Engine {
    /// Which one.
    pub kind: Kind,
    /// The image, as containers are started of it: Debian's busybox.
    pub image: String,
    program: PathBuf,
    globals: Vec<String>,
    environment: Vec<(&'static str, String)>,
    scratch: Scratch,
    daemon: Option<Running>,
}

/// The engines that tests use now.
static SHARED: Mutex<[Weak<Engine>; 3]> = Mutex::new([Weak::new(), Weak::new(), Weak::new()]);

impl Engine {
    /// The engine of a kind that the tests of this program share; `None`, said so, if it is missing.
    ///
    /// # Errors
    ///
    /// If it does not come up.
    pub fn shared(kind: Kind) -> Result<Option<Arc<Engine>>> {
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = &mut shared[kind as usize];
        if let Some(engine) = slot.upgrade() {
            return Ok(Some(engine));
        }
        let Some(engine) = Engine::start(kind)?.map(Arc::new) else {
            return Ok(None);
        };
        *slot = Arc::downgrade(&engine);
        Ok(Some(engine))
    }

    fn start(kind: Kind) -> Result<Option<Engine>> {
        let scratch = Scratch::new()?;
        let Some(registry) = Registry::start(&scratch.join("registry"))? else {
            return Ok(None);
        };
        let started = match kind {
            Kind::Docker | Kind::DockerRemapped => docker::start(kind, scratch)?,
            Kind::Podman => podman::start(scratch, &registry.host)?,
        };
        let Some(mut engine) = started else {
            return Ok(None);
        };
        let name = push(&registry)?;
        let mut pull = vec!["pull", "-q"];
        let policy = engine.scratch.join("policy.json").display().to_string();
        if kind == Kind::Podman {
            pull.extend(["--signature-policy", &policy]);
        }
        engine.ok(&[&pull[..], &[&name]].concat())?;
        engine.image = name;
        Ok(Some(engine))
    }

    /// Whether this is podman.
    pub fn is_podman(&self) -> bool {
        self.kind == Kind::Podman
    }

    /// A folder of the engine's own, for what tests bind into containers.
    pub fn scratch(&self) -> &Scratch {
        &self.scratch
    }

    /// A command of the engine's client.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = process::bounded(&self.program);
        command.args(&self.globals).args(args);
        command.envs(self.environment.iter().map(|(key, value)| (key, value)));
        command
    }

    /// Runs a command of the engine's client.
    ///
    /// # Errors
    ///
    /// If it cannot be started.
    pub fn call(&self, args: &[&str]) -> Result<Output> {
        process::run(&mut self.command(args))
    }

    /// Runs a command that must work; gives its output without the last line's end.
    ///
    /// # Errors
    ///
    /// If it ends with anything but 0.
    pub fn ok(&self, args: &[&str]) -> Result<String> {
        let output = self.call(args)?.ok();
        let output = output.with_context(|| format!("{:?} {}", self.kind, args.join(" ")))?;
        Ok(output.trim_end().replace('\r', ""))
    }

    /// Runs a command in a terminal with this typed into it; gives all that the terminal shows.
    ///
    /// # Errors
    ///
    /// If it cannot be started.
    pub fn typed(&self, args: &[&str], input: &str) -> Result<Output> {
        let file = tempfile::NamedTempFile::new_in(self.scratch.path())?;
        std::fs::write(file.path(), input)?;
        let words = [&[self.program.display().to_string()], &self.globals[..]].concat();
        let words = words.iter().map(String::as_str).chain(args.iter().copied());
        let line = words.map(quoted).collect::<Vec<_>>().join(" ");
        // script(1) gives the client a terminal and ends as it does.
        let mut script = process::bounded("script");
        script.args(["-qec", &line, "/dev/null"]);
        script.envs(self.environment.iter().map(|(key, value)| (key, value)));
        process::run(script.stdin(file.reopen()?))
    }

    /// Flags that each new container gets: no network unless one is asked for, and the test's own
    /// control group.
    fn own(&self, asked: &[&str]) -> Vec<String> {
        let network = asked.iter().any(|flag| flag.starts_with("--network"));
        let mut flags = Vec::new();
        if !network {
            flags.push("--network=none".to_owned());
        }
        if self.is_podman() {
            flags.push(format!("--cgroup-parent={}", self.scratch.cgroup()));
        }
        flags
    }

    /// `run --rm` with flags, of a shell script; gives how it ended.
    ///
    /// # Errors
    ///
    /// If the client cannot be started.
    pub fn run(&self, flags: &[&str], script: &str) -> Result<Output> {
        self.run_command(flags, &["sh", "-c", script])
    }

    /// `run --rm` with flags, of a command; gives how it ended.
    ///
    /// # Errors
    ///
    /// If the client cannot be started.
    pub fn run_command(&self, flags: &[&str], command: &[&str]) -> Result<Output> {
        let own = self.own(flags);
        let own: Vec<&str> = own.iter().map(String::as_str).collect();
        self.call(&[&["run", "--rm"], &own[..], flags, &[&self.image], command].concat())
    }

    /// `run --rm` with flags, of a shell script that must end with 0; gives its output.
    ///
    /// # Errors
    ///
    /// If it ends with anything else.
    pub fn output(&self, flags: &[&str], script: &str) -> Result<String> {
        let output = self.run(flags, script)?.ok();
        let output = output.with_context(|| format!("{:?} {flags:?} {script}", self.kind))?;
        Ok(output.trim_end().replace('\r', ""))
    }

    /// `run -d` with flags, of a shell script.
    ///
    /// # Errors
    ///
    /// If it does not start.
    pub fn detached(&self, flags: &[&str], script: &str) -> Result<Container<'_>> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}-{number}", self.scratch.name());
        let container = Container { engine: self, name };
        let own = self.own(flags);
        let own: Vec<&str> = own.iter().map(String::as_str).collect();
        let named = ["run", "-d", "--name", &container.name];
        let command = [&self.image, "sh", "-c", script];
        self.ok(&[&named, &own[..], flags, &command].concat())?;
        Ok(container)
    }

    /// Flags for a container or a pod that a test makes by the plain command.
    pub fn own_flags(&self) -> Vec<String> {
        self.own(&[])
    }

    /// All that is there of the engine and its containers.
    fn traces(&self) -> Traces {
        Traces::of(&Marks {
            folder: self.scratch.path().to_owned(),
            kept: Vec::new(),
            cgroup: self.scratch.name().to_owned(),
            bridge: self.scratch.name().to_owned(),
        })
    }

    /// Removes all containers and ends the daemon, as an operator would.
    fn end(&mut self) -> Result<()> {
        if self.is_podman() {
            self.ok(&["pod", "rm", "-af", "-t", "0"])?;
            self.ok(&["rm", "-af", "-t", "0"])?;
            podman::forget(&self.scratch);
        } else {
            let all = self.ok(&["ps", "-aq"])?;
            let all: Vec<&str> = all.split_whitespace().collect();
            if !all.is_empty() {
                self.ok(&[&["rm", "-f"], &all[..]].concat())?;
            }
        }
        if let Some(mut daemon) = self.daemon.take() {
            daemon.terminate()?;
            docker::forget(&self.scratch);
        }
        Ok(())
    }

    /// Ends the engine and looks for what is left.
    fn finish(&mut self) -> Result<()> {
        self.end()?;
        let gone = wait::until("nothing to be left", || {
            self.left().is_empty().then_some(())
        });
        if gone.is_err() {
            bail!("{:?} left behind:\n{}", self.kind, self.left());
        }
        Ok(())
    }

    /// All that is there but for the group of podman's monitors, which podman tries to remove only once,
    /// maybe before the last of them has ended.
    fn left(&self) -> Traces {
        let mut left = self.traces();
        if self.is_podman() {
            left.cgroups.retain(|group| !group.ends_with("conmon"));
        }
        left
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let finished = self.finish();
        drop(self.daemon.take());
        self.traces().remove();
        remove_parent(self.scratch.name());
        if let (Err(error), false) = (finished, std::thread::panicking()) {
            panic!("{error:?}");
        }
    }
}

/// A container that is removed when dropped.
#[derive(Debug)]
pub struct Container<'a> {
    engine: &'a Engine,
    /// Its name.
    pub name: String,
}

impl Container<'_> {
    /// A command with the container's name as its last word.
    ///
    /// # Errors
    ///
    /// If it ends with anything but 0.
    pub fn ok(&self, args: &[&str]) -> Result<String> {
        self.engine.ok(&[args, &[&self.name]].concat())
    }

    /// `exec` of a shell script, with flags; gives how it ended.
    ///
    /// # Errors
    ///
    /// If the client cannot be started.
    pub fn exec(&self, flags: &[&str], script: &str) -> Result<Output> {
        let command = [self.name.as_str(), "sh", "-c", script];
        self.engine.call(&[&["exec"], flags, &command].concat())
    }

    /// Output of a shell script in the container that must end with 0.
    ///
    /// # Errors
    ///
    /// If it ends with anything else.
    pub fn output(&self, script: &str) -> Result<String> {
        Ok(self.exec(&[], script)?.ok()?.trim_end().to_owned())
    }

    /// What `inspect` says.
    ///
    /// # Errors
    ///
    /// If there is no such container.
    pub fn inspect(&self) -> Result<Value> {
        let mut list: Value = serde_json::from_str(&self.ok(&["inspect"])?)?;
        Ok(list[0].take())
    }

    /// Waits for its end and gives the exit code.
    ///
    /// # Errors
    ///
    /// If it does not end in time.
    pub fn wait(&self) -> Result<i32> {
        Ok(self.ok(&["wait"])?.parse()?)
    }

    /// Both of its streams so far.
    ///
    /// # Errors
    ///
    /// If there is no such container.
    pub fn logs(&self) -> Result<String> {
        let logs = self.engine.call(&["logs", &self.name])?;
        Ok(format!("{}{}", logs.stdout, logs.stderr))
    }

    /// Waits until its log holds some text.
    ///
    /// # Errors
    ///
    /// If that does not appear in time.
    pub fn wait_for(&self, text: &str) -> Result<()> {
        let seen = wait::until("a container's output", || {
            self.logs().ok().filter(|log| log.contains(text))
        });
        seen.map(drop)
            .with_context(|| format!("{text:?} in {:?}", self.logs()))
    }
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        // A test may have removed it.
        self.engine.call(&["rm", "-f", "-v", &self.name]).ok();
    }
}

/// A word of a shell's command line.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}

/// Puts the tests' image into a registry; gives its name.
fn push(registry: &Registry) -> Result<String> {
    images::push_busybox(registry, &images::busybox()?)?;
    Ok(format!("{}/{IMAGE}:{TAG}", registry.host))
}

/// The machine's `PATH` with a folder in front, and then the programs of `hack/peers` (such as criu).
fn path_with(folder: &Path) -> String {
    let old = std::env::var("PATH").unwrap_or_default();
    let peers = peers::folder().join("bin");
    format!(
        "{}:{}:{old}:/usr/sbin:/sbin",
        folder.display(),
        peers.display()
    )
}
