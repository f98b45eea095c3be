//! `wherryd migrate`: a node of another engine becomes ours, and nothing is pulled again.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use tests::conformance::images;
use tests::daemon::programs;
use tests::engines::{Containerd, runtime};
use tests::image::{Format, Image, Layer, Packed};
use tests::node::messages_of;
use tests::{Crictl, Daemon, Registry, peers, pod, process, wait};

/// Names under which the images are asked for, by way of the mirrors of the node.
const SHELL: &str = "registry.k8s.io/e2e-test-images/busybox:1.29-2";
const SECOND: &str = "docker.io/library/second:latest";
/// Another tag of that.
const SAME: &str = "docker.io/library/second:same";
const PAUSE: &str = "registry.k8s.io/pause:3.10";

/// Pushes the images that a node has: one of a list of manifests, one whose upper layer takes a file
/// of the lower one away, one that only holds a pod's place. Answers with the second one's digest.
fn push(registry: &Registry) -> String {
    let shell = images::busybox().unwrap();
    images::push_busybox(registry, &shell).unwrap();
    let mut upper = Layer::default();
    upper.dir("/etc", 0o755).unwrap();
    upper.file("/etc/.wh.group", 0o644, b"").unwrap();
    upper
        .file("/etc/second", 0o600, b"of the second\n")
        .unwrap();
    upper.hardlink("/etc/third", "/etc/second").unwrap();
    upper.symlink("/etc/fourth", "second").unwrap();
    let layers = [shell, Packed::new(upper).unwrap()];
    let second = Image::new(
        Format::Oci,
        &layers,
        &json!({"Env": ["PATH=/bin:/usr/bin"]}),
    );
    registry
        .push("library/second", &["latest", "same"], &second)
        .unwrap();
    images::push_pause(registry).unwrap();
    second.top.digest.clone()
}

/// What clients see of the images: id, names, whether they are pinned.
fn seen(crictl: &Crictl) -> BTreeSet<(String, Vec<String>, Vec<String>, bool)> {
    let listed = crictl.json(&["images", "-o", "json"]).unwrap();
    let names = |value: &Value| {
        let names = value.as_array().into_iter().flatten();
        let mut names: Vec<String> = names.filter_map(Value::as_str).map(str::to_owned).collect();
        names.sort();
        names
    };
    let images = listed["images"].as_array().unwrap().iter();
    images
        .map(|image| {
            let id = image["id"].as_str().unwrap().to_owned();
            let pinned = image["pinned"] == true;
            (
                id,
                names(&image["repoTags"]),
                names(&image["repoDigests"]),
                pinned,
            )
        })
        .collect()
}

/// Runs a pod of an image that is there, under a name for it.
fn says(daemon: &Daemon, crictl: &Crictl, name: &str, image: &str, script: &str) -> Vec<String> {
    let sandbox = pod::sandbox(daemon.scratch(), name);
    let sandbox = pod::file(daemon.scratch(), &format!("{name}-pod"), &sandbox).unwrap();
    let container = pod::container(name, image, script);
    let container = pod::file(daemon.scratch(), name, &container).unwrap();
    let (sandbox, container) = (pod::arg(&sandbox), pod::arg(&container));
    let pod = crictl.ok(&["runp", sandbox]).unwrap();
    let made = crictl
        .ok(&["create", "--no-pull", &pod, container, sandbox])
        .unwrap();
    crictl.ok(&["start", &made]).unwrap();
    assert_eq!(crictl.exit_code(&made).unwrap(), 0);
    let log = daemon
        .scratch()
        .join("logs")
        .join(name)
        .join(format!("{name}.log"));
    let said = messages_of(&fs::read_to_string(log).unwrap());
    crictl.ok(&["rmp", "-f", &pod]).unwrap();
    said
}

/// What a pod of the second image says that has exactly its files.
const SCRIPT: &str = "ls /etc/group; cat /etc/third /etc/fourth; stat -c %a /etc/second; :";
const SAYS: [&str; 3] = ["of the second", "of the second", "600"];

fn check_second(daemon: &Daemon, crictl: &Crictl, name: &str, image: &str) {
    let said = says(daemon, crictl, name, image, SCRIPT);
    let said: Vec<&str> = said.iter().map(String::as_str).collect();
    assert!(said.ends_with(&SAYS), "{said:?}");
    assert!(said[0].contains("No such file"), "{said:?}");
}

/// A node of a containerd with three images, whose registry goes, becomes a node of ours.
fn moves(engine: impl FnOnce(&Registry) -> Option<Containerd>, pins: bool) {
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    let Some(registry) = Registry::start(folder.path()).unwrap() else {
        return;
    };
    let digest = push(&registry);
    let Some(mut engine) = engine(&registry) else {
        return;
    };
    let Some(crictl) = Crictl::of(&engine.socket()) else {
        return;
    };
    wait::until("containerd's CRI", || crictl.ok(&["images"]).ok()).unwrap();
    let by_digest = format!("docker.io/library/second@{digest}");
    for image in [SHELL, SECOND, SAME, PAUSE, &by_digest] {
        crictl.ok(&["pull", image]).unwrap();
    }
    let before = seen(&crictl);
    assert_eq!(before.len(), 3, "{before:?}");
    assert_eq!(before.iter().any(|image| image.3), pins, "{before:?}");
    // From here on nothing can be pulled.
    drop(registry);
    engine.terminate().unwrap();

    let mut daemon = Daemon::setup().start().unwrap();
    let crictl = daemon.crictl().unwrap();
    daemon.terminate().unwrap();
    let config = daemon.scratch().join("node/config.toml");
    let said = migrate(
        &daemon,
        &[
            "--from",
            "containerd",
            "--source",
            pod::arg(&engine.config()),
        ],
        &config,
    );
    assert!(said.contains("3 images taken along, 0 not"), "{said}");
    assert!(
        said.contains("no equal: sandbox_image") || said.contains("no equal: pinned_images"),
        "{said}"
    );
    check_config(&config, &engine);

    // The test's own bridge, in the way that a package would say it.
    fs::create_dir_all(daemon.scratch().join("node/config.d")).unwrap();
    let own = daemon.scratch().join("node/config.d/90-test.toml");
    fs::copy(daemon.scratch().join("config.toml"), own).unwrap();
    daemon.adopt(&config);
    daemon.start().unwrap();
    assert_eq!(seen(&crictl), before);
    assert_eq!(
        says(&daemon, &crictl, "shell", SHELL, "echo here"),
        ["here"]
    );
    check_second(&daemon, &crictl, "second", SECOND);
    check_second(&daemon, &crictl, "digest", &by_digest);
    assert!(!daemon.scratch().join("root/migrate").exists());
    daemon.finish().unwrap();
}

/// What a tool says that may read any image.
const POLICY: &str = r#"{"default": [{"type": "insecureAcceptAnything"}]}"#;

/// Copies images from the registry into a storage of containers' tools, as CRI-O would have them.
fn fill_storage(skopeo: &Path, folder: &Path, registry: &Registry, names: &[(&str, &str)]) {
    let path = |name: &str| folder.join(name).display().to_string();
    fs::write(folder.join("policy.json"), POLICY).unwrap();
    let storage = format!("[overlay@{}+{}]", path("storage"), path("run"));
    for (from, name) in names {
        let mut command = process::bounded(skopeo);
        command.arg("--policy").arg(folder.join("policy.json"));
        command.args(["copy", "--src-tls-verify=false"]);
        command.arg(format!("docker://{}/{from}", registry.host));
        command.arg(format!("containers-storage:{storage}{name}"));
        process::ok(command.env("TMPDIR", folder)).unwrap();
    }
}

/// The tools leave their storage mounted over itself.
fn unmount_storage(folder: &Path) {
    let place = folder.join("storage/overlay");
    drop(process::run(
        process::bounded("umount").arg("-q").arg(place),
    ));
}

#[test]
fn a_storage_of_cri_o_is_taken_along_and_nothing_is_pulled_again() {
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    let Some(skopeo) = peers::peer_or_installed("skopeo") else {
        return;
    };
    let Some(registry) = Registry::start(&folder.path().join("registry")).unwrap() else {
        return;
    };
    let digest = push(&registry);
    let by_digest = format!("docker.io/library/second@{digest}");
    let second = format!("library/second@{digest}");
    let names = [
        (pod::BUSYBOX, SHELL),
        ("library/second:latest", SECOND),
        (&second, &by_digest),
        ("library/second:same", SAME),
        ("pause:3.10", PAUSE),
    ];
    fill_storage(&skopeo, folder.path(), &registry, &names);
    unmount_storage(folder.path());
    drop(registry);
    let noted = fs::read_to_string(folder.path().join("storage/overlay-images/images.json"));
    let noted: Value = serde_json::from_str(&noted.unwrap()).unwrap();
    let noted = noted.as_array().unwrap().iter();
    let ids: BTreeSet<String> = noted
        .map(|it| format!("sha256:{}", it["id"].as_str().unwrap()))
        .collect();
    assert_eq!(ids.len(), 3);
    let root = folder.path().join("storage").display().to_string();
    let config = folder.path().join("crio.conf");
    let text = format!("[crio]\nroot = {root:?}\n[crio.image]\npinned_images = [\"*/pause:*\"]\n");
    fs::write(&config, text).unwrap();

    // The daemon runs: it is what takes the images in.
    let daemon = Daemon::setup().start().unwrap();
    let crictl = daemon.crictl().unwrap();
    let words = [
        "--from",
        "cri-o",
        "--source",
        pod::arg(&config),
        "--containers",
        pod::arg(folder.path()),
    ];
    let own = daemon.scratch().join("node.toml");
    let said = migrate(&daemon, &words, &own);
    assert!(said.contains("3 images taken along, 0 not"), "{said}");
    let seen = seen(&crictl);
    assert_eq!(
        seen.iter()
            .map(|image| image.0.clone())
            .collect::<BTreeSet<_>>(),
        ids
    );
    let tags: BTreeSet<&str> = seen
        .iter()
        .flat_map(|image| &image.1)
        .map(String::as_str)
        .collect();
    assert_eq!(tags, BTreeSet::from([SHELL, SECOND, SAME, PAUSE]), "{said}");
    let digests: Vec<&String> = seen.iter().flat_map(|image| &image.2).collect();
    assert!(digests.contains(&&by_digest), "{digests:?}");
    let pinned: Vec<_> = seen.iter().filter(|image| image.3).collect();
    assert!(pinned.len() == 1 && pinned[0].1 == [PAUSE], "{pinned:?}");
    assert_eq!(
        says(&daemon, &crictl, "shell", SHELL, "echo here"),
        ["here"]
    );
    check_second(&daemon, &crictl, "second", SECOND);
    check_second(&daemon, &crictl, "digest", &by_digest);
    assert!(!daemon.root().join("migrate").exists());

    // What is there is not written over, and nothing of it is half done.
    fs::write(&own, "# mine\n").unwrap();
    let mut again = process::bounded(programs().join("wherryd"));
    again.arg("migrate").args(words).arg("--config").arg(&own);
    let refused = process::run(&mut again).unwrap();
    assert_eq!(refused.code, 1);
    assert!(
        refused
            .stderr
            .contains("nothing was written; --force replaces them"),
        "{}",
        refused.stderr
    );
    assert_eq!(fs::read_to_string(&own).unwrap(), "# mine\n");
    daemon.finish().unwrap();
}

#[test]
fn an_image_that_containerd_has_not_kept_is_named() {
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    let Some(registry) = Registry::start(folder.path()).unwrap() else {
        return;
    };
    push(&registry);
    let Some(mut engine) = Containerd::start_debian(&registry, &runtime()).unwrap() else {
        return;
    };
    let Some(crictl) = Crictl::of(&engine.socket()) else {
        return;
    };
    wait::until("containerd's CRI", || crictl.ok(&["images"]).ok()).unwrap();
    for image in [SHELL, SECOND] {
        crictl.ok(&["pull", image]).unwrap();
    }
    engine.terminate().unwrap();
    // As with discard_unpacked_layers: the upper layer of the second image, which is small.
    let blobs = engine
        .scratch()
        .join("root/io.containerd.content.v1.content/blobs/sha256");
    let manifest = find_manifest(&blobs);
    let layer = manifest["layers"][1]["digest"].as_str().unwrap();
    fs::remove_file(blobs.join(layer.trim_start_matches("sha256:"))).unwrap();

    let daemon = Daemon::setup().start().unwrap();
    let mut command = process::bounded(programs().join("wherryd"));
    command.args(["migrate", "--only", "images", "--from", "containerd"]);
    command
        .arg("--source")
        .arg(engine.config())
        .arg("--state")
        .arg(daemon.state());
    let said = process::run(command.arg("--root").arg(daemon.root())).unwrap();
    assert_eq!(said.code, 1, "{said:?}");
    assert!(
        said.stdout.contains("1 images taken along, 1 not"),
        "{said:?}"
    );
    let reason = "second:latest: containerd has not kept 1 of its blobs";
    assert!(said.stdout.contains(reason), "{said:?}");
    daemon.finish().unwrap();
}

/// The manifest in a folder of blobs that has two layers.
fn find_manifest(blobs: &Path) -> Value {
    let entries = fs::read_dir(blobs).unwrap();
    let mut documents = entries.filter_map(|entry| {
        let bytes = fs::read(entry.unwrap().path()).unwrap();
        serde_json::from_slice::<Value>(&bytes).ok()
    });
    let two = |document: &Value| {
        document["layers"]
            .as_array()
            .is_some_and(|it| it.len() == 2)
    };
    documents.find(two).unwrap()
}

/// Runs `wherryd migrate` for a daemon's folders.
fn migrate(daemon: &Daemon, words: &[&str], config: &Path) -> String {
    let mut command = process::bounded(programs().join("wherryd"));
    command
        .arg("migrate")
        .args(words)
        .arg("--config")
        .arg(config);
    command
        .arg("--root")
        .arg(daemon.root())
        .arg("--state")
        .arg(daemon.state());
    command
        .arg("--boot-id-file")
        .arg(daemon.scratch().join("boot"));
    process::ok(&mut command).unwrap()
}

/// What the node was told is in our file.
fn check_config(config: &Path, engine: &Containerd) {
    let text = fs::read_to_string(config).unwrap();
    let table: toml::Table = text.parse().unwrap();
    assert_eq!(table["network"]["mode"].as_str(), Some("cni"), "{text}");
    assert_eq!(table["cgroup_driver"].as_str(), Some("cgroupfs"), "{text}");
    assert_eq!(
        table["runtimes"]["runc"]["path"].as_str(),
        runtime().to_str(),
        "{text}"
    );
    let cni = engine.scratch().join("cni");
    assert_eq!(
        table["network"]["cni_conf_dir"].as_str(),
        cni.to_str(),
        "{text}"
    );
    for host in images::HOSTS {
        let file = format!("certs.d/{host}/hosts.toml");
        let ours = fs::read(config.with_file_name(&file)).unwrap();
        assert_eq!(ours, fs::read(engine.scratch().join(&file)).unwrap());
    }
    let certs = config.with_file_name("certs.d");
    assert_eq!(table["registry_config"].as_str(), certs.to_str(), "{text}");
}

#[test]
fn a_node_of_debians_containerd_pulls_nothing_again() {
    moves(
        |registry| Containerd::start_debian(registry, &runtime()).unwrap(),
        false,
    );
}

#[test]
fn a_node_of_the_newest_containerd_pulls_nothing_again() {
    moves(
        |registry| Containerd::start(registry, &runtime()).unwrap(),
        true,
    );
}
