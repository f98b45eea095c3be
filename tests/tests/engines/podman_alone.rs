//! What only podman has: pods, ids mapped for one container, descriptors, no control groups.

use std::os::unix::fs::MetadataExt;

use serde_json::Value;
use tests::engines::{Engine, Kind, runtime};
use tests::process;

use crate::{SERVICE, with};

#[test]
fn podman_knows_its_runtime() {
    with(Kind::Podman, |engine| {
        let info = engine.ok(&["info", "--format", "json"]).unwrap();
        let info: Value = serde_json::from_str(&info).unwrap();
        let said = &info["host"]["ociRuntime"];
        assert_eq!(said["name"], "wrun");
        assert_eq!(said["path"], runtime().display().to_string());
        assert!(
            said["version"].as_str().unwrap().contains("spec: 1."),
            "{said}"
        );
    });
}

#[test]
fn ids_of_one_container_are_mapped() {
    with(Kind::Podman, |engine| {
        let flags = ["--uidmap", "0:300000:65536", "--gidmap", "0:400000:65536"];
        let script = "cat /proc/self/uid_map /proc/self/gid_map";
        let said = engine.output(&flags, script).unwrap();
        let words: Vec<&str> = said.split_whitespace().collect();
        assert_eq!(words, ["0", "300000", "65536", "0", "400000", "65536"]);

        let folder = tempfile::tempdir_in(engine.scratch().path()).unwrap();
        let volume = format!("{}:/data:idmap", folder.path().display());
        let all = [&flags[..], &["-v", &volume]].concat();
        engine.output(&all, "echo it >/data/it").unwrap();
        // Written by the container's root, and through the mapped mount by the host's.
        assert_eq!(
            std::fs::metadata(folder.path().join("it")).unwrap().uid(),
            0
        );

        let container = engine.detached(&flags, SERVICE).unwrap();
        let pid = container.inspect().unwrap()["State"]["Pid"]
            .as_u64()
            .unwrap();
        let process = std::fs::metadata(format!("/proc/{pid}")).unwrap();
        assert_eq!((process.uid(), process.gid()), (300_000, 400_000));
        let exec = container.exec(&["-t", "-u", "33"], "id -u; tty").unwrap();
        assert_eq!(
            exec.stdout.replace('\r', ""),
            "33\n/dev/pts/0\n",
            "{}",
            exec.stderr
        );
        let joined = format!("container:{}", container.name);
        let inside = engine
            .output(&["--userns", &joined], "cat /proc/self/uid_map")
            .unwrap();
        assert_eq!(inside, container.output("cat /proc/self/uid_map").unwrap());
    });
}

#[test]
fn a_pod_shares_its_namespaces() {
    with(Kind::Podman, |engine| {
        let name = format!("{}-pod", engine.scratch().name());
        let flags = engine.own_flags();
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let flags = [
            &["pod", "create", "--name", &name, "--hostname", "quay"],
            &flags[..],
        ]
        .concat();
        engine.ok(&flags).unwrap();
        pod(engine, &name);
        engine.ok(&["pod", "rm", "-f", "-t", "0", &name]).unwrap();
    });
}

/// Two containers of a pod, and the verbs of a pod.
fn pod(engine: &Engine, name: &str) {
    let run = |script: &str| {
        engine
            .ok(&[
                "run",
                "-d",
                "--pod",
                name,
                &engine.image,
                "sh",
                "-c",
                script,
            ])
            .unwrap()
    };
    let (one, two) = (run(SERVICE), run(SERVICE));
    let script = "readlink /proc/self/ns/net; readlink /proc/self/ns/ipc; readlink /proc/self/ns/uts; hostname";
    let said = |id: &str| engine.ok(&["exec", id, "sh", "-c", script]).unwrap();
    assert_eq!(said(&one), said(&two));
    assert!(said(&one).ends_with("quay"));
    let state = |expect: &str| {
        let said = engine
            .ok(&["pod", "inspect", name, "--format", "{{.State}}"])
            .unwrap();
        assert_eq!(said, expect);
    };
    engine.ok(&["pod", "pause", name]).unwrap();
    state("Paused");
    engine.ok(&["pod", "unpause", name]).unwrap();
    state("Running");
    assert!(
        engine
            .ok(&["pod", "top", name])
            .unwrap()
            .matches("sleep")
            .count()
            >= 2
    );
    engine.ok(&["pod", "stop", "-t", "20", name]).unwrap();
    state("Exited");
    engine.ok(&["pod", "start", name]).unwrap();
    state("Running");
}

#[test]
fn descriptors_are_handed_on() {
    with(Kind::Podman, |engine| {
        let file = engine.scratch().join("handed");
        std::fs::write(&file, "on\n").unwrap();
        let own = format!("--cgroup-parent={}", engine.scratch().cgroup());
        let flags = ["run", "--rm", "--network=none", &own, "--preserve-fds=1"];
        let podman =
            engine.command(&[&flags[..], &[&engine.image, "cat", "/proc/self/fd/3"]].concat());
        let mut shell = process::bounded("sh");
        shell.args(["-c", "exec \"$@\" 3<\"$0\""]).arg(file);
        shell.arg(podman.get_program()).args(podman.get_args());
        shell.envs(
            podman
                .get_envs()
                .filter_map(|(key, value)| Some((key, value?))),
        );
        assert_eq!(process::ok(&mut shell).unwrap(), "on\n");
    });
}

#[test]
fn without_control_groups() {
    with(Kind::Podman, |engine| {
        let run = engine.ok(&[
            "run",
            "--rm",
            "--network=none",
            "--cgroups=disabled",
            &engine.image,
            "cat",
            "/proc/self/cgroup",
        ]);
        let own = std::fs::read_to_string("/proc/self/cgroup").unwrap();
        assert_eq!(run.unwrap().lines().count(), own.lines().count());
    });
}

#[test]
fn a_folder_as_the_root() {
    with(Kind::Podman, |engine| {
        let container = engine.detached(&[], SERVICE).unwrap();
        let root = container.ok(&["mount"]).unwrap();
        let own = format!("--cgroup-parent={}", engine.scratch().cgroup());
        let said = engine.ok(&[
            "run",
            "--rm",
            "--network=none",
            &own,
            "--rootfs",
            &format!("{root}:O"),
            "sh",
            "-c",
            "echo here",
        ]);
        container.ok(&["umount"]).unwrap();
        assert_eq!(said.unwrap(), "here");
    });
}
