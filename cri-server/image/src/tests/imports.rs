//! Import of layouts and archives, as the usual tools write them.

use std::path::{Path, PathBuf};

use registry::Digest;
use registry_double::{OCI_MANIFEST, Pack, Tar, TestImage, descriptor, pack};

use super::{left_overs, nothing_left, store_at, temp};
use crate::Error;

fn simple() -> TestImage {
    let one = Tar::new().file("a", b"1").end();
    let two = Tar::new().file("b", b"2").end();
    TestImage::new(&[(one, Pack::Gzip), (two, Pack::Plain)])
}

/// The files of a layout: names and contents.
fn layout(image: &TestImage, notes: &serde_json::Value) -> Vec<(String, Vec<u8>)> {
    let mut entry = descriptor(OCI_MANIFEST, &image.manifest_bytes());
    entry["annotations"] = notes.clone();
    let index = serde_json::json!({"schemaVersion": 2, "manifests": [entry]});
    let mut files = vec![
        (
            "oci-layout".to_owned(),
            br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec(),
        ),
        ("index.json".to_owned(), serde_json::to_vec(&index).unwrap()),
    ];
    for blob in image
        .layers
        .iter()
        .chain([&image.config, &image.manifest_bytes()])
    {
        files.push((
            format!("blobs/sha256/{}", Digest::of(blob).hex()),
            blob.clone(),
        ));
    }
    files
}

fn write_folder(folder: &Path, files: &[(String, Vec<u8>)]) -> PathBuf {
    for (name, content) in files {
        let path = folder.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
    folder.to_path_buf()
}

fn tar_of(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    files
        .iter()
        .fold(Tar::new(), |tar, (name, content)| tar.file(name, content))
        .end()
}

/// An archive as `docker save` of old wrote it, with a layer that is a link to another place.
fn saved(image: &TestImage, tars: &[Vec<u8>]) -> Vec<u8> {
    let manifest = serde_json::json!([{"Config": "config.json", "RepoTags": ["my/app:1", "my/app:2"],
        "Layers": ["one/layer.tar", "two/layer.tar"]}]);
    Tar::new()
        .file("config.json", &image.config)
        .file("real/layer.tar", &tars[0])
        .dir("one/", 0o755)
        .symlink("one/layer.tar", "../real/layer.tar")
        .file("two/layer.tar", &tars[1])
        .file("manifest.json", &serde_json::to_vec(&manifest).unwrap())
        .end()
}

#[tokio::test]
async fn a_layout_is_read_from_a_folder_and_from_a_tar() {
    let image = simple();
    let notes = serde_json::json!({"org.opencontainers.image.ref.name": "quay.io/my/app:3"});
    let files = layout(&image, &notes);
    for packed in [None, Some(Pack::Plain), Some(Pack::Gzip), Some(Pack::Zstd)] {
        let temp = temp();
        let path = match packed {
            None => write_folder(&temp.path().join("layout"), &files),
            Some(how) => {
                let path = temp.path().join("layout.tar");
                std::fs::write(&path, pack(&tar_of(&files), how)).unwrap();
                path
            }
        };
        let store = store_at(temp.path());
        assert_eq!(
            store.import(&path).await.unwrap(),
            [image.id()],
            "{packed:?}"
        );
        let found = store.resolve("quay.io/my/app:3").unwrap();
        assert_eq!(
            found.digests,
            [format!("quay.io/my/app@{}", image.manifest_digest())]
        );
    }
}

#[tokio::test]
async fn an_archive_of_docker_is_read() {
    let (temp, image) = (temp(), simple());
    let tars = [
        Tar::new().file("a", b"1").end(),
        Tar::new().file("b", b"2").end(),
    ];
    let path = temp.path().join("saved.tar");
    std::fs::write(&path, saved(&image, &tars)).unwrap();
    let store = store_at(temp.path());
    assert_eq!(store.import(&path).await.unwrap(), [image.id()]);
    let found = store.resolve("my/app:2").unwrap();
    assert_eq!(found.tags, ["docker.io/my/app:1", "docker.io/my/app:2"]);
    assert!(found.digests.is_empty());
    // Once more is fine.
    assert_eq!(store.import(&path).await.unwrap(), [image.id()]);
    assert_eq!(left_overs(temp.path()).len(), 3);
}

#[tokio::test]
async fn an_image_without_a_name_is_found_by_its_id() {
    let (temp, image) = (temp(), simple());
    let notes = serde_json::json!({"org.opencontainers.image.ref.name": "latest"});
    let path = write_folder(&temp.path().join("layout"), &layout(&image, &notes));
    let store = store_at(temp.path());
    store.import(&path).await.unwrap();
    assert!(store.resolve(&image.id()).unwrap().tags.is_empty());
}

async fn check_refused(content: &[u8], named: &str) {
    let temp = temp();
    let path = temp.path().join("some-file.tar");
    std::fs::write(&path, content).unwrap();
    let store = store_at(temp.path());
    let error = store.import(&path).await.unwrap_err();
    let text = error.to_string();
    assert!(
        matches!(error, Error::Corrupt(_))
            && text.contains("some-file.tar")
            && text.contains(named),
        "{text}"
    );
    nothing_left(temp.path()).await;
}

#[tokio::test]
async fn archives_that_are_wrong_leave_nothing() {
    let image = simple();
    check_refused(b"no archive at all", "archive").await;
    check_refused(&Tar::new().file("x", b"").end(), "neither").await;
    let tars = [
        Tar::new().file("a", b"1").end(),
        Tar::new().file("b", b"changed").end(),
    ];
    check_refused(&saved(&image, &tars), "its content has the digest").await;
    let files = layout(&image, &serde_json::json!({}));
    check_refused(&tar_of(&files[..4]), "has no").await;
    let mut spoilt = files.clone();
    let last = spoilt.last_mut().unwrap();
    last.1.push(b' ');
    check_refused(&tar_of(&spoilt), "has the digest").await;
}

#[tokio::test]
async fn a_missing_file_is_named() {
    let temp = temp();
    let error = store_at(temp.path())
        .import(Path::new("/nonexistent/x.tar"))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("/nonexistent/x.tar"), "{error}");
}
