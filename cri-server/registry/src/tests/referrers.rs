//! What refers to an image.

use registry_double::{OCI_INDEX, OCI_MANIFEST, Reply, Request, Server, Shelf};
use serde_json::{Value, json};

use super::{Client, temp};
use crate::{Digest, Error, Reference, Referrer};

const SIGNATURE: &str = "application/vnd.example.signature+json";
const CONTENTS: &str = "application/vnd.example.contents+json";

fn entry(name: &str, artifact_type: &str) -> Value {
    json!({"mediaType": OCI_MANIFEST, "digest": Digest::of(name.as_bytes()).to_string(),
           "size": name.len(), "artifactType": artifact_type, "annotations": {"name": name}})
}

fn index(entries: &[Value]) -> Vec<u8> {
    let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries});
    serde_json::to_vec(&index).unwrap()
}

fn subject() -> Digest {
    Digest::of(b"subject")
}

/// Asks a registry what refers to the subject.
async fn ask(
    artifact_type: Option<&str>,
    serve: impl Fn(&Request) -> Reply + Send + Sync + 'static,
) -> (Result<Vec<Referrer>, Error>, Vec<String>) {
    let temp = temp();
    let server = Server::start(serve);
    let name = format!("{}/a@{}", server.name(), subject());
    let client = Client::at(temp.path());
    let name = Reference::parse(&name).unwrap();
    let repository = client.0.repository(&name, None).await.unwrap();
    let found = repository.referrers(&subject(), artifact_type).await;
    let asked = server.requests().into_iter().map(|request| request.target);
    (found, asked.collect())
}

fn names(found: &[Referrer]) -> Vec<&str> {
    found
        .iter()
        .map(|r| r.annotations["name"].as_str())
        .collect()
}

#[tokio::test]
async fn the_registry_lists_them_page_by_page() {
    let serve = |request: &Request| {
        let reply =
            |entries: &[Value]| Reply::new(200, index(entries)).with("content-type", OCI_INDEX);
        if request.target.contains("page=2") {
            return reply(&[entry("three", SIGNATURE)]);
        }
        reply(&[entry("one", SIGNATURE), entry("two", CONTENTS)])
            .with("link", "<?page=2>; rel=\"next\"")
    };
    let (found, asked) = ask(None, serve).await;
    let found = found.unwrap();
    assert_eq!(names(&found), ["one", "two", "three"]);
    assert_eq!(found[0].artifact_type, SIGNATURE);
    assert_eq!(
        (found[0].size, found[0].media_type.as_str()),
        (3, OCI_MANIFEST)
    );
    assert_eq!(asked[0], format!("/v2/a/referrers/{}", subject()));
    // A registry need not filter.
    let (found, asked) = ask(Some(SIGNATURE), serve).await;
    assert_eq!(names(&found.unwrap()), ["one", "three"]);
    assert!(asked[0].contains("?artifactType=application%2Fvnd.example.signature%2Bjson"));
}

#[tokio::test]
async fn a_registry_that_does_not_know_the_question_has_a_tag() {
    let tag = format!("sha256-{}", subject().hex());
    for (status, text) in [
        (404, ""),
        (400, ""),
        (405, ""),
        (200, "<html>welcome</html>"),
    ] {
        let list = index(&[entry("one", SIGNATURE)]);
        let shelf = Shelf::default().document("a", &tag, OCI_INDEX, &list);
        let serve = move |request: &Request| match request.path().contains("/referrers/") {
            true => Reply::new(status, text),
            false => shelf.serve(request),
        };
        let (found, asked) = ask(Some(SIGNATURE), serve).await;
        assert_eq!(names(&found.unwrap()), ["one"], "{status}");
        assert!(asked.last().unwrap().ends_with(&tag));
    }
    let (found, _) = ask(None, |_| Reply::new(404, "")).await;
    assert_eq!(found.unwrap(), []);
}

#[tokio::test]
async fn lists_without_an_end_are_left() {
    let (found, asked) = ask(None, |request| {
        let link = format!("<{}x>; rel=next", request.target);
        Reply::new(200, index(&[])).with("link", link)
    })
    .await;
    let error = found.unwrap_err();
    assert!(error.to_string().contains("16 pages"), "{error}");
    assert_eq!(asked.len(), 16);
    let many: Vec<_> = (0..1001)
        .map(|n| entry(&n.to_string(), SIGNATURE))
        .collect();
    let (found, _) = ask(None, move |_| Reply::new(200, index(&many))).await;
    let error = found.unwrap_err();
    assert!(error.to_string().contains("more than 1000"), "{error}");
}

#[tokio::test]
async fn what_cannot_be_known_is_an_error_and_nothing_goes_to_strangers() {
    let other = Server::start(|_| Reply::new(200, index(&[])));
    let link = format!("<http://{}/v2/a/referrers/x>; rel=next", other.name());
    let (found, _) = ask(None, move |request| {
        match request.path().contains("/referrers/") {
            true => Reply::new(200, index(&[])).with("link", link.clone()),
            false => Reply::new(404, ""),
        }
    })
    .await;
    assert_eq!(found.unwrap(), [], "the tag is asked instead");
    assert!(other.asked().is_empty());
    let (found, _) = ask(None, |_| Reply::new(403, "")).await;
    assert!(matches!(found, Err(Error::Denied(_))), "{found:?}");
    let (found, _) = ask(None, |_| Reply::new(500, "")).await;
    assert!(found.is_err());
}
