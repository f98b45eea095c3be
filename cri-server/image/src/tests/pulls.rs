//! Pulling: names, forms, mirrors, authorization, sharing, cancelling.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::debian::Registry;
use super::images::{Pack, Shelf, TestImage, index_of};
use super::server::{Reply, Request, Server};
use super::tars::Tar;
use super::{nothing_left, store_at, temp};
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
    let folder = temp.path().join("certs.d/docker.io");
    std::fs::create_dir_all(&folder).unwrap();
    let hosts = format!(
        "server = \"http://127.0.0.1:1\"\n[host.\"http://{}\"]\n[host.\"http://{}\"]\nheader = {{ x-h = \"v\" }}\n",
        empty.name(),
        mirror.name()
    );
    std::fs::write(folder.join("hosts.toml"), hosts).unwrap();
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

/// Runs a pull against a registry whose answers `guard` may replace.
async fn guarded(
    credentials: Option<Credentials>,
    guard: impl Fn(&Request) -> Option<Reply> + Send + Sync + 'static,
) -> (Result<String, Error>, Vec<Request>) {
    let (temp, image) = (temp(), simple("a"));
    let shelf = Shelf::default().image("a", "1", &image);
    let server =
        Server::start(move |request| guard(request).unwrap_or_else(|| shelf.serve(request)));
    let store = store_at(temp.path());
    let result = store
        .pull(&format!("{}/a:1", server.name()), credentials.as_ref())
        .await;
    if result.is_err() {
        nothing_left(temp.path()).await;
    }
    (result, server.requests())
}

fn user() -> Credentials {
    Credentials {
        username: "u".into(),
        password: "p".into(),
        ..Credentials::default()
    }
}

#[tokio::test]
async fn basic_authentication_is_answered_once_and_remembered() {
    let expect = format!("Basic {}", STANDARD.encode("u:p"));
    let guard = move |request: &Request| {
        (request.header("authorization") != expect)
            .then(|| Reply::new(401, "").with("www-authenticate", "Basic realm=\"r\""))
    };
    let (result, requests) = guarded(Some(user()), guard.clone()).await;
    result.unwrap();
    assert_eq!(
        requests
            .iter()
            .filter(|r| r.header("authorization").is_empty())
            .count(),
        1
    );
    let wrong = Credentials {
        password: "x".into(),
        ..user()
    };
    for credentials in [None, Some(wrong)] {
        let (result, _) = guarded(credentials, guard.clone()).await;
        assert!(matches!(result, Err(Error::Denied(text)) if text.contains("denied")));
    }
}

#[tokio::test]
async fn tokens_are_fetched_in_all_forms() {
    let guard = |request: &Request| {
        let host = request.header("host").to_owned();
        if request.path() == "/token" {
            assert!(
                request.target.contains("scope=repository%3Aa%3Apull") || request.method == "POST"
            );
            let body = String::from_utf8_lossy(&request.body).into_owned();
            let token = match request.header("authorization") {
                "" if body.contains("refresh_token=idt") => "refreshed",
                "" if body.contains("username=u&password=p") => "basic",
                "" => "anonymous",
                _ => "basic",
            };
            return Some(Reply::new(
                200,
                format!("{{\"token\":\"{token}\",\"expires_in\":300}}"),
            ));
        }
        let demand = format!("Bearer realm=\"http://{host}/token\",service=\"s\"");
        (!request.header("authorization").starts_with("Bearer "))
            .then(|| Reply::new(401, "").with("www-authenticate", demand))
    };
    let token = |set: fn(&mut Credentials)| {
        let mut credentials = Credentials::default();
        set(&mut credentials);
        Some(credentials)
    };
    for (credentials, expect) in [
        (None, "Bearer anonymous"),
        (Some(user()), "Bearer basic"),
        (token(|c| c.auth = STANDARD.encode("u:p")), "Bearer basic"),
        (
            token(|c| c.identity_token = "idt".into()),
            "Bearer refreshed",
        ),
        (token(|c| c.registry_token = "raw".into()), "Bearer raw"),
        (
            token(|c| (c.registry_token, c.server_address) = ("raw".into(), "other.io".into())),
            "Bearer anonymous",
        ),
    ] {
        let (result, requests) = guarded(credentials, guard).await;
        result.unwrap();
        assert_eq!(requests.last().unwrap().header("authorization"), expect);
        assert!(requests.iter().filter(|r| r.path() == "/token").count() <= 1);
    }
}

#[tokio::test]
async fn a_redirect_to_another_place_takes_no_authorization_along() {
    let image = simple("a");
    let shelf = Shelf::default().image("a", "1", &image);
    let storage_shelf = shelf.clone();
    let storage = Server::start(move |request| storage_shelf.serve(request));
    let place = storage.name();
    let guard = move |request: &Request| {
        if request.header("authorization").is_empty() {
            return Some(Reply::new(401, "").with("www-authenticate", "Basic realm=\"r\""));
        }
        let to = format!("http://{place}{}", request.target);
        request
            .path()
            .contains("/blobs/")
            .then(|| Reply::new(307, "").with("location", to))
    };
    let (result, _) = guarded(Some(user()), guard).await;
    assert_eq!(result.unwrap(), image.id());
    let asked = storage.requests();
    assert!(
        asked.len() >= 4 && asked.iter().all(|r| r.header("authorization").is_empty()),
        "{asked:?}"
    );
    let (result, _) = guarded(None, |request| {
        Some(Reply::new(302, "").with("location", request.target.clone()))
    })
    .await;
    assert!(
        result
            .unwrap_err()
            .to_string()
            .contains("more than 10 redirects")
    );
}

#[tokio::test]
async fn a_registry_without_head_or_digests_is_understood() {
    for status in [405, 404, 400, 403] {
        let (result, _) = guarded(None, move |r| {
            (r.method == "HEAD").then(|| Reply::new(status, ""))
        })
        .await;
        result.unwrap();
    }
    let image = simple("a");
    let shelf = Shelf::default().image("a", "1", &image);
    let (result, _) = guarded(None, move |request| {
        let mut reply = shelf.serve(request);
        reply.headers.clear();
        Some(reply)
    })
    .await;
    assert_eq!(result.unwrap(), image.id());
}

#[tokio::test]
async fn a_registry_that_asks_for_patience_gets_it_within_bounds() {
    let throttled = |times: usize, after: &'static str| {
        let count = AtomicUsize::new(0);
        move |_: &Request| {
            let early = count.fetch_add(1, Ordering::SeqCst) < times;
            let body = r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"slow down"}]}"#;
            early.then(|| Reply::new(429, body).with("retry-after", after))
        }
    };
    guarded(None, throttled(2, "0")).await.0.unwrap();
    let (result, requests) = guarded(None, throttled(1000, "0")).await;
    assert!(result.unwrap_err().to_string().contains("slow down"));
    assert_eq!(requests.len(), 6);
    let (result, requests) = guarded(None, throttled(1000, "86400")).await;
    assert!(result.unwrap_err().to_string().contains("slow down"));
    assert_eq!(requests.len(), 2);
}

#[tokio::test]
async fn a_connection_that_breaks_is_taken_up_where_it_broke() {
    let image = simple("a");
    let layer = Digest::of(&image.layers[0]).to_string();
    for ranges in [true, false] {
        let (count, shelf, layer) = (
            AtomicUsize::new(0),
            Shelf::default().image("a", "1", &image),
            layer.clone(),
        );
        let (result, requests) = guarded(None, move |request| {
            if !request.path().ends_with(&layer) {
                return None;
            }
            let mut request = request.clone();
            if !ranges {
                request.headers.remove("range");
            }
            let reply = shelf.serve(&request);
            (count.fetch_add(1, Ordering::SeqCst) == 0)
                .then(|| Reply {
                    cut: Some(50),
                    ..reply.clone()
                })
                .or(Some(reply))
        })
        .await;
        assert_eq!(result.unwrap(), image.id());
        assert!(requests.iter().any(|r| r.header("range") == "bytes=50-"));
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
async fn debians_registry_is_understood() {
    let Some(binary) = Registry::program() else {
        println!("skipped: needs docker-registry");
        return;
    };
    let temp = temp();
    let registry = Registry::start(&binary, temp.path(), "").await;
    let image = simple("a");
    registry.push("http", "sub/a", "1", &image).await;
    let store = store_at(temp.path());
    let id = store
        .pull(&format!("{}/sub/a:1", registry.name()), None)
        .await
        .unwrap();
    assert_eq!(id, image.id());
    let missing = store
        .pull(&format!("{}/sub/none:1", registry.name()), None)
        .await;
    assert!(matches!(missing, Err(Error::NotFound(_))), "{missing:?}");
}

#[tokio::test]
async fn a_registry_with_a_private_authority_is_trusted_when_configured() {
    let Some(binary) = Registry::program() else {
        println!("skipped: needs docker-registry");
        return;
    };
    let (temp, image) = (temp(), simple("a"));
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let (certificate, key) = (temp.path().join("crt.pem"), temp.path().join("key.pem"));
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let tls = format!(
        "  tls:\n    certificate: {}\n    key: {}\n",
        certificate.display(),
        key.display()
    );
    let registry = Registry::start(&binary, temp.path(), &tls).await;
    registry.push("https", "a", "1", &image).await;
    let store = store_at(temp.path());
    let name = format!("{}/a:1", registry.name());
    let folder = temp.path().join("certs.d").join(registry.name());
    std::fs::create_dir_all(&folder).unwrap();
    let configure = |more: &str| {
        let text = format!("server = \"https://{}\"\n{more}", registry.name());
        std::fs::write(folder.join("hosts.toml"), text).unwrap();
    };
    configure("");
    let error = store.pull(&name, None).await.unwrap_err();
    assert!(
        matches!(&error, Error::Unavailable(text) if text.contains("certificate")),
        "{error}"
    );
    configure("ca = \"missing.pem\"");
    assert!(
        store
            .pull(&name, None)
            .await
            .unwrap_err()
            .to_string()
            .contains("missing.pem")
    );
    for trust in [
        format!("ca = \"{}\"", certificate.display()),
        "skip_verify = true".into(),
    ] {
        configure(&trust);
        assert_eq!(
            store.pull(&name, None).await.unwrap(),
            image.id(),
            "{trust}"
        );
        store.remove(&name).await.unwrap();
    }
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
