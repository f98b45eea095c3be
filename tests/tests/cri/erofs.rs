//! Layers as images of a file system (`images.layer_form = "erofs"`), through all of their life.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use serde_json::json;
use tests::node::Node;
use tests::{pod, skipped};

/// What such an image has at this place (kernel, `fs/erofs/erofs_fs.h`).
const MAGIC: [u8; 4] = [0xe2, 0xe1, 0xf5, 0xe0];
const MAGIC_AT: u64 = 1024;
/// What the daemon says where the kernel has none of it.
const LACKS: &str = "EROFS";

/// How many files below a folder are such images.
fn images(folder: &Path) -> usize {
    let entries = std::fs::read_dir(folder).unwrap().map(Result::unwrap);
    entries.fold(0, |count, entry| {
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            return count + images(&entry.path());
        }
        let mut magic = [0; MAGIC.len()];
        let mut read = || File::open(entry.path())?.read_exact_at(&mut magic, MAGIC_AT);
        count + usize::from(kind.is_file() && read().is_ok() && magic == MAGIC)
    })
}

fn start() -> Option<Node> {
    match Node::start_with(|setup| setup.config("[images]\nlayer_form = \"erofs\"\n")) {
        Ok(node) => node,
        Err(error) if format!("{error:?}").contains(LACKS) => {
            skipped("EROFS mounted from a file");
            None
        }
        Err(error) => panic!("{error:?}"),
    }
}

#[test]
fn containers_run_on_layers_that_are_images_of_file_systems() {
    let Some(mut node) = start() else { return };
    let root = node.daemon.root();
    let one = node.run("one", "echo begun; exec sleep 1000").unwrap();
    one.wait_for_log("begun").unwrap();
    assert_eq!(images(&root), 1);
    // The image is not changed by what its containers write.
    let script = "echo mine > /etc/own && rm /bin/vi && cat /etc/own";
    assert_eq!(node.exec(&one.container, script).unwrap(), "mine");
    let look = "test -e /etc/own || test -e /bin/vi && echo as it was";

    node.daemon.kill();
    node.daemon.start().unwrap();
    assert_eq!(node.exec(&one.container, "cat /etc/own").unwrap(), "mine");
    let two = node.run("two", "exec sleep 1000").unwrap();
    assert_eq!(node.exec(&two.container, look).unwrap(), "as it was");

    let in_use = node.crictl.json(&["imagefsinfo"]).unwrap();
    let bytes = &in_use["status"]["imageFilesystems"][0]["usedBytes"]["value"];
    let bytes: u64 = bytes.as_str().unwrap().parse().unwrap();
    assert!(bytes > 500_000, "{in_use}");
    let checked = node.daemon.command(&["images", "fsck"]).unwrap().ok();
    checked.unwrap();
    for pod in [&one, &two] {
        node.remove(pod).unwrap();
    }
    node.crictl.ok(&["rmi", &node.image]).unwrap();
    tests::wait::until("the layer to go", || (images(&root) == 0).then_some(())).unwrap();
}

#[test]
fn a_user_namespace_sees_such_a_layer_as_its_own() {
    let Some(node) = start() else { return };
    if !crate::user_namespaces::supported(&node, "wrun") {
        return;
    }
    let mut sandbox = pod::sandbox(node.daemon.scratch(), "user");
    let mut container = pod::container("user", &node.image, "exec sleep 1000");
    crate::user_namespaces::with_user(&mut sandbox);
    crate::user_namespaces::with_user(&mut container);
    let pod = node.run_as(&[], &sandbox, &container).unwrap();
    assert_eq!(images(&node.daemon.root()), 1);
    let owners =
        "stat -c %u / /bin/busybox && touch /bin/new && stat -c %u /bin/new && rm /bin/new /bin/vi";
    let found = node.exec(&pod.container, owners).unwrap();
    assert_eq!(
        json!(found.split_whitespace().collect::<Vec<_>>()),
        json!(["0", "0", "0"])
    );
    node.remove(&pod).unwrap();
}
