//! The steps of a pod's life, one after the other.

use anyhow::Result;
use bench::progress::Progress;
use bench::results::{Bar, Unit};
use bench::samples::Samples;

use crate::calls;
use crate::peer::Peer;

const RUN: &str = "RunPodSandbox, bridge network";
const START: &str = "CreateContainer + StartContainer";
const EXEC: &str = "ExecSync of true";
const KILL: &str = "StopContainer (kill) + RemoveContainer";
const REMOVE: &str = "StopPodSandbox + RemovePodSandbox";

/// Rounds before those that count: files get into the page cache.
const WARM_UP: usize = 2;
/// How often `true` is run in each round.
const EXECS: usize = 3;

/// Makes the rows known.
pub(crate) fn expect(samples: &mut Samples) {
    for (work, bar) in [
        (RUN, Some(1.0 / 10.0)),
        (START, Some(1.0 / 6.0)),
        (EXEC, Some(1.0 / 6.0)),
        (KILL, None),
        (REMOVE, Some(1.0 / 8.0)),
    ] {
        samples.expect(work, Unit::Milliseconds, bar.map(Bar::Ratio));
    }
}

/// All rounds, in rotating order.
pub(crate) fn measure(peers: &[Peer], rounds: usize, samples: &mut Samples) -> Result<()> {
    let progress = Progress::new("a pod's life", rounds);
    let mut ignored = Samples::default();
    for round in 0..WARM_UP + rounds {
        for turn in 0..peers.len() {
            let peer = &peers[(round + turn) % peers.len()];
            let warm = round >= WARM_UP;
            let into = if warm { &mut *samples } else { &mut ignored };
            one(peer, &format!("life-{round}"), into)?;
        }
        if let Some(done) = (round + 1).checked_sub(WARM_UP) {
            progress.tell(done);
        }
    }
    Ok(())
}

fn one(peer: &Peer, name: &str, samples: &mut Samples) -> Result<()> {
    let sandbox = peer.template.pod(name);
    let (sample, pod) = peer.timed(async |mut cri| calls::run_pod(&mut cri, &sandbox).await)?;
    samples.add(RUN, peer.name(), sample);
    let (sample, container) = peer.timed(async |mut cri| {
        calls::run_container(&mut cri, &pod, &sandbox, calls::idle("idle")).await
    })?;
    samples.add(START, peer.name(), sample);
    for _ in 0..EXECS {
        let exec = peer.timed(async |mut cri| calls::exec_true(&mut cri, &container).await)?;
        samples.add(EXEC, peer.name(), exec.0);
    }
    let killed = peer.timed(async |mut cri| calls::remove_container(&mut cri, &container).await)?;
    samples.add(KILL, peer.name(), killed.0);
    let removed = peer.timed(async |mut cri| calls::remove_pod(&mut cri, &pod).await)?;
    samples.add(REMOVE, peer.name(), removed.0);
    Ok(())
}
