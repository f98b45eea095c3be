//! `wrun` under the newest containerd, driven by ctr.

use std::path::Path;

use tests::engines::{Containerd, runtime};
use tests::{Registry, Scratch, wait};

use crate::{SERVICE, assert_says};

/// A containerd with the tests' image.
struct Bench {
    engine: Containerd,
    image: String,
}

impl Bench {
    fn start() -> Option<Bench> {
        let scratch = Scratch::new().unwrap();
        let registry = Registry::start(&scratch.join("registry")).unwrap()?;
        let engine = Containerd::start(&registry, &runtime()).unwrap()?;
        let image = engine.pull(&registry).unwrap();
        Some(Bench { engine, image })
    }

    /// Words of `ctr run`.
    fn words<'a>(
        &'a self,
        own: &'a [String],
        flags: &[&'a str],
        name: &'a str,
        script: &'a str,
    ) -> Vec<&'a str> {
        let own = own.iter().map(String::as_str);
        let words = std::iter::once("run")
            .chain(own)
            .chain(flags.iter().copied());
        words
            .chain([self.image.as_str(), name, "sh", "-c", script])
            .collect()
    }

    fn run(&self, flags: &[&str], name: &str, script: &str) -> tests::process::Output {
        let own = self.engine.flags(name);
        self.engine
            .ctr(&self.words(&own, flags, name, script))
            .unwrap()
    }

    /// A task that stays; without `--rm`, which wants a client that waits.
    fn detached(&self, flags: &[&str], name: &str, script: &str) {
        let own = self.engine.flags(name);
        let flags = [&["-d"], flags].concat();
        self.engine
            .ok(&self.words(&own[..4], &flags, name, script))
            .unwrap();
    }

    fn state(&self, name: &str) -> String {
        let tasks = self.engine.ok(&["tasks", "ls"]).unwrap();
        let line = tasks
            .lines()
            .find(|line| line.split_whitespace().next() == Some(name));
        line.and_then(|line| line.split_whitespace().nth(2))
            .unwrap_or("GONE")
            .to_owned()
    }

    fn delete(&self, name: &str) {
        self.engine.ok(&["tasks", "delete", "-f", name]).unwrap();
        self.engine.ok(&["containers", "delete", name]).unwrap();
    }
}

#[test]
fn run_and_exec() {
    let Some(bench) = Bench::start() else { return };
    let run = bench.run(&[], "code", "echo out; echo err >&2; exit 7");
    assert_eq!(
        (run.code, run.stdout.as_str(), run.stderr.ends_with("err\n")),
        (7, "out\n", true)
    );
    let own = bench.engine.flags("missing");
    let own: Vec<&str> = own.iter().map(String::as_str).collect();
    let run = [&["run"], &own[..], &[&bench.image, "missing", "/nowhere"]].concat();
    let run = bench.engine.ctr(&run).unwrap();
    assert_ne!(run.code, 0);
    assert_says(&run.stderr, &["/nowhere: no such file or directory"]);

    bench.detached(&["--env", "A=b"], "task", SERVICE);
    let exec = |flags: &[&str], script: &str| {
        let words = [
            &["tasks", "exec"],
            flags,
            &["--exec-id", "e", "task", "sh", "-c", script],
        ]
        .concat();
        bench.engine.ctr(&words).unwrap()
    };
    let run = exec(&[], "echo $A; exit 5");
    assert_eq!(
        (run.code, run.stdout.as_str()),
        (5, "b\n"),
        "{}",
        run.stderr
    );
    let run = exec(&["--cwd", "/tmp", "--user", "33"], "pwd; id -u");
    assert_eq!(
        (run.code, run.stdout.as_str()),
        (0, "/tmp\n33\n"),
        "{}",
        run.stderr
    );
    assert!(
        bench
            .engine
            .ok(&["tasks", "ps", "task"])
            .unwrap()
            .lines()
            .count()
            >= 2
    );
    bench
        .engine
        .ok(&["tasks", "kill", "-s", "SIGTERM", "task"])
        .unwrap();
    wait::until("the task to end", || {
        (bench.state("task") == "STOPPED").then_some(())
    })
    .unwrap();
    bench.delete("task");
}

#[test]
fn pause_limits_and_figures() {
    let Some(bench) = Bench::start() else { return };
    bench.detached(
        &["--memory-limit", "50331648", "--cpus", "0.5"],
        "task",
        SERVICE,
    );
    bench.engine.ok(&["tasks", "pause", "task"]).unwrap();
    assert_eq!(bench.state("task"), "PAUSED");
    bench.engine.ok(&["tasks", "resume", "task"]).unwrap();
    assert_eq!(bench.state("task"), "RUNNING");
    let metrics = bench
        .engine
        .ok(&["tasks", "metrics", "--format", "json", "task"])
        .unwrap();
    assert!(metrics.contains("50331648"), "{metrics}");
    bench
        .engine
        .ok(&["tasks", "kill", "-s", "SIGKILL", "task"])
        .unwrap();
    wait::until("the task to end", || {
        (bench.state("task") == "STOPPED").then_some(())
    })
    .unwrap();
    bench.delete("task");
}

#[test]
fn a_kill_for_memory_is_told() {
    let Some(bench) = Bench::start() else { return };
    let heard = bench.engine.scratch().join("events");
    let _ctr = bench.engine.listen(&heard).unwrap();
    let told = |what: &str| std::fs::read_to_string(&heard).is_ok_and(|text| text.contains(what));
    // Events from before it listened are not repeated: what it hears first shows that it does.
    let number = std::cell::Cell::new(0);
    wait::until("ctr to listen", || {
        number.set(number.get() + 1);
        bench.run(&[], &format!("before-{}", number.get()), "true");
        told("/tasks/exit").then_some(())
    })
    .unwrap();
    let greedy = "exec dd if=/dev/zero of=/dev/null bs=64M count=1";
    let run = bench.run(&["--memory-limit", "16777216"], "greedy", greedy);
    assert_eq!(run.code, 137, "{}", run.stderr);
    wait::until("the kill to be told", || {
        (told("/tasks/oom") && told("greedy")).then_some(())
    })
    .unwrap();
}

#[test]
fn a_checkpoint_is_an_image() {
    if !crate::checkpoint::ready() {
        return;
    }
    let Some(bench) = Bench::start() else { return };
    bench.detached(&[], "counts", crate::checkpoint::COUNT);
    let counted = |name: &str| {
        let exec = ["tasks", "exec", "--exec-id", "look", name, "cat", "/tmp/n"];
        let count = wait::until("a count", || {
            bench
                .engine
                .ctr(&exec)
                .ok()?
                .stdout
                .trim()
                .parse::<u64>()
                .ok()
        });
        count.unwrap()
    };
    wait::until("it to count", || (counted("counts") > 20).then_some(())).unwrap();
    let down = [
        "containers",
        "checkpoint",
        "--rw",
        "--image",
        "--task",
        "counts",
        "written.down/counts:1",
    ];
    bench.engine.ok(&down).unwrap();
    bench
        .engine
        .ok(&["tasks", "delete", "-f", "counts"])
        .unwrap();
    bench
        .engine
        .ok(&["containers", "delete", "counts"])
        .unwrap();
    let back = [
        "containers",
        "restore",
        "--rw",
        "--live",
        "counts",
        "written.down/counts:1",
    ];
    bench.engine.ok(&back).unwrap();
    let after = counted("counts");
    assert!(after >= 20, "it began anew: {after}");
    wait::until("it to go on", || (counted("counts") > after).then_some(())).unwrap();
    bench.delete("counts");
}

#[test]
fn privileged_seccomp_and_user_namespace() {
    let Some(bench) = Bench::start() else { return };
    let status = "sed -n 's/^Seccomp:[[:space:]]*//p' /proc/self/status";
    assert_eq!(bench.run(&["--seccomp"], "filtered", status).stdout, "2\n");
    assert_eq!(bench.run(&["--privileged"], "open", status).stdout, "0\n");
    let map = ["--uidmap", "0:300000:65536", "--gidmap", "0:300000:65536"];
    let run = bench.run(&map, "mapped", "cat /proc/self/uid_map");
    let words: Vec<&str> = run.stdout.split_whitespace().collect();
    assert_eq!(words, ["0", "300000", "65536"], "{}", run.stderr);
    let read_only = bench.run(&["--read-only"], "fixed", "touch /a");
    assert!(
        read_only.stderr.contains("Read-only file system"),
        "{}",
        read_only.stderr
    );
    let tmp = bench.engine.scratch().path();
    nothing_is_left(tmp);
}

/// No root file system of a container is mounted any more.
fn nothing_is_left(folder: &Path) {
    let left = tests::traces::mounts(folder);
    assert!(left.is_empty(), "{left:?}");
}
