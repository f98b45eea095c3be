//! Output of one container until it is in its log.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use bench::progress::tell;
use bench::results::{Bar, Unit};
use bench::samples::Samples;
use cri_api::{ContainerState, ContainerStatusRequest, Mount};
use tests::{Scratch, wait};

use crate::calls;
use crate::peer::Peer;

const WORK: &str = "log of one container, lines of 100 bytes";
/// Bytes of a line with its end.
const LINE: usize = 100;
/// Lines in the file that containers read, and how often they read it.
const LINES: usize = 320_000;
const TIMES: usize = 4;
const ROUNDS: usize = 3;

/// Makes the row known.
pub(crate) fn expect(samples: &mut Samples) {
    samples.expect(WORK, Unit::MegabytesPerSecond, Bar::Ratio(3.0));
}

/// All rounds, in rotating order.
pub(crate) fn measure(peers: &[Peer], scratch: &Scratch, samples: &mut Samples) -> Result<()> {
    let file = scratch.join("lines");
    let line = [&[b'x'; LINE - 1][..], b"\n"].concat();
    fs::write(&file, line.repeat(LINES)).context("write the lines")?;
    let lines = Mount {
        container_path: "/lines".to_owned(),
        host_path: file.display().to_string(),
        readonly: true,
        ..Default::default()
    };
    for round in 0..ROUNDS {
        for turn in 0..peers.len() {
            let peer = &peers[(round + turn) % peers.len()];
            tell(&format!(
                "log, round {} of {ROUNDS}: {}",
                round + 1,
                peer.name()
            ));
            one(peer, &format!("log-{round}"), &lines, samples)?;
        }
    }
    fs::remove_file(&file).context("remove the lines")
}

fn one(peer: &Peer, name: &str, lines: &Mount, samples: &mut Samples) -> Result<()> {
    let sandbox = peer.template.pod(name);
    let logs = peer.template.logs.join(name);
    fs::create_dir_all(&logs)?;
    let command = [&["cat"][..], &["/lines"; TIMES]].concat();
    let mut config = calls::container("writer", &command);
    config.mounts.push(lines.clone());
    let pod = peer.ask(async |mut cri| calls::run_pod(&mut cri, &sandbox).await)?;
    let before = peer.daemon_time()?;
    let began = Instant::now();
    let container =
        peer.ask(async |mut cri| calls::run_container(&mut cri, &pod, &sandbox, config).await)?;
    let took = wait::until("the container to end", || {
        ended(peer, &container).transpose()
    })??;
    let log = logs.join("writer.log");
    let payload = LINE * LINES * TIMES;
    // The last of the output may still be in a pipe when the container ends.
    wait::until("all of the log", || {
        let written = fs::metadata(&log).ok()?.len();
        (usize::try_from(written).ok()? > payload).then_some(())
    })?;
    peer.settle()?;
    let cpu = peer.daemon_time()?.saturating_sub(before);
    let took = took.min(began.elapsed());
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    samples.add_value(WORK, peer.name(), payload as f64 / 1e6 / took.as_secs_f64());
    samples.add_cpu(WORK, peer.name(), cpu);
    peer.ask(async |mut cri| {
        calls::remove_container(&mut cri, &container).await?;
        calls::remove_pod(&mut cri, &pod).await
    })?;
    fs::remove_dir_all(&logs).context("remove the log")
}

/// How long the container ran, if it has ended.
fn ended(peer: &Peer, container: &str) -> Result<Option<Duration>> {
    let request = ContainerStatusRequest {
        container_id: container.to_owned(),
        verbose: false,
    };
    let answer = peer.ask(async |mut cri| Ok(cri.container_status(request).await?.into_inner()))?;
    let status = answer.status.context("a status")?;
    if status.state() != ContainerState::ContainerExited {
        return Ok(None);
    }
    if status.exit_code != 0 {
        bail!("the container ended with {}", status.exit_code);
    }
    let ran = u64::try_from(status.finished_at - status.started_at)?;
    Ok(Some(Duration::from_nanos(ran)))
}
