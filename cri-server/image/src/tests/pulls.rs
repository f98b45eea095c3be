//! Pulling: names, forms, mirrors, authorization, sharing, cancelling.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::images::{Pack, Shelf, TestImage, index_of};
use super::server::{Reply, Server};
use super::tars::Tar;
use super::{left_overs, nothing_left, store_at, temp};
use crate::digest::Digest;
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
    assert_eq!(found.tags, [name.clone()]);
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
    assert_eq!(again.usage().inodes, 9);
    again.remove(&id).await.unwrap();
    assert!(again.list().is_empty());
    nothing_left(temp.path()).await;
}
