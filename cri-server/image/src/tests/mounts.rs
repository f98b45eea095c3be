//! Root file systems of containers, with the real overlayfs.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use registry_double::{Pack, Server, Shelf, Tar, TestImage};

use super::{nothing_left, store_at, temp, unused};

/// A folder to mount at; unmounted when dropped, also if a test fails.
struct Target(PathBuf);

impl Target {
    fn new(path: PathBuf) -> Self {
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
    }
}

#[tokio::test]
async fn a_root_file_system_is_mounted_written_and_taken_away() {
    let lower = Tar::new()
        .dir("./", 0o711)
        .dir("d/", 0o700)
        .file("d/old", b"1")
        .file("gone", b"2")
        .end();
    let upper = Tar::new().file("d/new", b"3").file(".wh.gone", b"").end();
    let image = TestImage::new(&[(lower, Pack::Gzip), (upper, Pack::Gzip)]);
    let (temp, shelf) = (temp(), Shelf::default().image("a", "1", &image));
    let server = Server::start(move |request| shelf.serve(request));
    let store = store_at(temp.path());
    let id = store
        .pull(&format!("{}/a:1", server.name()), None)
        .await
        .unwrap();
    let mounted = Target::new(temp.path().join("rootfs"));
    let target = mounted.0.clone();
    store.mount_rootfs(&id, "c1", &target, None).await.unwrap();
    assert_eq!(std::fs::read(target.join("d/old")).unwrap(), b"1");
    assert_eq!(std::fs::read(target.join("d/new")).unwrap(), b"3");
    assert!(!target.join("gone").exists());
    std::fs::write(target.join("d/written"), b"4").unwrap();
    assert!(store.container_usage("c1").bytes > 0);
    // The image goes, what the container uses stays.
    store.remove(&id).await.unwrap();
    assert_eq!(std::fs::read(target.join("d/old")).unwrap(), b"1");
    store.unmount_rootfs("c1", &target).await.unwrap();
    store.unmount_rootfs("c1", &target).await.unwrap();
    assert!(!target.join("d").exists());
    assert_eq!(
        std::fs::metadata(&target).unwrap().dev(),
        std::fs::metadata(temp.path()).unwrap().dev()
    );
    nothing_left(temp.path()).await;
}

/// Pulls an image of these layers and mounts it.
async fn mounted(layers: &[Tar], look: impl FnOnce(&Path)) {
    let layers: Vec<_> = layers
        .iter()
        .map(|tar| (tar.clone().end(), Pack::Gzip))
        .collect();
    let image = TestImage::new(&layers);
    let (temp, shelf) = (temp(), Shelf::default().image("a", "1", &image));
    let server = Server::start(move |request| shelf.serve(request));
    let store = store_at(temp.path());
    let id = store
        .pull(&format!("{}/a:1", server.name()), None)
        .await
        .unwrap();
    let target = Target::new(temp.path().join("rootfs"));
    store.mount_rootfs(&id, "c", &target.0, None).await.unwrap();
    look(&target.0);
    store.unmount_rootfs("c", &target.0).await.unwrap();
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().mode() & 0o7777
}

#[tokio::test]
async fn images_of_none_one_and_equal_layers_are_mounted() {
    mounted(&[], |root| {
        assert_eq!(std::fs::read_dir(root).unwrap().count(), 0);
        assert_eq!(mode(root), 0o755);
    })
    .await;
    mounted(&[Tar::new().dir("./", 0o700).file("a", b"1")], |root| {
        assert_eq!(std::fs::read(root.join("a")).unwrap(), b"1");
        assert_eq!(mode(root), 0o700);
    })
    .await;
    let same = Tar::new().file("a", b"1");
    mounted(
        &[
            same.clone(),
            Tar::new().file(".wh.a", b"").file("b", b"2"),
            same,
        ],
        |root| {
            assert_eq!(std::fs::read(root.join("a")).unwrap(), b"1");
            assert_eq!(std::fs::read(root.join("b")).unwrap(), b"2");
        },
    )
    .await;
}

#[tokio::test]
async fn folders_look_as_the_layer_says_that_describes_them() {
    let base = Tar::new()
        .dir("./", 0o751)
        .dir("tmp", 0o1777)
        .dir("a", 0o700)
        .dir("a/b", 0o711)
        .dir("a/c", 0o701);
    let above = Tar::new()
        .file("tmp/x", b"")
        .file("a/b/x", b"")
        .dir("a/c", 0o770)
        .file("new/x", b"");
    mounted(&[base, above, Tar::new().file("a/b/y", b"")], |root| {
        let modes = ["", "tmp", "a", "a/b", "a/c", "new"].map(|path| mode(&root.join(path)));
        assert_eq!(
            modes,
            [0o751, 0o1777, 0o700, 0o711, 0o770, 0o755],
            "{modes:?}"
        );
        assert!(
            root.join("a/b/x").exists()
                && root.join("a/b/y").exists()
                && root.join("tmp/x").exists()
        );
    })
    .await;
}

#[tokio::test]
async fn opaque_folders_and_whiteouts_hide_what_is_below() {
    let base = Tar::new()
        .dir("d", 0o700)
        .file("d/old", b"")
        .file("top", b"")
        .dir("w", 0o700)
        .file("w/old", b"");
    let above = Tar::new()
        .file("d/new", b"")
        .file("d/.wh..wh..opq", b"")
        .file(".wh.w", b"")
        .file("w/new", b"");
    mounted(&[base.clone(), above], |root| {
        let has = ["d/old", "d/new", "top", "w/old", "w/new"].map(|path| root.join(path).exists());
        assert_eq!(has, [false, true, true, false, true]);
        assert_eq!(
            (mode(&root.join("d")), mode(&root.join("w"))),
            (0o755, 0o755)
        );
    })
    .await;
    mounted(
        &[base, Tar::new().file(".wh..wh..opq", b"").file("new", b"")],
        |root| {
            let names: Vec<_> = std::fs::read_dir(root)
                .unwrap()
                .map(|e| e.unwrap().file_name())
                .collect();
            assert_eq!(names, ["new"]);
        },
    )
    .await;
}

#[tokio::test]
async fn a_hundred_layers_are_mounted() {
    let layers: Vec<_> = (0..100)
        .map(|n| Tar::new().file(&format!("f{n}"), b""))
        .collect();
    mounted(&layers, |root| {
        assert_eq!(std::fs::read_dir(root).unwrap().count(), 100)
    })
    .await;
}

#[tokio::test]
async fn a_restart_keeps_what_lives_and_drops_the_rest() {
    let image = TestImage::new(&[(Tar::new().file("a", b"1").end(), Pack::Gzip)]);
    let (temp, shelf) = (temp(), Shelf::default().image("a", "1", &image));
    let server = Server::start(move |request| shelf.serve(request));
    let store = store_at(temp.path());
    let id = store
        .pull(&format!("{}/a:1", server.name()), None)
        .await
        .unwrap();
    let mounted = ["lives", "gone"].map(|name| Target::new(temp.path().join(name)));
    let targets = [&mounted[0].0, &mounted[1].0];
    for target in targets {
        let container = target.file_name().unwrap().to_str().unwrap();
        store
            .mount_rootfs(&id, container, target, None)
            .await
            .unwrap();
        assert!(
            store
                .mount_rootfs(&id, container, target, None)
                .await
                .is_err()
        );
    }
    store.remove(&id).await.unwrap();
    drop(store);
    std::fs::create_dir_all(temp.path().join("store/staging/7/fs")).unwrap();
    let store = store_at(temp.path());
    store
        .retain(&std::collections::HashSet::from(["lives".to_owned()]))
        .await;
    assert_eq!(std::fs::read(targets[0].join("a")).unwrap(), b"1");
    assert!(!targets[1].join("a").exists());
    assert!(!temp.path().join("store/staging/7").exists());
    store.unmount_rootfs("lives", targets[0]).await.unwrap();
    nothing_left(temp.path()).await;
    for bad in ["", "../x", ".", "a/b"] {
        assert!(
            store
                .mount_rootfs(&id, bad, targets[0], None)
                .await
                .is_err(),
            "{bad}"
        );
        assert!(
            store.unmount_rootfs(bad, targets[0]).await.is_err(),
            "{bad}"
        );
    }
}

#[tokio::test]
async fn an_image_whose_layer_is_gone_counts_as_absent() {
    let image = TestImage::new(&[(Tar::new().file("a", b"1").end(), Pack::Gzip)]);
    let (temp, shelf) = (temp(), Shelf::default().image("a", "1", &image));
    let server = Server::start(move |request| shelf.serve(request));
    let name = format!("{}/a:1", server.name());
    let store = store_at(temp.path());
    let id = store.pull(&name, None).await.unwrap();
    drop(store);
    let layers = temp.path().join("store/layers/sha256");
    let layer = std::fs::read_dir(&layers)
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    std::fs::remove_file(layer.join("layer.json")).unwrap();
    let store = store_at(temp.path());
    assert!(store.list().is_empty());
    assert_eq!(store.pull(&name, None).await.unwrap(), id);
    let record = temp.path().join(format!("store/images/{}.json", &id[7..]));
    drop(store);
    std::fs::write(&record, "{}").unwrap();
    let store = store_at(temp.path());
    assert!(store.list().is_empty());
    nothing_left(temp.path()).await;
    unused(&store).await;
}
