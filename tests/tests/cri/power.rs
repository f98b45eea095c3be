//! The power fails, or the daemon is killed, while images are pulled and removed: what is shown
//! afterwards is right to the last bit, and of the rest nothing is left.

mod disk;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tests::image::{Format, Image, Layer, Packed};
use tests::{Daemon, Registry, process, wait};

use self::disk::Disk;

/// How often the power fails: in every run, and with `WHERRY_TEST_ALL=1`.
const CUTS: usize = 10;
const MANY_CUTS: usize = 200;
/// Images that come and go, and layers of each; neighbours have a layer in common.
const IMAGES: usize = 4;
const LAYERS: usize = 3;
/// Files of a layer.
const FILES: usize = 60;
/// The latest moment of a cut after the pulls have begun.
const LATEST: u64 = 1500;

fn cuts() -> usize {
    if tests::thorough() { MANY_CUTS } else { CUTS }
}

/// Numbers that look like chance (xorshift64).
struct Chance(u64);

impl Chance {
    fn new() -> Self {
        let now = std::time::UNIX_EPOCH.elapsed().unwrap();
        Self(now.subsec_nanos().into())
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

fn layer(number: usize) -> Packed {
    let mut chance = Chance(number as u64);
    let mut layer = Layer::default();
    for file in 0..FILES {
        let length = usize::try_from(chance.next() % 20_000).unwrap();
        let content: Vec<u8> = (0..length)
            .map(|_| chance.next().to_le_bytes()[3])
            .collect();
        let path = format!("layer{number}/folder{}/file{file}", file % 7);
        layer.file(&path, 0o644, &content).unwrap();
    }
    Packed::new(layer).unwrap()
}

/// Images that the registry has, by their names there.
fn publish(registry: &Registry) -> Vec<String> {
    let layers: Vec<_> = (0..IMAGES * (LAYERS - 1) + 1).map(layer).collect();
    let one = |number: usize| {
        let first = number * (LAYERS - 1);
        let image = Image::new(
            Format::Oci,
            &layers[first..first + LAYERS],
            &json!({"Cmd": [format!("/{number}")]}),
        );
        let name = format!("power/image{number}");
        registry.push(&name, &["1"], &image).unwrap();
        format!("{}/{name}:1", registry.host)
    };
    (0..IMAGES).map(one).collect()
}

/// A daemon whose store lies on a disk of its own, and a registry.
struct Machine {
    daemon: Daemon,
    _registry: Registry,
    images: Vec<String>,
    boots: usize,
    _folder: tempfile::TempDir,
}

impl Machine {
    /// `None`, said so, if something is missing.
    fn start() -> Option<Self> {
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        let registry = Registry::start(folder.path()).unwrap()?;
        let images = publish(&registry);
        let mut daemon = Daemon::setup()
            .mirror(&registry.host, &registry)
            .start()
            .unwrap();
        daemon.kill();
        Some(Self {
            daemon,
            _registry: registry,
            images,
            boots: 0,
            _folder: folder,
        })
    }

    /// Pulls all images and removes some, all at once; ends them all at some moment by `end`.
    fn busy(&self, chance: &mut Chance, end: impl FnOnce()) {
        let removed = &self.images[usize::try_from(chance.next()).unwrap_or(0) % IMAGES];
        let moment = Duration::from_millis(chance.next() % LATEST);
        let pid = self.daemon.pid().unwrap();
        std::thread::scope(|scope| {
            // Neither has to succeed: the daemon dies meanwhile.
            scope.spawn(|| drop(self.daemon.command(&["images", "remove", removed])));
            for image in &self.images {
                scope.spawn(|| drop(self.daemon.command(&["images", "pull", image])));
            }
            wait::pass(moment);
            end();
            process::ok(process::bounded("kill").args(["-KILL", &pid.to_string()])).unwrap();
        });
    }

    fn reboot(&mut self) {
        self.boots += 1;
        let boot = self.daemon.scratch().join("boot");
        fs::write(boot, format!("boot {}\n", self.boots)).unwrap();
    }

    /// All that is shown is as it was received; all that is there belongs to it.
    fn check(&self, when: &str) {
        let fsck = self.daemon.command(&["images", "fsck"]).unwrap();
        assert_eq!(fsck.code, 0, "{when}: {}{}", fsck.stdout, fsck.stderr);
        let shown = self.shown();
        let archive = self.daemon.scratch().join("archive.tar");
        for image in &shown {
            // Every layer is put together again, and has the digest that it was promised to have.
            let args = ["images", "export", archive.to_str().unwrap(), image];
            let exported = self.daemon.command(&args).unwrap();
            assert_eq!(exported.code, 0, "{when}: {image}: {}", exported.stderr);
        }
        let store = self.daemon.root().join("images");
        let expect = expected_layers(&store, shown.len());
        let found = || names(&store.join("layers/sha256"));
        wait::until("what belongs to nothing to go", || {
            let empty = ["trash", "staging"]
                .iter()
                .all(|folder| names(&store.join(folder)).is_empty());
            (empty && found() == expect).then_some(())
        })
        .unwrap_or_else(|error| panic!("{when}: {error}: {:?} {expect:?}", found()));
    }

    /// Names of the images that the daemon shows.
    fn shown(&self) -> Vec<String> {
        let list = self
            .daemon
            .command(&["images", "list"])
            .unwrap()
            .ok()
            .unwrap();
        let rows = list.lines().skip(1);
        let names = rows.filter_map(|row| row.split_whitespace().next());
        names.map(str::to_owned).collect()
    }

    /// Whatever happened, the images can be had.
    fn finish(mut self, disk: Option<Disk>) {
        for image in &self.images {
            self.daemon
                .command(&["images", "pull", image])
                .unwrap()
                .ok()
                .unwrap();
        }
        assert_eq!(self.shown().len(), IMAGES);
        self.check("in the end");
        if disk.is_some() {
            // What is below it was never used.
            self.daemon.kill();
            drop(disk);
            self.daemon.start().unwrap();
        }
        self.daemon.finish().unwrap();
    }
}

/// The layers that records on disk name.
fn expected_layers(store: &Path, images: usize) -> BTreeSet<String> {
    let records = names(&store.join("images"));
    assert_eq!(records.len(), images);
    let layers = records.iter().flat_map(|record| {
        let text = fs::read(store.join("images").join(record)).unwrap();
        let record: Value = serde_json::from_slice(&text).unwrap();
        let layers = record["layers"].as_array().unwrap().clone();
        layers
            .into_iter()
            .map(|layer| layer.as_str().unwrap()[7..].to_owned())
    });
    layers.collect()
}

fn names(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

fn survives_power_cuts(system: &str) {
    let Some(mut disk) = Disk::new(system) else {
        return;
    };
    let Some(mut machine) = Machine::start() else {
        return;
    };
    disk.mount(&machine.daemon.root());
    machine.daemon.start().unwrap();
    let mut chance = Chance::new();
    for cut in 0..cuts() {
        let when = format!("{system}, cut {cut}, chance {}", chance.0);
        machine.busy(&mut chance, || disk.cut());
        machine.daemon.kill();
        disk.replace();
        disk.mount(&machine.daemon.root());
        machine.reboot();
        machine.daemon.start().unwrap();
        machine.check(&when);
    }
    machine.finish(Some(disk));
}

#[test]
fn an_image_shown_after_a_power_cut_is_whole() {
    survives_power_cuts("ext4");
}

#[test]
fn an_image_shown_after_a_power_cut_on_xfs_is_whole() {
    survives_power_cuts("xfs");
}

#[test]
fn an_image_shown_after_a_kill_of_the_daemon_is_whole() {
    let Some(mut machine) = Machine::start() else {
        return;
    };
    machine.daemon.start().unwrap();
    let mut chance = Chance::new();
    for cut in 0..cuts() {
        let when = format!("kill {cut}, chance {}", chance.0);
        machine.busy(&mut chance, || ());
        machine.daemon.kill();
        machine.daemon.start().unwrap();
        machine.check(&when);
    }
    machine.finish(None);
}

/// What asks while a removal waits for the disk.
const QUESTIONS: [&[&str]; 4] = [
    &["images"],
    &["imagefsinfo"],
    &["inspecti", "nothing-of-this-name"],
    &["pods"],
];
/// Longest wait for an answer that needs no disk.
const PROMPT: Duration = Duration::from_secs(20);

#[test]
fn a_removal_that_waits_for_the_disk_holds_up_nobody() {
    let Some(mut disk) = Disk::new("ext4") else {
        return;
    };
    let Some(mut machine) = Machine::start() else {
        return;
    };
    disk.mount(&machine.daemon.root());
    machine.daemon.start().unwrap();
    let Some(crictl) = machine.daemon.crictl() else {
        machine.daemon.kill();
        return;
    };
    for image in &machine.images {
        machine
            .daemon
            .command(&["images", "pull", image])
            .unwrap()
            .ok()
            .unwrap();
    }
    disk.freeze();
    std::thread::scope(|scope| {
        let removal = scope.spawn(|| {
            machine
                .daemon
                .command(&["images", "remove", &machine.images[0]])
        });
        wait::pass(Duration::from_millis(300));
        assert!(!removal.is_finished(), "the disk is not frozen");
        let asked = Instant::now();
        for question in QUESTIONS {
            drop(crictl.run(question));
        }
        let took = asked.elapsed();
        disk.thaw();
        assert!(took < PROMPT, "{took:?}");
        removal.join().unwrap().unwrap().ok().unwrap();
    });
    assert_eq!(machine.shown().len(), IMAGES - 1);
    machine.finish(Some(disk));
}
