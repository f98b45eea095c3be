//! Pulls by what the node itself knows: credentials, helpers, `registries.conf`, a proxy.

use std::os::unix::fs::PermissionsExt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use registry_double::{Pack, Reply, Request, Server, Shelf, Tar, TestImage};

use super::{Client, temp, user};
use crate::{Credentials, Error};

fn image() -> TestImage {
    let tar = Tar::new().file("name", b"node").end();
    TestImage::new(&[(tar, Pack::Gzip)])
}

/// A registry that wants `u:p`.
fn guarded() -> Server {
    let shelf = Shelf::default().image("a", "1", &image());
    let expect = format!("Basic {}", STANDARD.encode("u:p"));
    Server::start(move |request| {
        if request.header("authorization") != expect {
            return Reply::new(401, "").with("www-authenticate", "Basic realm=\"r\"");
        }
        shelf.serve(request)
    })
}

#[tokio::test]
async fn a_pull_without_credentials_uses_those_of_the_node() {
    let (temp, server) = (temp(), guarded());
    let client = Client::at(temp.path());
    let name = format!("{}/a:1", server.name());
    assert!(matches!(
        client.pull(&name, None).await,
        Err(Error::Denied(_))
    ));
    let auth = STANDARD.encode("u:p");
    let json = format!(
        r#"{{"auths": {{"http://{}/v2/": {{"auth": "{auth}"}}}}}}"#,
        server.name()
    );
    std::fs::write(temp.path().join("credentials.json"), json).unwrap();
    // What a client gives is not replaced, even if it is wrong.
    let wrong = Credentials {
        password: "x".into(),
        ..user()
    };
    assert!(matches!(
        client.pull(&name, Some(&wrong)).await,
        Err(Error::Denied(_))
    ));
    assert_eq!(client.pull(&name, None).await.unwrap(), image().id());
}

#[tokio::test]
async fn the_name_is_moved_as_registries_conf_says() {
    let temp = temp();
    let shelf = Shelf::default().image("moved/a", "1", &image());
    let server = Server::start(move |request| shelf.serve(request));
    let text = format!(
        "[[registry]]\nprefix = \"example.invalid/team\"\nlocation = \"{}/moved\"\n",
        server.name()
    );
    std::fs::write(temp.path().join("registries.conf"), text).unwrap();
    let client = Client::at(temp.path());
    let id = client.pull("example.invalid/team/a:1", None).await.unwrap();
    assert_eq!(id, image().id());
    assert!(server.requests().iter().all(|r| !r.target.contains("ns=")));
}

#[tokio::test]
async fn a_token_server_without_oauth_is_asked_once_more_in_the_old_form() {
    let (temp, shelf) = (
        temp(),
        Shelf::default()
            .image("a", "1", &image())
            .image("b", "1", &image()),
    );
    let server = Server::start(move |request: &Request| {
        if request.path() == "/token" && request.method == "POST" {
            let body = String::from_utf8_lossy(&request.body).into_owned();
            assert!(
                body.contains("grant_type=password") && body.contains("password=p"),
                "{body}"
            );
            return Reply::new(405, "");
        }
        if request.path() == "/token" {
            assert!(request.header("authorization").starts_with("Basic "));
            return Reply::new(200, r#"{"token": "t"}"#);
        }
        if request.header("authorization") != "Bearer t" {
            let realm = format!("Bearer realm=\"http://{}/token\"", request.header("host"));
            return Reply::new(401, "").with("www-authenticate", realm);
        }
        shelf.serve(request)
    });
    let client = Client::at(temp.path());
    for repository in ["a", "b"] {
        let name = format!("{}/{repository}:1", server.name());
        client.pull(&name, Some(&user())).await.unwrap();
    }
    let asked = server.asked();
    let count = |what: &str| asked.iter().filter(|asked| *asked == what).count();
    assert_eq!((count("POST /token"), count("GET /token")), (1, 2));
}

/// What comes from the environment is tested in a process that has it: this test program again,
/// with only the test of that name.
fn again(test: &str, variables: &[(&str, String)]) {
    #[expect(clippy::disallowed_methods, reason = "waited for right here")]
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", test, "--nocapture"])
        .env("WHERRY_REGISTRY_AGAIN", "1");
    for (name, value) in variables {
        command.env(name, value);
    }
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stdout)
    );
}

fn is_again() -> bool {
    std::env::var_os("WHERRY_REGISTRY_AGAIN").is_some()
}

#[tokio::test]
async fn the_proxy_of_the_environment_is_used() {
    if is_again() {
        let temp = temp();
        let folder = temp.path().join("certs.d/registry.invalid");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(
            folder.join("hosts.toml"),
            "server = \"http://registry.invalid\"",
        )
        .unwrap();
        let id = Client::at(temp.path())
            .pull("registry.invalid/a:1", None)
            .await
            .unwrap();
        assert_eq!(id, image().id());
        return;
    }
    let shelf = Shelf::default().image("a", "1", &image());
    let proxy = Server::start(move |request| {
        // A proxy is asked with the whole URL (RFC 9112, 3.2.2).
        let Some(target) = request.target.strip_prefix("http://registry.invalid") else {
            return Reply::new(400, "");
        };
        let request = Request {
            target: target.to_owned(),
            ..request.clone()
        };
        shelf.serve(&request)
    });
    let address = format!("http://{}", proxy.name());
    again(
        "tests::node::the_proxy_of_the_environment_is_used",
        &[("HTTP_PROXY", address.clone()), ("http_proxy", address)],
    );
    assert!(proxy.asked().len() >= 3);
}

#[tokio::test]
async fn a_credential_helper_is_asked() {
    if is_again() {
        let temp = std::env::var("WHERRY_REGISTRY_ROOT").unwrap();
        let name = std::env::var("WHERRY_REGISTRY_NAME").unwrap();
        let client = Client::at(std::path::Path::new(&temp));
        assert_eq!(client.pull(&name, None).await.unwrap(), image().id());
        return;
    }
    let (temp, server) = (temp(), guarded());
    let helper = temp.path().join("docker-credential-test");
    let script = "#!/bin/sh\nread -r server\n[ \"$1 $server\" = \"get $WHERRY_REGISTRY_SERVER\" ] || exit 1\n\
                  echo '{\"ServerURL\": \"x\", \"Username\": \"u\", \"Secret\": \"p\"}'\n";
    std::fs::write(&helper, script).unwrap();
    std::fs::set_permissions(&helper, PermissionsExt::from_mode(0o755)).unwrap();
    let json = format!(r#"{{"credHelpers": {{"{}": "test"}}}}"#, server.name());
    std::fs::write(temp.path().join("credentials.json"), json).unwrap();
    let root = temp.path().display().to_string();
    again(
        "tests::node::a_credential_helper_is_asked",
        &[
            ("PATH", format!("{root}:/usr/bin:/bin")),
            ("WHERRY_REGISTRY_ROOT", root),
            ("WHERRY_REGISTRY_SERVER", server.name()),
            ("WHERRY_REGISTRY_NAME", format!("{}/a:1", server.name())),
        ],
    );
}
