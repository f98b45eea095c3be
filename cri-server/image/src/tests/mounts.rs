//! Root file systems of containers, with the real overlayfs.

use std::os::unix::fs::MetadataExt;

use super::images::{Pack, Shelf, TestImage};
use super::server::Server;
use super::tars::Tar;
use super::{nothing_left, store_at, temp};

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
    let target = temp.path().join("rootfs");
    std::fs::create_dir(&target).unwrap();
    store.mount_rootfs(&id, "c1", &target).await.unwrap();
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
