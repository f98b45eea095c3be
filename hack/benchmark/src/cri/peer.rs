//! A daemon that runs pods: ours, or containerd with runc.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use bench::samples::{Sample, median};
use cri_api::{ImageSpec, ListContainersRequest, PullImageRequest};
use tests::conformance::images;
use tests::engines::Containerd;
use tests::traces::{Marks, Traces, remove_parent};
use tests::{Client, Daemon, Registry, wait};
use tonic::{Response, Status};

use crate::account::Account;
use crate::calls::{Cri, IMAGE, Template};

/// Who uses less than this in so long is quiet.
const QUIET: Duration = Duration::from_millis(15);
const STIR: Duration = Duration::from_micros(150);
/// Longest wait for quiet; a daemon that always has something to do is measured as it is.
const RESTLESS: Duration = Duration::from_secs(5);
/// Lines of a daemon's log that are shown after a failure.
const SHOWN: usize = 20;

/// A daemon.
#[derive(Debug)]
pub(crate) struct Peer {
    server: Server,
    client: Client,
    account: Account,
    pub(crate) template: Template,
}

#[derive(Debug)]
enum Server {
    Wherryd(Daemon),
    Containerd(Containerd),
}

/// Memory by PSS, million bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weight {
    /// The daemon and all shims.
    pub(crate) all: f64,
    /// Of one shim, the median and the largest; none without shims.
    pub(crate) shim: Option<(f64, f64)>,
}

impl Peer {
    /// Our daemon, of this build.
    pub(crate) fn wherryd(registry: &Registry) -> Result<Self> {
        let mirrored = images::HOSTS
            .iter()
            .fold(Daemon::setup(), |setup, host| setup.mirror(host, registry));
        let daemon = mirrored.start()?;
        Self::of(Server::Wherryd(daemon))
    }

    /// The newest containerd that is here, as it comes.
    pub(crate) fn containerd(registry: &Registry, runc: &Path) -> Result<Self> {
        let containerd = Containerd::start(registry, runc)?.context("needs containerd")?;
        Self::of(Server::Containerd(containerd))
    }

    fn of(server: Server) -> Result<Self> {
        let scratch = server.scratch();
        let account = Account::open(format!("bench-{}", scratch.name()))?;
        account.enter(server.pid()?)?;
        let template = Template {
            parent: account.pods(),
            logs: scratch.join("logs"),
        };
        let client = Client::connect(&server.socket())?;
        Ok(Self {
            server,
            client,
            account,
            template,
        })
    }

    pub(crate) fn name(&self) -> &'static str {
        match self.server {
            Server::Wherryd(_) => "wherryd",
            Server::Containerd(_) => "containerd",
        }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.server.socket()
    }

    /// Processor time of the daemon and its shims.
    pub(crate) fn daemon_time(&self) -> Result<Duration> {
        self.account.daemon()
    }

    /// Gets the image of all containers.
    pub(crate) fn pull(&self) -> Result<()> {
        let request = PullImageRequest {
            image: Some(ImageSpec {
                image: IMAGE.to_owned(),
                ..Default::default()
            }),
            ..Default::default()
        };
        let pulled = self
            .client
            .image_call(async |mut client| client.pull_image(request).await);
        pulled
            .map(drop)
            .with_context(|| format!("{}: pulling {IMAGE}", self.name()))
    }

    /// Makes calls of the runtime service.
    pub(crate) fn ask<T>(&self, ask: impl AsyncFnOnce(Cri) -> Result<T, Status>) -> Result<T> {
        let answer = self
            .client
            .call(async |cri| Ok(Response::new(ask(cri).await?)));
        answer.with_context(|| self.name())
    }

    /// Makes calls, and tells what they took: wall until they return, processor time until the
    /// daemon is quiet again.
    pub(crate) fn timed<T>(
        &self,
        ask: impl AsyncFnOnce(Cri) -> Result<T, Status>,
    ) -> Result<(Sample, T)> {
        let before = self.account.all()?;
        let started = Instant::now();
        let answer = self.ask(ask)?;
        let wall = started.elapsed();
        self.settle()?;
        let cpu = self.account.all()?.saturating_sub(before);
        let sample = Sample {
            wall,
            cpu: Some(cpu),
            ..Sample::default()
        };
        Ok((sample, answer))
    }

    /// Waits until the daemon and all that it started have nothing to do.
    pub(crate) fn settle(&self) -> Result<()> {
        let deadline = Instant::now() + RESTLESS;
        let mut before = self.account.all()?;
        while Instant::now() < deadline {
            wait::pass(QUIET);
            let now = self.account.all()?;
            if now.saturating_sub(before) < STIR {
                break;
            }
            before = now;
        }
        Ok(())
    }

    /// How many containers it lists.
    pub(crate) fn listed(&self) -> Result<usize> {
        self.ask(async |mut cri| {
            let listed = cri
                .list_containers(ListContainersRequest::default())
                .await?;
            Ok(listed.into_inner().containers.len())
        })
    }

    /// What daemon and shims weigh now.
    pub(crate) fn weight(&self) -> Result<Weight> {
        self.settle()?;
        let daemon = pss(self.server.pid()?)?;
        let shims = self.server.shims()?;
        let shims: Result<Vec<f64>> = shims.into_iter().map(pss).collect();
        let shims = shims?;
        let largest = shims.iter().copied().reduce(f64::max);
        Ok(Weight {
            all: daemon + shims.iter().sum::<f64>(),
            shim: median(&shims).zip(largest),
        })
    }

    /// Ends the daemon and starts it again; tells how long it takes until it lists `containers`.
    pub(crate) fn restart(&mut self, containers: usize) -> Result<Duration> {
        self.server.terminate()?;
        let started = Instant::now();
        self.server.start()?;
        let socket = self.server.socket();
        wait::until("the daemon to know its containers", || {
            self.client = Client::connect(&socket).ok()?;
            (self.listed().ok()? == containers).then_some(())
        })?;
        let wall = started.elapsed();
        self.account.enter(self.server.pid()?)?;
        Ok(wall)
    }

    /// Shows the end of its log.
    pub(crate) fn explain(&self) {
        let log = fs::read_to_string(self.server.scratch().join("log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let last = lines[lines.len().saturating_sub(SHOWN)..].join("\n");
        let shown = format!("---- end of {}'s log ----\n{last}\n", self.name());
        // Nobody reads it: clean up.
        drop(std::io::stderr().write_all(shown.as_bytes()));
    }

    /// Ends it, and removes all that it made.
    pub(crate) fn finish(self) -> Result<()> {
        let scratch = self.server.scratch();
        let marks = Marks {
            folder: scratch.path().to_owned(),
            kept: Vec::new(),
            cgroup: self.account.name().to_owned(),
            bridge: scratch.name().to_owned(),
        };
        let finished = match self.server {
            Server::Wherryd(daemon) => daemon.finish(),
            Server::Containerd(containerd) => {
                // Thousands of runc processes would end them as well, and take minutes.
                self.account.kill();
                drop(containerd);
                Ok(())
            }
        };
        self.account.kill();
        let gone = wait::until("what is left to go", || {
            let left = Traces::of(&marks);
            left.remove();
            left.is_empty().then_some(())
        });
        remove_parent(self.account.name());
        finished.and(gone)
    }
}

impl Server {
    fn scratch(&self) -> &tests::Scratch {
        match self {
            Self::Wherryd(daemon) => daemon.scratch(),
            Self::Containerd(containerd) => containerd.scratch(),
        }
    }

    fn socket(&self) -> PathBuf {
        match self {
            Self::Wherryd(daemon) => daemon.socket(),
            Self::Containerd(containerd) => containerd.socket(),
        }
    }

    fn pid(&self) -> Result<u32> {
        match self {
            Self::Wherryd(daemon) => daemon.pid(),
            Self::Containerd(containerd) => containerd.pid(),
        }
    }

    fn terminate(&mut self) -> Result<()> {
        match self {
            Self::Wherryd(daemon) => daemon.terminate(),
            Self::Containerd(containerd) => containerd.terminate(),
        }
    }

    fn start(&mut self) -> Result<()> {
        match self {
            Self::Wherryd(daemon) => daemon.start(),
            Self::Containerd(containerd) => containerd.launch(),
        }
    }

    /// Its shims: what runs under their name and has the daemon's folder on its command line.
    fn shims(&self) -> Result<Vec<u32>> {
        let name = match self {
            Self::Wherryd(_) => "wherry-shim",
            Self::Containerd(_) => "containerd-shim",
        };
        let folder = self.scratch().path().display().to_string();
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").context("list processes")?.flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|pid| pid.parse().ok()) else {
                continue;
            };
            // It may end while we look.
            let words = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let words = String::from_utf8_lossy(&words).into_owned();
            let program = words.split('\0').next().unwrap_or_default();
            let program = Path::new(program).file_name().unwrap_or_default();
            if program.to_string_lossy().starts_with(name) && words.contains(&folder) {
                found.push(pid);
            }
        }
        Ok(found)
    }
}

/// Resident memory in which what is shared counts in parts, million bytes (proc(5), smaps_rollup).
fn pss(pid: u32) -> Result<f64> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    let Some(kibibytes) = number.and_then(|number| number.parse::<f64>().ok()) else {
        bail!("no PSS in {path}");
    };
    Ok(kibibytes * 1024.0 / 1e6)
}
