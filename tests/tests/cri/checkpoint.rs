//! Containers and pods written to files while they go on, and restored from these on the same node.

mod connections;

use std::collections::{BTreeSet, HashMap};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use cri_api as cri;
use serde_json::{Value, json};
use tests::daemon::programs;
use tests::image::{Format, Image, Layer, Packed};
use tests::node::Pod;
use tests::{Node, peers, pod, process, wait};
use tonic::{Code, Status};

/// Counts in the memory of a shell; says each number in the log.
const COUNT: &str = "i=0; while :; do i=$((i+1)); echo n=$i; sleep 0.05; done";

/// How far a container must have counted before it is written.
const FAR: u64 = 20;

/// A node that can write checkpoints.
fn node() -> Option<Node> {
    peers::criu_works()
        .then(|| Node::start().unwrap())
        .flatten()
}

fn checkpoint(node: &Node, container: &str, location: &Path, timeout: i64) -> Result<(), Status> {
    let request = cri::CheckpointContainerRequest {
        container_id: container.to_owned(),
        location: location.display().to_string(),
        timeout,
    };
    let client = node.daemon.client().unwrap();
    client
        .call(async |mut cri| cri.checkpoint_container(request).await)
        .map(drop)
}

/// The numbers in a log.
fn numbers(pod: &Pod) -> Vec<u64> {
    let lines = pod.messages().unwrap_or_default();
    let numbers = lines.iter().filter_map(|line| line.strip_prefix("n="));
    numbers.filter_map(|number| number.parse().ok()).collect()
}

fn last(pod: &Pod) -> u64 {
    numbers(pod).last().copied().unwrap_or_default()
}

fn wait_beyond(pod: &Pod, far: u64) {
    wait::until(&format!("it to count beyond {far}"), || {
        (last(pod) > far).then_some(())
    })
    .unwrap();
}

/// Members of an archive.
fn members(archive: &Path) -> BTreeSet<String> {
    let listed = process::run(process::bounded("tar").arg("-tf").arg(archive)).unwrap();
    assert_eq!(listed.code, 0, "{}", listed.stderr);
    listed.stdout.lines().map(str::to_owned).collect()
}

/// What is in a folder.
fn names(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    entries.map(|entry| entry.unwrap().path()).collect()
}

/// Nothing that is under way has left files.
fn assert_no_litter(node: &Node) {
    let left = names(&node.daemon.root().join("checkpoints"));
    assert!(left.is_empty(), "{left:?}");
}

/// A container of another name that is to go on from an archive.
fn again(name: &str, archive: &Path) -> Value {
    let mut config = pod::container(name, "", "exit 3");
    config["image"] = json!({"image": archive});
    config
}

#[test]
fn a_container_goes_on_from_an_archive() {
    let Some(node) = node() else { return };
    let script = format!("echo mine >/etc/mine; rm /etc/group; {COUNT}");
    let first = node.run("first", &script).unwrap();
    wait_beyond(&first, FAR);
    let archive = node.daemon.scratch().join("first.tar");
    checkpoint(&node, &first.container, &archive, 0).unwrap();
    assert_no_litter(&node);

    let members = members(&archive);
    for name in [
        "config.dump",
        "spec.dump",
        "status.dump",
        "rootfs-diff.tar",
        "deleted.files",
        "container.log",
        "dump.log",
        "stats-dump",
        "checkpoint/inventory.img",
        "checkpoint/descriptors.json",
    ] {
        assert!(members.contains(name), "{name} is not in {members:?}");
    }
    let counted = last(&first);
    wait_beyond(&first, counted + 5);
    node.crictl
        .ok(&["stop", "-t", "0", &first.container])
        .unwrap();
    let stopped = last(&first);

    let sandbox = pod::sandbox(node.daemon.scratch(), "second");
    let second = node
        .run_as(&[], &sandbox, &again("second", &archive))
        .unwrap();
    assert_no_litter(&node);
    wait_beyond(&second, counted + 20);
    let seen = numbers(&second);
    let begun = seen.iter().position(|number| *number == 1);
    assert_eq!(begun, Some(0), "the old log comes first: {seen:?}");
    assert_eq!(seen.iter().filter(|number| **number == 1).count(), 1);
    assert!(stopped > counted);
    let exec = |script: &str| node.exec(&second.container, script).unwrap();
    assert_eq!(exec("cat /etc/mine"), "mine");
    assert_eq!(exec("ls /etc/group 2>/dev/null || echo gone"), "gone");
    assert_eq!(exec("hostname"), "second");
    let pid = node
        .crictl
        .ok(&[
            "inspect",
            "-o",
            "go-template",
            "--template",
            "{{.info.pid}}",
            &second.container,
        ])
        .unwrap();
    assert!(Path::new("/proc").join(pid.trim()).exists(), "{pid}");

    // What was restored can be written again.
    let later = node.daemon.scratch().join("later.tar");
    checkpoint(&node, &second.container, &later, 100).unwrap();
    node.crictl
        .ok(&["stop", "-t", "0", &second.container])
        .unwrap();
    assert_eq!(node.crictl.exit_code(&second.container).unwrap(), 137);
    node.remove(&first).unwrap();
    node.remove(&second).unwrap();
}

#[test]
fn what_is_restored_waits_for_its_start() {
    let Some(mut node) = node() else { return };
    let first = node.run("waits", COUNT).unwrap();
    wait_beyond(&first, FAR);
    let archive = node.daemon.scratch().join("waits.tar");
    checkpoint(&node, &first.container, &archive, 0).unwrap();
    node.remove(&first).unwrap();

    let sandbox = pod::sandbox(node.daemon.scratch(), "later");
    let sandbox_file = node.file("later-pod", &sandbox).unwrap();
    let id = node.crictl.ok(&["runp", &sandbox_file]).unwrap();
    let create = |name: &str| {
        let file = node.file(name, &again(name, &archive)).unwrap();
        node.crictl
            .ok(&["create", "--no-pull", &id, &file, &sandbox_file])
            .unwrap()
    };
    let (kept, removed) = (create("kept"), create("removed"));
    let state = |node: &Node, id: &str| node.crictl.container(id, "state").unwrap();
    assert_eq!(state(&node, &kept), "CONTAINER_CREATED");
    node.crictl.ok(&["rm", &removed]).unwrap();
    node.daemon.kill();
    node.daemon.start().unwrap();
    assert_eq!(state(&node, &kept), "CONTAINER_CREATED");
    node.crictl.ok(&["start", &kept]).unwrap();
    assert_eq!(state(&node, &kept), "CONTAINER_RUNNING");
    assert_no_litter(&node);
    let kept = Pod {
        log: node.daemon.scratch().join("logs/later/kept.log"),
        container: kept,
        id,
    };
    let counted = last(&kept);
    wait_beyond(&kept, counted + 5);
    node.remove(&kept).unwrap();
}

#[test]
fn the_daemon_is_killed_while_it_writes() {
    let Some(mut node) = node() else { return };
    // So much that writing it takes a while.
    let script = format!("x=$(head -c 60000000 /dev/zero | tr '\\0' x); {COUNT}");
    let pod = node.run("killed", &script).unwrap();
    wait_beyond(&pod, FAR);
    let folder = node.daemon.scratch().join("out");
    std::fs::create_dir(&folder).unwrap();
    let client = node.daemon.client().unwrap();
    let work = node.daemon.root().join("checkpoints");
    let request = cri::CheckpointContainerRequest {
        container_id: pod.container.clone(),
        location: folder.join("a.tar").display().to_string(),
        timeout: 0,
    };
    std::thread::scope(|scope| {
        let asked =
            scope.spawn(|| client.call(async |mut cri| cri.checkpoint_container(request).await));
        wait::until("images", || {
            let images = names(&work).pop()?.join(&pod.container).join("checkpoint");
            (!names(&images).is_empty()).then_some(())
        })
        .unwrap();
        node.daemon.kill();
        assert!(asked.join().unwrap().is_err());
    });
    node.daemon.start().unwrap();
    let counted = last(&pod);
    wait_beyond(&pod, counted + 5);
    assert!(names(&folder).is_empty(), "{:?}", names(&folder));
    // A checkpoint that a shim still writes may leave some, for the next start to take.
    wait::until("a checkpoint", || {
        checkpoint(&node, &pod.container, &folder.join("b.tar"), 0).ok()
    })
    .unwrap();
    node.daemon.kill();
    node.daemon.start().unwrap();
    assert_no_litter(&node);
    node.remove(&pod).unwrap();
}

/// An OCI runtime that writes no checkpoint before `go` is in the folder.
fn hesitant(folder: &Path) -> PathBuf {
    let (wrun, go) = (programs().join("wrun"), folder.join("go"));
    let script = format!(
        "#!/bin/sh\ncase \" $* \" in *\" checkpoint --\"*) while [ ! -e {} ]; do sleep 0.1; done;; \
         esac\nexec {} \"$@\"\n",
        go.display(),
        wrun.display()
    );
    let path = folder.join("hesitant");
    std::fs::write(&path, script).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

#[test]
fn what_takes_too_long_leaves_nothing() {
    if !peers::criu_works() {
        return;
    }
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    let (program, go) = (hesitant(folder.path()), folder.path().join("go"));
    let Some(mut node) = Node::start_with(|setup| setup.runtime("hesitant", &program)).unwrap()
    else {
        return;
    };
    let sandbox = pod::sandbox(node.daemon.scratch(), "late");
    let container = pod::container("late", &node.image, COUNT);
    let pod = node
        .run_as(&["-r", "hesitant"], &sandbox, &container)
        .unwrap();
    wait_beyond(&pod, FAR);
    let place = folder.path().join("x.tar");
    let late = checkpoint(&node, &pod.container, &place, 1).unwrap_err();
    assert_eq!(late.code(), Code::DeadlineExceeded, "{late:?}");
    let second = checkpoint(&node, &pod.container, &place, 1).unwrap_err();
    assert_eq!(second.code(), Code::Unavailable, "{second:?}");
    let paused = node
        .daemon
        .state()
        .join("pods")
        .join(&pod.id)
        .join("paused");
    assert!(paused.exists());
    let counted = last(&pod);
    std::fs::write(&go, "").unwrap();
    wait_beyond(&pod, counted + 5);
    wait::until("its files to go", || {
        names(&node.daemon.root().join("checkpoints"))
            .is_empty()
            .then_some(())
    })
    .unwrap();
    assert!(!place.exists() && !paused.exists());

    // The same with a daemon that is killed while the container stands still.
    std::fs::remove_file(&go).unwrap();
    let late = checkpoint(&node, &pod.container, &place, 1).unwrap_err();
    assert_eq!(late.code(), Code::DeadlineExceeded, "{late:?}");
    node.daemon.kill();
    node.daemon.start().unwrap();
    let counted = last(&pod);
    std::fs::write(&go, "").unwrap();
    wait_beyond(&pod, counted + 5);
    wait::until("the mark to go", || (!paused.exists()).then_some(())).unwrap();
    assert!(!place.exists());
    assert_no_litter(&node);
    node.remove(&pod).unwrap();
}

#[test]
fn what_cannot_be_written_is_refused_by_name() {
    let Some(node) = Node::start().unwrap() else {
        return;
    };
    let place = node.daemon.scratch().join("x.tar");
    let refused = |container: &str, location: &Path, timeout, code, text: &str| {
        let status = checkpoint(&node, container, location, timeout).unwrap_err();
        assert_eq!(status.code(), code, "{status:?}");
        assert!(status.message().contains(text), "{status:?}");
        assert!(!place.exists());
        assert_no_litter(&node);
    };
    refused("0123", &place, 0, Code::NotFound, "0123");
    let sandbox = pod::sandbox(node.daemon.scratch(), "refused");
    let created = pod::container("refused", &node.image, COUNT);
    let files = [
        node.file("refused-pod", &sandbox).unwrap(),
        node.file("refused", &created).unwrap(),
    ];
    node.crictl.ok(&["pull", &node.image]).unwrap();
    let id = node.crictl.ok(&["runp", &files[0]]).unwrap();
    let create = ["create", "--no-pull", &id, &files[1], &files[0]];
    let container = node.crictl.ok(&create).unwrap();
    refused(&container, &place, 0, Code::FailedPrecondition, "Created");
    node.crictl.ok(&["start", &container]).unwrap();
    refused(&container, &place, -1, Code::InvalidArgument, "timeout");
    refused(
        &container,
        Path::new("x.tar"),
        0,
        Code::InvalidArgument,
        "location",
    );
    if peers::peer_or_installed("criu").is_some() {
        let nowhere = node.daemon.scratch().join("none/x.tar");
        refused(&container, &nowhere, 0, Code::InvalidArgument, "location");
    }
    node.crictl.ok(&["stop", "-t", "0", &container]).unwrap();
    refused(&container, &place, 0, Code::FailedPrecondition, "Exited");
}

#[test]
fn what_is_no_checkpoint_is_refused() {
    let Some(node) = node() else { return };
    let sandbox = pod::sandbox(node.daemon.scratch(), "none");
    let file = node.file("none-pod", &sandbox).unwrap();
    let id = node.crictl.ok(&["runp", &file]).unwrap();
    let refused = |archive: &Path, code, text: &str| {
        let request = cri::CreateContainerRequest {
            pod_sandbox_id: id.clone(),
            config: Some(cri::ContainerConfig {
                metadata: Some(cri::ContainerMetadata {
                    name: "x".into(),
                    attempt: 0,
                }),
                image: Some(cri::ImageSpec {
                    image: archive.display().to_string(),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        };
        let client = node.daemon.client().unwrap();
        let created = client.call(async |mut cri| cri.create_container(request).await);
        let status = created.unwrap_err();
        assert_eq!(status.code(), code, "{status:?}");
        assert!(status.message().contains(text), "{status:?}");
        assert_no_litter(&node);
    };
    let scratch = node.daemon.scratch();
    refused(&scratch.join("none.tar"), Code::NotFound, "none.tar");
    refused(scratch.path(), Code::InvalidArgument, "regular file");
    let text = scratch.join("text.tar");
    std::fs::write(&text, "no archive".repeat(200)).unwrap();
    refused(&text, Code::InvalidArgument, "text.tar");
    let empty = scratch.join("empty.tar");
    std::fs::write(&empty, [0; 1024]).unwrap();
    refused(&empty, Code::InvalidArgument, "empty.tar");
}

#[test]
fn without_criu_it_is_said_what_is_missing() {
    let Some(node) = Node::start_with(|setup| setup.search_path("/nonexistent")).unwrap() else {
        return;
    };
    let pod = node.run("without", COUNT).unwrap();
    let place = node.daemon.scratch().join("x.tar");
    let refused = checkpoint(&node, &pod.container, &place, 0).unwrap_err();
    assert_eq!(refused.code(), Code::Unimplemented, "{refused:?}");
    assert!(refused.message().contains("criu"), "{refused:?}");
    let counted = last(&pod);
    wait_beyond(&pod, counted);
    assert_no_litter(&node);
    node.remove(&pod).unwrap();
}

fn given(options: &[(&str, &str)]) -> HashMap<String, String> {
    let own = |(name, value): &(&str, &str)| (name.to_string(), value.to_string());
    options.iter().map(own).collect()
}

fn checkpoint_pod(
    node: &Node,
    pod: &str,
    containers: &[&str],
    folder: &Path,
    options: &[(&str, &str)],
) -> Result<(), Status> {
    let request = cri::CheckpointPodRequest {
        pod_sandbox_id: pod.to_owned(),
        output_path: folder.display().to_string(),
        container_ids: containers.iter().map(|id| (*id).to_owned()).collect(),
        options: given(options),
    };
    let client = node.daemon.client().unwrap();
    client
        .call(async |mut cri| cri.checkpoint_pod(request).await)
        .map(drop)
}

/// Two containers of a pod that hand a number to each other through a volume: one adds, the other
/// says what it sees. `at` is the folder of the volume.
fn pair(node: &Node, at: &Path) -> [cri::ContainerConfig; 2] {
    let config = |name: &str, script: String| cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata {
            name: name.to_owned(),
            attempt: 0,
        }),
        image: Some(cri::ImageSpec {
            image: node.image.clone(),
            ..Default::default()
        }),
        command: vec!["sh".into(), "-c".into(), script],
        log_path: format!("{name}.log"),
        mounts: vec![cri::Mount {
            container_path: "/shared".into(),
            host_path: at.display().to_string(),
            ..Default::default()
        }],
        linux: Some(cri::LinuxContainerConfig {
            security_context: Some(cri::LinuxContainerSecurityContext {
                namespace_options: Some(cri::NamespaceOption {
                    pid: cri::NamespaceMode::Container.into(),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    };
    // What is in memory and what is in the pod's shared memory have to fit each other.
    let adds = "i=0; while :; do i=$((i+1)); echo $i >/dev/shm/new; mv /dev/shm/new /dev/shm/n; \
                echo $i >/shared/new; mv /shared/new /shared/n; echo n=$i; sleep 0.05; done";
    let sees = "while [ ! -e /dev/shm/n ]; do sleep 0.05; done; old=0; while :; do read n </dev/shm/n; \
                [ $n -ge $old ] || echo back; old=$n; echo n=$n; sleep 0.05; done";
    [config("adds", adds.into()), config("sees", sees.into())]
}

fn sandbox_config(node: &Node, name: &str) -> cri::PodSandboxConfig {
    let scratch = node.daemon.scratch();
    cri::PodSandboxConfig {
        metadata: Some(cri::PodSandboxMetadata {
            name: name.to_owned(),
            uid: format!("uid-{name}"),
            namespace: "default".into(),
            attempt: 0,
        }),
        hostname: name.to_owned(),
        log_directory: scratch.join("logs").join(name).display().to_string(),
        linux: Some(cri::LinuxPodSandboxConfig {
            cgroup_parent: scratch.cgroup(),
            security_context: Some(cri::LinuxSandboxSecurityContext {
                namespace_options: Some(cri::NamespaceOption {
                    pid: cri::NamespaceMode::Container.into(),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// Runs the pair in a pod of its own.
fn run_pair(node: &Node, name: &str, configs: &[cri::ContainerConfig; 2]) -> [Pod; 2] {
    let client = node.daemon.client().unwrap();
    node.crictl.ok(&["pull", &node.image]).unwrap();
    let config = sandbox_config(node, name);
    let run = cri::RunPodSandboxRequest {
        config: Some(config.clone()),
        ..Default::default()
    };
    let run = client.call(async |mut cri| cri.run_pod_sandbox(run).await);
    let id = run.unwrap().pod_sandbox_id;
    configs.clone().map(|container| {
        let log = Path::new(&config.log_directory).join(&container.log_path);
        let create = cri::CreateContainerRequest {
            pod_sandbox_id: id.clone(),
            config: Some(container),
            sandbox_config: Some(config.clone()),
        };
        let made = client.call(async |mut cri| cri.create_container(create).await);
        let container = made.unwrap().container_id;
        node.crictl.ok(&["start", &container]).unwrap();
        Pod {
            id: id.clone(),
            container,
            log,
        }
    })
}

fn restore_pod(
    node: &Node,
    folder: &Path,
    name: &str,
    configs: &[cri::ContainerConfig],
) -> Result<cri::RestorePodResponse, Status> {
    restore_pod_with(node, folder, name, configs, &[])
}

fn restore_pod_with(
    node: &Node,
    folder: &Path,
    name: &str,
    configs: &[cri::ContainerConfig],
    options: &[(&str, &str)],
) -> Result<cri::RestorePodResponse, Status> {
    let request = cri::RestorePodRequest {
        checkpoint_path: folder.display().to_string(),
        config: Some(sandbox_config(node, name)),
        container_configs: configs.to_vec(),
        options: given(options),
        ..Default::default()
    };
    let client = node.daemon.client().unwrap();
    client.call(async |mut cri| cri.restore_pod(request).await)
}

#[test]
fn a_pod_is_of_one_moment() {
    let Some(node) = node() else { return };
    let volume = node.daemon.scratch().join("volume");
    std::fs::create_dir(&volume).unwrap();
    let configs = pair(&node, &volume);
    let [adds, sees] = run_pair(&node, "before", &configs);
    wait_beyond(&sees, FAR);
    let folder = node.daemon.scratch().join("pod");
    std::fs::create_dir(&folder).unwrap();
    let both = [adds.container.as_str(), sees.container.as_str()];
    checkpoint_pod(&node, &adds.id, &both, &folder, &[]).unwrap();
    let counted = last(&sees);
    wait_beyond(&sees, counted + 3);
    wait_beyond(&adds, counted + 3);
    let mut written = names(&folder);
    written.sort();
    let expect = ["adds.tar", "pod.json", "sees.tar", "shm.tar"].map(|name| folder.join(name));
    assert_eq!(written, expect);
    assert_no_litter(&node);
    node.remove(&adds).unwrap();

    let answer = restore_pod(&node, &folder, "after", &configs).unwrap();
    let of = |name: &str| {
        let found = answer
            .restored_containers
            .iter()
            .find(|one| one.name == name);
        Pod {
            id: answer.pod_sandbox_id.clone(),
            container: found.unwrap().container_id.clone(),
            log: node.daemon.scratch().join(format!("logs/after/{name}.log")),
        }
    };
    let (adds, sees) = (of("adds"), of("sees"));
    assert_ne!(adds.id, "");
    for pod in [&adds, &sees] {
        let state = node.crictl.container(&pod.container, "state").unwrap();
        assert_eq!(state, "CONTAINER_CREATED");
    }
    let old = (last(&adds), last(&sees));
    // They were stopped together: neither is ahead of the other by more than a step or two.
    assert!(old.0.abs_diff(old.1) <= 5, "{old:?}");
    node.crictl.ok(&["start", &sees.container]).unwrap();
    node.crictl.ok(&["start", &adds.container]).unwrap();
    wait_beyond(&sees, old.1 + 10);
    wait_beyond(&adds, old.0 + 10);
    let seen = numbers(&adds);
    assert!(
        seen.windows(2).all(|pair| pair[1] == pair[0] + 1),
        "{seen:?}"
    );
    assert!(!sees.messages().unwrap().contains(&"back".to_owned()));
    assert_eq!(node.exec(&sees.container, "hostname").unwrap(), "after");
    node.remove(&adds).unwrap();
}

#[test]
fn pods_that_cannot_be_are_refused() {
    let Some(node) = node() else { return };
    let volume = node.daemon.scratch().join("volume");
    std::fs::create_dir(&volume).unwrap();
    let configs = pair(&node, &volume);
    let [adds, sees] = run_pair(&node, "refused", &configs);
    let folder = node.daemon.scratch().join("pod");
    std::fs::create_dir(&folder).unwrap();
    let (one, two) = (adds.container.as_str(), sees.container.as_str());
    let other = node.run("other", COUNT).unwrap();
    type Options<'a> = &'a [(&'a str, &'a str)];
    let refused = |pod: &str, ids: &[&str], folder: &Path, options: Options<'_>, text: &str| {
        let status = checkpoint_pod(&node, pod, ids, folder, options).unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        assert!(status.message().contains(text), "{status:?}");
    };
    let id = adds.id.as_str();
    refused(id, &[], &folder, &[], "container_ids");
    refused(id, &[one, one], &folder, &[], "container_ids[1]");
    refused(
        id,
        &[one, &other.container],
        &folder,
        &[],
        "container_ids[1]",
    );
    refused(id, &[one], Path::new("pod"), &[], "output_path");
    refused(id, &[one], &folder.join("none"), &[], "output_path");
    refused(id, &[one], &folder, &[("fast", "true")], "fast");
    refused(
        id,
        &[one],
        &folder,
        &[("tcp-established", "perhaps")],
        "tcp-established",
    );
    assert!(names(&folder).is_empty());
    let missing = checkpoint_pod(&node, "0123", &[one], &folder, &[]).unwrap_err();
    assert_eq!(missing.code(), Code::NotFound);

    let before = node.crictl.ok(&["pods", "-q"]).unwrap();
    let none = restore_pod(&node, &folder, "none", &configs).unwrap_err();
    assert_eq!(none.code(), Code::NotFound, "{none:?}");
    checkpoint_pod(&node, id, &[one, two], &folder, &[]).unwrap();
    let refused = |configs: &[cri::ContainerConfig], text: &str| {
        let status = restore_pod(&node, &folder, "none", configs).unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        assert!(status.message().contains(text), "{status:?}");
        assert_eq!(node.crictl.ok(&["pods", "-q"]).unwrap(), before);
    };
    refused(&configs[..1], "sees");
    let mut bare = configs.clone();
    bare[1].mounts.clear();
    refused(&bare, "/shared");
    let mut tty = configs.clone();
    tty[0].tty = true;
    refused(&tty, "tty");
    node.remove(&adds).unwrap();
    node.remove(&other).unwrap();
}

/// There and back in pods of a handler, with a terminal or without.
fn there_and_back(node: &Node, handler: &str, tty: bool) {
    let name = format!("{handler}-{tty}");
    let run = |name: &str, image: Option<&Path>| {
        let mut container = match image {
            None => pod::container(name, &node.image, COUNT),
            Some(archive) => again(name, archive),
        };
        container["tty"] = json!(tty);
        container["stdin"] = json!(tty);
        let sandbox = pod::sandbox(node.daemon.scratch(), name);
        node.run_as(&["-r", handler], &sandbox, &container).unwrap()
    };
    let first = run(&name, None);
    wait_beyond(&first, FAR);
    let archive = node.daemon.scratch().join(format!("{name}.tar"));
    checkpoint(node, &first.container, &archive, 0).unwrap();
    let counted = last(&first);
    wait_beyond(&first, counted + 3);
    node.remove(&first).unwrap();
    let second = run(&format!("{name}-again"), Some(&archive));
    wait_beyond(&second, counted + 10);
    let seen = numbers(&second);
    assert_eq!(seen.iter().filter(|number| **number == 1).count(), 1);
    node.remove(&second).unwrap();
    // runc has a group in cgroup v2 as well where that is mounted beside v1, and may be a while with it.
    for container in [&first.container, &second.container] {
        wait::until("its control groups to go", || {
            let left = node.daemon.traces().cgroups;
            let its_own = |group: &&PathBuf| group.ends_with(container);
            left.iter().find(its_own).is_none().then_some(())
        })
        .unwrap();
    }
}

#[test]
fn a_terminal_comes_back() {
    if let Some(node) = node() {
        there_and_back(&node, "wrun", true);
    }
}

#[test]
fn runc_does_it_too() {
    if !peers::criu_works() {
        return;
    }
    let Some(runc) = peers::peer_or_installed("runc") else {
        return;
    };
    if let Some(node) = Node::start_with(|setup| setup.runtime("runc", &runc)).unwrap() {
        there_and_back(&node, "runc", false);
    }
}

#[test]
fn shared_process_ids_come_back() {
    let Some(node) = node() else { return };
    let run = |name: &str, mut container: Value| {
        let mut sandbox = pod::sandbox(node.daemon.scratch(), name);
        pod::sharing_pids(&mut sandbox);
        pod::sharing_pids(&mut container);
        node.run_as(&[], &sandbox, &container).unwrap()
    };
    let first = run("shared", pod::container("shared", &node.image, COUNT));
    wait_beyond(&first, FAR);
    let archive = node.daemon.scratch().join("shared.tar");
    checkpoint(&node, &first.container, &archive, 0).unwrap();
    let counted = last(&first);
    node.remove(&first).unwrap();
    let second = run("again", again("again", &archive));
    wait_beyond(&second, counted + 10);
    node.remove(&second).unwrap();
}

/// An image of what is in an archive, as CRI-O has them.
fn image_of(node: &Node, archive: &Path) -> String {
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    let mut unpack = process::bounded("tar");
    unpack.arg("-xf").arg(archive).arg("-C").arg(folder.path());
    assert_eq!(process::run(&mut unpack).unwrap().code, 0);
    let mut layer = Layer::default();
    for path in names(folder.path())
        .into_iter()
        .chain(names(&folder.path().join("checkpoint")))
    {
        let name = path.strip_prefix(folder.path()).unwrap().to_str().unwrap();
        if path.is_dir() {
            layer.dir(name, 0o700).unwrap();
        } else {
            layer
                .file_once(name, 0o600, &std::fs::read(&path).unwrap())
                .unwrap();
        }
    }
    let layers = [Packed::new(layer).unwrap()];
    let image = Image::new(Format::Oci, &layers, &json!({}));
    let key = "io.kubernetes.cri-o.annotations.checkpoint.name";
    let image = image.annotated(key, "counter").unwrap();
    node.registry
        .push("checkpoints/counter", &["1"], &image)
        .unwrap();
    format!("{}/checkpoints/counter:1", node.registry.host)
}

#[test]
fn an_image_can_be_a_checkpoint() {
    let Some(node) = node() else { return };
    let first = node.run("imaged", COUNT).unwrap();
    wait_beyond(&first, FAR);
    let archive = node.daemon.scratch().join("imaged.tar");
    checkpoint(&node, &first.container, &archive, 0).unwrap();
    let counted = last(&first);
    node.remove(&first).unwrap();
    let image = image_of(&node, &archive);
    node.crictl.ok(&["pull", &image]).unwrap();
    // The image below it is fetched again.
    node.crictl.ok(&["rmi", &node.image]).unwrap();

    let sandbox = pod::sandbox(node.daemon.scratch(), "again");
    let sandbox_file = node.file("again-pod", &sandbox).unwrap();
    let container_file = node
        .file("again", &again("again", Path::new(&image)))
        .unwrap();
    let id = node.crictl.ok(&["runp", &sandbox_file]).unwrap();
    let create = ["create", "--no-pull", &id, &container_file, &sandbox_file];
    let container = node.crictl.ok(&create).unwrap();
    node.crictl.ok(&["start", &container]).unwrap();
    let log = node.daemon.scratch().join("logs/again/again.log");
    let second = Pod { id, container, log };
    wait_beyond(&second, counted + 10);
    assert_no_litter(&node);
    node.remove(&second).unwrap();
}
