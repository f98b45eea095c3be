//! Registries and mirrors that are slow, gone, throttled, or not what they say; layers that lie
//! elsewhere.

use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use registry_double::{Pack, Reply, Request, Server, Shelf, Tar, TestImage};

use super::{Client, hosts_toml, limits, temp, user};
use crate::{Digest, Error, Limits, Reference};

fn image(name: &str) -> TestImage {
    let one = Tar::new()
        .file("one", &[7; 3000])
        .file("name", name.as_bytes());
    let two = Tar::new()
        .file("two", &[8; 3000])
        .file("also", name.as_bytes());
    TestImage::new(&[(one.end(), Pack::Plain), (two.end(), Pack::Plain)])
}

/// A truthful registry with `a:1`, whose answers may be replaced.
fn registry(guard: impl Fn(&Request, &Reply) -> Option<Reply> + Send + Sync + 'static) -> Server {
    let shelf = Shelf::default().image("a", "1", &image("a"));
    Server::start(move |request| {
        let reply = shelf.serve(request);
        guard(request, &reply).unwrap_or(reply)
    })
}

/// Makes `mirrored.test` be served by a mirror first, then by a registry.
fn behind(root: &Path, mirror: &str, registry: &Server, more: &str) {
    let registry = registry.name();
    let text = format!("server = \"http://{registry}\"\n[host.\"http://{mirror}\"]\n{more}");
    hosts_toml(root, "mirrored.test", &text);
}

const MIRRORED: &str = "mirrored.test/a:1";

fn blobs(server: &Server) -> usize {
    let asked = server.asked();
    asked
        .iter()
        .filter(|asked| asked.contains("/blobs/"))
        .count()
}

#[tokio::test]
async fn a_mirror_that_sends_something_else_is_not_asked_again() {
    let temp = temp();
    let mirror = registry(|request, reply| {
        let is_layer = request.path().contains("/blobs/") && reply.body.len() > 2000;
        let mut wrong = reply.clone();
        is_layer.then(|| {
            wrong.body[600] ^= 1;
            wrong
        })
    });
    let registry = registry(|_, _| None);
    behind(temp.path(), &mirror.name(), &registry, "");
    let client = Client::at(temp.path());
    assert_eq!(client.pull(MIRRORED, None).await.unwrap(), image("a").id());
    // Its manifest was right, and so was the configuration; both layers came from the registry.
    assert_eq!(blobs(&registry), 2);
}

#[tokio::test]
async fn a_mirror_that_breaks_off_is_taken_over_from_where_it_was() {
    let temp = temp();
    let mirror = registry(|request, reply| {
        let is_layer = request.path().contains("/blobs/") && reply.body.len() > 2000;
        is_layer.then(|| Reply {
            cut: Some(1000),
            ..reply.clone()
        })
    });
    let registry = registry(|_, _| None);
    behind(temp.path(), &mirror.name(), &registry, "");
    let client = Client::at(temp.path());
    assert_eq!(client.pull(MIRRORED, None).await.unwrap(), image("a").id());
    let requests = registry.requests();
    assert!(requests.iter().any(|r| r.header("range") == "bytes=1000-"));
}

#[tokio::test]
async fn a_mirror_that_is_gone_is_left_alone_for_a_while() {
    let (temp, registry) = (temp(), registry(|_, _| None));
    let gone = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    behind(temp.path(), &gone.to_string(), &registry, "");
    let client = Client::at(temp.path());
    assert_eq!(client.pull(MIRRORED, None).await.unwrap(), image("a").id());
    let back = Server::start_at(gone, |_| Reply::new(404, ""));
    client.pull(MIRRORED, None).await.unwrap();
    assert!(back.asked().is_empty());
    // Another daemon does not know that.
    drop(client);
    let client = Client::at(temp.path());
    client.pull(MIRRORED, None).await.unwrap();
    assert!(!back.asked().is_empty());
}

#[tokio::test]
async fn without_fallback_the_registry_is_not_asked() {
    let (temp, registry) = (temp(), registry(|_, _| None));
    let mirror = Server::start(|_| Reply::new(404, ""));
    let text = format!(
        "server = \"http://{}\"\nfallback = false\n[host.\"http://{}\"]\n",
        registry.name(),
        mirror.name()
    );
    hosts_toml(temp.path(), "mirrored.test", &text);
    let client = Client::at(temp.path());
    let error = client.pull(MIRRORED, None).await.unwrap_err();
    assert!(matches!(error, Error::NotFound(_)), "{error:?}");
    assert!(registry.asked().is_empty() && !mirror.asked().is_empty());
}

#[tokio::test]
async fn a_mirror_gets_its_own_credentials_or_those_that_it_may_see() {
    let guarded = |expect: &'static str| {
        let expect = format!("Basic {}", STANDARD.encode(expect));
        registry(move |request, _| {
            (request.header("authorization") != expect)
                .then(|| Reply::new(401, "").with("www-authenticate", "Basic realm=\"r\""))
        })
    };
    let nobody = Server::start(|_| Reply::new(404, ""));
    // What the node has for the mirror.
    let (temp_own, mirror) = (temp(), guarded("own:x"));
    behind(temp_own.path(), &mirror.name(), &nobody, "");
    let auth = STANDARD.encode("own:x");
    let json = format!(
        r#"{{"auths": {{"{}": {{"auth": "{auth}"}}}}}}"#,
        mirror.name()
    );
    std::fs::write(temp_own.path().join("credentials.json"), json).unwrap();
    let client = Client::at(temp_own.path());
    client.pull(MIRRORED, Some(&user())).await.unwrap();
    // What was given for the registry, if the operator says so.
    let mirror = guarded("u:p");
    for (more, allowed) in [("", false), ("share_credentials = true", true)] {
        let temp = temp();
        behind(temp.path(), &mirror.name(), &nobody, more);
        let pulled = Client::at(temp.path()).pull(MIRRORED, Some(&user())).await;
        assert_eq!(pulled.is_ok(), allowed, "{pulled:?}");
    }
}

#[tokio::test]
async fn a_host_may_have_a_proxy_of_its_own() {
    let temp = temp();
    let shelf = Shelf::default().image("a", "1", &image("a"));
    let proxy = Server::start(move |request| {
        let Some(target) = request.target.strip_prefix("http://registry.invalid:81") else {
            return Reply::new(400, "");
        };
        shelf.serve(&Request {
            target: target.to_owned(),
            ..request.clone()
        })
    });
    let name = "registry.invalid/a:1";
    let text = |proxy: &str| format!("server = \"http://registry.invalid:81\"\nproxy = {proxy:?}");
    let credentials = "user:word";
    let address = format!("http://{credentials}@{}", proxy.name());
    hosts_toml(temp.path(), "registry.invalid", &text(&address));
    let client = Client::at(temp.path());
    assert_eq!(client.pull(name, None).await.unwrap(), image("a").id());
    let expect = format!("Basic {}", STANDARD.encode(credentials));
    let requests = proxy.requests();
    assert!(
        requests
            .iter()
            .all(|r| r.header("proxy-authorization") == expect)
    );
    hosts_toml(temp.path(), "registry.invalid", &text("none"));
    proxy.forget();
    let error = client.pull(name, None).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable(_)), "{error:?}");
    assert!(proxy.asked().is_empty());
}

#[tokio::test]
async fn tokens_that_end_in_the_middle_are_renewed_once_for_all() {
    let temp = temp();
    let layers: Vec<_> = (0..6)
        .map(|n| {
            (
                Tar::new().file(&n.to_string(), &[n; 2000]).end(),
                Pack::Gzip,
            )
        })
        .collect();
    let image = TestImage::new(&layers);
    let shelf = Shelf::default().image("a", "1", &image);
    let issued = AtomicUsize::new(0);
    let server = Server::start(move |request| {
        if request.path() == "/token" {
            let number = issued.fetch_add(1, Ordering::SeqCst) + 1;
            let token = format!(r#"{{"token": "t{number}", "expires_in": 3600}}"#);
            return Reply::new(200, token);
        }
        // The first token is good for manifest and configuration only.
        let is_layer = request.path().contains("/blobs/") && {
            let config = Digest::of(&image.config);
            !request.path().ends_with(config.hex())
        };
        let good = match is_layer {
            true => request.header("authorization") == "Bearer t2",
            false => request.header("authorization") == "Bearer t1",
        };
        if good {
            return shelf.serve(request);
        }
        let host = request.header("host");
        let demand = format!("Bearer realm=\"http://{host}/token\",error=\"invalid_token\"");
        Reply::new(401, "").with("www-authenticate", demand)
    });
    let client = Client::at(temp.path());
    let name = format!("{}/a:1", server.name());
    client.pull(&name, None).await.unwrap();
    let asked = server.asked();
    let tokens = asked.iter().filter(|asked| asked.ends_with("/token"));
    assert_eq!(tokens.count(), 2, "{asked:?}");
}

#[tokio::test]
async fn a_token_server_that_is_busy_gets_patience_and_its_refusal_is_told() {
    let (temp, busy) = (temp(), AtomicUsize::new(0));
    let server = registry(move |request, _| {
        if request.path() == "/token" {
            let early = busy.fetch_add(1, Ordering::SeqCst) < 2;
            return Some(match early {
                true => Reply::new(429, "").with("retry-after", "0"),
                false => Reply::new(200, r#"{"access_token": "t"}"#),
            });
        }
        let host = request.header("host");
        let demand = format!("Bearer realm=\"http://{host}/token\"");
        (request.header("authorization") != "Bearer t")
            .then(|| Reply::new(401, "").with("www-authenticate", demand))
    });
    let client = Client::at(temp.path());
    client
        .pull(&format!("{}/a:1", server.name()), None)
        .await
        .unwrap();
    let server = registry(|request, _| {
        let host = request.header("host");
        let demand = format!("Bearer realm=\"http://{host}/token\"");
        Some(match request.path() {
            "/token" => Reply::new(403, r#"{"errors":[{"code":"DENIED","message":"who?"}]}"#),
            _ => Reply::new(401, "").with("www-authenticate", demand),
        })
    });
    let pulled = client
        .pull(&format!("{}/a:1", server.name()), Some(&user()))
        .await;
    assert!(
        matches!(&pulled, Err(Error::Denied(text)) if text.contains("who?")),
        "{pulled:?}"
    );
}

#[tokio::test]
async fn a_manifest_that_drips_is_left() {
    let temp = temp();
    for (gulp, named) in [(1, "sent only"), (20, "for a document")] {
        let server = registry(move |request, reply| {
            let slow = request.path().contains("/manifests/") && request.method == "GET";
            slow.then(|| Reply {
                body: [reply.body.clone(), vec![b' '; 1 << 20]].concat(),
                drip: Some(Duration::from_millis(20)),
                gulp,
                ..reply.clone()
            })
        });
        let limits = Limits {
            whole: Duration::from_secs(1),
            ..limits()
        };
        let client = Client::with(temp.path(), limits);
        let pulled = client.pull(&format!("{}/a:1", server.name()), None).await;
        assert!(
            matches!(&pulled, Err(Error::Unavailable(text)) if text.contains(named)),
            "{pulled:?}"
        );
    }
}

#[tokio::test]
async fn a_document_that_breaks_off_once_is_asked_for_again() {
    let (temp, count) = (temp(), AtomicUsize::new(0));
    let server = registry(move |request, reply| {
        let is_small = request.method == "GET" && reply.body.len() < 2000;
        // Manifest, manifest, configuration, configuration.
        (is_small && count.fetch_add(1, Ordering::SeqCst).is_multiple_of(2)).then(|| Reply {
            cut: Some(30),
            ..reply.clone()
        })
    });
    let client = Client::at(temp.path());
    let id = client.pull(&format!("{}/a:1", server.name()), None).await;
    assert_eq!(id.unwrap(), image("a").id());
}

#[tokio::test]
async fn answers_to_a_resumed_fetch_have_to_fit() {
    // Cut once, then `again` is what the registry makes of the rest.
    let pull = async |again: fn(&Reply) -> Reply| {
        let (temp, count) = (temp(), AtomicUsize::new(0));
        let server = registry(move |request, reply| {
            let is_layer = request.path().contains("/blobs/") && reply.body.len() > 2000;
            if !is_layer {
                return None;
            }
            match request.header("range") {
                "" if count.fetch_add(1, Ordering::SeqCst) < 2 => Some(Reply {
                    cut: Some(700),
                    ..reply.clone()
                }),
                "" => None,
                _ => Some(again(reply)),
            }
        });
        let client = Client::at(temp.path());
        client.pull(&format!("{}/a:1", server.name()), None).await
    };
    pull(Reply::clone).await.unwrap();
    // All of it holds what was asked for.
    pull(|_| Reply::new(416, "")).await.unwrap();
    let other = |reply: &Reply| {
        let mut reply = reply.clone();
        reply.headers.retain(|(name, _)| name != "content-range");
        reply.with("content-range", "bytes 701-9999/10000")
    };
    let error = pull(other).await.unwrap_err();
    assert!(
        matches!(&error, Error::Corrupt(text) if text.contains("has not")),
        "{error:?}"
    );
}

#[tokio::test]
async fn an_operator_is_told_who_would_be_asked() {
    let temp = temp();
    let text = "server = \"https://registry.example\"\nproxy = \"none\"\nca = \"own.crt\"\nforeign_layers = true\n\
                [host.\"http://mirror.example:81\"]\ncapabilities = [\"pull\"]\n\
                proxy = \"http://user:secret@proxy.example:3128\"\nheader = {x-key = \"secret\"}\n";
    hosts_toml(temp.path(), "name.test", text);
    let auth = STANDARD.encode("me:secret");
    let json = format!(r#"{{"auths": {{"name.test": {{"auth": "{auth}"}}}}}}"#);
    std::fs::write(temp.path().join("credentials.json"), json).unwrap();
    let client = Client::at(temp.path());
    let explain = async |name: &str| {
        let name = Reference::parse(name).unwrap();
        let repository = client.0.repository(&name, None).await.unwrap();
        repository.explain().join("\n")
    };
    let told = explain("name.test/a:1").await;
    let folder = temp.path().join("certs.d/name.test");
    let expect = format!(
        "name.test/a:1, as {0}/hosts.toml says\n\
         \x20 mirror http://mirror.example:81/v2/a\n\
         \x20   without credentials\n\
         \x20   through http://proxy.example:3128\n\
         \x20   only sends content\n\
         \x20   not encrypted\n\
         \x20   with headers x-key\n\
         \x20 registry https://registry.example/v2/a\n\
         \x20   as user \"me\" of credentials.json, unless a pull brings some\n\
         \x20   without a proxy\n\
         \x20   trusts {0}/own.crt too\n\
         layers may also come from where a manifest says",
        folder.display()
    );
    assert_eq!(told, expect);
    let told = explain("127.0.0.1:1/a").await;
    assert!(
        told.starts_with("127.0.0.1:1/a:latest, by default"),
        "{told}"
    );
}

#[tokio::test]
async fn an_old_manifest_is_refused_with_the_cure() {
    let temp = temp();
    let old = "application/vnd.docker.distribution.manifest.v1+prettyjws";
    let text = br#"{"schemaVersion":1,"name":"a","tag":"1","fsLayers":[],"signatures":[]}"#;
    let shelf = Shelf::default().document("a", "1", old, text);
    let server = Server::start(move |request| {
        // They are signed: the digest is that of the text without the signatures.
        let mut reply = shelf.serve(request);
        if !reply.body.is_empty() {
            reply.body.push(b' ');
        }
        reply
    });
    let client = Client::at(temp.path());
    let error = client
        .pull(&format!("{}/a:1", server.name()), None)
        .await
        .unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("schema 1") && text.contains("skopeo copy"),
        "{text}"
    );
}

/// An image whose upper layer is not in the registry but at that URL, and that layer.
fn with_foreign_layer(url: &str) -> (Shelf, TestImage, Vec<u8>) {
    let mut image = image("foreign");
    let layer = image.layers.pop().unwrap();
    let entry = &mut image.manifest["layers"][1];
    entry["mediaType"] = "application/vnd.oci.image.layer.nondistributable.v1.tar".into();
    entry["urls"] = [url].into();
    (Shelf::default().image("a", "1", &image), image, layer)
}

async fn pull_foreign(temp: &Path, url: &str, allowed: bool) -> (Result<String, Error>, TestImage) {
    let (shelf, image, _) = with_foreign_layer(url);
    let server = Server::start(move |request| shelf.serve(request));
    let text = format!(
        "server = \"http://{}\"\nforeign_layers = {allowed}",
        server.name()
    );
    hosts_toml(temp, "foreign.test", &text);
    let client = Client::at(temp);
    let pulled = client.pull("foreign.test/a:1", Some(&user())).await;
    (pulled, image)
}

#[tokio::test]
async fn layers_of_other_places_are_only_fetched_where_that_is_allowed() {
    let secret = Server::start(|_| Reply::new(200, "secret"));
    let url = format!("http://{}/layer", secret.name());
    let (refused, _) = pull_foreign(temp().path(), &url, false).await;
    assert!(
        matches!(&refused, Err(Error::Denied(text)) if text.contains("foreign_layers = true")),
        "{refused:?}"
    );
    // Never from this machine itself.
    let (refused, _) = pull_foreign(temp().path(), &url, true).await;
    let error = refused.unwrap_err().to_string();
    assert!(error.contains("127.0.0.1 is not asked"), "{error}");
    assert!(secret.asked().is_empty());
}

/// An address of this machine that is not loopback, if there is one.
fn own_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    // Nothing is sent: it only chooses the address (RFC 5737 keeps that network free).
    socket.connect("192.0.2.1:9").ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_loopback() && !address.is_unspecified()).then_some(address)
}

#[tokio::test]
async fn a_layer_of_another_place_is_fetched_without_credentials() {
    let Some(address) = own_address() else {
        println!("skipped: needs an address besides those of loopback");
        return;
    };
    let (_, _, layer) = with_foreign_layer("http://x/");
    let inside = Server::start(|_| Reply::new(200, "inside"));
    let inward = format!("http://{}/", inside.name());
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let outside = Server::start_at(SocketAddr::new(address, 0), move |request| {
        count.fetch_add(1, Ordering::SeqCst);
        match request.path() {
            "/moved" => Reply::new(302, "").with("location", "/layer"),
            "/layer" => Reply::new(200, layer.clone()),
            _ => Reply::new(302, "").with("location", inward.clone()),
        }
    });
    let temp = temp();
    let url = format!("http://{}/moved", outside.name());
    let (pulled, image) = pull_foreign(temp.path(), &url, true).await;
    assert_eq!(pulled.unwrap(), image.id());
    assert_eq!(asked.load(Ordering::SeqCst), 2);
    for request in outside.requests() {
        assert_eq!(request.header("authorization"), "");
    }
    // A redirect leads no further in than the URL itself may.
    let url = format!("http://{}/inward", outside.name());
    let (refused, _) = pull_foreign(super::temp().path(), &url, true).await;
    let error = refused.unwrap_err().to_string();
    assert!(error.contains("127.0.0.1 is not asked"), "{error}");
    assert!(inside.asked().is_empty());
}
