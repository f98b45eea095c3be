//! Export, and that what was exported is read again as what it was; preloading.

use std::path::Path;

use registry::Digest;
use registry_double::{Head, Pack, Server, Shelf, Tar, TestImage};

use super::{config, limits, nothing_left, open_store, store_at, temp};
use crate::{Error, LayerForm, Store};

/// Layers with all that makes a tar special; none of it is seen in the unpacked tree.
fn image() -> TestImage {
    let long = format!("{}/file", "folder".repeat(30));
    let one = Tar::new()
        .dir("./", 0o755)
        .pax(&[("mtime", "1.5"), ("comment", "kept")])
        .file("./etc/name", b"content")
        .hard_link("again", "etc/name")
        .extension(b'L', format!("{long}\0").as_bytes())
        .file("short", &[7; 100_000])
        .symlink("lib", "etc")
        .file("lib/through", b"a link")
        .head(&Head {
            name: b"null",
            flag: b'3',
            device: (1, 3),
            ..Head::default()
        })
        .file("empty", b"")
        .raw(&[0; 512 * 20])
        .bytes();
    let two = Tar::new()
        .file("etc/.wh.name", b"")
        .file(".wh..wh.plnk", b"of another file system")
        .file("two", b"2")
        .end();
    TestImage::new(&[(one, Pack::Gzip), (two, Pack::Zstd)])
}

#[tokio::test]
async fn an_exported_image_is_imported_as_what_it_was() {
    check(LayerForm::Dir).await;
}

#[tokio::test]
async fn the_same_with_layers_that_are_images_of_file_systems() {
    check(LayerForm::Erofs).await;
}

async fn check(form: LayerForm) {
    let (temp, image) = (temp(), image());
    let shelf = Shelf::default().image("a", "1", &image);
    let server = Server::start(move |request| shelf.serve(request));
    let root = temp.path();
    let mut config = config(root, "this");
    config.layer_form = form;
    let store = match open_store(&config, &limits()) {
        Err(error) if form == LayerForm::Erofs => {
            println!("skipped: needs EROFS mounted from a file: {error}");
            return;
        }
        store => store.unwrap(),
    };
    let name = format!("{}/a:1", server.name());
    let id = store.pull(&name, None).await.unwrap();
    let before = store.resolve(&id).unwrap();
    let names = [name.clone(), id.clone()];
    let (one, two) = (temp.path().join("one.tar"), temp.path().join("two.tar"));
    store.export(&names, &one).await.unwrap();
    store.export(&names, &two).await.unwrap();
    let bytes = std::fs::read(&one).unwrap();
    assert_eq!(bytes, std::fs::read(&two).unwrap());
    store.remove(&id).await.unwrap();
    nothing_left(temp.path()).await;
    assert_eq!(store.import(&one).await.unwrap(), std::slice::from_ref(&id));
    let after = store.resolve(&name).unwrap();
    assert_eq!(after.raw_config, before.raw_config);
    assert_eq!(
        (after.size > 0, &after.annotations),
        (true, &before.annotations)
    );
    assert!(store.check(false).await.unwrap().findings.is_empty());
    // As an archive of docker: without the files of a layout it is read by `manifest.json`.
    store.remove(&id).await.unwrap();
    let docker = temp.path().join("docker");
    tar::Archive::new(&bytes[..]).unpack(&docker).unwrap();
    for file in ["index.json", "oci-layout"] {
        std::fs::remove_file(docker.join(file)).unwrap();
    }
    assert_eq!(store.import(&docker).await.unwrap(), [id]);
    assert!(store.resolve(&name).is_some());
}

#[tokio::test]
async fn a_layer_that_is_not_what_it_was_is_not_exported() {
    let (temp, image) = (temp(), image());
    let shelf = Shelf::default().image("a", "1", &image);
    let server = Server::start(move |request| shelf.serve(request));
    let store = store_at(temp.path());
    let name = format!("{}/a:1", server.name());
    store.pull(&name, None).await.unwrap();
    let out = temp.path().join("out");
    std::fs::create_dir(&out).unwrap();
    let layers = temp.path().join("store/layers/sha256");
    let spoilt = std::fs::read_dir(layers).unwrap();
    let mut spoilt = spoilt.map(|layer| layer.unwrap().path().join("fs/two"));
    let spoilt = spoilt.find(|file| file.exists()).unwrap();
    for (content, reason) in [("3", "has the digest"), ("", "less than its recipe")] {
        std::fs::write(&spoilt, content).unwrap();
        let file = out.join("a.tar");
        let error = store.export(std::slice::from_ref(&name), &file).await;
        let error = error.unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
        assert_eq!(std::fs::read_dir(&out).unwrap().count(), 0);
    }
    let error = store.export(&["none".into()], &out.join("a.tar")).await;
    assert!(matches!(error, Err(Error::NotFound(_))), "{error:?}");
}

/// Whether images are there, and pinned.
fn seen(store: &Store) -> Vec<(String, bool)> {
    let images = store.list();
    let mut seen: Vec<_> = images
        .iter()
        .map(|image| (image.tags.concat(), image.pinned))
        .collect();
    seen.sort();
    seen
}

/// An archive with one image, as another node would export it.
async fn archive(folder: &Path, name: &str) {
    let temp = temp();
    let image = TestImage::new(&[(Tar::new().file("a", name.as_bytes()).end(), Pack::Gzip)]);
    let shelf = Shelf::default().image(name, "1", &image);
    let server = Server::start(move |request| shelf.serve(request));
    let store = store_at(temp.path());
    let full = format!("{}/{name}:1", server.name());
    let id = store.pull(&full, None).await.unwrap();
    store
        .export(&[id], &folder.join(format!("{name}.tar")))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_folder_of_archives_is_read_once_and_pinned() {
    let temp = temp();
    let folder = temp.path().join("preload");
    let store = store_at(temp.path());
    assert_eq!(store.preload(&folder).await.unwrap(), 0);
    std::fs::create_dir(&folder).unwrap();
    archive(&folder, "one").await;
    archive(&folder, "two").await;
    std::fs::write(folder.join("broken.tar"), "no archive").unwrap();
    std::fs::write(folder.join(".half"), "").unwrap();
    assert_eq!(store.preload(&folder).await.unwrap(), 2);
    assert!(seen(&store).iter().all(|(_, pinned)| *pinned));
    // What is known is not read again: its archive could not be.
    let one = folder.join("one.tar");
    let noted = std::fs::read_to_string(temp.path().join("store/preloaded.json")).unwrap();
    assert!(
        noted.contains("one.tar") && !noted.contains("broken"),
        "{noted}"
    );
    drop(store);
    let store = store_at(temp.path());
    assert_eq!(store.preload(&folder).await.unwrap(), 2);
    // One that was removed comes back; one without an archive is not pinned any more.
    let two = store.list();
    let two = two.iter().find(|image| image.tags[0].contains("two"));
    store.remove(&two.unwrap().id).await.unwrap();
    std::fs::remove_file(one).unwrap();
    assert_eq!(store.preload(&folder).await.unwrap(), 1);
    for (name, pinned) in seen(&store) {
        assert_eq!(pinned, name.contains("two"), "{name}");
    }
    assert_eq!(store.list().len(), 2);
    assert!(Digest::parse(&store.list()[0].id).is_ok());
}
