//! A container that exists: its state from disk, and what has become of it since.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::cgroups::ContainerGroup;
use crate::failure::{Attempt, Failure, Result, because};
use crate::log::Log;
use crate::reap::wait_for_end;
use crate::state::{Error, Folder, State};
use crate::{messages, rdt};

/// `SIGKILL`.
const KILL: i32 = 9;

/// Longest wait for a killed process to be gone, seconds: it may be in the middle of a disk access.
const END_DEADLINE: i64 = 10;

/// runtime-spec, "State", and "paused".
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Status {
    Created,
    Running,
    Paused,
    Stopped,
}

impl Status {
    /// As it is written.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Status::Created => "created",
            Status::Running => "running",
            Status::Paused => "paused",
            Status::Stopped => "stopped",
        }
    }
}

/// One container.
#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) folder: Folder,
    pub(crate) state: State,
}

impl Container {
    /// Finds container `id`.
    ///
    /// # Errors
    ///
    /// [`Error::DoesNotExist`].
    pub(crate) fn load(root: &Path, id: &str) -> std::result::Result<Container, Error> {
        let folder = Folder::of(root, id)?;
        let state = folder.load()?;
        Ok(Container { folder, state })
    }

    /// Its control group.
    pub(crate) fn group(&self) -> Result<ContainerGroup> {
        ContainerGroup::open(&self.state.cgroup_paths, self.state.wrun.unit.as_deref())
    }

    /// What it is now.
    pub(crate) fn status(&self) -> Result<Status> {
        if !self.is_alive() {
            return Ok(Status::Stopped);
        }
        if self.group()?.is_frozen() {
            return Ok(Status::Paused);
        }
        let waits = rustix::fs::access(self.folder.gate(), rustix::fs::Access::EXISTS).is_ok();
        Ok(if waits {
            Status::Created
        } else {
            Status::Running
        })
    }

    fn is_alive(&self) -> bool {
        process_start(self.state.init_process_pid) == Some(self.state.init_process_start)
    }

    /// Its processes. Without a control group of its own they are those in its process ids that this
    /// process may look at.
    pub(crate) fn processes(&self) -> Result<Vec<i32>> {
        let group = self.group()?;
        if group.is_there() || !self.state.wrun.own_pids {
            return group.processes();
        }
        if !self.is_alive() {
            return Ok(Vec::new());
        }
        let init = self.state.init_process_pid;
        let space = |pid: i32| std::fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
        let own = space(init);
        let entries = std::fs::read_dir("/proc").attempt(|| "read /proc".to_owned())?;
        let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        Ok(pids
            .filter(|pid| *pid == init || (own.is_some() && space(*pid) == own))
            .collect())
    }

    /// A handle on its first process; `None` if that has ended.
    pub(crate) fn init(&self) -> Result<Option<OwnedFd>> {
        let Some(pid) = Pid::from_raw(self.state.init_process_pid) else {
            return Ok(None);
        };
        match pidfd_open(pid, PidfdFlags::empty()) {
            // The number may be somebody else's by now; the handle then is too.
            Ok(handle) => Ok(self.is_alive().then_some(handle)),
            Err(Errno::SRCH | Errno::INVAL) => Ok(None),
            Err(error) => Err(error).attempt(|| "open the container's first process".to_owned()),
        }
    }

    /// Sends a signal to its first process, or to all where they share the host's process ids and
    /// the first one's end would not be theirs.
    pub(crate) fn signal(&self, signal: i32) -> Result<()> {
        let init = self.init()?;
        if signal == KILL && !self.state.wrun.own_pids {
            let group = self.group()?;
            if group.is_there() {
                return group.kill();
            }
        }
        let Some(handle) = init else {
            return Err(Failure::new(messages::NOT_RUNNING));
        };
        match sys::process::pidfd_send_signal(std::os::fd::AsFd::as_fd(&handle), signal) {
            Err(error) if error.raw_os_error() == Some(Errno::SRCH.raw_os_error()) => {
                return Err(Failure::new(messages::NOT_RUNNING));
            }
            result => result.attempt(|| format!("send signal {signal}"))?,
        }
        if signal == KILL {
            // On v1 a frozen process gets it when it is thawed.
            let group = self.group()?;
            if group.is_frozen() {
                group.thaw()?;
            }
        }
        Ok(())
    }

    /// Ends everything in it and waits until its first process has ended.
    pub(crate) fn kill(&self) -> Result<()> {
        let handle = self.init()?;
        if let Some(handle) = &handle {
            let fd = std::os::fd::AsFd::as_fd(handle);
            // It may have ended by itself just now.
            let _sent = sys::process::pidfd_send_signal(fd, KILL);
        }
        if handle.is_none() && self.state.wrun.own_pids {
            return Ok(());
        }
        let group = self.group()?;
        if handle.is_some() {
            group.thaw_elsewhere(self.state.init_process_pid);
        }
        // A frozen process does not see its signal (v1), and processes beside the first one live on
        // if they share the host's process ids.
        group.kill()?;
        match &handle {
            Some(handle) if !wait_for_end(handle, END_DEADLINE)? => Err(Failure::new(format!(
                "the container's init is still running after {END_DEADLINE} s"
            ))),
            _ => Ok(()),
        }
    }

    /// Removes everything that is kept of it; what is gone already is fine. The failure of a poststop
    /// hook is only told (runtime.md, "Lifecycle", step 13).
    pub(crate) fn destroy(&self, log: &Log) -> Result<()> {
        let group = self.group()?;
        if !self.state.wrun.own_pids {
            // Others may have outlived the first process, and would keep the group.
            group.kill()?;
        }
        group.remove()?;
        if let Some(other) = &self.state.wrun.other_group {
            match std::fs::remove_dir(other) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                removed => removed.attempt(|| format!("remove {other:?}"))?,
            }
        }
        if let Some(share) = &self.state.wrun.rdt {
            rdt::leave(share)?;
        }
        self.folder.remove()?;
        let hooks = &self.state.wrun.poststop;
        if !hooks.is_empty() {
            let state = self.hook_state(Status::Stopped);
            crate::hooks::run_each("poststop", hooks, &state, |failure| {
                log.warning(&failure.to_string());
            });
        }
        Ok(())
    }

    /// Its limits, as `linux.resources` has them.
    pub(crate) fn resources(&self) -> Result<serde_json::Value> {
        match &self.state.wrun.resources {
            Some(raw) => serde_json::from_str(raw.get())
                .map_err(|error| because("read the limits that are kept", &error)),
            None => Ok(serde_json::json!({})),
        }
    }

    /// Keeps other limits in its state.
    pub(crate) fn keep_resources(&mut self, resources: &serde_json::Value) -> Result<()> {
        let raw = serde_json::value::to_raw_value(resources)
            .map_err(|error| because("write the limits", &error))?;
        self.state.wrun.resources = Some(raw);
        self.folder.save(&self.state)
    }

    /// The state that hooks read (runtime-spec, "State").
    pub(crate) fn hook_state(&self, status: Status) -> String {
        let pid = if status == Status::Stopped {
            0
        } else {
            self.state.init_process_pid
        };
        let own = &self.state.wrun;
        let state = crate::hooks::HookState {
            oci_version: own.oci_version.clone(),
            id: self.state.id.clone(),
            bundle: own.bundle.clone(),
            annotations: own.annotations.clone(),
        };
        state.text(status.name(), pid)
    }
}

/// Field 22 of `/proc/PID/stat`; `None` if there is no such process or it has ended.
pub(crate) fn process_start(pid: i32) -> Option<u64> {
    let text = crate::file::read(Path::new(&format!("/proc/{pid}/stat"))).ok()?;
    parse_stat(&String::from_utf8_lossy(&text))
}

/// proc_pid_stat(5): the name may hold anything, but no field behind it has a parenthesis.
fn parse_stat(text: &str) -> Option<u64> {
    let (_, rest) = text.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    if matches!(fields.next()?, "Z" | "X" | "x") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(state: &str, expect: Option<u64>) {
        let text = format!("7 (a) b) {state} 1 7 7 0 -1 0 0 0 0 0 1 2 3 4 20 0 1 0 4711 9 9");
        assert_eq!(parse_stat(&text), expect);
    }

    #[test]
    fn the_start_time_is_field_22() {
        check("S", Some(4711));
        check("Z", None);
        assert_eq!(parse_stat("garbage"), None);
        assert!(process_start(std::process::id().try_into().unwrap()).is_some());
    }
}
