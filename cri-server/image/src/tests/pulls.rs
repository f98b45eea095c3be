//! Pulling: names, lists, sharing, cancelling.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use registry::Digest;
use registry_double::{
    OCI_INDEX, OCI_MANIFEST, Pack, Reply, Server, Shelf, Tar, TestImage, descriptor, index_of,
};

use super::{hosts_toml, nothing_left, store_at, temp};
use crate::{Credentials, Error};

fn simple(content: &str) -> TestImage {
    let one = Tar::new()
        .dir("etc/", 0o755)
        .file("etc/name", content.as_bytes())
        .end();
    let two = Tar::new()
        .file("top", b"two")
        .file("etc/.wh.gone", b"")
        .end();
    let three = Tar::new().file("last", b"three").end();
    TestImage::new(&[(one, Pack::Gzip), (two, Pack::Zstd), (three, Pack::Plain)])
}

#[tokio::test]
async fn an_image_is_pulled_listed_and_found_by_all_its_names() {
    let (temp, image) = (temp(), simple("a"));
    let shelf = Shelf::default().index("a/b", "1", &image);
    let server = Server::start(move |request| shelf.serve(request));
    let store = store_at(temp.path());
    let name = format!("{}/a/b:1", server.name());
    let id = store.pull(&name, None).await.unwrap();
    assert_eq!(id, image.id());
    let found = store.resolve(&name).unwrap();
    let index = Digest::of(&index_of(&image));
    assert_eq!(found.tags, std::slice::from_ref(&name));
    assert_eq!(found.digests, [format!("{}/a/b@{index}", server.name())]);
    assert_eq!(found.annotations["a"], "b");
    assert!(found.size > 0 && store.usage().bytes > 0 && store.usage().inodes > 3);
    assert_eq!(
        found.config.config().as_ref().unwrap().user().as_deref(),
        Some("1002")
    );
    for other in [&id, &id[7..], &id[7..19], &id[..20], &found.digests[0]] {
        assert_eq!(store.resolve(other).unwrap().id, id, "{other}");
    }
    assert!(store.resolve("docker.io/library/none").is_none());
    assert_eq!(store.list().len(), 1);
    drop(store);
    let again = store_at(temp.path());
    assert_eq!(again.resolve(&name).unwrap().id, id);
    // Its files; of each layer a folder with three files; its record.
    assert_eq!(again.usage().inodes, 9 + 4 * 3 + 1);
    again.remove(&id).await.unwrap();
    assert!(again.list().is_empty());
    nothing_left(temp.path()).await;
}

#[tokio::test]
async fn a_present_image_costs_one_question() {
    let (temp, image) = (temp(), simple("a"));
    let shelf = Shelf::default()
        .image("a", "1", &image)
        .image("a", "2", &image);
    let server = Server::start(move |request| shelf.serve(request));
    let store = store_at(temp.path());
    let id = store
        .pull(&format!("{}/a:1", server.name()), None)
        .await
        .unwrap();
    server.forget();
    assert_eq!(
        store
            .pull(&format!("{}/a:1", server.name()), None)
            .await
            .unwrap(),
        id
    );
    assert_eq!(
        store
            .pull(&format!("{}/a:2", server.name()), None)
            .await
            .unwrap(),
        id
    );
    assert_eq!(
        server.asked(),
        ["HEAD /v2/a/manifests/1", "HEAD /v2/a/manifests/2"]
    );
    assert_eq!(store.list()[0].tags.len(), 2);
    // By digest no tag is learnt.
    let by_digest = format!("{}/a@{}", server.name(), image.manifest_digest());
    store.remove(&id).await.unwrap();
    assert_eq!(store.pull(&by_digest, None).await.unwrap(), id);
    let image = store.resolve(&by_digest).unwrap();
    assert_eq!(
        (image.tags.len(), &image.digests[..]),
        (0, &[by_digest][..])
    );
}

#[tokio::test]
async fn a_tag_that_moved_is_moved_and_one_image_may_have_names_of_two_registries() {
    let (temp, old, new) = (temp(), simple("old"), simple("new"));
    let moved = Arc::new(AtomicUsize::new(0));
    let shelves = [
        Shelf::default().image("a", "1", &old),
        Shelf::default().image("a", "1", &new),
    ];
    let shown = Arc::clone(&moved);
    let server = Server::start(move |request| shelves[shown.load(Ordering::SeqCst)].serve(request));
    let other_shelf = Shelf::default().image("b", "x", &new);
    let other = Server::start(move |request| other_shelf.serve(request));
    let (store, name) = (store_at(temp.path()), format!("{}/a:1", server.name()));
    assert_eq!(store.pull(&name, None).await.unwrap(), old.id());
    moved.store(1, Ordering::SeqCst);
    assert_eq!(store.pull(&name, None).await.unwrap(), new.id());
    assert_eq!(store.resolve(&name).unwrap().id, new.id());
    assert!(store.resolve(&old.id()).unwrap().tags.is_empty());
    let second = format!("{}/b:x", other.name());
    assert_eq!(store.pull(&second, None).await.unwrap(), new.id());
    assert_eq!(
        store.resolve(&name).unwrap().tags,
        [name.clone(), second.clone()]
    );
    drop(store);
    let store = store_at(temp.path());
    assert_eq!(store.list().len(), 2);
    // One name takes all names of that image along, and several at once may try.
    let (one, two) = tokio::join!(store.remove(&second), store.remove(&name));
    one.unwrap();
    two.unwrap();
    assert!(store.resolve(&name).is_none() && store.resolve(&new.id()).is_none());
    store.remove(&name).await.unwrap();
    assert_eq!(store.list().len(), 1);
}

#[tokio::test]
async fn a_mirror_serves_under_the_name_that_was_asked_for() {
    let (temp, image) = (temp(), simple("a"));
    let shelf = Shelf::default().image("library/a", "latest", &image);
    let mirror = Server::start(move |request| shelf.serve(request));
    let empty = Server::start(|_| Reply::new(404, ""));
    let hosts = format!(
        "server = \"http://127.0.0.1:1\"\n[host.\"http://{}\"]\n[host.\"http://{}\"]\nheader = {{ x-h = \"v\" }}\n",
        empty.name(),
        mirror.name()
    );
    hosts_toml(temp.path(), "docker.io", &hosts);
    let store = store_at(temp.path());
    let secret = Credentials {
        username: "u".into(),
        password: "p".into(),
        ..Credentials::default()
    };
    store.pull("a", Some(&secret)).await.unwrap();
    let found = store.resolve("docker.io/library/a:latest").unwrap();
    assert_eq!(found.tags, ["docker.io/library/a:latest"]);
    assert_eq!(
        found.digests,
        [format!("docker.io/library/a@{}", image.manifest_digest())]
    );
    assert!(!empty.asked().is_empty());
    for request in mirror.requests() {
        assert!(
            request.target.contains("ns=docker.io"),
            "{}",
            request.target
        );
        assert_eq!(
            (request.header("x-h"), request.header("authorization")),
            ("v", "")
        );
    }
}

#[tokio::test]
async fn callers_who_want_the_same_share_one_download() {
    let (temp, image) = (temp(), simple("a"));
    let shelf = Shelf::default()
        .image("a", "1", &image)
        .image("b", "1", &image);
    let server = Server::start(move |request| shelf.serve(request));
    let store = store_at(temp.path());
    let (a, b) = (
        format!("{}/a:1", server.name()),
        format!("{}/b:1", server.name()),
    );
    let pulls = tokio::join!(
        store.pull(&a, None),
        store.pull(&a, None),
        store.pull(&b, None),
        store.pull(&a, None)
    );
    for pulled in [pulls.0, pulls.1, pulls.2, pulls.3] {
        assert_eq!(pulled.unwrap(), image.id());
    }
    let asked = server.asked();
    let layer = Digest::of(&image.layers[0]);
    assert_eq!(
        asked
            .iter()
            .filter(|path| path.ends_with(layer.hex()))
            .count(),
        1,
        "{asked:?}"
    );
    assert_eq!(
        asked
            .iter()
            .filter(|path| path.starts_with("HEAD /v2/a/"))
            .count(),
        1,
        "{asked:?}"
    );
    assert_eq!(store.resolve(&a).unwrap().tags.len(), 2);
}

#[tokio::test]
async fn a_pull_that_nobody_waits_for_leaves_nothing() {
    let (temp, image) = (temp(), simple("a"));
    let shelf = Shelf::default().image("a", "1", &image);
    let (asked, notified) = tokio::sync::mpsc::unbounded_channel();
    let last = Digest::of(&image.layers[2]).to_string();
    let server = Server::start(move |request| {
        let stall = request.path().ends_with(&last).then_some(700);
        if stall.is_some() {
            asked.send(()).unwrap();
        }
        Reply {
            stall,
            ..shelf.serve(request)
        }
    });
    let store = store_at(temp.path());
    let mut notified = notified;
    let name = format!("{}/a:1", server.name());
    tokio::select! {
        _ = store.pull(&name, None) => panic!("it is stalled"),
        _ = notified.recv() => {}
    }
    nothing_left(temp.path()).await;
    assert!(store.list().is_empty());
}

#[tokio::test]
async fn lists_in_lists_lead_to_the_image() {
    let (temp, image) = (temp(), simple("a"));
    let inner = index_of(&image);
    let outer = serde_json::json!({"schemaVersion": 2, "mediaType": OCI_INDEX,
                                   "manifests": [descriptor(OCI_INDEX, &inner)]});
    let shelf = Shelf::default().index("a", "inner", &image).document(
        "a",
        "1",
        OCI_INDEX,
        &serde_json::to_vec(&outer).unwrap(),
    );
    let server = Server::start(move |request| shelf.serve(request));
    let store = store_at(temp.path());
    let id = store.pull(&format!("{}/a:1", server.name()), None).await;
    assert_eq!(id.unwrap(), image.id());
}

#[tokio::test]
async fn entries_that_do_not_say_what_they_are_for_are_looked_into() {
    let (temp, ours, mut other) = (temp(), simple("ours"), simple("other"));
    let mut config: serde_json::Value = serde_json::from_slice(&other.config).unwrap();
    config["architecture"] = "s390x".into();
    other.config = serde_json::to_vec(&config).unwrap();
    let media_type = "application/vnd.oci.image.config.v1+json";
    other.manifest["config"] = descriptor(media_type, &other.config);
    let list = |images: &[&TestImage]| {
        let entries = images
            .iter()
            .map(|i| descriptor(OCI_MANIFEST, &i.manifest_bytes()));
        let entries: Vec<_> = entries.collect();
        serde_json::to_vec(&serde_json::json!({"schemaVersion": 2, "manifests": entries})).unwrap()
    };
    let shelf = Shelf::default()
        .image("a", "ours", &ours)
        .image("a", "other", &other)
        .document("a", "both", OCI_INDEX, &list(&[&other, &ours]))
        .document("a", "none", OCI_INDEX, &list(&[&other]));
    let server = Server::start(move |request| shelf.serve(request));
    let store = store_at(temp.path());
    let pull = async |tag: &str| {
        store
            .pull(&format!("{}/a:{tag}", server.name()), None)
            .await
    };
    assert_eq!(pull("both").await.unwrap(), ours.id());
    let error = pull("none").await.unwrap_err().to_string();
    assert!(error.contains("not for this machine"), "{error}");
}

#[tokio::test]
async fn a_host_that_drips_is_left_and_progress_is_shown() {
    let (temp, image) = (temp(), simple(&"long".repeat(2000)));
    let shelf = Shelf::default().image("a", "1", &image);
    let server = Server::start(move |request| {
        let mut reply = shelf.serve(request);
        if request.path().contains("/blobs/") && reply.body.len() > 2000 {
            reply.drip = Some(std::time::Duration::from_millis(20));
        }
        reply
    });
    let store = store_at(temp.path());
    let name = format!("{}/a:1", server.name());
    let pull = store.pull(&name, None);
    let watch = async {
        loop {
            if let Some(shown) = store.pulls().pop().filter(|shown| shown.received() > 0) {
                return shown;
            }
            tokio::task::yield_now().await;
        }
    };
    let (pulled, shown) = tokio::join!(pull, watch);
    let error = pulled.unwrap_err();
    assert!(
        matches!(&error, Error::Unavailable(text) if text.contains("sent only")),
        "{error}"
    );
    assert_eq!((shown.reference, shown.layers.len()), (name, 3));
    assert!(store.pulls().is_empty());
    nothing_left(temp.path()).await;
}
