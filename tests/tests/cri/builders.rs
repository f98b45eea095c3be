//! Images that others' tools make and push: Debian's buildah and skopeo.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;
use serde_json::Value;
use tests::node::Node;
use tests::{peers, pod, process};

/// A file that allows images without signatures, which is what these tools ask for.
const POLICY: &str = r#"{"default": [{"type": "insecureAcceptAnything"}]}"#;

/// One image in layers of several kinds: files, a file taken away, settings.
const RECIPE: &str = r#"FROM scratch
COPY busybox /bin/busybox
COPY greeting /etc/greeting
COPY greeting /etc/other
ENV WHO=buildah
WORKDIR /work
USER 1003:1004
ENTRYPOINT ["/bin/busybox", "sh", "-c"]
CMD ["busybox cat /etc/greeting; echo $WHO in $PWD as $(busybox id -u):$(busybox id -g)"]
"#;
const SAYS: [&str; 2] = ["hello", "buildah in /work as 1003:1004"];

/// Runs one of the tools in a folder of its own.
struct Tool {
    program: PathBuf,
    folder: PathBuf,
}

impl Tool {
    fn find(name: &str, folder: &Path) -> Option<Tool> {
        Some(Tool {
            program: peers::peer_or_installed(name)?,
            folder: folder.to_path_buf(),
        })
    }

    fn command(&self) -> Command {
        let mut command = process::bounded(&self.program);
        command
            .env("TMPDIR", &self.folder)
            .current_dir(&self.folder);
        command
    }

    /// A command of skopeo, which speaks to registries without encryption.
    fn skopeo(&self, args: &[&str]) -> Result<String> {
        let policy = self.folder.join("policy.json");
        process::ok(self.command().arg("--policy").arg(policy).args(args))
    }

    /// A command of buildah, with a storage of its own.
    fn buildah(&self, args: &[&str]) -> Result<String> {
        let mut command = self.command();
        command
            .arg("--root")
            .arg(self.folder.join("root"))
            .arg("--runroot")
            .arg(self.folder.join("run"))
            .args(["--storage-driver", "vfs"]);
        process::ok(command.args(args))
    }
}

/// A folder with what the tools need, and what the image is made of: `busybox` has no libraries.
fn folder(busybox: &Path) -> tempfile::TempDir {
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    std::fs::copy(busybox, folder.path().join("busybox")).unwrap();
    std::fs::write(folder.path().join("Containerfile"), RECIPE).unwrap();
    std::fs::write(folder.path().join("policy.json"), POLICY).unwrap();
    std::fs::write(folder.path().join("greeting"), "hello\n").unwrap();
    folder
}

/// Pulls an image and runs it as it is; what it says.
fn says(node: &Node, name: &str, image: &str) -> Vec<String> {
    node.crictl.ok(&["pull", image]).unwrap();
    let sandbox = pod::sandbox(node.daemon.scratch(), name);
    let mut container = pod::container(name, image, "");
    container["command"] = Value::Null;
    let pod = node.run_as(&[], &sandbox, &container).unwrap();
    assert_eq!(node.crictl.exit_code(&pod.container).unwrap(), 0);
    let messages = pod.messages().unwrap();
    node.remove(&pod).unwrap();
    messages
}

#[test]
fn what_buildah_builds_and_skopeo_copies_runs() {
    let Some(busybox) = peers::peer_or_installed("busybox") else {
        return;
    };
    let folder = folder(&busybox);
    let Some(buildah) = Tool::find("buildah", folder.path()) else {
        return;
    };
    let Some(skopeo) = Tool::find("skopeo", folder.path()) else {
        return;
    };
    let Some(node) = Node::start().unwrap() else {
        return;
    };
    let policy = folder.path().join("policy.json");
    let policy = [
        "--tls-verify=false",
        "--signature-policy",
        pod::arg(&policy),
    ];
    let build = ["build", "--isolation", "chroot", "--layers", "-t", "built"];
    buildah
        .buildah(&[&build[..], &policy, &["."]].concat())
        .unwrap();
    let built = format!("{}/built:1", node.registry.host);
    let to = format!("docker://{built}");
    buildah
        .buildah(&[&["push"], &policy[..], &["built", &to]].concat())
        .unwrap();
    assert_eq!(says(&node, "built", &built), SAYS);

    // The same in every form that skopeo knows; the image's id tells that it is the same.
    let own = folder.path().join("layout").display().to_string();
    let (plain, zstd) = (format!("dir:{own}.plain"), format!("oci:{own}:zstd"));
    let flags = ["copy", "--src-tls-verify=false", "--dest-tls-verify=false"];
    let copy = |more: &[&str], from: &str, to: &str| {
        skopeo
            .skopeo(&[&flags, more, &[from, to]].concat())
            .unwrap();
    };
    copy(&["--dest-decompress"], &to, &plain);
    let compress = ["--format", "oci", "--dest-compress-format", "zstd"];
    copy(&compress, &plain, &zstd);
    for (tag, more, from, named) in [
        (
            "docker",
            ["--format", "v2s2"],
            &to,
            "docker.distribution.manifest.v2",
        ),
        ("oci", ["--format", "oci"], &to, "tar+gzip"),
        ("zstd", ["--preserve-digests", "--all"], &zstd, "tar+zstd"),
    ] {
        let image = format!("{}/copied:{tag}", node.registry.host);
        let to = format!("docker://{image}");
        copy(&more, from, &to);
        let raw = ["inspect", "--tls-verify=false", "--raw", &to];
        let raw = skopeo.skopeo(&raw).unwrap();
        assert!(raw.contains(named), "{tag}: {raw}");
        assert_eq!(says(&node, tag, &image), SAYS, "{tag}");
    }

    let told = node.daemon.command(&["images", "explain", &built]).unwrap();
    let host = format!("mirror http://{}/v2/built\n", node.registry.host);
    assert!(told.stdout.contains(&host), "{told:?}");

    // Docker's first format is refused, with what to do about it.
    let old = format!("{}/copied:old", node.registry.host);
    copy(&["--format", "v2s1"], &to, &format!("docker://{old}"));
    let refused = node.crictl.run(&["pull", &old]).unwrap();
    let text = &refused.stderr;
    assert!(
        refused.code != 0 && text.contains("schema 1") && text.contains("skopeo copy"),
        "{text}"
    );
}
