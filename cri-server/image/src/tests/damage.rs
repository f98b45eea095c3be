//! What a power cut or a bad disk leaves, and how it is found.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::images::{Pack, Shelf, TestImage};
use super::server::Server;
use super::tars::Tar;
use super::{limits, store_at, temp};
use crate::{Config, Store, Verified};

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
    let config = Config {
        root: root.join("store"),
        registry_config: root.join("certs.d"),
        layer_form: crate::LayerForm::default(),
    };
    Store::open_in(&config, limits(), boot).unwrap()
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
    let whole = Verified {
        whole: 2,
        ..Verified::default()
    };
    assert_eq!(store.verify().await.unwrap(), whole);
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

#[tokio::test]
async fn a_look_at_all_layers_finds_the_damaged_one() {
    let temp = temp();
    let shelf = Shelf::default().image("a", "1", &image());
    let server = Server::start(move |request| shelf.serve(request));
    let store = store_at(temp.path());
    let id = store
        .pull(&format!("{}/a:1", server.name()), None)
        .await
        .unwrap();
    let layers = layers(temp.path());
    let first = layers
        .iter()
        .find(|layer| layer.join("fs/lib").exists())
        .unwrap();
    std::fs::write(first.join("fs/etc/name"), "CONTENT").unwrap();
    let found = store.verify().await.unwrap();
    assert_eq!((found.whole, found.damaged.len()), (1, 1));
    assert_eq!(found.damaged[0].images, [id]);
    let reason = &found.damaged[0].reason;
    assert!(reason.contains("another content"), "{reason}");
}
