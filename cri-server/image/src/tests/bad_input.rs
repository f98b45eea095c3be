//! What must be refused, with an error that names it, and leave nothing.

use std::path::{Path, PathBuf};

use registry::Digest;
use registry::manifest::MAX_DOCUMENT;
use registry_double::{OCI_INDEX, Pack, Reply, Request, Server, Shelf, Tar, TestImage, descriptor};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use super::{nothing_left, store_at, temp, unused};
use crate::Error;

fn two_layers(second: Tar) -> TestImage {
    let first = Tar::new().dir("etc/", 0o755).file("etc/name", b"a").end();
    TestImage::new(&[(first, Pack::Gzip), (second.end(), Pack::Gzip)])
}

/// Pulls `a:1` from a registry; must fail with a text that holds `named`, and leave nothing.
async fn check(serve: impl Fn(&Request) -> Reply + Send + Sync + 'static, named: &str) -> Error {
    let temp = temp();
    let server = Server::start(serve);
    let store = store_at(temp.path());
    let reference = format!("{}/a:1", server.name());
    let error = store.pull(&reference, None).await.unwrap_err();
    assert!(
        error.to_string().contains(named),
        "expected {named:?}: {error}"
    );
    assert!(store.list().is_empty());
    nothing_left(temp.path()).await;
    unused(&store).await;
    error
}

async fn check_image(image: &TestImage, named: &str) {
    let shelf = Shelf::default().image("a", "1", image);
    let error = check(move |request| shelf.serve(request), named).await;
    assert!(matches!(error, Error::Corrupt(_)), "{error:?}");
}

#[tokio::test]
async fn names_that_are_none() {
    let temp = temp();
    let store = store_at(temp.path());
    for bad in [
        "",
        "a/UPPER",
        "a b",
        "a:b:c",
        "a@sha256:12",
        "http://a.b/c",
        &"0".repeat(64),
    ] {
        let error = store.pull(bad, None).await.unwrap_err();
        assert!(
            matches!(&error, Error::Reference { reference, .. } if reference == bad),
            "{error:?}"
        );
        assert!(store.resolve(bad).is_none());
        store.remove(bad).await.unwrap();
    }
}

#[tokio::test]
async fn layers_with_entries_that_lead_out() {
    check_image(&two_layers(Tar::new().file("../evil", b"")), "\"../evil\"").await;
    check_image(
        &two_layers(Tar::new().file("/etc/evil", b"")),
        "\"/etc/evil\"",
    )
    .await;
    check_image(
        &two_layers(Tar::new().symlink("e", "/etc").file("e/evil", b"")),
        "\"e/evil\"",
    )
    .await;
    check_image(
        &two_layers(Tar::new().hard_link("h", "../../etc/passwd")),
        "\"h\"",
    )
    .await;
}

#[tokio::test]
async fn layers_that_are_no_layers() {
    check_image(&two_layers(Tar::new().raw(&[1; 512])), "not octal").await;
    check_image(
        &two_layers(Tar::new().head(&registry_double::Head {
            flag: b'S',
            ..Default::default()
        })),
        "sparse",
    )
    .await;
}

/// An image whose manifest was changed to lie.
fn lying(lie: impl FnOnce(&mut serde_json::Value)) -> TestImage {
    let mut image = two_layers(Tar::new().file("b", b"b"));
    lie(&mut image.manifest);
    image
}

#[tokio::test]
async fn a_manifest_that_lies_about_sizes() {
    for (by, named) in [
        (1, "instead of the promised"),
        (-1, "more than the promised"),
    ] {
        let image = lying(|m| {
            let size = m["layers"][1]["size"].as_i64().unwrap();
            m["layers"][1]["size"] = (size + by).into();
        });
        check_image(&image, named).await;
    }
    check_image(
        &lying(|m| m["config"]["size"] = 3.into()),
        "more than 3 bytes",
    )
    .await;
    check_image(
        &lying(|m| m["config"]["size"] = (MAX_DOCUMENT + 1).into()),
        "at most",
    )
    .await;
    check_image(
        &lying(|m| m["layers"].as_array_mut().unwrap().truncate(1)),
        "1 layers but the configuration 2",
    )
    .await;
}

#[tokio::test]
async fn a_manifest_that_lies_about_digests() {
    // The layers stand in the wrong order, so each is not what the configuration says.
    let image = lying(|m| m["layers"].as_array_mut().unwrap().reverse());
    check_image(&image, "its content has the digest").await;
    let image = two_layers(Tar::new().file("b", b"b"));
    let (shelf, layer) = (
        Shelf::default().image("a", "1", &image),
        Digest::of(&image.layers[1]),
    );
    let named = layer.hex().to_owned();
    let serve = move |request: &Request| {
        let mut reply = shelf.serve(request);
        if request.path().ends_with(layer.hex()) {
            reply.body[20] ^= 1;
        }
        reply
    };
    check(serve, &named).await;
}

#[tokio::test]
async fn a_registry_that_sends_another_manifest() {
    let (asked, other) = (
        two_layers(Tar::new().file("b", b"b")),
        two_layers(Tar::new().file("c", b"c")),
    );
    let (digest, bytes) = (asked.manifest_digest(), other.manifest_bytes());
    let serve = move |request: &Request| {
        Reply::new(
            200,
            if request.path().contains("manifests") {
                bytes.clone()
            } else {
                vec![]
            },
        )
        .with("docker-content-digest", digest.clone())
    };
    check(serve, &asked.manifest_digest()).await;
}

#[tokio::test]
async fn documents_that_cannot_be_used() {
    for (bytes, named) in [
        (b"<html>".to_vec(), "cannot be read"),
        (br#"{"schemaVersion":1,"fsLayers":[]}"#.to_vec(), "schema 1"),
        (
            vec![b' '; usize::try_from(MAX_DOCUMENT).unwrap() + 1],
            "more than",
        ),
        (br#"{"manifests":[]}"#.to_vec(), "not for this machine"),
    ] {
        let shelf = Shelf::default().document("a", "1", "application/json", &bytes);
        check(move |request| shelf.serve(request), named).await;
    }
    let inner = b"{\"manifests\":[]}".to_vec();
    let mut shelf = Shelf::default();
    let mut last = inner;
    for _ in 0..6 {
        shelf = shelf.document("a", "1", OCI_INDEX, &last);
        last =
            serde_json::to_vec(&serde_json::json!({"manifests": [descriptor(OCI_INDEX, &last)]}))
                .unwrap();
    }
    let shelf = shelf.document("a", "1", OCI_INDEX, &last);
    check(move |request| shelf.serve(request), "nested deeper").await;
}

#[tokio::test]
async fn a_registry_that_lacks_a_part() {
    let image = two_layers(Tar::new().file("b", b"b"));
    for part in [&image.config, &image.layers[1]] {
        let (mut shelf, part) = (Shelf::default().image("a", "1", &image), Digest::of(part));
        shelf.0.retain(|path, _| !path.ends_with(part.hex()));
        let error = check(move |request| shelf.serve(request), part.hex()).await;
        assert!(matches!(error, Error::Corrupt(_)), "{error:?}");
    }
}

#[tokio::test]
async fn a_registry_that_stops_half_way() {
    let image = two_layers(Tar::new().file("b", &[7; 5000]));
    let layer = Digest::of(&image.layers[1]);
    for stall in [false, true] {
        let (shelf, layer) = (Shelf::default().image("a", "1", &image), layer.clone());
        let serve = move |request: &Request| {
            let reply = shelf.serve(request);
            if !request.path().ends_with(layer.hex()) || !request.header("range").is_empty() {
                return if request.header("range").is_empty() {
                    reply
                } else {
                    Reply {
                        cut: Some(0),
                        ..reply
                    }
                };
            }
            let half = Some(reply.body.len() / 2);
            if stall {
                Reply {
                    stall: half,
                    ..reply
                }
            } else {
                Reply { cut: half, ..reply }
            }
        };
        let error = check(serve, "bytes received").await;
        assert!(matches!(error, Error::Unavailable(_)), "{error:?}");
    }
}

#[tokio::test]
async fn a_registry_that_is_not_there() {
    let temp = temp();
    let store = store_at(temp.path());
    let nobody = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let error = store
        .pull(&format!("{nobody}/a:1"), None)
        .await
        .unwrap_err();
    assert!(
        error.to_string().starts_with("RegistryUnavailable: "),
        "{error}"
    );
    assert!(error.to_string().contains(&nobody.to_string()), "{error}");
    let error = check(|_| Reply::new(404, ""), "not found").await;
    assert!(matches!(error, Error::NotFound(_)));
    check(|_| Reply::new(500, ""), "500").await;
}

/// A small file system of its own, unmounted when dropped.
struct Small(PathBuf);

impl Small {
    fn mount(path: &Path, size: &str) -> Option<Self> {
        std::fs::create_dir_all(path).unwrap();
        let option = std::ffi::CString::new(format!("size={size}")).unwrap();
        mount(
            "tmpfs",
            path,
            "tmpfs",
            MountFlags::empty(),
            option.as_c_str(),
        )
        .ok()?;
        Some(Self(path.to_path_buf()))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = unmount(&self.0, UnmountFlags::DETACH);
    }
}

#[tokio::test]
async fn a_full_disk_is_told_and_service_goes_on() {
    let temp = temp();
    let Some(_small) = Small::mount(&temp.path().join("store"), "1m") else {
        println!("skipped: needs the right to mount");
        return;
    };
    let big = two_layers(Tar::new().file("big", &vec![1; 3 << 20]));
    let fits = two_layers(Tar::new().file("small", b"1"));
    let shelf = Shelf::default()
        .image("big", "1", &big)
        .image("fits", "1", &fits);
    let server = Server::start(move |request| shelf.serve(request));
    let store = store_at(temp.path());
    let error = store
        .pull(&format!("{}/big:1", server.name()), None)
        .await
        .unwrap_err();
    assert!(
        matches!(&error, Error::NoSpace(text) if text.contains("big")),
        "{error:?}"
    );
    nothing_left(temp.path()).await;
    let id = store
        .pull(&format!("{}/fits:1", server.name()), None)
        .await
        .unwrap();
    assert_eq!(id, fits.id());
    drop(store);
}

#[test]
fn a_wrong_hosts_file_and_a_store_in_use_are_refused() {
    let temp = temp();
    let _store = store_at(temp.path());
    let config = crate::Config::new(
        temp.path().join("store"),
        temp.path().join("certs.d"),
        "this".into(),
    );
    let error = crate::Store::open(&config).unwrap_err().to_string();
    assert!(error.contains("another daemon"), "{error}");
    std::fs::create_dir_all(config.registry_config.join("a.io")).unwrap();
    std::fs::write(
        config.registry_config.join("a.io/hosts.toml"),
        "sever = \"x\"",
    )
    .unwrap();
    let error = crate::Store::open(&config).unwrap_err().to_string();
    assert!(
        error.contains("a.io/hosts.toml") && error.contains("sever"),
        "{error}"
    );
}
