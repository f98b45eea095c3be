//! Who asks, and what may come between: tokens, redirects, throttling, connections that break.

use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use registry_double::{Pack, Reply, Request, Server, Shelf, Tar, TestImage};

use super::{Client, temp, user};
use crate::{Credentials, Digest, Error};

fn simple(content: &str) -> TestImage {
    let one = Tar::new().file("name", content.as_bytes()).end();
    let two = Tar::new().file("top", b"two").end();
    TestImage::new(&[(one, Pack::Gzip), (two, Pack::Plain)])
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
    let client = Client::at(temp.path());
    let result = client
        .pull(&format!("{}/a:1", server.name()), credentials.as_ref())
        .await;
    (result, server.requests())
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
        asked.len() >= 3 && asked.iter().all(|r| r.header("authorization").is_empty()),
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
