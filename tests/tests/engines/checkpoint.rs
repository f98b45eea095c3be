//! Containers written to disk and read back by the engines, with criu.

use tests::engines::{Container, Engine, Kind};
use tests::{peers, process, wait};

use crate::with;

/// Counts in the memory of a shell, and tells how far in a file.
pub(crate) const COUNT: &str = "i=0; while :; do i=$((i+1)); echo $i >/tmp/n; sleep 0.05; done";

/// How far a container must have counted before it is written down.
const FAR: u64 = 20;

/// Whether there is a criu that works on this kernel; says so if not.
pub(crate) fn ready() -> bool {
    let Some(criu) = peers::peer_or_installed("criu") else {
        return false;
    };
    let checked = process::run(process::bounded(criu).arg("check"));
    if !checked.is_ok_and(|said| said.code == 0) {
        tests::skipped("criu that works on this kernel");
        return false;
    }
    true
}

/// How far it has counted; it may be writing the file just now.
fn counted(container: &Container<'_>) -> u64 {
    wait::until("a count", || {
        container.output("cat /tmp/n").ok()?.parse().ok()
    })
    .unwrap()
}

/// Counts far, is written down by `down`, is left to `between`, comes back by `back`, and goes on
/// from there.
fn there_and_back(
    engine: &Engine,
    flags: &[&str],
    down: &[&str],
    between: impl FnOnce(&Container<'_>),
    back: &[&str],
) {
    let container = engine.detached(flags, COUNT).unwrap();
    wait::until("it to count", || (counted(&container) > FAR).then_some(())).unwrap();
    let of = |words: &[&str]| -> Vec<String> {
        let name = container.name.as_str();
        let words = words
            .iter()
            .map(|word| if *word == "NAME" { name } else { word });
        words.map(str::to_owned).collect()
    };
    let call = |words: &[&str]| {
        let words = of(words);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        engine.ok(&words).unwrap();
    };
    call(down);
    let state = container.inspect().unwrap()["State"]["Status"].clone();
    assert_eq!(state, "exited");
    between(&container);
    call(back);
    let after = counted(&container);
    assert!(after >= FAR, "it began anew: {after}");
    wait::until("it to go on", || {
        (counted(&container) > after).then_some(())
    })
    .unwrap();
}

/// Adds a file to what was written of a container.
///
/// dockerd puts a checkpoint into its containerd twice: when it is made and when it is started. If
/// the second archive happens to equal the first, which is deleted but not yet collected, it fails
/// with "already exists", whatever the runtime.
fn made_unlike(engine: &Engine, container: &Container<'_>) {
    let id = container.inspect().unwrap()["Id"].clone();
    let of = format!("data/containers/{}/checkpoints/one", id.as_str().unwrap());
    std::fs::write(engine.scratch().join(&of).join("unlike"), id.to_string()).unwrap();
}

#[test]
fn docker_and_a_checkpoint() {
    if ready() {
        with(Kind::Docker, |engine| {
            there_and_back(
                engine,
                // With a network namespace of the container's own dockerd 28 fails to restore,
                // whatever the runtime.
                &["--network=host"],
                &["checkpoint", "create", "NAME", "one"],
                |container| made_unlike(engine, container),
                &["start", "--checkpoint", "one", "NAME"],
            );
        });
    }
}

#[test]
fn podman_and_a_checkpoint() {
    if ready() {
        with(Kind::Podman, |engine| {
            there_and_back(
                engine,
                &[],
                &["container", "checkpoint", "NAME"],
                |_| (),
                &["container", "restore", "NAME"],
            );
        });
    }
}
