//! The end of a container: what outlived its init, and the exit record.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use prost::Message;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use shim_api::{EXIT_RECORD, ExitRecord};

/// How to end what is left in the container's control group.
#[derive(Debug, Default)]
pub(crate) struct Sweeper {
    /// `cgroup.kill`, if there is one.
    pub(crate) kill_file: Option<PathBuf>,
    /// `cgroup.procs`, if it is known.
    pub(crate) procs_file: Option<PathBuf>,
}

impl Sweeper {
    /// Ends every process left, once; gives back how many were seen.
    pub(crate) fn sweep(&self) -> usize {
        if let Some(file) = &self.kill_file
            && fs::write(file, "1").is_ok()
        {
            return self.members().len();
        }
        let held = self.members().into_iter().filter_map(|pid| {
            Some((
                pid,
                pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?,
            ))
        });
        let held: Vec<_> = held.collect();
        // A number may have passed to a stranger since it was read: only a process that is listed
        // while it is held may be ended.
        let still = self.members();
        for (pid, handle) in &held {
            if still.contains(pid) {
                // It may just have ended by itself.
                let _ = pidfd_send_signal(handle, Signal::KILL);
            }
        }
        held.len()
    }

    /// Processes in the control group; those that this process id namespace cannot see are 0 there
    /// and left out.
    pub(crate) fn members(&self) -> Vec<i32> {
        let Some(file) = &self.procs_file else {
            return Vec::new();
        };
        let text = fs::read_to_string(file).unwrap_or_default();
        text.lines()
            .filter_map(|line| line.parse().ok())
            .filter(|pid| *pid > 0)
            .collect()
    }
}

/// Writes the exit record, whole or not at all.
pub(crate) fn write_record(bundle: &Path, record: &ExitRecord) -> io::Result<()> {
    let (draft, place) = (bundle.join("exit.new"), bundle.join(EXIT_RECORD));
    File::create(&draft)?.write_all(&record.encode_to_vec())?;
    fs::rename(draft, place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let record = ExitRecord {
            exit_code: 137,
            finished_at: 2,
            oom_killed: true,
            started_at: 1,
        };
        write_record(dir.path(), &record).unwrap();
        let bytes = fs::read(dir.path().join(EXIT_RECORD)).unwrap();
        assert_eq!(ExitRecord::decode(&bytes[..]).unwrap(), record);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn nothing_known_is_nothing_left() {
        assert_eq!(Sweeper::default().sweep(), 0);
    }
}
