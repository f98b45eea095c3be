//! What a power cut or a bad disk leaves, and how it is found.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use registry_double::{Pack, Server, Shelf, Tar, TestImage};

use super::{config, limits, nothing_left, open_store, store_at, temp, unused};
use crate::{Checked, Outcome, Scrub, Store, Subject};

fn image() -> TestImage {
    let one = Tar::new()
        .dir("etc/", 0o750)
        .file("etc/name", b"content")
        .file_mode("etc/tool", b"program", 0o4755)
        .symlink("lib", "etc")
        .file("lib/through", b"a link")
        .hard_link("etc/again", "etc/name")
        .file("made/up/folders", b"x")
        .end();
    let two = Tar::new().file("etc/.wh.name", b"").file("two", b"2").end();
    TestImage::new(&[(one, Pack::Gzip), (two, Pack::Zstd)])
}

fn open_in(root: &Path, boot: &str) -> Arc<Store> {
    let config = config(root, boot);
    open_store(&config, &limits()).unwrap()
}

/// Pulls, and answers with the folders of the layers, each of them not known to be on disk.
async fn pulled(root: &Path, boot: &str) -> Vec<PathBuf> {
    let shelf = Shelf::default().image("a", "1", &image());
    let server = Server::start(move |request| shelf.serve(request));
    let store = open_in(root, boot);
    store
        .pull(&format!("{}/a:1", server.name()), None)
        .await
        .unwrap();
    durable(root).await;
    let layers = layers(root);
    assert_eq!(layers.len(), 2);
    for layer in &layers {
        std::fs::write(layer.join("provisional"), boot).unwrap();
    }
    layers
}

fn layers(root: &Path) -> Vec<PathBuf> {
    let folders = std::fs::read_dir(root.join("store/layers/sha256")).unwrap();
    folders.map(|folder| folder.unwrap().path()).collect()
}

/// Waits until no layer is marked.
pub(super) async fn durable(root: &Path) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while layers(root)
        .iter()
        .any(|layer| layer.join("provisional").exists())
    {
        assert!(tokio::time::Instant::now() < deadline, "still marked");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn what_survived_is_shown_and_becomes_durable() {
    let temp = temp();
    pulled(temp.path(), "first").await;
    let store = open_in(temp.path(), "second");
    assert_eq!(store.list().len(), 1);
    durable(temp.path()).await;
    let whole = Checked {
        whole: 2,
        ..Checked::default()
    };
    assert_eq!(store.check(false).await.unwrap(), whole);
}

#[tokio::test]
async fn what_did_not_survive_is_not_shown() {
    type Damage = fn(&Path);
    let damages: [(&str, Damage); 5] = [
        ("two", |fs| std::fs::write(fs.join("two"), "").unwrap()),
        ("two", |fs| std::fs::write(fs.join("two"), "3").unwrap()),
        ("two", |fs| std::fs::remove_file(fs.join("two")).unwrap()),
        ("two", |fs| std::fs::write(fs.join("more"), "").unwrap()),
        ("two", |fs| std::fs::write(fs.join("../table"), "").unwrap()),
    ];
    for (marker, damage) in damages {
        let temp = temp();
        let layers = pulled(temp.path(), "first").await;
        let layer = layers
            .iter()
            .find(|layer| layer.join("fs").join(marker).exists());
        damage(&layer.unwrap().join("fs"));
        // Without a power cut the kernel still has what it was given.
        let same = open_in(temp.path(), "first");
        assert_eq!(same.list().len(), 1);
        durable(temp.path()).await;
        drop(same);
        for layer in &layers {
            std::fs::write(layer.join("provisional"), "first").unwrap();
        }
        assert!(open_in(temp.path(), "second").list().is_empty());
    }
}

/// Spoils a file of the lower layer.
fn spoil(root: &Path) {
    let layers = layers(root);
    let first = layers.iter().find(|layer| layer.join("fs/lib").exists());
    std::fs::write(first.unwrap().join("fs/etc/name"), "CONTENT").unwrap();
}

#[tokio::test]
async fn a_look_at_all_finds_what_is_damaged_and_leaves_it() {
    let temp = temp();
    let shelf = Shelf::default().image("a", "1", &image());
    let server = Server::start(move |request| shelf.serve(request));
    let store = store_at(temp.path());
    let id = store
        .pull(&format!("{}/a:1", server.name()), None)
        .await
        .unwrap();
    spoil(temp.path());
    let record = temp.path().join("store/images");
    let record = record.join(format!("{}.json", id.strip_prefix("sha256:").unwrap()));
    std::fs::write(&record, "{}").unwrap();
    std::fs::create_dir(temp.path().join("store/layers/sha256/more")).unwrap();
    std::fs::write(temp.path().join("store/images/more"), "").unwrap();
    let found = store.check(false).await.unwrap();
    assert_eq!((found.whole, found.findings.len()), (1, 4));
    assert!(found.is_bad());
    let subjects: Vec<_> = found.findings.iter().map(|f| f.subject).collect();
    let expect = [
        Subject::Layer,
        Subject::Record,
        Subject::Stray,
        Subject::Stray,
    ];
    assert_eq!(subjects, expect);
    assert_eq!(found.findings[0].images, [id]);
    let reason = &found.findings[0].reason;
    assert!(reason.contains("another content"), "{reason}");
    // Nothing was touched.
    assert_eq!(store.check(false).await.unwrap(), found);
    let repaired = store.check(true).await.unwrap();
    assert!(!repaired.is_bad(), "{repaired:?}");
    let whole = Checked {
        whole: 2,
        ..Checked::default()
    };
    assert_eq!(store.check(false).await.unwrap(), whole);
    assert_eq!(store.list().len(), 1);
}

/// The container goes on with what it has; the next one gets what is whole.
#[tokio::test]
async fn a_damaged_layer_is_fetched_again_under_a_container() {
    let temp = temp();
    let shelf = Shelf::default().image("a", "1", &image());
    let server = Server::start(move |request| shelf.serve(request));
    let store = store_at(temp.path());
    let name = format!("{}/a:1", server.name());
    let id = store.pull(&name, None).await.unwrap();
    let (one, two) = (temp.path().join("one"), temp.path().join("two"));
    for target in [&one, &two] {
        std::fs::create_dir(target).unwrap();
    }
    store.mount_rootfs(&id, "one", &one, None).await.unwrap();
    spoil(temp.path());
    let repaired = store.check(true).await.unwrap();
    assert_eq!(repaired.findings[0].outcome, Outcome::Repaired);
    assert!(one.join("etc/tool").exists());
    store.mount_rootfs(&id, "two", &two, None).await.unwrap();
    assert_eq!(std::fs::read(two.join("etc/again")).unwrap(), b"content");
    let quarantine = || {
        let boots = std::fs::read_dir(temp.path().join("store/quarantine")).unwrap();
        let boot = boots.last().unwrap().unwrap().path();
        std::fs::read_dir(boot).unwrap().count()
    };
    assert_eq!(quarantine(), 1);
    for (container, target) in [("one", &one), ("two", &two)] {
        store.unmount_rootfs(container, target).await.unwrap();
    }
    store.remove(&id).await.unwrap();
    assert_eq!(quarantine(), 0);
    nothing_left(temp.path()).await;
    unused(&store).await;
}

#[tokio::test]
async fn an_image_that_cannot_be_fetched_again_is_absent() {
    let temp = temp();
    let shelf = Shelf::default().image("a", "1", &image());
    let server = Server::start(move |request| shelf.serve(request));
    let store = store_at(temp.path());
    let name = format!("{}/a:1", server.name());
    let id = store.pull(&name, None).await.unwrap();
    let target = temp.path().join("mounted");
    std::fs::create_dir(&target).unwrap();
    store.mount_rootfs(&id, "one", &target, None).await.unwrap();
    drop(server);
    spoil(temp.path());
    let repaired = store.check(true).await.unwrap();
    let outcome = &repaired.findings[0].outcome;
    assert!(matches!(outcome, Outcome::Removed(_)), "{outcome:?}");
    assert!(store.list().is_empty() && target.join("etc/tool").exists());
    // Also after a restart a new image does not get the damaged layer.
    drop(store);
    let store = store_at(temp.path());
    let shelf = Shelf::default().image("a", "1", &image());
    let server = Server::start(move |request| shelf.serve(request));
    store
        .pull(&format!("{}/a:1", server.name()), None)
        .await
        .unwrap();
    assert_eq!(store.check(false).await.unwrap().findings, []);
    store.unmount_rootfs("one", &target).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_is_found_and_mended_in_the_background() {
    let temp = temp();
    let shelf = Shelf::default().image("a", "1", &image());
    let server = Server::start(move |request| shelf.serve(request));
    let root = temp.path();
    let mut config = config(root, "this");
    config.scrub = Some(Scrub {
        rate: 1 << 30,
        every: Duration::from_millis(20),
    });
    let store = open_store(&config, &limits()).unwrap();
    store
        .pull(&format!("{}/a:1", server.name()), None)
        .await
        .unwrap();
    server.forget();
    spoil(temp.path());
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while !server.asked().iter().any(|asked| asked.contains("/blobs/")) {
        assert!(tokio::time::Instant::now() < deadline, "not found");
        tokio::task::yield_now().await;
    }
    while !store.check(false).await.unwrap().findings.is_empty() {
        assert!(tokio::time::Instant::now() < deadline, "not mended");
    }
    assert_eq!(store.list().len(), 1);
}
