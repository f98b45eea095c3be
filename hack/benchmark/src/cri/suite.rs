//! `critest --benchmark`: the figures of the tool that others measure with.

use std::fs;
use std::path::Path;

use ::tests::{Scratch, peers, process};
use anyhow::{Context as _, Result};
use bench::progress::tell;
use bench::samples::{Sample, Samples};
use serde_json::Value;

use crate::peer::Peer;

/// Turns of each daemon.
const TURNS: usize = 2;
/// Seconds that one run may take.
const LIMIT: u64 = 300;
/// The benchmarks of pods and containers; those of images are `hack/bench images`.
const FOCUS: &str = "basic operations on Container|lifecycle of PodSandbox";

/// Runs it for each daemon in turn.
pub(crate) fn measure(
    daemons: &[Peer],
    rounds: usize,
    scratch: &Scratch,
    samples: &mut Samples,
) -> Result<()> {
    let Some(program) = peers::peer("bin/critest") else {
        return Ok(());
    };
    let count = rounds.div_ceil(TURNS).max(2);
    for turn in 0..TURNS {
        for at in 0..daemons.len() {
            let peer = &daemons[(turn + at) % daemons.len()];
            tell(&format!(
                "critest, turn {} of {TURNS}: {}",
                turn + 1,
                peer.name()
            ));
            let out = scratch.join(format!("critest-{turn}-{}", peer.name()));
            fs::create_dir_all(&out)?;
            run(&program, peer, count, &out)?;
            read(&out, peer.name(), samples)?;
        }
    }
    Ok(())
}

fn run(program: &Path, peer: &Peer, count: usize, out: &Path) -> Result<()> {
    let endpoint = format!("unix://{}", peer.socket().display());
    let (config, params) = (out.join("crictl.yaml"), out.join("params.yaml"));
    fs::write(
        &config,
        format!("runtime-endpoint: {endpoint}\nimage-endpoint: {endpoint}\ntimeout: 60\n"),
    )?;
    fs::write(
        &params,
        format!(
            "containersNumber: {count}\ncontainersNumberParallel: 1\npodsNumber: {count}\n\
             podsNumberParallel: 1\ncontainerBenchmarkTimeoutSeconds: {LIMIT}\n\
             podBenchmarkTimeoutSeconds: {LIMIT}\n"
        ),
    )?;
    let mut critest = process::limited(program, LIMIT);
    critest
        .arg("--benchmark")
        .arg(format!("--config={}", config.display()))
        .arg(format!("--runtime-endpoint={endpoint}"))
        .arg(format!("--image-endpoint={endpoint}"))
        .arg(format!("--benchmarking-params-file={}", params.display()))
        .arg(format!("--benchmarking-output-dir={}", out.display()))
        .arg("--ginkgo.no-color")
        .arg(format!("--ginkgo.focus={FOCUS}"));
    process::ok(&mut critest).map(drop)
}

/// Takes in every `*_data.json`: names of operations, and nanoseconds of each for each sample.
fn read(out: &Path, who: &str, samples: &mut Samples) -> Result<()> {
    for entry in fs::read_dir(out)?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.ends_with("_data.json") {
            let text = fs::read_to_string(entry.path())?;
            let data = serde_json::from_str(&text).with_context(|| format!("read {name}"))?;
            take(&data, who, samples).with_context(|| format!("read {name}"))?;
        }
    }
    Ok(())
}

fn take(data: &Value, who: &str, samples: &mut Samples) -> Result<()> {
    let names = data["operationsNames"].as_array().context("operations")?;
    for point in data["datapoints"].as_array().context("samples")? {
        let times = point["operationsDurationsNs"].as_array().context("times")?;
        for (name, time) in names.iter().zip(times) {
            let work = format!("critest: {}", name.as_str().context("a name")?);
            let wall = std::time::Duration::from_nanos(time.as_u64().context("a time")?);
            samples.add(
                &work,
                who,
                Sample {
                    wall,
                    ..Sample::default()
                },
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn medians_of_what_critest_wrote() {
        let data = json!({"operationsNames": ["CreateContainer", "StartContainer"], "datapoints": [
            {"operationsDurationsNs": [1_000_000, 8_000_000]},
            {"operationsDurationsNs": [3_000_000, 6_000_000]}]});
        let mut samples = Samples::default();
        take(&data, "wherryd", &mut samples).unwrap();
        assert_eq!(
            samples.median("critest: CreateContainer", "wherryd"),
            Some(2.0)
        );
        assert_eq!(
            samples.median("critest: StartContainer", "wherryd"),
            Some(7.0)
        );
        assert!(take(&json!({}), "wherryd", &mut samples).is_err());
    }
}
