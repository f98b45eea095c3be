//! The disk is full, at whatever write: the reason is said, nothing half-made is seen or left.

use std::fs::File;
use std::path::{Path, PathBuf};

use registry_double::{Pack, Server, Shelf, Tar, TestImage};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use super::{nothing_left, store_at, temp, unused};
use crate::{Error, Store};

/// Size of the file system, and its inodes.
const SIZE: u64 = 8 << 20;
const INODES: u64 = 1000;
/// What a page of the file system is, in bytes.
const PAGE: u64 = 4096;

/// A small file system; gone when dropped.
struct Small(PathBuf);

impl Small {
    /// `None`, said so, if none can be mounted.
    fn new(place: &Path) -> Option<Self> {
        let place = place.join("disk");
        std::fs::create_dir(&place).unwrap();
        let options = std::ffi::CString::new(format!("size={SIZE},nr_inodes={INODES}")).unwrap();
        let mounted = mount("tmpfs", &place, "tmpfs", MountFlags::empty(), &*options);
        if mounted.is_err() {
            println!("skipped: needs the right to mount a tmpfs");
            return None;
        }
        Some(Self(place))
    }

    /// Fills it up, but for so many bytes.
    fn leave_bytes(&self, bytes: u64) {
        let ballast = File::create(self.0.join("ballast")).unwrap();
        let free = rustix::fs::statvfs(&self.0).unwrap();
        let most = (free.f_bavail * free.f_frsize - bytes) / PAGE;
        let fits = |pages: &u64| {
            let flags = rustix::fs::FallocateFlags::empty();
            rustix::fs::fallocate(&ballast, flags, 0, pages * PAGE).is_ok()
        };
        // What it counts as free it does not always give.
        assert!((1..=most).rev().take(100).any(|pages| fits(&pages)));
    }

    /// Uses up inodes, but for so many.
    fn leave_inodes(&self, inodes: u64) {
        let folder = self.0.join("ballast");
        drop(std::fs::remove_dir_all(&folder));
        std::fs::create_dir(&folder).unwrap();
        let free = rustix::fs::statvfs(&self.0).unwrap().f_ffree;
        for number in inodes..free {
            File::create(folder.join(number.to_string())).unwrap();
        }
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = unmount(&self.0, UnmountFlags::DETACH);
    }
}

/// Little is sent of it, so that the disk fills up after the pull has begun.
fn image() -> TestImage {
    let one = Tar::new().dir("etc/", 0o755).file("etc/one", &[1; 60_000]);
    let one = (0..10).fold(one, |tar, n| tar.file(&format!("many/{n}"), &[2; 5000]));
    let two = Tar::new().file("two", &[3; 40_000]).symlink("link", "two");
    TestImage::new(&[(one.end(), Pack::Gzip), (two.end(), Pack::Zstd)])
}

/// Pulls with ever more room, until it fits; answers with how often it did not.
async fn fill(leave: impl Fn(&Small, u64), named: &str) -> Option<u64> {
    let temp = temp();
    let small = Small::new(temp.path())?;
    let other = TestImage::new(&[(Tar::new().file("a", b"1").end(), Pack::Plain)]);
    let image = image();
    let shelf = Shelf::default()
        .image("a", "1", &image)
        .image("b", "1", &other);
    let server = Server::start(move |request| shelf.serve(request));
    let [wanted, there] = ["a", "b"].map(|name| format!("{}/{name}:1", server.name()));
    let store = store_at(&small.0);
    let id = store.pull(&there, None).await.unwrap();
    let before = store.usage();
    let mut failed = 0;
    loop {
        leave(&small, failed);
        match store.pull(&wanted, None).await {
            Ok(pulled) => {
                assert_eq!(pulled, image.id());
                break;
            }
            Err(error) => {
                assert!(matches!(error, Error::NoSpace(_)), "{failed}: {error:?}");
                assert!(error.to_string().contains(named), "{failed}: {error}");
            }
        }
        failed += 1;
        assert_eq!(store.list().len(), 1, "{failed}");
        assert!(store.resolve(&wanted).is_none() && store.resolve(&there).is_some());
        settled(&store, &small.0, before).await;
    }
    let found = store.check(false).await.unwrap();
    assert_eq!((found.whole, found.findings), (3, vec![]));
    // On a disk without room, what is there can be removed.
    leave(&small, 0);
    for id in [&id, &image.id()] {
        store.remove(id).await.unwrap();
    }
    nothing_left(&small.0).await;
    unused(&store).await;
    drop(store);
    Some(failed)
}

/// Waits until the store uses what it did before: what was half-made goes in the background.
async fn settled(store: &Store, disk: &Path, before: crate::Usage) {
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(10);
    let is_empty = |folder| {
        let mut entries = std::fs::read_dir(disk.join("store").join(folder)).unwrap();
        entries.next().is_none()
    };
    while store.usage() != before || !is_empty("staging") || !is_empty("trash") {
        let usage = store.usage();
        assert!(
            tokio::time::Instant::now() < deadline,
            "{usage:?}, not {before:?}"
        );
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_disk_without_bytes_is_told_at_every_write() {
    let failed = fill(|small, n| small.leave_bytes(n * PAGE), "bytes are free");
    let failed = failed.await;
    assert!(failed.is_none_or(|failed| failed > 30), "{failed:?}");
}

#[tokio::test]
async fn a_disk_without_inodes_is_told_at_every_write() {
    let failed = fill(|small, n| small.leave_inodes(n), "No space left on device");
    let failed = failed.await;
    assert!(failed.is_none_or(|failed| failed > 15), "{failed:?}");
}

#[tokio::test]
async fn what_cannot_fit_is_refused_before_it_begins() {
    let temp = temp();
    let Some(small) = Small::new(temp.path()) else {
        return;
    };
    // It is said to be larger than the disk; nothing of it gets asked for.
    let mut image = image();
    image.manifest["layers"][0]["size"] = (2 * SIZE).into();
    let shelf = Shelf::default().image("a", "1", &image);
    let server = Server::start(move |request| shelf.serve(request));
    let store = store_at(&small.0);
    let error = store.pull(&format!("{}/a:1", server.name()), None).await;
    let error = error.unwrap_err();
    assert!(matches!(error, Error::NoSpace(_)), "{error:?}");
    let text = error.to_string();
    assert!(
        text.contains("bytes are needed") && text.contains("bytes are free"),
        "{text}"
    );
    let layers: Vec<_> = server
        .asked()
        .into_iter()
        .filter(|asked| asked.contains("/blobs/"))
        .collect();
    assert_eq!(layers.len(), 1, "only the configuration: {layers:?}");
}
