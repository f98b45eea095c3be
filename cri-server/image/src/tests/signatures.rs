//! Who may use an image: a policy by keys, programs in a folder; at a pull and afterwards.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{KeyPair, SigningKey as _};
use registry::Digest;
use registry_double::{
    OCI_INDEX, OCI_MANIFEST, Pack, Server, Shelf, Tar, TestImage, descriptor, index_of,
};
use serde_json::json;

use super::{config, limits, open_store, temp};
use crate::{Config, Error, Signatures, Store};

const STRICT: &str =
    "default = 'refuse'\nkeys = { k = 'k.pub' }\n[[rules]]\nany = [{ key = 'k' }]\n";

fn image(content: &str) -> TestImage {
    let tar = Tar::new().file("a", content.as_bytes()).end();
    TestImage::new(&[(tar, Pack::Gzip)])
}

/// What a registry has, and can be given more of.
#[derive(Clone, Default)]
struct Content(Arc<Mutex<Shelf>>);

impl Content {
    fn serve(&self) -> Server {
        let content = self.clone();
        Server::start(move |request| content.0.lock().unwrap().serve(request))
    }

    fn change(&self, change: impl FnOnce(Shelf) -> Shelf) {
        let mut shelf = self.0.lock().unwrap();
        *shelf = change(std::mem::take(&mut *shelf));
    }

    /// Signs in the older way: a payload under a tag.
    fn sign(&self, key: &KeyPair, registry: &str, repository: &str, digest: &str) {
        let payload = json!({"critical": {
            "identity": {"docker-reference": format!("{registry}/{repository}")},
            "image": {"docker-manifest-digest": digest},
            "type": "cosign container image signature",
        }})
        .to_string();
        let mut layer = descriptor(
            "application/vnd.dev.cosign.simplesigning.v1+json",
            payload.as_bytes(),
        );
        let signature = STANDARD.encode(key.sign(payload.as_bytes()).unwrap());
        layer["annotations"] = json!({"dev.cosignproject.cosign/signature": signature});
        let holder =
            json!({"schemaVersion": 2, "config": descriptor("x", b"{}"), "layers": [layer]});
        let tag = format!("{}.sig", digest.replace(':', "-"));
        self.change(|mut shelf| {
            shelf.blob(repository, payload.as_bytes());
            shelf.document(
                repository,
                &tag,
                OCI_MANIFEST,
                holder.to_string().as_bytes(),
            )
        });
    }

    /// Signs in the newer way: a bundle that refers to the image, by the registry's own list or by
    /// one under a tag.
    fn attach(&self, key: &KeyPair, repository: &str, digest: &str, by_tag: bool) {
        let statement = json!({
            "_type": "https://in-toto.io/Statement/v1",
            "subject": [{"digest": {"sha256": &digest[7..]}}],
            "predicateType": "https://sigstore.dev/cosign/sign/v1",
        })
        .to_string();
        let kind = "application/vnd.in-toto+json";
        let signed = format!(
            "DSSEv1 {} {kind} {} {statement}",
            kind.len(),
            statement.len()
        );
        let media_type = "application/vnd.dev.sigstore.bundle.v0.3+json";
        let bundle = json!({
            "mediaType": media_type,
            "verificationMaterial": {"publicKey": {"hint": ""}},
            "dsseEnvelope": {
                "payloadType": kind,
                "payload": STANDARD.encode(&statement),
                "signatures": [{"sig": STANDARD.encode(key.sign(signed.as_bytes()).unwrap())}],
            },
        })
        .to_string();
        let holder = json!({
            "schemaVersion": 2, "artifactType": media_type, "config": descriptor("x", b"{}"),
            "layers": [descriptor(media_type, bundle.as_bytes())],
        })
        .to_string();
        let mut entry = descriptor(OCI_MANIFEST, holder.as_bytes());
        entry["artifactType"] = media_type.into();
        let list = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]});
        let tag = digest.replace(':', "-");
        let list = list.to_string();
        self.change(|mut shelf| {
            shelf.blob(repository, bundle.as_bytes());
            let mut shelf =
                shelf.document(repository, "the-holder", OCI_MANIFEST, holder.as_bytes());
            if by_tag {
                return shelf.document(repository, &tag, OCI_INDEX, list.as_bytes());
            }
            let path = format!("{repository}/referrers/{digest}");
            shelf.0.insert(path, (OCI_INDEX.into(), list.into()));
            shelf
        });
    }
}

/// A store whose policy has a key of ours.
fn store(root: &Path, key: &KeyPair, policy: &str) -> Arc<Store> {
    std::fs::write(root.join("k.pub"), key.public_key_pem()).unwrap();
    std::fs::write(root.join("policy.toml"), policy).unwrap();
    open(
        root,
        Signatures {
            policy: Some(root.join("policy.toml")),
            ..Signatures::default()
        },
    )
}

fn open(root: &Path, signatures: Signatures) -> Arc<Store> {
    let mut config = config(root, "this");
    config.signatures = signatures;
    open_store(&config, &limits()).unwrap()
}

#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T, Error>, reason: &str) {
    let error = result.unwrap_err();
    assert!(matches!(error, Error::Signature(_)), "{error:?}");
    let text = error.to_string();
    assert!(text.starts_with("SignatureValidationFailed: "), "{text}");
    assert!(text.contains(reason), "{text}");
}

async fn permit(store: &Arc<Store>, name: &str, namespace: &str) -> Result<(), Error> {
    let image = store.resolve(name).unwrap();
    store.permit(&image, name, namespace).await
}

#[tokio::test]
async fn what_is_signed_is_pulled_and_of_the_rest_no_layer_is_fetched() {
    let (temp, key, content) = (temp(), KeyPair::generate().unwrap(), Content::default());
    let server = content.serve();
    for (name, of) in [
        ("payload", "1"),
        ("bundle", "2"),
        ("other", "3"),
        ("bare", "4"),
        ("listed", "5"),
    ] {
        content.change(|shelf| shelf.image(name, "1", &image(of)));
    }
    content.sign(
        &key,
        &server.name(),
        "payload",
        &image("1").manifest_digest(),
    );
    content.attach(&key, "bundle", &image("2").manifest_digest(), true);
    content.attach(&key, "listed", &image("5").manifest_digest(), false);
    let foreign = KeyPair::generate().unwrap();
    content.sign(
        &foreign,
        &server.name(),
        "other",
        &image("3").manifest_digest(),
    );
    content.attach(&foreign, "other", &image("3").manifest_digest(), false);
    let store = store(temp.path(), &key, STRICT);
    let name = |repository: &str| format!("{}/{repository}:1", server.name());
    for good in ["payload", "bundle", "listed"] {
        store.pull(&name(good), None).await.unwrap();
        permit(&store, &name(good), "any").await.unwrap();
    }
    server.forget();
    refused(
        store.pull(&name("other"), None).await,
        "none of its 2 signatures",
    );
    refused(store.pull(&name("bare"), None).await, "no signature");
    assert_eq!(store.list().len(), 3);
    for of in ["3", "4"] {
        let layer = Digest::of(&image(of).layers[0]).to_string();
        let asked = server.asked();
        assert!(!asked.iter().any(|line| line.contains(&layer)), "{asked:?}");
    }
}

#[tokio::test]
async fn a_signature_may_be_about_the_list_or_the_manifest_in_it() {
    let (temp, key, content) = (temp(), KeyPair::generate().unwrap(), Content::default());
    let server = content.serve();
    let store = store(temp.path(), &key, STRICT);
    for (repository, signed_list) in [("list", true), ("manifest", false)] {
        let image = image(repository);
        let digest = match signed_list {
            true => Digest::of(&index_of(&image)).to_string(),
            false => image.manifest_digest(),
        };
        content.change(|shelf| shelf.index(repository, "1", &image));
        let name = format!("{}/{repository}:1", server.name());
        refused(store.pull(&name, None).await, "no signature");
        content.sign(&key, &server.name(), repository, &digest);
        store.pull(&name, None).await.unwrap();
    }
}

#[tokio::test]
async fn each_namespace_has_rules_of_its_own() {
    let (temp, key, content) = (temp(), KeyPair::generate().unwrap(), Content::default());
    content.change(|shelf| shelf.image("a", "1", &image("1")));
    let server = content.serve();
    let policy = "default = 'refuse'\nkeys = { k = 'k.pub' }\n\
        [[rules]]\nnamespaces = ['free']\nthen = 'allow'\n\
        [[rules]]\nnamespaces = ['warned']\nmode = 'warn'\nany = [{ key = 'k' }]\n\
        [[rules]]\nnamespaces = ['strict']\nany = [{ key = 'k' }]\n";
    let store = store(temp.path(), &key, policy);
    let name = format!("{}/a:1", server.name());
    refused(store.pull_for(&name, None, "strict").await, "no signature");
    refused(store.pull_for(&name, None, "other").await, "policy");
    store.pull_for(&name, None, "warned").await.unwrap();
    store.pull_for(&name, None, "free").await.unwrap();
    // That it is here now changes nothing for those who may not have it.
    refused(store.pull_for(&name, None, "strict").await, "no signature");
    refused(permit(&store, &name, "strict").await, "no signature");
    refused(permit(&store, &name, "other").await, "refuses");
    permit(&store, &name, "free").await.unwrap();
    permit(&store, &name, "warned").await.unwrap();
}

#[tokio::test]
async fn a_stricter_policy_holds_for_what_is_here_and_needs_no_registry_for_what_it_knows() {
    let (temp, key, content) = (temp(), KeyPair::generate().unwrap(), Content::default());
    content.change(|shelf| {
        shelf
            .image("good", "1", &image("1"))
            .image("bad", "1", &image("2"))
    });
    let server = content.serve();
    content.sign(&key, &server.name(), "good", &image("1").manifest_digest());
    let name = |repository: &str| format!("{}/{repository}:1", server.name());
    let (good, bad) = (name("good"), name("bad"));
    let free = open(temp.path(), Signatures::default());
    let id = free.pull(&good, None).await.unwrap();
    free.pull(&bad, None).await.unwrap();
    permit(&free, &bad, "").await.unwrap();
    drop(free);

    let strict = store(temp.path(), &key, STRICT);
    refused(permit(&strict, &bad, "").await, "no signature");
    permit(&strict, &good, "").await.unwrap();
    // By its id it is judged under the names that it has.
    permit(&strict, &id, "").await.unwrap();
    permit(&strict, &id[7..19], "").await.unwrap();
    server.forget();
    permit(&strict, &good, "").await.unwrap();
    assert_eq!(server.asked(), [""; 0]);
    drop(strict);

    drop(server);
    let offline = store(temp.path(), &key, STRICT);
    permit(&offline, &good, "").await.unwrap();
    offline.remove(&good).await.unwrap();
    let kept = std::fs::read_dir(temp.path().join("store/signatures")).unwrap();
    assert_eq!(kept.count(), 1, "what was kept for it goes with it");
}

/// A part of an id can look like a name, for which a rule may be mild.
#[tokio::test]
async fn an_id_is_no_name() {
    let (temp, key, content) = (temp(), KeyPair::generate().unwrap(), Content::default());
    content.change(|shelf| shelf.image("a", "1", &image("1")));
    let server = content.serve();
    let name = format!("{}/a:1", server.name());
    let free = open(temp.path(), Signatures::default());
    let id = free.pull(&name, None).await.unwrap();
    drop(free);
    let policy = "default = 'refuse'\n[[rules]]\nimages = ['docker.io/*']\nthen = 'allow'\n";
    let strict = store(temp.path(), &key, policy);
    let image = strict.resolve(&id).unwrap();
    for asked in [
        &id[7..19],
        "busybox",
        "docker.io/library/busybox:latest",
        "",
    ] {
        refused(strict.permit(&image, asked, "").await, "refuses");
    }
}

#[tokio::test]
async fn a_registry_that_does_not_answer_is_no_missing_signature() {
    let (temp, key, content) = (temp(), KeyPair::generate().unwrap(), Content::default());
    content.change(|shelf| shelf.image("a", "1", &image("1")));
    let serving = content.clone();
    let server = Server::start(move |request| match request.path().ends_with(".sig") {
        true => registry_double::Reply::new(503, "later"),
        false => serving.0.lock().unwrap().serve(request),
    });
    let store = store(temp.path(), &key, STRICT);
    let error = store.pull(&format!("{}/a:1", server.name()), None).await;
    let error = error.unwrap_err();
    assert!(!matches!(error, Error::Signature(_)), "{error:?}");
    assert!(
        error.to_string().contains("looking for signatures"),
        "{error}"
    );
}

#[test]
fn a_policy_that_cannot_be_read_opens_no_store() {
    let temp = temp();
    let mut config = Config::new(temp.path().join("s"), temp.path().join("c"), "this".into());
    config.signatures.policy = Some(temp.path().join("policy.toml"));
    let error = open_store(&config, &limits()).unwrap_err().to_string();
    assert!(error.contains("policy.toml"), "{error}");
}

/// Puts a program into a folder that is all asked.
fn program(folder: &Path, name: &str, script: &str) {
    std::fs::create_dir_all(folder).unwrap();
    // Written under another name: a program that is still open for writing cannot be executed.
    let path = folder.with_extension("new");
    std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::rename(&path, folder.join(name)).unwrap();
}

#[tokio::test]
async fn programs_in_a_folder_have_to_agree_in_time() {
    let (temp, content) = (temp(), Content::default());
    content.change(|shelf| shelf.index("a", "1", &image("1")));
    let server = content.serve();
    let (folder, name) = (temp.path().join("bin"), format!("{}/a:1", server.name()));
    let store = open(
        temp.path(),
        Signatures {
            programs: Some(folder.clone()),
            program_time: Duration::from_secs(2),
            ..Signatures::default()
        },
    );
    // A folder that is not there allows everything.
    store.pull(&name, None).await.unwrap();
    let told = temp.path().join("told");
    let tell = format!("echo \"$@\" > {0}; cat >> {0}; echo fine", told.display());
    program(&folder, "1-allows", &tell);
    store.pull(&name, None).await.unwrap();
    let index = index_of(&image("1"));
    let (digest, size) = (Digest::of(&index), index.len());
    let told = std::fs::read_to_string(told).unwrap();
    let (arguments, descriptor) = told.split_once('\n').unwrap();
    assert_eq!(
        arguments,
        format!(
            "-name {name} -digest {digest} -stdin-media-type application/vnd.oci.descriptor.v1+json"
        )
    );
    let descriptor: serde_json::Value = serde_json::from_str(descriptor).unwrap();
    let wanted = json!({"mediaType": OCI_INDEX, "digest": digest.to_string(), "size": size});
    assert_eq!(descriptor, wanted);

    permit(&store, &name, "").await.unwrap();
    program(&folder, "2-refuses", "echo not this one; exit 1");
    refused(
        store.pull(&name, None).await,
        "2-refuses refuses it: not this one",
    );
    // A verdict does not outlive the folder that it came from.
    refused(permit(&store, &name, "").await, "not this one");
    std::fs::remove_file(folder.join("2-refuses")).unwrap();
    permit(&store, &name, "").await.unwrap();

    program(&folder, "2-hangs", "sleep 1000 & sleep 1000");
    let begun = Instant::now();
    refused(
        store.pull(&name, None).await,
        "2-hangs did not answer within 2s",
    );
    assert!(begun.elapsed() < Duration::from_secs(20));
    std::fs::remove_file(folder.join("2-hangs")).unwrap();
    std::fs::write(folder.join("3-is-no-program"), "x").unwrap();
    refused(store.pull(&name, None).await, "3-is-no-program");
}
