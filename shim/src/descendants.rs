//! Ends a process and all that it started.
//!
//! Each member of the family is stopped before its children are read, so that none can start
//! another unseen; when no more turn up, all are ended at once. A process that left both the family
//! tree and its session (a daemon of its own) is not found.

use std::fs;
use std::os::fd::OwnedFd;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// Most rounds of looking for more.
const MAX_ROUNDS: usize = 32;

/// Most processes in one family.
const MAX_FAMILY: usize = 4096;

/// Ends `root`, which must be a child of ours not reaped yet, and its descendants. Of `others`,
/// those in the session of one of them count as well, whoever their parent is now.
pub(crate) fn end(root: Pid, others: impl Fn() -> Vec<i32>) {
    let mut family = Family {
        root: root.as_raw_nonzero().get(),
        members: Vec::new(),
    };
    family.consider(root.as_raw_nonzero().get());
    for _ in 0..MAX_ROUNDS {
        let before = family.members.len();
        let children: Vec<i32> = family
            .members
            .iter()
            .flat_map(|(pid, _)| children(*pid))
            .collect();
        for pid in children.into_iter().chain(others()) {
            family.consider(pid);
        }
        if family.members.len() == before {
            break;
        }
    }
    for (_, handle) in &family.members {
        // It may have been ended by somebody else.
        let _ = pidfd_send_signal(handle, Signal::KILL);
    }
}

/// Processes held and stopped.
struct Family {
    root: i32,
    members: Vec<(i32, OwnedFd)>,
}

impl Family {
    /// Holds and stops a process if it belongs here.
    fn consider(&mut self, pid: i32) {
        if self.has(pid) || self.members.len() >= MAX_FAMILY {
            return;
        }
        let Some(Ok(handle)) = Pid::from_raw(pid).map(|pid| pidfd_open(pid, PidfdFlags::empty()))
        else {
            return;
        };
        // Asked only now: a number that passed to a stranger is a stranger's when it is held.
        let related = pid == self.root
            || kin(pid).is_some_and(|(parent, session)| self.has(parent) || self.has(session));
        if related && pidfd_send_signal(&handle, Signal::STOP).is_ok() {
            self.members.push((pid, handle));
        }
    }

    fn has(&self, pid: i32) -> bool {
        self.members.iter().any(|(member, _)| *member == pid)
    }
}

/// Children of all threads of a process (`/proc/PID/task/TID/children`, proc(5)).
fn children(pid: i32) -> Vec<i32> {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return Vec::new();
    };
    let lists = threads
        .flatten()
        .filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    lists.flat_map(|list| numbers(&list)).collect()
}

fn numbers(list: &str) -> Vec<i32> {
    list.split_ascii_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect()
}

/// Parent and session of a process.
fn kin(pid: i32) -> Option<(i32, i32)> {
    parse_kin(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// Fields 4 and 6 of `/proc/PID/stat`; the name, field 2, may hold anything, parentheses too.
fn parse_kin(stat: &str) -> Option<(i32, i32)> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_ascii_whitespace().skip(1);
    let parent = fields.next()?.parse().ok()?;
    let session = fields.nth(1)?.parse().ok()?;
    Some((parent, session))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kin_of_a_process_with_an_odd_name() {
        assert_eq!(parse_kin("12 (a) b) S 7 12 9 0 -1 4194560"), Some((7, 9)));
        assert_eq!(parse_kin("12 (a"), None);
        assert_eq!(parse_kin("12 (a) S 7"), None);
    }
}
