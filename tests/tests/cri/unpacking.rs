//! Layers are unpacked by processes of their own, which can do nothing else and may die.

use std::fs;

use serde_json::json;
use tests::image::{Format, Image, Layer, Packed};
use tests::process::{self, Output};
use tests::{Daemon, Registry, wait};

/// Files of the layer, and the length of each: enough to be met while it is unpacked.
const FILES: usize = 120;
const LENGTH: usize = 100_000;
/// How often one is looked for at most.
const MEETINGS: usize = 10;
/// CHOWN, DAC_OVERRIDE, FOWNER, FSETID, SYS_ADMIN, MKNOD, SETFCAP (capabilities(7)).
const CAPABILITIES: u64 = 1 | 1 << 1 | 1 << 3 | 1 << 4 | 1 << 21 | 1 << 27 | 1 << 31;

/// A daemon, and a registry with one image of one layer.
struct Lab {
    daemon: Daemon,
    _registry: Registry,
    image: String,
    _folder: tempfile::TempDir,
}

impl Lab {
    /// `None`, said so, if something is missing.
    fn start() -> Option<Self> {
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        let registry = Registry::start(folder.path()).unwrap()?;
        let mut layer = Layer::default();
        let mut content = vec![0; LENGTH];
        for number in 0..FILES {
            for (at, byte) in content.iter_mut().enumerate() {
                *byte = ((at * at * (number + 7)) >> 9).to_le_bytes()[0];
            }
            let name = format!("file{number}");
            layer.file(&name, 0o644, &content).unwrap();
        }
        let layers = [Packed::new(layer).unwrap()];
        let image = Image::new(Format::Oci, &layers, &json!({"Cmd": ["/none"]}));
        registry.push("unpacking", &["1"], &image).unwrap();
        let setup = Daemon::setup().mirror(&registry.host, &registry);
        Some(Self {
            daemon: setup.start().unwrap(),
            image: format!("{}/unpacking:1", registry.host),
            _registry: registry,
            _folder: folder,
        })
    }

    fn pull(&self) -> Output {
        self.daemon
            .command(&["images", "pull", &self.image])
            .unwrap()
    }

    /// Pulls the image, with the one who unpacks its layer stopped when `meanwhile` is called. One
    /// that was too fast is not met, and the image is pulled once more.
    fn pull_while(&self, meanwhile: impl FnOnce(Worker)) -> Output {
        let daemon = self.daemon.pid().unwrap();
        let mut meanwhile = Some(meanwhile);
        for _ in 0..MEETINGS {
            let output = std::thread::scope(|scope| {
                let pulling = scope.spawn(|| self.pull());
                let met = wait::until("a process that unpacks", || {
                    let worker = Worker::of(daemon).filter(Worker::stop);
                    (worker.is_some() || pulling.is_finished()).then_some(worker)
                });
                if let Some(worker) = met.unwrap() {
                    meanwhile.take().unwrap()(worker);
                }
                pulling.join().unwrap()
            });
            if meanwhile.is_none() {
                return output;
            }
            let removed = self.daemon.command(&["images", "remove", &self.image]);
            assert_eq!(removed.unwrap().code, 0);
        }
        panic!("all {MEETINGS} layers were unpacked before anybody looked");
    }
}

/// A process that unpacks.
struct Worker(u32);

impl Worker {
    /// One of a daemon's.
    fn of(daemon: u32) -> Option<Self> {
        let threads = fs::read_dir(format!("/proc/{daemon}/task")).ok()?;
        let lists = threads
            .flatten()
            .filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
        let children: Vec<u32> = lists
            .flat_map(|list| {
                list.split_whitespace()
                    .map(str::to_owned)
                    .collect::<Vec<_>>()
            })
            .filter_map(|child| child.parse().ok())
            .collect();
        let worker = |child: &u32| {
            fs::read_to_string(format!("/proc/{child}/comm"))
                .is_ok_and(|name| name == "wherryd-unpack\n")
        };
        children.into_iter().find(worker).map(Self)
    }

    fn is_there(&self) -> bool {
        let state = self.status("State");
        !state.is_empty() && !state.starts_with(['Z', 'X'])
    }

    /// What `status` of /proc says.
    fn status(&self, field: &str) -> String {
        let all = fs::read_to_string(format!("/proc/{}/status", self.0)).unwrap_or_default();
        let mut lines = all.lines();
        let value = lines.find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        value.unwrap_or_default().trim().to_owned()
    }

    fn signal(&self, name: &str) {
        let process = self.0.to_string();
        // It may have ended, which its state tells.
        process::run(process::bounded("kill").args(["-s", name, &process])).unwrap();
    }

    /// Stops it, if it is confined already and still at work.
    fn stop(&self) -> bool {
        if self.status("Seccomp") != "2" {
            return false;
        }
        self.signal("STOP");
        let settled = || (!self.is_there() || self.status("State").starts_with('T')).then_some(());
        wait::until("a process to stop", settled).unwrap();
        self.is_there()
    }

    /// Its control groups, one a line.
    fn groups(&self) -> String {
        fs::read_to_string(format!("/proc/{}/cgroup", self.0)).unwrap()
    }
}

/// The namespace or the root of a process.
fn link(process: u32, name: &str) -> std::path::PathBuf {
    fs::read_link(format!("/proc/{process}/{name}")).unwrap()
}

#[test]
fn a_layer_is_unpacked_by_a_process_that_can_do_nothing_else() {
    let Some(lab) = Lab::start() else { return };
    let daemon = lab.daemon.pid().unwrap();
    let pulled = lab.pull_while(|worker| {
        assert_eq!(worker.status("NoNewPrivs"), "1");
        for field in ["CapEff", "CapPrm", "CapBnd"] {
            let set = u64::from_str_radix(&worker.status(field), 16).unwrap();
            assert_eq!(set & !CAPABILITIES, 0, "{field}: {set:x}");
        }
        assert_ne!(link(worker.0, "ns/net"), link(daemon, "ns/net"));
        let limits = fs::read_to_string(format!("/proc/{}/limits", worker.0)).unwrap();
        let core = limits
            .lines()
            .find(|line| line.starts_with("Max core file size"));
        assert!(core.unwrap().contains(" 0 "), "{limits}");
        // It is moved while it confines itself, and fed only then.
        let moved = || {
            let named = worker
                .groups()
                .contains(&format!("/wherry-unpack-{daemon}"));
            let alone = || {
                lab.daemon
                    .log()
                    .contains("in the daemon's own control group")
            };
            (named || alone()).then_some(())
        };
        wait::until("the process to be in its control group", moved).unwrap();
        worker.signal("CONT");
    });
    assert_eq!(pulled.code, 0, "{}", pulled.stderr);
    wait::until("the last to go", || {
        Worker::of(daemon).is_none().then_some(())
    })
    .unwrap();
    for hierarchy in ["cpu", "blkio", ""] {
        let group = format!("/sys/fs/cgroup/{hierarchy}/wherry-unpack-{daemon}");
        let gone = || (!std::path::Path::new(&group).exists()).then_some(());
        wait::until("its group to go", gone).unwrap();
    }
}

#[test]
fn a_killed_worker_costs_one_pull() {
    let Some(lab) = Lab::start() else { return };
    let pulled = lab.pull_while(|worker| worker.signal("KILL"));
    assert_ne!(pulled.code, 0);
    assert!(
        pulled.stderr.contains("was ended by signal 9"),
        "{}",
        pulled.stderr
    );
    let list = lab
        .daemon
        .command(&["images", "list"])
        .unwrap()
        .ok()
        .unwrap();
    assert!(!list.contains(&lab.image), "{list}");
    let again = lab.pull();
    assert_eq!(again.code, 0, "{}", again.stderr);
    let fsck = lab.daemon.command(&["images", "fsck"]).unwrap();
    assert_eq!(fsck.code, 0, "{}{}", fsck.stdout, fsck.stderr);
}

#[test]
fn a_killed_daemon_takes_its_workers_along() {
    let Some(mut lab) = Lab::start() else { return };
    let daemon = lab.daemon.pid().unwrap().to_string();
    lab.pull_while(|worker| {
        process::ok(process::bounded("kill").args(["-KILL", &daemon])).unwrap();
        let gone = || (!worker.is_there()).then_some(());
        wait::until("the worker to go with the daemon", gone).unwrap();
    });
    lab.daemon.kill();
    lab.daemon.start().unwrap();
    let again = lab.pull();
    assert_eq!(again.code, 0, "{}", again.stderr);
}
