//! The two forms of a layer beside each other: one store each, in this process, on the same disk.
//!
//! Pulls, removals, mounts and reads are done in turn within each round. Processor time is that of
//! this process, in which only the store works.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use bench::progress::tell;
use bench::results::Unit;
use bench::samples::{Sample, Samples};
use image::{LayerForm, Store};
use rustix::fs::{Advice, fadvise, statvfs, syncfs};
use tests::{Registry, Scratch, process, wait};
use tokio::runtime::Runtime;

use crate::content::{self, Form, Work};

/// The form that is tried, and the one that it is compared with.
pub(crate) const OWN: &str = "erofs";
/// See [`OWN`].
pub(crate) const YARDSTICK: &str = "dir";

/// How many layers the image has that is only mounted.
const LAYERS: usize = 100;
/// How often that image is mounted again in one round.
const MOUNTS: usize = 10;
/// How many pods read all of an image.
const PODS: usize = 10;
/// How many small files the one layer has that is full of them.
const SMALL: usize = 50_000;
/// What the file system may keep for itself, in bytes.
const SLACK: u64 = 8 << 20;
/// One tick of the processor times in /proc (`USER_HZ`, proc(5)).
const TICK: Duration = Duration::from_millis(10);

const DISK: &str = "disk used";
const RETURNED: &str = "removal, until the call returns";
const FREED: &str = "removal, until the space is free";
const FIRST_MOUNT: &str = "mount, 100 layers, the first time";
const MOUNT: &str = "mount, 100 layers, again";
const VERIFIED: &str = "comparison with the sums, 8 layers";
const FIRST_READ: &str = "read all files, first pod after the pull";
const SECOND_READ: &str = "read all files, second pod";
const COLD_READ: &str = "read all files, from the disk";
const CACHE: &str = "page cache, 10 pods that have read all files from the disk";

/// One store.
struct Side {
    name: &'static str,
    store: Arc<Store>,
    root: PathBuf,
}

/// The images.
struct Images {
    /// In the order of the table; the first is also read and compared.
    pulled: Vec<Work>,
    many: String,
}

/// Measures both forms.
pub(crate) fn measure(scratch: &Scratch, registry: &Registry, rounds: usize) -> Result<Samples> {
    let images = publish(registry)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let sides = [
        side(scratch, OWN, LayerForm::Erofs)?,
        side(scratch, YARDSTICK, LayerForm::Dir)?,
    ];
    let mut table = expected(&images);
    for round in 0..rounds {
        for turn in 0..sides.len() {
            let side = &sides[(round + turn) % sides.len()];
            tell(&format!("round {} of {rounds}: {}", round + 1, side.name));
            one_round(side, &images, &runtime, scratch, &mut table)
                .with_context(|| format!("form {}", side.name))?;
        }
    }
    Ok(table)
}

fn publish(registry: &Registry) -> Result<Images> {
    tell("making the images of this machine's /usr/lib");
    let layers = content::layers()?;
    let mut pulled = Vec::new();
    for form in [Form::Gzip, Form::Zstd] {
        pulled.push(content::publish(registry, form, &layers)?);
    }
    pulled.push(content::publish_small(registry, SMALL)?);
    let many = content::publish_many(registry, LAYERS)?;
    Ok(Images { pulled, many })
}

fn side(scratch: &Scratch, name: &'static str, layer_form: LayerForm) -> Result<Side> {
    let root = scratch.join(name);
    let certs = scratch.join("certs.d");
    let config = image::Config {
        layer_form,
        ..image::Config::new(root.clone(), certs, "this".into())
    };
    let store = Store::open(&config).with_context(|| format!("a store of form {name}"))?;
    Ok(Side { name, store, root })
}

fn expected(images: &Images) -> Samples {
    let mut table = Samples::default();
    for work in &images.pulled {
        table.expect(&of("pull", work), Unit::Milliseconds, None);
        table.expect(&of(DISK, work), Unit::Megabytes, None);
        table.expect(&of(RETURNED, work), Unit::Milliseconds, None);
        table.expect(&of(FREED, work), Unit::Milliseconds, None);
    }
    for work in [
        FIRST_MOUNT,
        MOUNT,
        VERIFIED,
        FIRST_READ,
        SECOND_READ,
        COLD_READ,
    ] {
        table.expect(work, Unit::Milliseconds, None);
    }
    table.expect(CACHE, Unit::Megabytes, None);
    table
}

fn of(what: &str, work: &Work) -> String {
    format!("{what}, {}", work.title)
}

fn one_round(
    side: &Side,
    images: &Images,
    runtime: &Runtime,
    scratch: &Scratch,
    table: &mut Samples,
) -> Result<()> {
    for (number, work) in images.pulled.iter().enumerate() {
        let before = used(&side.root)?;
        let pulled = timed(|| Ok(runtime.block_on(side.store.pull(&work.reference, None))?))?;
        table.add(&of("pull", work), side.name, pulled);
        let disk = used(&side.root)?.saturating_sub(before);
        table.add_value(&of(DISK, work), side.name, megabytes(disk));
        if number == 0 {
            reads(side, work, runtime, scratch, table)?;
            let verified = timed(|| {
                let found = runtime.block_on(side.store.check(false))?;
                anyhow::ensure!(found.findings.is_empty(), "damaged: {found:?}");
                Ok(())
            })?;
            table.add(VERIFIED, side.name, verified);
        }
        removal(side, work, before, runtime, table)?;
    }
    mounts(side, &images.many, runtime, scratch, table)
}

fn timed<T>(work: impl FnOnce() -> Result<T>) -> Result<Sample> {
    let cpu = cpu()?;
    let started = Instant::now();
    work()?;
    Ok(Sample {
        wall: started.elapsed(),
        cpu: Some(self::cpu()?.saturating_sub(cpu)),
        ..Sample::default()
    })
}

/// User and system time of this process (proc(5), fields 14 and 15).
fn cpu() -> Result<Duration> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let (_, fields) = stat.rsplit_once(')').context("no name in stat")?;
    let ticks = fields.split_whitespace().skip(11).take(2);
    let ticks: u32 = ticks.map(|field| field.parse().unwrap_or(0)).sum();
    Ok(TICK * ticks)
}

/// Bytes of the disk that are taken, once all was written to it.
fn used(root: &Path) -> Result<u64> {
    syncfs(File::open(root)?)?;
    let disk = statvfs(root)?;
    Ok((disk.f_blocks - disk.f_bfree) * disk.f_frsize)
}

#[expect(clippy::cast_precision_loss, reason = "a figure for a table")]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

/// Until as much of the disk is used as before the pull.
fn removal(
    side: &Side,
    work: &Work,
    before: u64,
    runtime: &Runtime,
    table: &mut Samples,
) -> Result<()> {
    let trash = side.root.join("trash");
    let started = Instant::now();
    runtime.block_on(side.store.remove(&work.reference))?;
    let returned = started.elapsed();
    wait::until("the space to become free", || {
        let is_empty = fs::read_dir(&trash).ok()?.next().is_none();
        (is_empty && used(&side.root).ok()? < before + SLACK).then_some(())
    })?;
    for (what, wall) in [(RETURNED, returned), (FREED, started.elapsed())] {
        let sample = Sample {
            wall,
            ..Sample::default()
        };
        table.add(&of(what, work), side.name, sample);
    }
    Ok(())
}

/// A root file system; unmounted by [`Pod::finish`].
struct Pod {
    name: String,
    target: PathBuf,
}

impl Pod {
    fn start(side: &Side, image: &str, name: String, at: (&Scratch, &Runtime)) -> Result<Self> {
        let target = at.0.join(format!("{}-{name}", side.name));
        fs::create_dir_all(&target)?;
        let mounted = side.store.mount_rootfs(image, &name, &target, None);
        at.1.block_on(mounted)?;
        Ok(Self { name, target })
    }

    fn finish(self, side: &Side, runtime: &Runtime) -> Result<()> {
        runtime.block_on(side.store.unmount_rootfs(&self.name, &self.target))?;
        Ok(fs::remove_dir(&self.target)?)
    }
}

fn mounts(
    side: &Side,
    image: &str,
    runtime: &Runtime,
    scratch: &Scratch,
    table: &mut Samples,
) -> Result<()> {
    runtime.block_on(side.store.pull(image, None))?;
    for number in 0..=MOUNTS {
        let started = Instant::now();
        let pod = Pod::start(side, image, number.to_string(), (scratch, runtime))?;
        let sample = Sample {
            wall: started.elapsed(),
            ..Sample::default()
        };
        table.add(
            if number == 0 { FIRST_MOUNT } else { MOUNT },
            side.name,
            sample,
        );
        pod.finish(side, runtime)?;
    }
    Ok(runtime.block_on(side.store.remove(image))?)
}

fn reads(
    side: &Side,
    work: &Work,
    runtime: &Runtime,
    scratch: &Scratch,
    table: &mut Samples,
) -> Result<()> {
    let pods: Result<Vec<Pod>> = (0..PODS)
        .map(|n| Pod::start(side, &work.reference, n.to_string(), (scratch, runtime)))
        .collect();
    let pods = pods?;
    for (what, pod) in [(FIRST_READ, &pods[0]), (SECOND_READ, &pods[1])] {
        table.add(
            what,
            side.name,
            timed(|| each_file(&pod.target, &mut read))?,
        );
    }
    evict(side, &pods[0])?;
    let (cache, cold) = Cache::around(|group| {
        let cold = timed(|| read_in(group, &pods[0]))?;
        pods[1..].iter().try_for_each(|pod| read_in(group, pod))?;
        Ok(cold)
    })?;
    // The reader is a program of its own.
    table.add(COLD_READ, side.name, Sample { cpu: None, ..cold });
    table.add_value(CACHE, side.name, megabytes(cache));
    pods.into_iter()
        .try_for_each(|pod| pod.finish(side, runtime))
}

/// Takes what was read and written out of memory.
fn evict(side: &Side, pod: &Pod) -> Result<()> {
    syncfs(File::open(&side.root)?)?;
    let mut forget = |path: &Path| Ok(fadvise(File::open(path)?, 0, None, Advice::DontNeed)?);
    each_file(&pod.target, &mut forget)?;
    // What lies below the files that were seen.
    each_file(&side.root.join("layers"), &mut forget)
}

fn read(path: &Path) -> Result<()> {
    std::io::copy(&mut File::open(path)?, &mut std::io::sink())?;
    Ok(())
}

fn each_file(folder: &Path, work: &mut impl FnMut(&Path) -> Result<()>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            each_file(&entry.path(), work)?;
        } else if kind.is_file() {
            work(&entry.path())?;
        }
    }
    Ok(())
}

/// Reads all files of a pod by a program that is in a control group.
fn read_in(group: &Path, pod: &Pod) -> Result<()> {
    let script =
        "echo $$ >\"$0/cgroup.procs\" && exec find \"$1\" -type f -exec cat {} + >/dev/null";
    let mut command = process::bounded("sh");
    command.args(["-c", script]).args([group, &pod.target]);
    process::ok(&mut command).map(drop)
}

/// A control group that counts pages of files.
struct Cache {
    group: PathBuf,
}

impl Cache {
    /// Bytes of files that were brought into memory by the programs that `work` puts into a group.
    fn around<T>(work: impl FnOnce(&Path) -> Result<T>) -> Result<(u64, T)> {
        let roots = ["/sys/fs/cgroup/memory", "/sys/fs/cgroup"].map(Path::new);
        let root = roots
            .into_iter()
            .find(|root| root.join("cgroup.procs").exists());
        let root = root.context("no control groups count memory")?;
        let cache = Self {
            group: root.join(format!("wherry-bench-{}", std::process::id())),
        };
        fs::create_dir(&cache.group).context("create a control group")?;
        let done = work(&cache.group)?;
        let stat = fs::read_to_string(cache.group.join("memory.stat"))?;
        let bytes = stat.lines().find_map(|line| {
            let bytes = line.strip_prefix("cache ").or(line.strip_prefix("file "))?;
            bytes.parse().ok()
        });
        Ok((bytes.context("memory.stat counts no files")?, done))
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        // Only an empty group can be removed; one that is not is seen by whoever looks.
        drop(fs::remove_dir(&self.group));
    }
}
