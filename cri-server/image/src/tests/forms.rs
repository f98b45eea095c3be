//! Layers that are images of file systems, mounted by the real kernel, also beside folders.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use registry_double::{Head, Pack, Server, Shelf, Tar, TestImage};
use rustix::mount::{UnmountFlags, unmount};

use super::damage::durable;
use super::{config, limits, nothing_left, open_store, temp, unused};
use crate::{Checked, Error, IdMap, LayerForm, Store};

fn try_open(root: &Path, form: LayerForm, boot: &str) -> Result<Arc<Store>, Error> {
    let mut config = config(root, boot);
    config.layer_form = form;
    open_store(&config, &limits())
}

/// A store that has layers as images; nothing where the kernel cannot.
fn open(root: &Path, boot: &str) -> Option<Arc<Store>> {
    match try_open(root, LayerForm::Erofs, boot) {
        Ok(store) => Some(store),
        Err(error) if error.to_string().contains("cannot be EROFS images") => {
            eprintln!("skipped: needs EROFS mounted from a file: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

fn serve(image: &TestImage) -> Server {
    let shelf = Shelf::default().image("a", "1", image);
    Server::start(move |request| shelf.serve(request))
}

fn name(server: &Server) -> String {
    format!("{}/a:1", server.name())
}

fn lower() -> Tar {
    Tar::new()
        .dir("./", 0o751)
        .dir("d/", 0o700)
        .file("d/old", b"1")
        .file("gone", b"2")
        .hard_link("linked", "d/old")
        .dir("hidden", 0o755)
        .file("hidden/below", b"x")
}

fn upper() -> Tar {
    Tar::new()
        .file("d/new", b"3")
        .file(".wh.gone", b"")
        .file("hidden/.wh..wh..opq", b"")
        .file("hidden/above", b"y")
}

/// A folder to mount at; unmounted when dropped, also if a test fails.
struct Target(PathBuf);

impl Target {
    fn new(root: &Path, name: &str) -> Self {
        let path = root.join(name);
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        let _ = unmount(&self.0, UnmountFlags::DETACH);
    }
}

/// The forms that the layers of a store have.
fn forms(root: &Path) -> HashSet<&'static str> {
    let layers = std::fs::read_dir(root.join("store/layers/sha256")).unwrap();
    let forms = layers.map(|layer| {
        let layer = layer.unwrap().path();
        let (dir, image) = (
            layer.join("fs").exists(),
            layer.join("image.erofs").exists(),
        );
        assert!(dir != image, "{}", layer.display());
        if dir { "dir" } else { "erofs" }
    });
    forms.collect()
}

/// All that the two layers above show.
fn check_root(root: &Path) {
    assert_eq!(std::fs::read(root.join("d/old")).unwrap(), b"1");
    assert_eq!(std::fs::read(root.join("d/new")).unwrap(), b"3");
    assert_eq!(std::fs::read(root.join("hidden/above")).unwrap(), b"y");
    assert!(!root.join("gone").exists() && !root.join("hidden/below").exists());
    let meta = |path: &str| std::fs::metadata(root.join(path)).unwrap();
    assert_eq!(
        (meta("").mode() & 0o7777, meta("d").mode() & 0o7777),
        (0o751, 0o700)
    );
    assert_eq!(
        (meta("linked").nlink(), meta("linked").ino()),
        (2, meta("d/old").ino())
    );
}

#[tokio::test]
async fn a_root_file_system_of_images_is_mounted_written_and_taken_away() {
    let image = TestImage::new(&[(lower().end(), Pack::Gzip), (upper().end(), Pack::Zstd)]);
    let (temp, server) = (temp(), serve(&image));
    let Some(store) = open(temp.path(), "one") else {
        return;
    };
    let id = store.pull(&name(&server), None).await.unwrap();
    assert_eq!(forms(temp.path()), HashSet::from(["erofs"]));
    let target = Target::new(temp.path(), "rootfs");
    store
        .mount_rootfs(&id, "c1", &target.0, None)
        .await
        .unwrap();
    check_root(&target.0);
    // One device, and a file that is written to stays the same file.
    let file = target.0.join("d/new");
    let before = std::fs::metadata(&file).unwrap();
    assert_eq!(before.dev(), std::fs::metadata(&target.0).unwrap().dev());
    std::fs::write(&file, b"written").unwrap();
    let after = std::fs::metadata(&file).unwrap();
    assert_eq!((before.dev(), before.ino()), (after.dev(), after.ino()));
    // The image goes, what the container uses stays.
    store.remove(&id).await.unwrap();
    assert_eq!(std::fs::read(target.0.join("d/old")).unwrap(), b"1");
    store.unmount_rootfs("c1", &target.0).await.unwrap();
    assert!(!target.0.join("d").exists());
    unused(&store).await;
    nothing_left(temp.path()).await;
}

#[tokio::test]
async fn both_forms_go_into_one_stack() {
    let (temp, first) = (
        temp(),
        serve(&TestImage::new(&[(lower().end(), Pack::Gzip)])),
    );
    let dir = try_open(temp.path(), LayerForm::Dir, "one").unwrap();
    dir.pull(&name(&first), None).await.unwrap();
    drop(dir);
    let Some(store) = open(temp.path(), "one") else {
        return;
    };
    let image = TestImage::new(&[(lower().end(), Pack::Gzip), (upper().end(), Pack::Gzip)]);
    let second = serve(&image);
    let id = store.pull(&name(&second), None).await.unwrap();
    assert_eq!(forms(temp.path()), HashSet::from(["dir", "erofs"]));
    let target = Target::new(temp.path(), "rootfs");
    store.mount_rootfs(&id, "c", &target.0, None).await.unwrap();
    check_root(&target.0);
    store.unmount_rootfs("c", &target.0).await.unwrap();
    // The other way round, a daemon that makes folders uses the images that are there.
    drop(store);
    let store = try_open(temp.path(), LayerForm::Dir, "one").unwrap();
    store.mount_rootfs(&id, "c", &target.0, None).await.unwrap();
    check_root(&target.0);
    store.unmount_rootfs("c", &target.0).await.unwrap();
}

#[tokio::test]
async fn containers_share_one_mount_of_a_layer() {
    let image = TestImage::new(&[(lower().end(), Pack::Gzip)]);
    let (temp, server) = (temp(), serve(&image));
    let Some(store) = open(temp.path(), "one") else {
        return;
    };
    let id = store.pull(&name(&server), None).await.unwrap();
    let (one, two) = (Target::new(temp.path(), "1"), Target::new(temp.path(), "2"));
    store.mount_rootfs(&id, "1", &one.0, None).await.unwrap();
    store.mount_rootfs(&id, "2", &two.0, None).await.unwrap();
    // Overlays of one file system give its files the same numbers.
    let number = |target: &Target| std::fs::metadata(target.0.join("d/old")).unwrap().ino();
    assert_eq!(number(&one), number(&two));
    assert_eq!(store.layers.mounts_kept(), 1);
    store.unmount_rootfs("1", &one.0).await.unwrap();
    assert_eq!(std::fs::read(two.0.join("d/old")).unwrap(), b"1");
    // What lives on keeps its layers without the daemon.
    drop(store);
    assert_eq!(std::fs::read(two.0.join("linked")).unwrap(), b"1");
    let store = open(temp.path(), "one").unwrap();
    store.retain(&HashSet::from(["2".to_owned()])).await;
    store.remove(&id).await.unwrap();
    assert_eq!(std::fs::read(two.0.join("d/old")).unwrap(), b"1");
    store.unmount_rootfs("2", &two.0).await.unwrap();
    assert_eq!(store.layers.mounts_kept(), 0);
    nothing_left(temp.path()).await;
}

#[tokio::test]
async fn a_spoilt_image_is_found_and_does_not_survive_a_power_cut() {
    let image = TestImage::new(&[(lower().end(), Pack::Gzip), (upper().end(), Pack::Gzip)]);
    let (temp, server) = (temp(), serve(&image));
    let Some(store) = open(temp.path(), "one") else {
        return;
    };
    let id = store.pull(&name(&server), None).await.unwrap();
    durable(temp.path()).await;
    let whole = Checked {
        whole: 2,
        ..Checked::default()
    };
    assert_eq!(store.check(false).await.unwrap(), whole);
    let layers = std::fs::read_dir(temp.path().join("store/layers/sha256")).unwrap();
    let layers: Vec<_> = layers.map(|layer| layer.unwrap().path()).collect();
    let image = layers[0].join("image.erofs");
    let mut bytes = std::fs::read(&image).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&image, bytes).unwrap();
    let found = store.check(false).await.unwrap();
    assert_eq!((found.whole, found.findings.len()), (1, 1));
    assert_eq!(found.findings[0].images, [id]);
    drop(store);
    // Known to be on disk, it is not looked at; not known to be, it is.
    assert_eq!(open(temp.path(), "two").unwrap().list().len(), 1);
    std::fs::write(layers[0].join("provisional"), "one").unwrap();
    let same = open(temp.path(), "one").unwrap();
    assert_eq!(same.list().len(), 1);
    durable(temp.path()).await;
    drop(same);
    std::fs::write(layers[0].join("provisional"), "one").unwrap();
    assert!(open(temp.path(), "two").unwrap().list().is_empty());
}

#[tokio::test]
async fn what_survived_is_durable_again() {
    let image = TestImage::new(&[(lower().end(), Pack::Gzip)]);
    let (temp, server) = (temp(), serve(&image));
    let Some(store) = open(temp.path(), "one") else {
        return;
    };
    let id = store.pull(&name(&server), None).await.unwrap();
    durable(temp.path()).await;
    drop(store);
    let layers = std::fs::read_dir(temp.path().join("store/layers/sha256")).unwrap();
    for layer in layers {
        std::fs::write(layer.unwrap().path().join("provisional"), "one").unwrap();
    }
    let store = open(temp.path(), "two").unwrap();
    assert_eq!(store.list()[0].id, id);
    durable(temp.path()).await;
}

/// A user namespace in which the ids of the host begin at 100000; a process holds it.
pub(crate) struct UserNamespace(std::process::Child);

impl UserNamespace {
    #[expect(clippy::disallowed_methods, reason = "the test owns it and ends it")]
    pub(crate) fn new() -> Option<Self> {
        use std::process::{Command, Stdio};
        let mut command = Command::new("unshare");
        command.args(["--user", "sh", "-c", "echo made; exec cat"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut held = Self(command.spawn().ok()?);
        // Told once it is there.
        let mut told = [0; 5];
        std::io::Read::read_exact(held.0.stdout.as_mut()?, &mut told).ok()?;
        for map in ["uid_map", "gid_map"] {
            let path = format!("/proc/{}/{map}", held.0.id());
            std::fs::write(path, "0 100000 65536").ok()?;
        }
        Some(held)
    }

    pub(crate) fn map(&self) -> IdMap {
        IdMap {
            namespace: format!("/proc/{}/ns/user", self.0.id()).into(),
            uids: 100_000..165_536,
            gids: 100_000..165_536,
        }
    }
}

impl Drop for UserNamespace {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[tokio::test]
async fn images_have_the_ids_of_a_user_namespace() {
    let Some(namespace) = UserNamespace::new() else {
        eprintln!("skipped: needs a user namespace");
        return;
    };
    let owned = Head {
        name: b"d/owned",
        uid: 33,
        gid: 44,
        ..Head::default()
    };
    let layers = [
        (lower().end(), Pack::Gzip),
        (upper().head(&owned).end(), Pack::Gzip),
    ];
    let (temp, server) = (temp(), serve(&TestImage::new(&layers)));
    let Some(store) = open(temp.path(), "one") else {
        return;
    };
    let id = store.pull(&name(&server), None).await.unwrap();
    let (mapped, plain) = (Target::new(temp.path(), "1"), Target::new(temp.path(), "2"));
    let ids = namespace.map();
    store
        .mount_rootfs(&id, "1", &mapped.0, Some(&ids))
        .await
        .unwrap();
    store.mount_rootfs(&id, "2", &plain.0, None).await.unwrap();
    for (target, expect) in [(&mapped, 100_000), (&plain, 0)] {
        check_root(&target.0);
        let owner = |path: &str| {
            let meta = std::fs::metadata(target.0.join(path)).unwrap();
            (meta.uid(), meta.gid())
        };
        assert_eq!(owner("d/old"), (expect, expect));
        assert_eq!(owner("d/owned"), (expect + 33, expect + 44));
    }
    store.unmount_rootfs("1", &mapped.0).await.unwrap();
    store.unmount_rootfs("2", &plain.0).await.unwrap();
}

#[tokio::test]
async fn a_hundred_images_are_mounted() {
    let layers: Vec<_> = (0..100)
        .map(|n| (Tar::new().file(&format!("f{n}"), b"").end(), Pack::Gzip))
        .collect();
    let (temp, server) = (temp(), serve(&TestImage::new(&layers)));
    let Some(store) = open(temp.path(), "one") else {
        return;
    };
    let id = store.pull(&name(&server), None).await.unwrap();
    let target = Target::new(temp.path(), "rootfs");
    store.mount_rootfs(&id, "c", &target.0, None).await.unwrap();
    assert_eq!(std::fs::read_dir(&target.0).unwrap().count(), 100);
    store.unmount_rootfs("c", &target.0).await.unwrap();
}
