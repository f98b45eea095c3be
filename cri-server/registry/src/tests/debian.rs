//! Debian's docker-registry, run by a test and ended with it.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use registry_double::{OCI_MANIFEST, TestImage, digest};

/// A running registry.
pub(super) struct Registry {
    child: Child,
    name: String,
}

impl Registry {
    /// Where the program is, if this machine has it.
    pub(super) fn program() -> Option<PathBuf> {
        let path = std::env::var_os("PATH")?;
        std::env::split_paths(&path)
            .map(|folder| folder.join("docker-registry"))
            .find(|p| p.exists())
    }

    /// `more` is added to the `http` part of its configuration.
    pub(super) async fn start(binary: &Path, folder: &Path, more: &str) -> Self {
        let address = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let config = folder.join("registry.yml");
        let data = folder.join("registry");
        let text = format!(
            "version: 0.1\nlog:\n  level: info\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {address}\n{more}",
            data.display()
        );
        std::fs::write(&config, text).unwrap();
        #[expect(clippy::disallowed_methods, reason = "the test owns it and ends it")]
        let mut command = std::process::Command::new(binary);
        let mut child = command
            .arg("serve")
            .arg(&config)
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        let registry = Self {
            child,
            name: address.to_string(),
        };
        // It says when it listens; what it says later must be read, too.
        let (listening, heard) = tokio::sync::oneshot::channel();
        std::thread::spawn(move || {
            let mut listening = Some(listening);
            for line in log.lines().map_while(Result::ok) {
                if line.contains("listening on") {
                    listening.take().map(|told| told.send(()));
                }
            }
        });
        heard.await.unwrap();
        registry
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Uploads an image the way that the distribution specification says ("Pushing").
    pub(super) async fn push(&self, scheme: &str, repository: &str, tag: &str, image: &TestImage) {
        let client = reqwest::Client::builder().no_proxy();
        let client = client
            .tls_danger_accept_invalid_certs(true)
            .build()
            .unwrap();
        let base = format!("{scheme}://{}/v2/{repository}", self.name);
        for blob in image.layers.iter().chain([&image.config]) {
            let begun = client
                .post(format!("{base}/blobs/uploads/"))
                .send()
                .await
                .unwrap();
            let place = begun.headers()["location"].to_str().unwrap().to_owned();
            let mut place = reqwest::Url::parse(&base).unwrap().join(&place).unwrap();
            place.query_pairs_mut().append_pair("digest", &digest(blob));
            let sent = client.put(place).body(blob.clone()).send().await.unwrap();
            assert_eq!(sent.status(), 201);
        }
        let manifest = client
            .put(format!("{base}/manifests/{tag}"))
            .header("content-type", OCI_MANIFEST);
        assert_eq!(
            manifest
                .body(image.manifest_bytes())
                .send()
                .await
                .unwrap()
                .status(),
            201
        );
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}
