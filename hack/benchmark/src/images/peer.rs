//! A daemon that pulls: ours or containerd, with what its kernel counters say of it.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use bench::samples::Sample;
use cri_api::{ImageSpec, PullImageRequest, RemoveImageRequest};
use tests::process::Running;
use tests::{Client, Daemon, Registry, Scratch, wait};
use tokio::task::JoinSet;

use crate::content::Work;

/// A daemon that uses no processor for so long has nothing left to do.
const QUIET: Duration = Duration::from_millis(300);
/// One tick of the processor times in /proc (`USER_HZ`, proc(5)).
const TICK: Duration = Duration::from_millis(10);
/// Writing 5 to `clear_refs` resets the peak of resident memory (proc(5)).
const RESET_PEAK: &str = "5";

/// A daemon.
pub(crate) struct Peer {
    server: Server,
    client: Client,
}

enum Server {
    Wherryd(Daemon),
    Containerd { running: Running, _scratch: Scratch },
}

impl Peer {
    /// Our daemon, of this build.
    pub(crate) fn wherryd() -> Result<Self> {
        let daemon = Daemon::setup().start()?;
        let client = daemon.client()?;
        Ok(Self {
            server: Server::Wherryd(daemon),
            client,
        })
    }

    /// containerd as it comes: no setting of its pulls is changed.
    pub(crate) fn containerd(program: &Path, registry: &Registry) -> Result<Self> {
        let scratch = Scratch::new()?;
        let socket = scratch.join("containerd.sock");
        let config = scratch.join("config.toml");
        fs::write(&config, configuration(&scratch, &socket, registry)?)?;
        let args = [OsStr::new("--config"), config.as_os_str()];
        let mut running = Running::start(program, &args, &scratch.join("log"))?;
        let mut ended = None;
        let served = wait::until("containerd to serve", || {
            ended = running.ended();
            ended
                .map(|_| None)
                .or_else(|| Client::connect(&socket).ok().map(Some))
        });
        let Ok(Some(client)) = served else {
            let log = fs::read_to_string(scratch.join("log")).unwrap_or_default();
            bail!("containerd does not serve:\n{log}");
        };
        Ok(Self {
            server: Server::Containerd {
                running,
                _scratch: scratch,
            },
            client,
        })
    }

    pub(crate) fn name(&self) -> &'static str {
        match self.server {
            Server::Wherryd(_) => "wherryd",
            Server::Containerd { .. } => "containerd",
        }
    }

    /// Ends it, and removes all that it made.
    pub(crate) fn finish(self) -> Result<()> {
        match self.server {
            Server::Wherryd(daemon) => daemon.finish(),
            Server::Containerd { mut running, .. } => running.terminate().map(drop),
        }
    }

    /// Asks for an image as `count` pods would that start together.
    pub(crate) fn pull(&self, reference: &str, count: usize) -> Result<()> {
        let pulled = self.client.image_call(async |client| {
            let mut pulls = JoinSet::new();
            for _ in 0..count {
                let (mut client, request) = (client.clone(), pull_request(reference));
                pulls.spawn(async move { client.pull_image(request).await });
            }
            let mut last = Err(tonic::Status::invalid_argument("nobody asks"));
            while let Some(pulled) = pulls.join_next().await {
                last = Ok(pulled.map_err(|lost| tonic::Status::internal(lost.to_string()))??);
            }
            last
        });
        pulled
            .map(drop)
            .with_context(|| format!("{}: pulling {reference}", self.name()))
    }

    pub(crate) fn remove(&self, reference: &str) -> Result<()> {
        let request = RemoveImageRequest {
            image: Some(spec(reference)),
        };
        let removed = self
            .client
            .image_call(async |mut client| client.remove_image(request).await);
        removed
            .map(drop)
            .with_context(|| format!("{}: removing {reference}", self.name()))
    }

    pub(crate) fn remove_all(&self, works: &[Work]) -> Result<()> {
        works
            .iter()
            .try_for_each(|work| self.remove(&work.reference))
    }

    /// Waits until the daemon has nothing to do and the disk nothing to write.
    pub(crate) fn settle(&self) -> Result<()> {
        wait::until("the daemon to become quiet", || {
            let before = self.cpu().ok()?;
            wait::pass(QUIET);
            (self.cpu().ok()? == before).then_some(())
        })?;
        rustix::fs::sync();
        Ok(())
    }

    /// Does some work and tells what it took.
    pub(crate) fn sampled(&self, work: impl FnOnce() -> Result<()>) -> Result<Sample> {
        fs::write(self.proc("clear_refs")?, RESET_PEAK).context("reset the peak of memory")?;
        let cpu = self.cpu()?;
        let started = Instant::now();
        work()?;
        let wall = started.elapsed();
        Ok(Sample {
            wall,
            cpu: Some(self.cpu()?.saturating_sub(cpu)),
            peak: Some(self.peak()?),
            failure: None,
        })
    }

    fn proc(&self, file: &str) -> Result<PathBuf> {
        let pid = match &self.server {
            Server::Wherryd(daemon) => daemon.pid()?,
            Server::Containerd { running, .. } => running.pid(),
        };
        Ok(PathBuf::from(format!("/proc/{pid}/{file}")))
    }

    /// User and system time of it and of the children that it waited for (proc(5), fields 14 to 17).
    fn cpu(&self) -> Result<Duration> {
        let stat = fs::read_to_string(self.proc("stat")?)?;
        let (_, fields) = stat.rsplit_once(')').context("no name in stat")?;
        let ticks = fields.split_whitespace().skip(11).take(4);
        let ticks: u32 = ticks.map(|field| field.parse().unwrap_or(0)).sum();
        Ok(TICK * ticks)
    }

    /// Peak of its resident memory, million bytes.
    fn peak(&self) -> Result<f64> {
        let status = fs::read_to_string(self.proc("status")?)?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let number = line.and_then(|line| line.split_whitespace().next());
        let kibibytes: f64 = number.context("no VmHWM in status")?.parse()?;
        Ok(kibibytes * 1024.0 / 1e6)
    }
}

fn spec(reference: &str) -> ImageSpec {
    ImageSpec {
        image: reference.to_owned(),
        ..ImageSpec::default()
    }
}

fn pull_request(reference: &str) -> PullImageRequest {
    PullImageRequest {
        image: Some(spec(reference)),
        ..PullImageRequest::default()
    }
}

fn configuration(scratch: &Scratch, socket: &Path, registry: &Registry) -> Result<String> {
    let certs = scratch.join("certs.d").join(&registry.host);
    fs::create_dir_all(&certs)?;
    fs::write(
        certs.join("hosts.toml"),
        tests::daemon::hosts(&registry.host, &registry.host)?,
    )?;
    Ok(format!(
        "version = 3\nroot = {root:?}\nstate = {state:?}\n[grpc]\naddress = {socket:?}\n\
         [plugins.\"io.containerd.cri.v1.images\"]\nsnapshotter = \"overlayfs\"\n\
         [plugins.\"io.containerd.cri.v1.images\".registry]\nconfig_path = {certs:?}\n\
         [plugins.\"io.containerd.cri.v1.runtime\".cni]\nconf_dir = {cni:?}\n",
        root = scratch.join("root"),
        state = scratch.join("state"),
        certs = scratch.join("certs.d"),
        cni = scratch.join("cni"),
    ))
}
