//! Many pods at once, and what many containers cost while nothing happens.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use bench::progress::tell;
use bench::results::{Bar, Unit};
use bench::samples::{Sample, Samples};
use cri_api::{ListContainersRequest, ListPodSandboxRequest, PodSandboxConfig};
use tests::wait;
use tokio::task::JoinSet;
use tonic::Status;

use crate::calls::{self, Cri};
use crate::peer::Peer;

const ROUNDS: usize = 3;
/// Lists of all containers.
const LISTS: usize = 60;
/// Relists, and the time between two of them.
const RELISTS: u32 = 15;
const SECOND: Duration = Duration::from_secs(1);

const EMPTY: &str = "PSS of the daemon, no pods";
const ONE: &str = "PSS of daemon and shim, 1 pod";
const RELIST: &str = "daemon's time under a relist each second";
const SHIM: &str = "PSS of a shim, median";
const LARGEST: &str = "PSS of a shim, largest";

/// Titles that have a number in them.
#[derive(Debug)]
struct Titles {
    at_once: String,
    all_removed: String,
    weight: String,
    list: String,
    restart: String,
}

impl Titles {
    fn of(pods: usize, containers: usize) -> Self {
        Self {
            at_once: format!("{pods} pods asked for at once, until all run"),
            all_removed: format!("{pods} pods removed at once"),
            weight: format!("PSS of daemon and shims, {pods} pods"),
            list: format!("ListContainers, {containers} containers"),
            restart: format!("restart until {containers} containers are listed"),
        }
    }
}

/// Makes the rows known.
pub(crate) fn expect(samples: &mut Samples, pods: usize, containers: usize) {
    use Unit::{Megabytes, Milliseconds, PercentOfCore};
    let titles = Titles::of(pods, containers);
    for (work, unit, bar) in [
        (
            titles.at_once.as_str(),
            Milliseconds,
            Some(Bar::Ratio(1.0 / 6.0)),
        ),
        (&titles.all_removed, Milliseconds, None),
        (EMPTY, Megabytes, Some(Bar::Value(15.0))),
        (ONE, Megabytes, None),
        (&titles.weight, Megabytes, Some(Bar::Value(45.0))),
        (SHIM, Megabytes, Some(Bar::Value(0.3))),
        (LARGEST, Megabytes, Some(Bar::Value(1.0))),
        (&titles.list, Milliseconds, Some(Bar::Value(1.0))),
        (RELIST, PercentOfCore, Some(Bar::Value(0.5))),
        (&titles.restart, Milliseconds, Some(Bar::Value(1000.0))),
    ] {
        samples.expect(work, unit, bar);
    }
}

/// The daemons before anything else is asked of them, and with one pod.
pub(crate) fn weigh_few(peers: &[Peer], samples: &mut Samples) -> Result<()> {
    for peer in peers {
        samples.add_value(EMPTY, peer.name(), peer.weight()?.all);
        let pods = start(peer, "few", 1)?;
        samples.add_value(ONE, peer.name(), peer.weight()?.all);
        remove(peer, pods)?;
    }
    Ok(())
}

/// All of it; many containers are left.
pub(crate) fn measure(
    peers: &mut [Peer],
    pods: usize,
    containers: usize,
    samples: &mut Samples,
) -> Result<()> {
    let titles = Titles::of(pods, containers);
    let mut kept = Vec::new();
    for round in 0..ROUNDS {
        for peer in peers.iter() {
            tell(&format!(
                "{pods} at once, round {} of {ROUNDS}: {}",
                round + 1,
                peer.name()
            ));
            let name = format!("crowd-{round}");
            let (sample, running) = timed_start(peer, &name, pods)?;
            samples.add(&titles.at_once, peer.name(), sample);
            if round == 0 {
                weigh_many(peer, &titles, samples)?;
            }
            if round + 1 == ROUNDS {
                kept.push(running);
                continue;
            }
            let (sample, ()) = peer.timed(async |cri| remove_all(cri, running).await)?;
            samples.add(&titles.all_removed, peer.name(), sample);
        }
    }
    for (peer, pods) in peers.iter().zip(&kept) {
        tell(&format!("{containers} containers: {}", peer.name()));
        fill(peer, pods, containers)?;
    }
    list(peers, containers, &titles, samples)?;
    relist(peers, samples)?;
    for round in 0..ROUNDS {
        for peer in peers.iter_mut() {
            tell(&format!(
                "restart, round {} of {ROUNDS}: {}",
                round + 1,
                peer.name()
            ));
            peer.settle()?;
            let sample = Sample {
                wall: peer.restart(containers)?,
                ..Sample::default()
            };
            samples.add(&titles.restart, peer.name(), sample);
        }
    }
    // Ours are removed as anybody would do it; containerd's processes are killed in the end.
    if let (Some(peer), Some(pods)) = (peers.first(), kept.into_iter().next()) {
        tell("removing all of it");
        remove(peer, pods)?;
    }
    Ok(())
}

fn weigh_many(peer: &Peer, titles: &Titles, samples: &mut Samples) -> Result<()> {
    let weight = peer.weight()?;
    samples.add_value(&titles.weight, peer.name(), weight.all);
    let (shim, largest) = weight.shim.context("pods without shims")?;
    samples.add_value(SHIM, peer.name(), shim);
    samples.add_value(LARGEST, peer.name(), largest);
    Ok(())
}

/// A pod that runs, as it was asked for.
#[derive(Debug)]
struct Pod {
    id: String,
    config: PodSandboxConfig,
}

fn start(peer: &Peer, name: &str, count: usize) -> Result<Vec<Pod>> {
    let configs = configs(peer, name, count);
    peer.ask(async |cri| start_all(cri, configs).await)
}

fn timed_start(peer: &Peer, name: &str, count: usize) -> Result<(Sample, Vec<Pod>)> {
    let configs = configs(peer, name, count);
    peer.settle()?;
    peer.timed(async |cri| start_all(cri, configs).await)
}

fn configs(peer: &Peer, name: &str, count: usize) -> Vec<PodSandboxConfig> {
    let names = (0..count).map(|number| format!("{name}-{number}"));
    names.map(|name| peer.template.pod(&name)).collect()
}

/// Asks for all pods, each with a container, at once.
async fn start_all(cri: Cri, configs: Vec<PodSandboxConfig>) -> Result<Vec<Pod>, Status> {
    let mut asked = JoinSet::new();
    for config in configs {
        let mut cri = cri.clone();
        asked.spawn(async move {
            let id = calls::run_pod(&mut cri, &config).await?;
            calls::run_container(&mut cri, &id, &config, calls::idle("idle-0")).await?;
            Ok(Pod { id, config })
        });
    }
    all(asked).await
}

fn remove(peer: &Peer, pods: Vec<Pod>) -> Result<()> {
    peer.ask(async |cri| remove_all(cri, pods).await)
}

async fn remove_all(cri: Cri, pods: Vec<Pod>) -> Result<(), Status> {
    let mut asked = JoinSet::new();
    for pod in pods {
        let mut cri = cri.clone();
        asked.spawn(async move { calls::remove_pod(&mut cri, &pod.id).await });
    }
    all(asked).await.map(drop)
}

/// Adds containers to the pods, all pods at once, until there are so many.
fn fill(peer: &Peer, pods: &[Pod], containers: usize) -> Result<()> {
    let each = containers / pods.len();
    peer.ask(async |cri| {
        let mut asked = JoinSet::new();
        for pod in pods {
            let (mut cri, id, config) = (cri.clone(), pod.id.clone(), pod.config.clone());
            asked.spawn(async move {
                for number in 1..each {
                    let idle = calls::idle(&format!("idle-{number}"));
                    calls::run_container(&mut cri, &id, &config, idle).await?;
                }
                Ok(())
            });
        }
        all(asked).await.map(drop)
    })?;
    let listed = peer.listed()?;
    if listed != containers {
        bail!("{} lists {listed} containers of {containers}", peer.name());
    }
    Ok(())
}

/// Waits for all of them; the first error is the answer.
async fn all<T: 'static>(mut asked: JoinSet<Result<T, Status>>) -> Result<Vec<T>, Status> {
    let mut answers = Vec::with_capacity(asked.len());
    while let Some(answer) = asked.join_next().await {
        answers.push(answer.map_err(|lost| Status::internal(lost.to_string()))??);
    }
    Ok(answers)
}

fn list(peers: &[Peer], containers: usize, titles: &Titles, samples: &mut Samples) -> Result<()> {
    for peer in peers {
        peer.settle()?;
    }
    for _ in 0..LISTS {
        for peer in peers {
            let before = peer.daemon_time()?;
            let started = Instant::now();
            let listed = peer.listed()?;
            let wall = started.elapsed();
            if listed != containers {
                bail!("{} lists {listed} containers of {containers}", peer.name());
            }
            let sample = Sample {
                wall,
                cpu: Some(peer.daemon_time()?.saturating_sub(before)),
                ..Sample::default()
            };
            samples.add(&titles.list, peer.name(), sample);
        }
    }
    Ok(())
}

/// Lists pods and containers of all daemons each second, as a kubelet does.
fn relist(peers: &[Peer], samples: &mut Samples) -> Result<()> {
    tell("a relist each second");
    let before: Result<Vec<Duration>> = peers.iter().map(Peer::daemon_time).collect();
    let started = Instant::now();
    for number in 1..=RELISTS {
        for peer in peers {
            peer.ask(async |mut cri| {
                cri.list_pod_sandbox(ListPodSandboxRequest::default())
                    .await?;
                cri.list_containers(ListContainersRequest::default()).await
            })?;
        }
        wait::pass((SECOND * number).saturating_sub(started.elapsed()));
    }
    let wall = started.elapsed().as_secs_f64();
    for (peer, before) in peers.iter().zip(before?) {
        let used = peer.daemon_time()?.saturating_sub(before);
        samples.add_value(RELIST, peer.name(), used.as_secs_f64() / wall * 100.0);
    }
    Ok(())
}
