//! A `wherryd` of one test's own: started, killed, started again, and in the end removed with all
//! that it made.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::process::{self, Running};
use crate::traces::{Marks, Traces, remove_parent};
use crate::{Client, Crictl, Registry, Scratch, peers, wait};

/// The folder with `wherryd`, `wherry-shim` and `wrun` beside each other: `$WHERRY_BIN`, else what
/// `hack/build` makes.
pub fn programs() -> PathBuf {
    let given = std::env::var_os("WHERRY_BIN").map(PathBuf::from);
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    given.unwrap_or_else(|| {
        target
            .unwrap_or_else(|| crate::checkout().join("target"))
            .join("wherry")
    })
}

/// Name of the socket for plugins.
const PLUGINS: &str = "nri.sock";
/// Name of the folder of plugins that it starts.
const PLUGIN_FOLDER: &str = "plugins";
/// Name of the folder of their configurations.
const PLUGIN_CONFIGS: &str = "plugins.d";
/// The second socket's name.
const CONTAINERD: &str = "containerd.sock";

/// A running daemon.
#[derive(Debug)]
pub struct Daemon {
    scratch: Scratch,
    config: String,
    search_path: String,
    /// What starts the program, with its arguments; empty: nothing does.
    launcher: Vec<String>,
    /// Where the three programs are.
    programs: PathBuf,
    running: Option<Running>,
    /// A configuration file of the test's own, in the place of the daemon's folder of them.
    adopted: Option<PathBuf>,
    /// Whether what is left at the end fails the test.
    strict: bool,
}

/// How a daemon is to be started.
#[derive(Debug, Default)]
pub struct Setup {
    /// Keys of the configuration file, which come before its tables.
    keys: String,
    config: String,
    mirrors: Vec<(String, String)>,
    containerd: bool,
    /// Keys of its table `[nri]`.
    plugins: String,
    search_path: Option<String>,
    launcher: Vec<String>,
    programs: Option<PathBuf>,
}

impl Setup {
    /// Where it looks for programs, in place of the peers and what the tests have themselves.
    #[must_use]
    pub fn search_path(mut self, path: &str) -> Setup {
        self.search_path = Some(path.to_owned());
        self
    }

    /// Starts it by way of another program, which has to become it. `{socket}` in an argument is the
    /// path of its CRI socket.
    #[must_use]
    pub fn launcher(mut self, words: &[&str]) -> Setup {
        self.launcher = words.iter().map(|&word| word.to_owned()).collect();
        self
    }

    /// Takes the three programs from another folder.
    #[must_use]
    pub fn programs(mut self, folder: &Path) -> Setup {
        self.programs = Some(folder.to_owned());
        self
    }

    /// More lines for the configuration file: whole tables.
    #[must_use]
    pub fn config(mut self, lines: &str) -> Setup {
        self.config.push_str(lines);
        self
    }

    /// Who makes the control groups, in place of the daemon's own choice.
    #[must_use]
    pub fn cgroup_driver(mut self, name: &str) -> Setup {
        self.keys.push_str(&format!("cgroup_driver = {name:?}\n"));
        self
    }

    /// More keys for the configuration file, outside of its tables: whole lines.
    #[must_use]
    pub fn keys(mut self, lines: &str) -> Setup {
        self.keys.push_str(lines);
        self
    }

    /// Another OCI runtime, as a handler.
    #[must_use]
    pub fn runtime(self, name: &str, path: &Path) -> Setup {
        self.config(&runtime_table(name, path))
    }

    /// More keys for plugins: whole lines.
    #[must_use]
    pub fn plugins(mut self, lines: &str) -> Setup {
        self.plugins.push_str(lines);
        self
    }

    /// Serves the second socket too, for cAdvisor.
    #[must_use]
    pub fn containerd(mut self) -> Setup {
        self.containerd = true;
        self
    }

    /// Sends the names of a registry to one on loopback.
    #[must_use]
    pub fn mirror(mut self, host: &str, registry: &Registry) -> Setup {
        self.mirrors.push((host.to_owned(), registry.host.clone()));
        self
    }

    /// Starts it and waits until it serves.
    ///
    /// # Errors
    ///
    /// If it does not come up; its log is in the error.
    pub fn start(self) -> Result<Daemon> {
        let scratch = Scratch::new()?;
        let mut config = format!(
            "{}[network]\nmode = \"builtin\"\nbridge = {:?}\nsubnet = {:?}\n{}",
            self.keys,
            scratch.name(),
            scratch.subnet(),
            self.config
        );
        let of_plugins = [
            ("socket", PLUGINS),
            ("plugin_path", PLUGIN_FOLDER),
            ("plugin_config_path", PLUGIN_CONFIGS),
        ];
        config.push_str("[nri]\n");
        for (key, name) in of_plugins {
            writeln!(config, "{key} = {:?}", scratch.join(name))?;
        }
        config.push_str(&self.plugins);
        if self.containerd {
            let socket = scratch.join(CONTAINERD).display().to_string();
            write!(config, "[containerd]\nlisten = \"unix://{socket}\"\n")?;
        }
        for (host, mirror) in &self.mirrors {
            let folder = scratch.join("certs.d").join(host);
            fs::create_dir_all(&folder)?;
            fs::write(folder.join("hosts.toml"), hosts(host, mirror)?)?;
        }
        let mut daemon = Daemon {
            scratch,
            config,
            search_path: self.search_path.unwrap_or_else(search_path),
            launcher: self.launcher,
            programs: self.programs.unwrap_or_else(programs),
            running: None,
            adopted: None,
            strict: true,
        };
        fs::write(daemon.scratch.join("boot"), "one\n")?;
        daemon.start()?;
        Ok(daemon)
    }
}

/// The peers before what the machine has.
fn search_path() -> String {
    let old = std::env::var("PATH").unwrap_or_default();
    format!("{}:{old}", peers::folder().join("bin").display())
}

/// The table of a handler in the configuration file.
fn runtime_table(name: &str, path: &Path) -> String {
    let path = path.display().to_string();
    format!("[runtimes.{name}]\npath = {path:?}\n")
}

/// A hosts.toml that asks `mirror` for images of `host`, without TLS.
///
/// # Errors
///
/// Never in practice: it writes to memory.
pub fn hosts(host: &str, mirror: &str) -> Result<String> {
    let mut text = String::new();
    if host != mirror {
        writeln!(text, "server = \"https://{host}\"")?;
    }
    writeln!(
        text,
        "[host.\"http://{mirror}\"]\n  capabilities = [\"pull\", \"resolve\"]"
    )?;
    Ok(text)
}

impl Daemon {
    /// How one is started.
    pub fn setup() -> Setup {
        Setup::default()
    }

    /// Its place.
    pub fn scratch(&self) -> &Scratch {
        &self.scratch
    }

    /// The socket of CRI.
    pub fn socket(&self) -> PathBuf {
        self.scratch.join("cri.sock")
    }

    /// The socket for plugins.
    pub fn plugin_socket(&self) -> PathBuf {
        self.scratch.join(PLUGINS)
    }

    /// The folder of plugins that it starts, and that of their configurations.
    pub fn plugin_folders(&self) -> (PathBuf, PathBuf) {
        let folder = |name| self.scratch.join(name);
        (folder(PLUGIN_FOLDER), folder(PLUGIN_CONFIGS))
    }

    /// The socket on which cAdvisor's questions are answered, where that was asked for.
    pub fn containerd_socket(&self) -> PathBuf {
        self.scratch.join(CONTAINERD)
    }

    /// Folder for what survives a reboot.
    pub fn root(&self) -> PathBuf {
        self.scratch.join("root")
    }

    /// Folder for what does not.
    pub fn state(&self) -> PathBuf {
        self.scratch.join("state")
    }

    /// Its process id.
    ///
    /// # Errors
    ///
    /// If it does not run.
    pub fn pid(&self) -> Result<u32> {
        Ok(self
            .running
            .as_ref()
            .context("the daemon does not run")?
            .pid())
    }

    /// All that it has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.scratch.join("log")).unwrap_or_default()
    }

    /// A client of its CRI socket.
    ///
    /// # Errors
    ///
    /// If it does not answer.
    pub fn client(&self) -> Result<Client> {
        Client::connect(&self.socket())
    }

    /// crictl on its CRI socket; `None`, said so, if there is no crictl.
    pub fn crictl(&self) -> Option<Crictl> {
        Crictl::of(&self.socket())
    }

    /// Starts the daemon again, after [`Daemon::kill`] or [`Daemon::terminate`].
    ///
    /// # Errors
    ///
    /// If it does not come up; its log is in the error.
    pub fn start(&mut self) -> Result<()> {
        fs::write(self.scratch.join("config.toml"), &self.config)?;
        let program = self.programs.join("wherryd");
        if !program.exists() {
            bail!("{} is missing: run hack/build", program.display());
        }
        let socket = self.socket().display().to_string();
        let launcher = self
            .launcher
            .iter()
            .map(|word| word.replace("{socket}", &socket));
        let mut words = launcher.chain([program.display().to_string()]);
        let mut command = process::lasting(words.next().unwrap_or_default());
        command
            .args(words)
            .args(self.flags())
            .env("PATH", &self.search_path);
        let mut running = Running::spawn(&mut command, &self.scratch.join("log"))?;
        let mut ended = None;
        let served = wait::until("wherryd to serve", || {
            ended = running.ended();
            ended.map(|_| ()).or_else(|| self.client().ok().map(drop))
        });
        self.running = Some(running);
        if served.is_err() || ended.is_some() {
            bail!("wherryd does not serve ({ended:?}):\n{}", self.log());
        }
        Ok(())
    }

    /// Takes a handler out of the configuration: the next start does not know it any more.
    pub fn forget_runtime(&mut self, name: &str, path: &Path) {
        self.config = self.config.replace(&runtime_table(name, path), "");
    }

    /// Has the next start read this file, and of the registries what that file says.
    pub fn adopt(&mut self, file: &Path) {
        self.adopted = Some(file.to_owned());
    }

    /// Kills it as a crash would.
    pub fn kill(&mut self) {
        drop(self.running.take());
    }

    /// Asks it to end, as an upgrade would.
    ///
    /// # Errors
    ///
    /// If it does not.
    pub fn terminate(&mut self) -> Result<()> {
        let mut running = self.running.take().context("the daemon does not run")?;
        running.terminate()?;
        Ok(())
    }

    /// What a reboot does: all processes end, mounts and the state folder are gone, the boot has
    /// another name. The daemon is down afterwards.
    ///
    /// # Errors
    ///
    /// If the folders cannot be changed.
    pub fn reboot(&mut self) -> Result<()> {
        self.kill();
        wait::until("all of it to end", || {
            self.traces().remove();
            let left = self.traces();
            (left.processes.is_empty() && left.mounts.is_empty()).then_some(())
        })?;
        fs::remove_dir_all(self.state())?;
        let boot = self.scratch.join("boot");
        let name = fs::read_to_string(&boot)?;
        fs::write(boot, format!("{}-again\n", name.trim()))?;
        Ok(())
    }

    /// Runs a command of `wherryd` as an operator would.
    ///
    /// # Errors
    ///
    /// If it cannot be started.
    pub fn command(&self, args: &[&str]) -> Result<process::Output> {
        let mut command = process::bounded(self.programs.join("wherryd"));
        process::run(command.args(self.flags()).args(args))
    }

    /// What it has on the machine now.
    pub fn traces(&self) -> Traces {
        Traces::of(&Marks {
            folder: self.scratch.path().to_owned(),
            kept: vec![self.root(), self.state()],
            cgroup: self.scratch.name().to_owned(),
            bridge: self.scratch.name().to_owned(),
        })
    }

    /// The end: everything is removed, and nothing may be left. Dropping does the same, but a test
    /// that goes on afterwards can call this.
    ///
    /// # Errors
    ///
    /// With the list of what was left.
    pub fn finish(mut self) -> Result<()> {
        self.strict = false;
        self.clean()
    }

    fn clean(&mut self) -> Result<()> {
        // With the daemon it is the daemon that resets, without it the command itself.
        let reset = self.command(&["reset"])?;
        if reset.code != 0 {
            bail!(
                "wherryd reset failed: {}{}\n{}",
                reset.stdout,
                reset.stderr,
                self.log()
            );
        }
        if let Some(mut running) = self.running.take() {
            wait::until("the daemon to end after its reset", || running.ended())?;
        }
        let left = self.traces();
        if !left.is_empty() {
            bail!("left behind:\n{left}\nlog:\n{}", self.log());
        }
        Ok(())
    }

    fn flags(&self) -> Vec<String> {
        let path = |name: &str| self.scratch.join(name).display().to_string();
        let mut flags = vec![
            ("--listen", format!("unix://{}", path("cri.sock"))),
            ("--root", path("root")),
            ("--state", path("state")),
            ("--boot-id-file", path("boot")),
        ];
        match &self.adopted {
            Some(file) => flags.push(("--config", file.display().to_string())),
            None => flags.extend([
                ("--config", path("config.toml")),
                ("--registry-config", path("certs.d")),
            ]),
        }
        flags
            .into_iter()
            .flat_map(|(flag, value)| [flag.to_owned(), value])
            .collect()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let cleaned = if self.strict { self.clean() } else { Ok(()) };
        drop(self.running.take());
        // What was killed takes a moment to go, and holds its mounts and control groups till then.
        let gone = wait::until("what is left to go", || {
            self.traces().remove();
            let left = self.traces();
            (left.processes.is_empty() && left.cgroups.is_empty() && left.mounts.is_empty())
                .then_some(())
        });
        remove_parent(self.scratch.name());
        let cleaned = cleaned.and(gone);
        if let Err(error) = cleaned
            && !std::thread::panicking()
        {
            panic!("{error:?}");
        }
        if std::thread::panicking() {
            report(&self.log());
        }
    }
}

/// Shows a failed test's daemon log.
#[expect(
    clippy::print_stderr,
    reason = "the line is for the reader of a failed test"
)]
fn report(log: &str) {
    eprintln!("---- wherryd's log ----\n{log}");
}
