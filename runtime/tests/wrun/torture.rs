//! Many containers at once, and a runtime that is killed at any moment: nothing is left behind, by
//! name: no process, mount, control group, state.

use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde_json::json;

use crate::harness::{Bundle, bundle, rounds};

/// Containers that are made at the same time.
const AT_ONCE: u32 = 16;

/// What a new bundle's processes have in their environment, or in their command line until then.
fn marked() -> Option<Bundle> {
    let mut b = bundle()?;
    let mark = format!("MARK={}", b.dir.path().display());
    b.spec["process"]["env"]
        .as_array_mut()
        .unwrap()
        .push(json!(mark));
    Some(b)
}

/// Processes that belong to the bundle: by its folder in their command line or environment.
fn processes_of(b: &Bundle) -> Vec<String> {
    let folder = b.dir.path().to_str().unwrap();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        for file in ["cmdline", "environ"] {
            let bytes = std::fs::read(entry.path().join(file)).unwrap_or_default();
            let text = String::from_utf8_lossy(&bytes);
            if text.contains(folder) {
                found.push(format!("{}: {text}", entry.path().display()));
            }
        }
    }
    found
}

/// Nothing is left of the bundle but its folder, and so no descriptor either.
fn assert_gone(b: &Bundle) {
    b.assert_nothing_left();
    // A killed process takes a moment to be gone.
    let begun = std::time::Instant::now();
    loop {
        let left = processes_of(b);
        if left.is_empty() {
            return;
        }
        assert!(
            begun.elapsed().as_secs() < 30,
            "processes are left: {left:?}"
        );
        std::thread::yield_now();
    }
}

/// Carries `work` out `total` times, [`AT_ONCE`] at a time, each worker with a bundle of its own.
fn in_parallel(total: u32, work: impl Fn(&mut Bundle, u32) + Sync) {
    let next = AtomicU32::new(0);
    let done = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                let Some(mut b) = marked() else { return };
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= total {
                        break;
                    }
                    work(&mut b, number);
                    done.fetch_add(1, Ordering::Relaxed);
                }
                assert_gone(&b);
            });
        }
    });
    let done = done.into_inner();
    assert!(done == 0 || done == total, "{done} of {total}");
}

#[test]
fn thousands_are_created_killed_and_deleted() {
    in_parallel(rounds(96, 10_000), |b, number| {
        b.spec["process"]["args"] = json!(["sleep", "1000"]);
        b.create().ok();
        if number.is_multiple_of(2) {
            b.wrun(&["start", &b.id]).ok();
        }
        let pid = b.pid();
        b.wrun(&["kill", &b.id, "KILL"]).ok();
        b.wait_for_end(pid);
        assert_eq!(b.status(), "stopped");
        b.wrun(&["delete", &b.id]).ok();
        b.assert_nothing_left();
    });
}

/// A runtime that waits for its child's end by time or by a signal loses the race at some time.
#[test]
fn the_shortest_life_never_hangs() {
    in_parallel(rounds(96, 1000), |b, number| {
        b.spec["process"]["args"] = json!(["true"]);
        let said = match number % 2 {
            0 => b.run(),
            _ => {
                b.create().ok();
                b.wrun(&["start", &b.id]).ok();
                b.wrun(&["delete", "-f", &b.id])
            }
        };
        said.ok();
    });
}

/// A number below `limit` that differs from round to round and is the same in each run.
fn scattered(round: u32, limit: u32) -> u32 {
    let mixed = u64::from(round + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    u32::try_from((mixed >> 32) % u64::from(limit)).unwrap()
}

/// Kills a command after `microseconds`, if it has not ended by then.
fn kill_after(mut command: Child, microseconds: u32) {
    let pid = Pid::from_child(&command);
    let handle = pidfd_open(pid, PidfdFlags::empty()).unwrap();
    let moment = Timespec {
        tv_sec: 0,
        tv_nsec: i64::from(microseconds) * 1000,
    };
    let mut fds = [PollFd::new(&handle, PollFlags::IN)];
    let _ended_or_not = poll(&mut fds, Some(&moment)).unwrap();
    let _sent = pidfd_send_signal(&handle, Signal::KILL);
    command.wait().unwrap();
}

impl Bundle {
    fn spawn(&self, args: &[&str]) -> Child {
        self.direct(args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    }
}

/// Longest time after which a command is killed, microseconds: most have ended by then.
const LONGEST: u32 = 30_000;

/// The command `args` gives is killed at every moment of its life, on a container that `prepare` has
/// made; one `delete --force` then leaves nothing.
fn check_killed(
    prepare: impl Fn(&mut Bundle) + Sync,
    args: impl Fn(&Bundle) -> Vec<String> + Sync,
) {
    in_parallel(rounds(32, 2000), |b, number| {
        b.spec["process"]["args"] = json!(["sleep", "1000"]);
        b.write();
        prepare(b);
        let args = args(b);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        kill_after(b.spawn(&args), scattered(number, LONGEST));
        b.wrun(&["delete", "--force", &b.id]).ok();
        assert_gone(b);
    });
}

fn words(b: &Bundle, verb: &str) -> Vec<String> {
    let dir = b.dir.path().to_str().unwrap();
    [verb, "-b", dir, &b.id].map(str::to_owned).to_vec()
}

#[test]
fn create_is_killed() {
    check_killed(|_| {}, |b| words(b, "create"));
}

#[test]
fn run_is_killed() {
    check_killed(|_| {}, |b| words(b, "run"));
}

#[test]
fn create_with_a_user_namespace_is_killed() {
    let with_user = |b: &mut Bundle| {
        if b.spec["linux"]["uidMappings"].is_null() {
            b.own_user_namespace(100_000).own_rootfs(100_000);
            let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            std::fs::set_permissions(b.dir.path(), open).unwrap();
            b.write();
        }
    };
    check_killed(with_user, |b| words(b, "create"));
}

#[test]
fn start_is_killed() {
    let created = |b: &mut Bundle| drop(b.create().ok());
    check_killed(created, |b| vec!["start".to_owned(), b.id.clone()]);
}

#[test]
fn exec_is_killed() {
    let exec = |b: &Bundle| ["exec", &b.id, "sleep", "1000"].map(str::to_owned).to_vec();
    check_killed(Bundle::start_sleeping, exec);
}

#[test]
fn delete_is_killed() {
    let delete = |b: &Bundle| ["delete", "--force", &b.id].map(str::to_owned).to_vec();
    check_killed(Bundle::start_sleeping, delete);
}
