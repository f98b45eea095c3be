//! Drives an OCI runtime by its command line: wrun, runc, crun, or what speaks as they do.
//!
//! An invocation is a child process that runs beside everything else. It is started here, and its
//! end is brought here by whoever reaps; nothing in between waits for it.

use std::ffi::{CString, OsString};
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitIdOptions, WaitIdStatus, kill_process, pidfd_open, waitid,
};
use shim_api::error::Kind;
use shim_api::{Connections, PID_FILE};

use crate::cli::Options;
use crate::descendants;
use crate::failure::Failure;
use crate::spawn::spawn;

/// How long an invocation may take before it is ended. Longer than any caller waits: it only has to
/// keep a hanging runtime from staying for ever.
const DEADLINE: Duration = Duration::from_secs(240);

/// Most of a runtime's error text that is passed on, bytes.
const MAX_ERROR_TEXT: usize = 8 * 1024;

/// Most of a runtime's log that is searched for the error, bytes, from its end.
const MAX_LOG_READ: u64 = 64 * 1024;

/// Becomes the runtime, which says on standard output what it can do (the OCI specification's
/// "features" document).
pub(crate) fn say_features(program: &Path) -> Result<(), Failure> {
    let fail = |cause: &dyn std::fmt::Display| {
        Failure::other(format!("start {}", program.display()), cause)
    };
    let path = CString::new(program.as_os_str().as_bytes()).map_err(|error| fail(&error))?;
    let Err(error) = nix::unistd::execv(&path, &[path.as_c_str(), c"features"]);
    Err(fail(&error.desc()))
}

/// What a runtime is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    /// Make the container.
    Create {
        /// Whether a console socket is to be named.
        terminal: bool,
    },
    /// Make the container from images; it runs.
    Restore {
        /// Whether a console socket is to be named.
        terminal: bool,
    },
    /// Write the container to images; it goes on.
    Checkpoint,
    /// Release its process.
    Start,
    /// Send a signal.
    Kill {
        /// Tells invocations apart.
        number: u32,
        /// The signal.
        signal: i32,
        /// To every process instead of init.
        all: bool,
    },
    /// Change its limits.
    Update {
        /// Tells invocations apart.
        number: u32,
    },
    /// Take it away, whatever its state.
    Delete,
    /// Start another process.
    Exec {
        /// Tells invocations apart.
        number: u32,
        /// Whether a console socket is to be named.
        terminal: bool,
    },
}

impl Verb {
    fn name(self) -> &'static str {
        match self {
            Self::Create { .. } => "create",
            Self::Restore { .. } => "restore",
            Self::Checkpoint => "checkpoint",
            Self::Start => "start",
            Self::Kill { .. } => "kill",
            Self::Update { .. } => "update",
            Self::Delete => "delete",
            Self::Exec { .. } => "exec",
        }
    }
}

/// Folders of a checkpoint.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Folders<'a> {
    /// Images of processes.
    pub(crate) images: &'a Path,
    /// Logs of how they are written or read.
    pub(crate) work: &'a Path,
    /// What becomes of open TCP connections.
    pub(crate) connections: Connections,
}

/// Files in the bundle through which we and the runtime talk.
#[derive(Clone, Debug)]
pub(crate) struct Files {
    bundle: PathBuf,
}

impl Files {
    /// The files of a bundle.
    pub(crate) fn new(bundle: &Path) -> Self {
        Self {
            bundle: bundle.to_owned(),
        }
    }

    /// Where the runtime writes its log. Verbs that may run side by side have each their own.
    fn log(&self, verb: Verb) -> PathBuf {
        match verb {
            Verb::Kill { number, .. } => self.bundle.join(format!("kill-{number}.log")),
            Verb::Exec { number, .. } => self.bundle.join(format!("exec-{number}.log")),
            Verb::Update { number } => self.bundle.join(format!("update-{number}.log")),
            Verb::Checkpoint => self.bundle.join("checkpoint.log"),
            _ => self.bundle.join("runtime.log"),
        }
    }

    /// Where the runtime writes the pid of the process that it made.
    pub(crate) fn pid(&self, exec: Option<u32>) -> PathBuf {
        match exec {
            None => self.bundle.join(PID_FILE),
            Some(number) => self.bundle.join(format!("exec-{number}.pid")),
        }
    }

    /// Where the runtime finds the process that it is to start.
    pub(crate) fn process(&self, number: u32) -> PathBuf {
        self.bundle.join(format!("exec-{number}.json"))
    }

    /// Where the runtime finds the limits that it is to set.
    pub(crate) fn resources(&self, number: u32) -> PathBuf {
        self.bundle.join(format!("update-{number}.json"))
    }

    /// Where the runtime connects to hand over a terminal.
    pub(crate) fn console(&self, exec: Option<u32>) -> PathBuf {
        match exec {
            None => self.bundle.join("console.sock"),
            Some(number) => self.bundle.join(format!("exec-{number}.sock")),
        }
    }

    /// Removes what an update left.
    pub(crate) fn remove_update(&self, number: u32) {
        remove(&self.resources(number));
    }

    /// Removes what an exec session left.
    pub(crate) fn remove_exec(&self, number: u32) {
        let log = self.log(Verb::Exec {
            number,
            terminal: false,
        });
        for file in [
            log,
            self.pid(Some(number)),
            self.process(number),
            self.console(Some(number)),
        ] {
            remove(&file);
        }
    }
}

/// Removes a file that need not be there.
fn remove(file: &Path) {
    // The bundle is removed as a whole later; what stays until then does no harm.
    drop(fs::remove_file(file));
}

/// A runtime, and the container that it is driven for.
#[derive(Debug)]
pub(crate) struct Runtime {
    program: PathBuf,
    root: Option<PathBuf>,
    systemd_cgroup: bool,
    id: String,
    files: Files,
    /// This process's own oom score, if it was lowered and children are to get the old one back.
    children_oom_score: Option<String>,
}

impl Runtime {
    /// The runtime that the command line names.
    pub(crate) fn new(options: &Options, children_oom_score: Option<String>) -> Self {
        Self {
            program: options.runtime.clone(),
            root: options.runtime_root.clone(),
            systemd_cgroup: options.systemd_cgroup,
            id: options.id.clone(),
            files: Files::new(&options.bundle),
            children_oom_score,
        }
    }

    /// The files of this container.
    pub(crate) fn files(&self) -> &Files {
        &self.files
    }

    /// Starts an invocation. `console` is the path of the console socket as the runtime may use
    /// it. With `stdio` the invocation, and what it makes, has these streams; without, none.
    /// `folders` are those of a checkpoint; `operation` is what the runtime is told it is part of.
    pub(crate) fn invoke(
        &self,
        verb: Verb,
        console: Option<&Path>,
        stdio: Option<[BorrowedFd<'_>; 3]>,
        folders: Option<&Folders<'_>>,
        operation: &str,
        now: Duration,
    ) -> Result<Invocation, Failure> {
        let null = File::options().read(true).write(true).open("/dev/null");
        let null = null.map_err(|error| Failure::other("open /dev/null", error))?;
        let errors = memfd_create("runtime-errors", MemfdFlags::CLOEXEC)
            .map_err(|error| Failure::other("make a file for a runtime's errors", error))?;
        let log = self.files.log(verb);
        let log_start = fs::metadata(&log).map_or(0, |metadata| metadata.len());
        let stdio = stdio.unwrap_or([null.as_fd(), errors.as_fd(), errors.as_fd()]);
        let pid = spawn(self.arguments(verb, console, folders), stdio, operation)?;
        if let Some(score) = &self.children_oom_score {
            // A runtime that cannot have it still works; the container's score is in its spec.
            drop(fs::write(format!("/proc/{pid}/oom_score_adj"), score));
        }
        Ok(Invocation {
            verb,
            pid,
            deadline: Some(now + DEADLINE),
            log,
            log_start,
            errors,
        })
    }

    fn arguments(
        &self,
        verb: Verb,
        console: Option<&Path>,
        folders: Option<&Folders<'_>>,
    ) -> Vec<OsString> {
        let mut argv: Vec<OsString> = vec![self.program.clone().into()];
        if let Some(root) = &self.root {
            argv.extend(["--root".into(), root.into()]);
        }
        if self.systemd_cgroup {
            argv.push("--systemd-cgroup".into());
        }
        argv.extend(["--log".into(), self.files.log(verb).into()]);
        argv.extend(["--log-format".into(), "json".into(), verb.name().into()]);
        if let Some(folders) = folders {
            argv.extend(["--image-path".into(), folders.images.into()]);
            argv.extend(["--work-path".into(), folders.work.into()]);
            // What else a process may have that needs saying: it is the same at both ends.
            argv.push("--file-locks".into());
            match folders.connections {
                Connections::Refuse => {}
                Connections::Keep => argv.push("--tcp-established".into()),
                Connections::Close => argv.push("--tcp-close".into()),
            }
        }
        match verb {
            Verb::Checkpoint => argv.push("--leave-running".into()),
            Verb::Create { .. } | Verb::Restore { .. } => {
                if matches!(verb, Verb::Restore { .. }) {
                    argv.push("--detach".into());
                }
                argv.extend(["--bundle".into(), self.files.bundle.clone().into()]);
                argv.extend(["--pid-file".into(), self.files.pid(None).into()]);
            }
            Verb::Exec { number, .. } => {
                argv.extend(["--process".into(), self.files.process(number).into()]);
                argv.push("--detach".into());
                argv.extend(["--pid-file".into(), self.files.pid(Some(number)).into()]);
            }
            Verb::Update { number } => {
                argv.extend(["--resources".into(), self.files.resources(number).into()]);
            }
            Verb::Kill { all: true, .. } => argv.push("--all".into()),
            Verb::Delete => argv.push("--force".into()),
            Verb::Kill { all: false, .. } | Verb::Start => {}
        }
        if let Some(console) = console {
            argv.extend(["--console-socket".into(), console.into()]);
        }
        argv.push(self.id.clone().into());
        if let Verb::Kill { signal, .. } = verb {
            argv.push(signal.to_string().into());
        }
        argv
    }
}

/// A runtime at work.
#[derive(Debug)]
pub(crate) struct Invocation {
    verb: Verb,
    pid: Pid,
    deadline: Option<Duration>,
    log: PathBuf,
    log_start: u64,
    errors: OwnedFd,
}

impl Invocation {
    /// Ends the runtime and what it has started.
    pub(crate) fn cancel(&self) {
        descendants::end(self.pid, Vec::new);
    }

    /// What became of it, given the code with which it ended.
    fn outcome(self, code: i32) -> Result<(), Failure> {
        let verb = self.verb.name();
        let result = match (code, self.deadline) {
            (0, _) => Ok(()),
            (_, None) => Err(Failure::new(
                Kind::Runtime,
                format!(
                    "runtime {verb}: did not end within {} s",
                    DEADLINE.as_secs()
                ),
            )),
            _ => Err(Failure::new(
                Kind::Runtime,
                self.error_text()
                    .unwrap_or_else(|| format!("runtime {verb}: exit code {code}")),
            )),
        };
        if matches!(
            self.verb,
            Verb::Kill { .. } | Verb::Update { .. } | Verb::Checkpoint
        ) {
            remove(&self.log);
        }
        result
    }

    fn error_text(&self) -> Option<String> {
        let logged = File::open(&self.log).and_then(|file| read_from(file, self.log_start));
        let logged = logged.ok().and_then(|text| last_error(&text));
        logged.or_else(|| {
            let errors = self.errors.try_clone().ok()?;
            shorten(&read_from(errors.into(), 0).ok()?)
        })
    }
}

/// The end of a file, from `start` or where it is short enough.
fn read_from(mut file: File, start: u64) -> std::io::Result<String> {
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(
        start.max(length.saturating_sub(MAX_LOG_READ)),
    ))?;
    let mut bytes = Vec::new();
    file.take(MAX_LOG_READ).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Message of the last error in a log of JSON lines.
fn last_error(log: &str) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Line {
        level: String,
        msg: String,
    }
    let lines = log
        .lines()
        .rev()
        .filter_map(|line| serde_json::from_str::<Line>(line).ok());
    let error = lines
        .into_iter()
        .find(|line| matches!(&*line.level, "error" | "fatal" | "panic"));
    shorten(&error?.msg)
}

/// Text without white space around it and of bounded length; `None`: nothing is left.
pub(crate) fn shorten(text: &str) -> Option<String> {
    let text = text.trim();
    let end = text.floor_char_boundary(MAX_ERROR_TEXT);
    (!text.is_empty()).then(|| text[..end].to_owned())
}

/// The runtimes at work.
#[derive(Debug, Default)]
pub(crate) struct Invocations {
    running: Vec<Invocation>,
}

impl Invocations {
    /// Remembers one that was started.
    pub(crate) fn add(&mut self, invocation: Invocation) {
        self.running.push(invocation);
    }

    /// A child has ended: the verb and its outcome, if the child was a runtime.
    pub(crate) fn ended(&mut self, pid: i32, code: i32) -> Option<(Verb, Result<(), Failure>)> {
        let is_it = |run: &Invocation| run.pid.as_raw_nonzero().get() == pid;
        let position = self.running.iter().position(is_it)?;
        let invocation = self.running.swap_remove(position);
        Some((invocation.verb, invocation.outcome(code)))
    }

    /// The running create or restore.
    pub(crate) fn create(&self) -> Option<&Invocation> {
        let is_it =
            |run: &&Invocation| matches!(run.verb, Verb::Create { .. } | Verb::Restore { .. });
        self.running.iter().find(is_it)
    }

    /// The running exec of that number.
    pub(crate) fn exec(&self, number: u32) -> Option<&Invocation> {
        let is_it = |verb| matches!(verb, Verb::Exec { number: other, .. } if other == number);
        self.running.iter().find(|run| is_it(run.verb))
    }

    /// When the next of them has had its time.
    pub(crate) fn next_deadline(&self) -> Option<Duration> {
        self.running.iter().filter_map(|run| run.deadline).min()
    }

    /// Ends those that have had their time.
    pub(crate) fn enforce(&mut self, now: Duration) {
        for run in &mut self.running {
            if run.deadline.is_some_and(|deadline| deadline <= now) {
                run.deadline = None;
                run.cancel();
            }
        }
    }
}

/// Reads a pid file.
pub(crate) fn read_pid(path: &Path) -> Result<Pid, Failure> {
    let attempt = || format!("read pid file {}", path.display());
    let text = fs::read_to_string(path).map_err(|error| Failure::other(attempt(), error))?;
    let pid = text
        .trim()
        .parse()
        .ok()
        .filter(|pid| *pid > 0)
        .and_then(Pid::from_raw);
    pid.ok_or_else(|| Failure::other(attempt(), "not a process id"))
}

/// `wherry-shim delete`: takes away what a lost shim left, and waits until that is done.
pub(crate) fn delete_and_wait(options: &Options) -> Result<(), Failure> {
    let invocation =
        Runtime::new(options, None).invoke(Verb::Delete, None, None, None, "", DEADLINE)?;
    let pid = invocation.pid;
    let fail = |error| Failure::other("wait for the runtime", error);
    let handle = pidfd_open(pid, PidfdFlags::empty()).map_err(fail)?;
    let timeout = Timespec::try_from(DEADLINE).expect("minutes fit");
    let ended = poll(&mut [PollFd::new(&handle, PollFlags::IN)], Some(&timeout)).map_err(fail)?;
    if ended == 0 {
        kill_process(pid, Signal::KILL).map_err(fail)?;
    }
    let status = waitid(rustix::process::WaitId::Pid(pid), WaitIdOptions::EXITED).map_err(fail)?;
    invocation.outcome(status.map_or(0, |status| exit_code(&status)))
}

/// 0 to 255, or 128 + N where signal N ended the process.
fn exit_code(status: &WaitIdStatus) -> i32 {
    status
        .exit_status()
        .or(status.terminating_signal().map(|signal| 128 + signal))
        .unwrap_or(255)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(verb: Verb, console: Option<&str>, expect: &str) {
        check_with(verb, console, None, expect);
    }

    fn check_with(verb: Verb, console: Option<&str>, folders: Option<Folders<'_>>, expect: &str) {
        let options = Options {
            id: "c1".into(),
            bundle: "/b".into(),
            runtime: "/bin/runc".into(),
            runtime_root: Some("/r".into()),
            systemd_cgroup: true,
        };
        let argv =
            Runtime::new(&options, None).arguments(verb, console.map(Path::new), folders.as_ref());
        let argv: Vec<_> = argv.iter().map(|word| word.to_str().unwrap()).collect();
        let expect = format!("/bin/runc --root /r --systemd-cgroup --log {expect}");
        assert_eq!(argv.join(" "), expect);
    }

    #[test]
    fn command_lines() {
        let create = "/b/runtime.log --log-format json create --bundle /b --pid-file /b/init.pid";
        check(
            Verb::Create { terminal: false },
            None,
            &format!("{create} c1"),
        );
        check(
            Verb::Create { terminal: true },
            Some("/s"),
            &format!("{create} --console-socket /s c1"),
        );
        check(
            Verb::Start,
            None,
            "/b/runtime.log --log-format json start c1",
        );
        check(
            Verb::Delete,
            None,
            "/b/runtime.log --log-format json delete --force c1",
        );
        check(
            Verb::Kill {
                number: 3,
                signal: 15,
                all: false,
            },
            None,
            "/b/kill-3.log --log-format json kill c1 15",
        );
        check(
            Verb::Kill {
                number: 3,
                signal: 9,
                all: true,
            },
            None,
            "/b/kill-3.log --log-format json kill --all c1 9",
        );
        check(
            Verb::Exec {
                number: 5,
                terminal: false,
            },
            None,
            "/b/exec-5.log --log-format json exec --process /b/exec-5.json --detach \
             --pid-file /b/exec-5.pid c1",
        );
    }

    #[test]
    fn an_update_has_its_limits_in_a_file() {
        check(
            Verb::Update { number: 4 },
            None,
            "/b/update-4.log --log-format json update --resources /b/update-4.json c1",
        );
    }

    #[test]
    fn a_checkpoint_has_its_folders() {
        let folders = || {
            Some(Folders {
                images: Path::new("/i"),
                work: Path::new("/w"),
                connections: Connections::Refuse,
            })
        };
        check_with(
            Verb::Checkpoint,
            None,
            folders(),
            "/b/checkpoint.log --log-format json checkpoint --image-path /i --work-path /w \
             --file-locks --leave-running c1",
        );
        check_with(
            Verb::Restore { terminal: true },
            Some("/s"),
            folders(),
            "/b/runtime.log --log-format json restore --image-path /i --work-path /w --file-locks \
             --detach --bundle /b --pid-file /b/init.pid --console-socket /s c1",
        );
        for (connections, flag) in [
            (Connections::Keep, "--tcp-established"),
            (Connections::Close, "--tcp-close"),
        ] {
            let folders = Folders {
                connections,
                ..folders().unwrap()
            };
            check_with(
                Verb::Checkpoint,
                None,
                Some(folders),
                &format!(
                    "/b/checkpoint.log --log-format json checkpoint --image-path /i --work-path /w \
                     --file-locks {flag} --leave-running c1"
                ),
            );
        }
    }

    #[test]
    fn the_last_error_is_the_reason() {
        let log = r#"{"level":"error","msg":"first","time":"t"}
{"msg":"second","level":"error"}
{"level":"warning","msg":"third"}
not json
"#;
        assert_eq!(last_error(log).as_deref(), Some("second"));
        assert_eq!(last_error(r#"{"level":"info","msg":"x"}"#), None);
        assert_eq!(last_error(""), None);
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        let text = "ä".repeat(MAX_ERROR_TEXT);
        assert_eq!(shorten(&text).unwrap().len(), MAX_ERROR_TEXT);
        assert_eq!(shorten(" \n"), None);
    }

    #[test]
    fn pid_files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pid");
        for (text, expect) in [("12\n", Some(12)), ("-1", None), ("0", None), ("x", None)] {
            fs::write(&path, text).unwrap();
            let got = read_pid(&path).ok().map(|pid| pid.as_raw_nonzero().get());
            assert_eq!(got, expect, "{text}");
        }
    }
}
