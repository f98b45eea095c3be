//! Who may use an image: a policy that wants signatures, and programs that are asked.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rcgen::{KeyPair, SigningKey as _};
use serde_json::{Value, json};
use tests::conformance::images;
use tests::daemon::Setup;
use tests::image::{Blob, Format, Image, Packed, digest};
use tests::{Node, pod};

use crate::config;

/// What a kubelet finds at the beginning of the message.
const WORD: &str = "SignatureValidationFailed";
/// Two repositories of the registry.
const SIGNED: &str = "signed/app";
const BARE: &str = "bare/app";

/// A node whose registry has a signed image and one that is not, with a policy in a folder.
struct Place {
    node: Node,
    folder: tempfile::TempDir,
    key: KeyPair,
}

impl Place {
    fn start(policy: &str) -> Option<Place> {
        let folder = tempfile::tempdir().unwrap();
        let key = KeyPair::generate().unwrap();
        fs::write(folder.path().join("release.pub"), key.public_key_pem()).unwrap();
        fs::write(folder.path().join("policy.toml"), policy).unwrap();
        let path = folder.path().join("policy.toml").display().to_string();
        let node = start(|setup| setup.config(&format!("[signatures]\npolicy = {path:?}\n")))?;
        Some(Place { node, folder, key })
    }

    /// Changes the policy while the daemon is down.
    fn change(&mut self, policy: &str) {
        fs::write(self.folder.path().join("policy.toml"), policy).unwrap();
        self.node.daemon.kill();
        self.node.daemon.start().unwrap();
    }

    /// Signs what the registry has under a name, as cosign does with a key.
    fn sign(&self, repository: &str, digest: &str) {
        let host = &self.node.registry.host;
        let payload = json!({"critical": {
            "identity": {"docker-reference": format!("{host}/{repository}")},
            "image": {"docker-manifest-digest": digest},
            "type": "cosign container image signature",
        }})
        .to_string();
        let signature = base64(&self.key.sign(payload.as_bytes()).unwrap());
        let mut layer = described(&payload, "application/vnd.dev.cosign.simplesigning.v1+json");
        layer["annotations"] = json!({"dev.cosignproject.cosign/signature": signature});
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": described("{}", CONFIG),
            "layers": [layer],
        });
        let holder = Image {
            blobs: vec![blob(&payload, CONFIG), blob("{}", CONFIG)],
            inner: Vec::new(),
            top: blob(&manifest.to_string(), MANIFEST),
        };
        let tag = format!("{}.sig", digest.replace(':', "-"));
        self.node
            .registry
            .push(repository, &[&tag], &holder)
            .unwrap();
    }

    /// Pulls an image for a pod of a namespace; what crictl says.
    fn pull(&self, namespace: &str, repository: &str) -> Result<String, String> {
        let file = self.sandbox(namespace);
        let name = name(&self.node, repository);
        let pulled = self.node.crictl.ok(&["pull", "--pod-config", &file, &name]);
        pulled.map_err(|error| format!("{error:?}"))
    }

    fn sandbox(&self, namespace: &str) -> String {
        let mut config = pod::sandbox(self.node.daemon.scratch(), namespace);
        config["metadata"]["namespace"] = namespace.into();
        self.node
            .file(&format!("{namespace}-pod"), &config)
            .unwrap()
    }
}

const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

fn blob(text: &str, media_type: &'static str) -> Blob {
    Blob {
        bytes: text.as_bytes().into(),
        digest: digest(text.as_bytes()),
        media_type,
    }
}

fn described(text: &str, media_type: &str) -> Value {
    json!({"mediaType": media_type, "digest": digest(text.as_bytes()), "size": text.len()})
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

fn name(node: &Node, repository: &str) -> String {
    format!("{}/{repository}:1", node.registry.host)
}

fn start(change: impl FnOnce(Setup) -> Setup) -> Option<Node> {
    Node::start_with(change).unwrap()
}

/// An image of busybox that no other is like; the digest of what its tag names.
fn push(node: &Node, repository: &str) -> String {
    let layer: Packed = images::busybox().unwrap();
    let config = json!({"Cmd": ["sh"], "Env": ["PATH=/bin"], "Labels": {"of": repository}});
    let image = Image::indexed(Format::Oci, &[layer], &config);
    node.registry.push(repository, &["1"], &image).unwrap();
    image.top.digest
}

const POLICY: &str = "default = 'refuse'\nkeys = { release = 'release.pub' }\n\
    [[rules]]\nnamespaces = ['free']\nthen = 'allow'\n\
    [[rules]]\nany = [{ key = 'release' }]\n";

#[test]
fn what_nobody_signed_is_neither_pulled_nor_run_where_signatures_are_wanted() {
    let Some(place) = Place::start(POLICY) else {
        return;
    };
    let node = &place.node;
    let digest = push(node, SIGNED);
    push(node, BARE);
    let refused = place.pull("strict", SIGNED).unwrap_err();
    assert!(refused.contains(WORD), "{refused}");
    place.sign(SIGNED, &digest);
    place.pull("strict", SIGNED).unwrap();
    let refused = place.pull("strict", BARE).unwrap_err();
    // No code is put in front of what a kubelet looks for.
    let message = format!("code = Unknown desc = {WORD}: pulling");
    assert!(refused.contains(&message), "{refused}");
    assert!(refused.contains("no signature"), "{refused}");

    // Another namespace may have it. That it is here then changes nothing.
    place.pull("free", BARE).unwrap();
    for (namespace, repository, allowed) in [
        ("strict", SIGNED, true),
        ("strict", BARE, false),
        ("free", BARE, true),
    ] {
        let result = place.create(namespace, &name(node, repository));
        assert_eq!(
            result.is_ok(),
            allowed,
            "{namespace} {repository}: {result:?}"
        );
        if let Err(refused) = result {
            let message = format!("code = Unknown desc = {WORD}: ");
            assert!(refused.contains(&message), "{refused}");
        }
    }

    // What is only looked at is an image, too.
    let mut container = pod::container("volume", &name(node, SIGNED), "exec sleep 1000");
    container["mounts"] = json!([{
        "container_path": "/volume",
        "readonly": true,
        "image": {"image": name(node, BARE)},
    }]);
    let refused = create_from(node, "strict", &container).unwrap_err();
    let message = "ImageVolumeMountFailed: mounts[0]";
    assert!(
        refused.contains(message) && refused.contains(WORD),
        "{refused}"
    );
    create_from(node, "free", &container).unwrap();
}

#[test]
fn a_reload_reads_the_policy_again_and_keeps_the_old_one_if_it_is_broken() {
    let Some(place) = Place::start("default = 'allow'\n") else {
        return;
    };
    push(&place.node, BARE);
    place.pull("free", BARE).unwrap();
    let policy = place.folder.path().join("policy.toml");
    fs::write(&policy, "default = 'refuse'\n").unwrap();
    config::reload(&place.node.daemon);
    config::wait_for_log(&place.node.daemon, config::READ_AGAIN, 1);
    let refused = place.pull("free", BARE).unwrap_err();
    assert!(refused.contains(WORD), "{refused}");
    fs::write(&policy, "default = 'perhaps'\n").unwrap();
    config::reload(&place.node.daemon);
    config::wait_for_log(&place.node.daemon, "the configuration is refused", 1);
    let refused = place.pull("free", BARE).unwrap_err();
    assert!(refused.contains(WORD), "{refused}");
}

#[test]
fn a_policy_that_becomes_stricter_holds_for_images_that_are_here() {
    let Some(mut place) = Place::start("default = 'allow'\n") else {
        return;
    };
    let digest = push(&place.node, SIGNED);
    push(&place.node, BARE);
    place.sign(SIGNED, &digest);
    let (signed, bare) = (name(&place.node, SIGNED), name(&place.node, BARE));
    for repository in [SIGNED, BARE] {
        place.pull("strict", repository).unwrap();
    }
    let running = place.create("early", &bare).unwrap();
    place.node.crictl.ok(&["start", &running]).unwrap();
    place.change(POLICY);
    let image = place.node.crictl.json(&["inspecti", &bare]).unwrap();
    let id = image["status"]["id"].as_str().unwrap().to_owned();
    for asked in [&bare, &id] {
        let refused = place.create("strict", asked).unwrap_err();
        assert!(refused.contains(WORD), "{refused}");
    }
    place.create("free", &bare).unwrap();
    place.create("strict", &signed).unwrap();
    // What runs goes on running.
    let state = place.node.crictl.container(&running, "state").unwrap();
    assert_eq!(state, "CONTAINER_RUNNING");
}

impl Place {
    /// Makes a container in a pod of a namespace; its id, or what crictl says.
    fn create(&self, namespace: &str, image: &str) -> Result<String, String> {
        create(&self.node, namespace, image)
    }
}

/// Makes a container of an image in a pod of that namespace, made if it is not there.
fn create(node: &Node, namespace: &str, image: &str) -> Result<String, String> {
    let count = node.crictl.ok(&["ps", "-aq"]).unwrap().lines().count();
    let container = pod::container(&format!("c{count}"), image, "exec sleep 1000");
    create_from(node, namespace, &container)
}

/// The same with a container as it is described.
fn create_from(node: &Node, namespace: &str, container: &Value) -> Result<String, String> {
    let crictl = &node.crictl;
    let mut config = pod::sandbox(node.daemon.scratch(), namespace);
    config["metadata"]["namespace"] = namespace.into();
    let sandbox = node.file(&format!("{namespace}-pod"), &config).unwrap();
    let there = crictl.ok(&["pods", "-q", "--name", namespace]).unwrap();
    let pod = if there.is_empty() {
        crictl.ok(&["runp", &sandbox]).unwrap()
    } else {
        there
    };
    let container = node.file("container", container).unwrap();
    let created = crictl.ok(&["create", "--no-pull", &pod, &container, &sandbox]);
    created.map_err(|error| format!("{error:?}"))
}

/// Puts a program into the folder of those that are asked.
fn program(folder: &Path, name: &str, script: &str) {
    let path = folder.with_extension("new");
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename(&path, folder.join(name)).unwrap();
}

#[test]
fn programs_that_are_asked_all_have_to_allow_an_image_in_time() {
    let folder = tempfile::tempdir().unwrap();
    let programs = folder.path().join("verifiers");
    fs::create_dir(&programs).unwrap();
    let path = programs.display().to_string();
    let table = format!("[signatures]\nverifiers = {path:?}\nverifier_time = \"2s\"\n");
    let Some(node) = start(|setup| setup.config(&table)) else {
        return;
    };
    let told = folder.path().join("told");
    program(
        &programs,
        "1-allow",
        &format!("echo \"$@\" > {}", told.display()),
    );
    node.crictl.ok(&["pull", &node.image]).unwrap();
    let told = fs::read_to_string(told).unwrap();
    assert!(
        told.starts_with(&format!("-name {} -digest sha256:", node.image)),
        "{told}"
    );
    create(&node, "one", &node.image).unwrap();

    program(&programs, "2-refuse", "echo no; exit 3");
    let refused = node.crictl.ok(&["pull", &node.image]).unwrap_err();
    let refused = format!("{refused:?}");
    assert!(
        refused.contains(WORD) && refused.contains("2-refuse refuses it: no"),
        "{refused}"
    );
    let refused = create(&node, "one", &node.image).unwrap_err();
    assert!(refused.contains(WORD), "{refused}");

    fs::remove_file(programs.join("2-refuse")).unwrap();
    program(&programs, "2-hang", "exec sleep 1000");
    let begun = Instant::now();
    let refused = node.crictl.ok(&["pull", &node.image]).unwrap_err();
    assert!(
        format!("{refused:?}").contains("did not answer within 2s"),
        "{refused:?}"
    );
    assert!(begun.elapsed() < Duration::from_secs(60));
}

#[test]
fn a_policy_that_is_wrong_is_told_at_the_start() {
    let Some(mut place) = Place::start(POLICY) else {
        return;
    };
    fs::write(
        place.folder.path().join("policy.toml"),
        "default = 'maybe'\n",
    )
    .unwrap();
    place.node.daemon.kill();
    let error = format!("{:?}", place.node.daemon.start().unwrap_err());
    assert!(
        error.contains("policy.toml") && error.contains("maybe"),
        "{error}"
    );
    place.change(POLICY);
}
