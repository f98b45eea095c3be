//! The daemon dies at any moment and comes back: nothing is leaked, nothing is lost.

use std::time::{Duration, Instant};

use serde_json::json;
use tests::node::Pod;
use tests::traces::Traces;
use tests::{Node, pod, wait};

/// Rounds a verb in the short form of the tests, and in the long one.
const ROUNDS: (u32, u32) = (2, 20);

/// Says how it starts, ends with 5 when told to.
const SCRIPT: &str =
    "trap 'echo end; exit 5' TERM; echo begin; while :; do sleep 1 & wait $!; done";

#[test]
fn a_container_outlives_the_daemon() {
    let Some(mut node) = Node::start().unwrap() else {
        return;
    };
    let pod = node
        .run("alive", "while :; do cat /proc/uptime; sleep 0.1; done")
        .unwrap();
    pod.wait_for_log(".").unwrap();
    let started = node.crictl.container(&pod.container, "startedAt").unwrap();
    for end in [Daemon::Killed, Daemon::Told] {
        match end {
            Daemon::Killed => node.daemon.kill(),
            Daemon::Told => node.daemon.terminate().unwrap(),
        }
        let lines = pod.messages().unwrap().len();
        wait::until("more lines without a daemon", || {
            (pod.messages().ok()?.len() > lines + 2).then_some(())
        })
        .unwrap();
        node.daemon.start().unwrap();
        assert_eq!(
            node.crictl.container(&pod.container, "state").unwrap(),
            "CONTAINER_RUNNING"
        );
        assert_eq!(
            node.crictl.container(&pod.container, "startedAt").unwrap(),
            started
        );
        assert_eq!(node.exec(&pod.container, "echo here").unwrap(), "here");
    }
}

/// How the daemon went.
enum Daemon {
    Killed,
    Told,
}

#[test]
fn an_exit_without_a_daemon_is_known_afterwards() {
    let Some(mut node) = Node::start().unwrap() else {
        return;
    };
    let shared = node.daemon.scratch().join("shared");
    std::fs::create_dir(&shared).unwrap();
    let script = "echo begin; while [ ! -e /shared/go ]; do sleep 0.1; done; echo end; exit 9";
    let mut container = pod::container("late", &node.image, script);
    container["mounts"] = json!([{"container_path": "/shared", "host_path": shared}]);
    let sandbox = pod::sandbox(node.daemon.scratch(), "late");
    let pod = node.run_as(&[], &sandbox, &container).unwrap();
    pod.wait_for_log("begin").unwrap();
    node.daemon.kill();
    std::fs::write(shared.join("go"), "").unwrap();
    wait::until("container and shim to end", || {
        node.daemon.traces().processes.is_empty().then_some(())
    })
    .unwrap();
    node.daemon.start().unwrap();
    assert_eq!(node.crictl.exit_code(&pod.container).unwrap(), 9);
    assert_eq!(pod.messages().unwrap(), ["begin", "end"]);
}

/// Numbers that look random, from a seed that a failed test can be repeated with.
struct Dice(u64);

impl Dice {
    fn new() -> Dice {
        let given = std::env::var("WHERRY_SEED")
            .ok()
            .and_then(|seed| seed.parse().ok());
        let now = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
        Dice(given.unwrap_or(u64::from(now.subsec_nanos()) | 1))
    }

    /// A part of a time. (xorshift64: good enough to choose moments.)
    fn part_of(&mut self, time: Duration) -> Duration {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        let thousandths = u32::try_from(self.0 % 1000).unwrap_or_default();
        time * thousandths / 1000
    }
}

/// A verb that is interrupted, by its place in the life of a pod.
const VERBS: [&str; 10] = [
    "pull", "runp", "create", "start", "exec", "stop", "rm", "stopp", "rmp", "rmi",
];

/// One life of a pod, verb by verb, each of which can be done again.
struct Life<'n> {
    node: &'n mut Node,
    name: String,
    sandbox: String,
    container: String,
    pod: Pod,
}

impl<'n> Life<'n> {
    fn new(node: &'n mut Node, name: &str) -> Life<'n> {
        let config = pod::sandbox(node.daemon.scratch(), name);
        let log = node
            .daemon
            .scratch()
            .join("logs")
            .join(name)
            .join(format!("{name}.log"));
        Life {
            sandbox: node.file(&format!("{name}-pod"), &config).unwrap(),
            container: node
                .file(name, &pod::container(name, &node.image, SCRIPT))
                .unwrap(),
            pod: Pod {
                id: String::new(),
                container: String::new(),
                log,
            },
            name: name.to_owned(),
            node,
        }
    }

    /// The command line of a verb at this point of the life.
    fn command<'s>(&'s self, verb: &'s str) -> Vec<&'s str> {
        match verb {
            "pull" | "rmi" => vec![verb, &self.node.image],
            "runp" => vec![verb, &self.sandbox],
            "create" => vec![
                verb,
                "--no-pull",
                &self.pod.id,
                &self.container,
                &self.sandbox,
            ],
            "exec" => vec![verb, "-s", &self.pod.container, "true"],
            "stop" => vec![verb, "-t", "10", &self.pod.container],
            "start" | "rm" => vec![verb, &self.pod.container],
            _ => vec![verb, &self.pod.id],
        }
    }

    /// Does a verb to its end and checks what it must have brought.
    fn finish(&mut self, verb: &str) {
        if !self.done(verb) {
            let answer = self.node.crictl.ok(&self.command(verb));
            let answer = answer
                .unwrap_or_else(|error| panic!("{verb}: {error:?}\n{}", self.node.daemon.log()));
            match verb {
                "runp" => self.pod.id = answer,
                "create" => self.pod.container = answer,
                _ => {}
            }
        }
        self.check(verb);
    }

    /// Whether a verb that was interrupted has come to its end all the same, where crictl would
    /// call doing it again an error.
    fn done(&self, verb: &str) -> bool {
        let crictl = &self.node.crictl;
        match verb {
            "start" => {
                let state = crictl.container(&self.pod.container, "state").unwrap();
                state == "CONTAINER_RUNNING"
            }
            "rm" => crictl.ok(&["ps", "-a", "-q"]).unwrap().is_empty(),
            "rmp" => crictl.ok(&["pods", "-q"]).unwrap().is_empty(),
            "rmi" => crictl.ok(&["images", "-q"]).unwrap().is_empty(),
            _ => false,
        }
    }

    /// What holds after a verb.
    fn check(&self, verb: &str) {
        let crictl = &self.node.crictl;
        match verb {
            "runp" => assert_eq!(
                crictl.ok(&["pods", "-q", "--no-trunc"]).unwrap(),
                self.pod.id
            ),
            "create" => {
                let all = crictl.ok(&["ps", "-a", "-q", "--no-trunc"]).unwrap();
                assert_eq!(all, self.pod.container);
            }
            "start" => drop(self.pod.wait_for_log("begin").unwrap()),
            "stop" => {
                assert_eq!(
                    crictl.exit_code(&self.pod.container).unwrap(),
                    5,
                    "{}",
                    self.name
                );
                assert_eq!(
                    self.pod.messages().unwrap(),
                    ["begin", "end"],
                    "{}",
                    self.name
                );
            }
            "rm" => assert_eq!(crictl.ok(&["ps", "-a", "-q"]).unwrap(), ""),
            "rmp" => assert_eq!(crictl.ok(&["pods", "-q"]).unwrap(), ""),
            _ => {}
        }
    }

    /// Starts a verb, kills the daemon after a while, brings it back.
    fn interrupt(&mut self, verb: &str, after: Duration) {
        let output = self.node.daemon.scratch().join("interrupted");
        let mut running = self
            .node
            .crictl
            .start(&self.command(verb), &output)
            .unwrap();
        wait::pass(after);
        self.node.daemon.kill();
        wait::until("crictl to notice", || running.ended()).unwrap();
        self.node.daemon.start().unwrap();
    }

    /// A whole life; gives how long each verb took.
    fn live(mut self, interrupted: Option<(&str, Duration)>) -> Vec<Duration> {
        VERBS
            .iter()
            .map(|verb| {
                let began = Instant::now();
                if let Some((which, after)) = interrupted
                    && which == *verb
                {
                    self.interrupt(verb, after);
                }
                self.finish(verb);
                began.elapsed()
            })
            .collect()
    }
}

/// What is there beside files: a daemon's own records may grow, nothing else may.
fn living(node: &Node) -> Traces {
    let mut traces = node.daemon.traces();
    let daemon = i32::try_from(node.daemon.pid().unwrap()).unwrap();
    traces.processes.retain(|(pid, _)| *pid != daemon);
    traces.files.clear();
    traces.mounts.sort();
    traces
}

#[test]
fn killed_at_random_moments_of_every_verb() {
    let Some(mut node) = Node::start().unwrap() else {
        return;
    };
    let mut dice = Dice::new();
    println!("WHERRY_SEED={}", dice.0);
    let usual = Life::new(&mut node, "usual").live(None);
    let before = living(&node);
    let rounds = if tests::thorough() {
        ROUNDS.1
    } else {
        ROUNDS.0
    };
    for (verb, usual) in VERBS.iter().zip(usual) {
        for round in 0..rounds {
            // A little beyond the usual time: the moment just after counts too.
            let after = dice.part_of(usual * 5 / 4);
            println!("{verb} round {round}: killed after {after:?} of {usual:?}");
            Life::new(&mut node, &format!("{verb}-{round}")).live(Some((verb, after)));
            let left = living(&node);
            assert_eq!(left, before, "after {verb}, killed at {after:?}:\n{left}");
        }
    }
}

#[test]
fn images_of_a_folder_are_there_before_anybody_is_served() {
    let Some(node) = Node::start().unwrap() else {
        return;
    };
    let pull = ["images", "pull", &node.image];
    node.daemon.command(&pull).unwrap().ok().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let archive = folder.path().join("one.tar");
    let wish = ["images", "export", archive.to_str().unwrap(), &node.image];
    node.daemon.command(&wish).unwrap().ok().unwrap();
    let lines = format!("[images]\npreload = {:?}\n", folder.path());
    let other = tests::Daemon::setup().config(&lines).start().unwrap();
    let list = other.command(&["images", "list"]).unwrap().ok().unwrap();
    assert!(list.contains(&node.image), "{list}");
    let log = other.log();
    let place = |text: &str| log.find(text).unwrap_or_else(|| panic!("{text}: {log}"));
    assert!(place("images of the folder are there") < place("serving listen="));
    other.finish().unwrap();
}
