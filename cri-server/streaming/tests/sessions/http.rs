//! What leads to a session, and what does not.

use std::sync::Arc;

use streaming::{BindError, MAX_TICKETS, TICKET_LIFE, Tls, TooMany};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::client::{ask, connect, status};
use super::spdy::{Client, V4};
use super::*;

#[tokio::test]
async fn a_ticket_is_used_once() {
    let server = server().await;
    let url = server.ticket(exec(OUTPUTS, complain)).unwrap();
    let mut client = Client::new(&url, V4).await;
    assert_eq!(status(&url, &[]).await, "404");
    client.open_all(&["error", "stdout", "stderr"]).await;
    assert_eq!(client.listen().await.text(3), "out");
    assert_eq!(status(&url, &[]).await, "404");
}

#[tokio::test]
async fn other_tokens_and_other_paths_lead_nowhere() {
    let server = server().await;
    let url = server.ticket(exec(OUTPUTS, complain)).unwrap();
    let elsewhere = [
        url.replace("/exec/", "/attach/"),
        url.replace("/exec/", "/"),
        format!("{url}x"),
        url[..url.len() - 1].to_owned(),
        format!("{url}/x"),
    ];
    for url in elsewhere {
        assert_eq!(status(&url, &[]).await, "404", "{url}");
    }
    assert_eq!(status(&url, &[]).await, "400");
}

#[tokio::test]
async fn a_request_that_cannot_be_served_does_not_use_up_its_ticket() {
    let server = server().await;
    let url = server.ticket(exec(OUTPUTS, complain)).unwrap();
    let (mut socket, path) = connect(&url).await;
    let headers = [
        ("Connection", "Upgrade"),
        ("Upgrade", "SPDY/3.1"),
        ("X-Stream-Protocol-Version", "v9.channel.k8s.io"),
    ];
    let head = ask(&mut socket, &path, &headers).await;
    assert!(head.starts_with("HTTP/1.1 403 "), "{head}");
    for ours in [
        V4,
        "v3.channel.k8s.io",
        "v2.channel.k8s.io",
        "channel.k8s.io",
    ] {
        let line = format!("X-Accepted-Stream-Protocol-Versions: {ours}\r\n");
        assert!(head.contains(&line), "{head}");
    }
    let mut client = Client::new(&url, V4).await;
    client.open_all(&["error", "stdout", "stderr"]).await;
    assert_eq!(client.listen().await.text(3), "out");
}

#[tokio::test]
async fn no_answer_invites_another_origin() {
    let server = server().await;
    let url = server.ticket(exec(OUTPUTS, complain)).unwrap();
    let (mut socket, path) = connect(&url).await;
    let head = ask(&mut socket, &path, &[("Origin", "http://example.org")]).await;
    assert!(!head.to_lowercase().contains("access-control"), "{head}");
}

/// What a page in a browser on the same machine can send, under its own name for this server (DNS
/// rebinding) or ours. Without a ticket there is nothing behind any of it, and no answer permits
/// the page to read it.
#[tokio::test]
async fn a_page_in_a_browser_gets_no_session() {
    let server = server().await;
    let url = server.ticket(exec(OUTPUTS, complain)).unwrap();
    let upgrade = [
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("Sec-WebSocket-Protocol", "v5.channel.k8s.io"),
    ];
    let preflight = [("Access-Control-Request-Method", "POST")];
    for origin in ["http://evil.example", "null", "http://127.0.0.1"] {
        for more in [&upgrade[..], &preflight, &[]] {
            for path in ["/", "/exec", "/exec/", "/exec/0123456789abcdef"] {
                let (mut socket, _) = connect(&url).await;
                let headers = [&[("Origin", origin)], more].concat();
                let head = ask(&mut socket, path, &headers).await;
                assert!(head.starts_with("HTTP/1.1 404"), "{path}: {head}");
                assert!(!head.to_lowercase().contains("access-control"), "{head}");
            }
        }
    }
    // Whoever the ticket was for still has it.
    let mut client = Client::new(&url, V4).await;
    client.open_all(&["error", "stdout", "stderr"]).await;
    assert_eq!(client.listen().await.text(3), "out");
}

#[tokio::test]
async fn no_more_than_the_limit_of_tickets_wait() {
    let server = server().await;
    for _ in 0..MAX_TICKETS {
        server.ticket(exec(IN_OUT, cat)).unwrap();
    }
    assert_eq!(server.ticket(exec(IN_OUT, cat)), Err(TooMany));
}

#[tokio::test(start_paused = true)]
async fn a_session_nobody_comes_for_is_dropped() {
    let (server, begun) = (server().await, Instant::now());
    let (sender, dropped) = oneshot::channel::<()>();
    let run = async move |_: Streams| {
        drop(sender);
        Outcome::Exit(0)
    };
    server.ticket(exec(IN_OUT, run)).unwrap();
    dropped.await.unwrap_err();
    assert!(begun.elapsed() >= TICKET_LIFE);
}

#[tokio::test]
async fn no_address_of_all_addresses() {
    let config = Config {
        address: "0.0.0.0:0".parse().unwrap(),
        tls: None,
    };
    assert!(matches!(
        Server::bind(config).await,
        Err(BindError::Unspecified(_))
    ));
}

#[tokio::test]
async fn a_request_that_is_too_long_is_refused() {
    let server = server().await;
    let url = server.ticket(exec(IN_OUT, cat)).unwrap();
    assert_eq!(
        status(&url, &[("X-Long", &"x".repeat(64 * 1024))]).await,
        "431"
    );
}

#[tokio::test]
async fn sessions_over_tls() {
    let folder = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let tls = Tls {
        certificate: folder.path().join("cert"),
        key: folder.path().join("key"),
    };
    std::fs::write(&tls.certificate, made.cert.pem()).unwrap();
    std::fs::write(&tls.key, made.signing_key.serialize_pem()).unwrap();
    let config = Config {
        tls: Some(tls),
        ..Config::default()
    };
    let server = Server::bind(config).await.unwrap();
    let url = server.ticket(exec(OUTPUTS, complain)).unwrap();
    let path = url
        .strip_prefix(&format!("https://{}", server.address()))
        .unwrap();

    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let client = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let socket = TcpStream::connect(server.address()).await.unwrap();
    let name = "localhost".try_into().unwrap();
    let socket = TlsConnector::from(Arc::new(client))
        .connect(name, socket)
        .await
        .unwrap();
    let mut client = Client::over(Box::new(socket), path, V4).await;
    client.open_all(&["error", "stdout", "stderr"]).await;
    let heard = client.listen().await;
    assert_eq!((heard.text(3), heard.text(5)), ("out", "err"));

    let mut plain = TcpStream::connect(server.address()).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut plain, b"GET / HTTP/1.1\r\n\r\n")
        .await
        .unwrap();
    let mut answer = Vec::new();
    in_time(plain.read_to_end(&mut answer)).await.unwrap();
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
}

#[tokio::test]
async fn a_certificate_that_is_none_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let tls = Tls {
        certificate: folder.path().join("cert"),
        key: folder.path().join("key"),
    };
    let text = Server::bind(Config {
        tls: Some(tls),
        ..Config::default()
    })
    .await
    .unwrap_err();
    assert!(
        text.to_string()
            .starts_with("cannot read certificates from "),
        "{text}"
    );
}
