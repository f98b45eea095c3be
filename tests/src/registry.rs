//! A registry on loopback: Debian's docker-registry, in a folder of its own.

use std::ffi::OsStr;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;

use anyhow::{Context, Result, bail};
use reqwest::{Client, Method, Response, StatusCode, header};
use tokio::runtime::Runtime;

use crate::image::{Blob, Image};
use crate::process::Running;
use crate::{peers, wait};

/// What a registry is told besides where it listens and keeps its blobs: lines of its configuration.
#[derive(Debug, Default)]
pub struct Extra {
    /// What its table `http` has besides the address; indented by two.
    pub http: String,
    /// Whole tables.
    pub tables: String,
}

/// A registry that lives as long as this value.
#[derive(Debug)]
pub struct Registry {
    /// Host and port, as in a reference.
    pub host: String,
    runtime: Runtime,
    client: Client,
    _server: Running,
}

impl Registry {
    /// Starts a registry that keeps its blobs in a folder; `None` if this machine has none.
    ///
    /// # Errors
    ///
    /// If it does not come up.
    pub fn start(folder: &Path) -> Result<Option<Registry>> {
        Registry::start_with(folder, &Extra::default())
    }

    /// The same with more of a configuration. One that wants encryption or credentials gets its
    /// images from one that does not, which was started in the same folder before.
    ///
    /// # Errors
    ///
    /// If it does not come up.
    pub fn start_with(folder: &Path, extra: &Extra) -> Result<Option<Registry>> {
        let Some(program) = peers::peer_or_installed("docker-registry") else {
            return Ok(None);
        };
        std::fs::create_dir_all(folder)?;
        let port = free_port()?;
        let config = folder.join("config.yml");
        std::fs::write(&config, configuration(folder, port, extra))?;
        let args = [OsStr::new("serve"), config.as_os_str()];
        let server = Running::start(&program, &args, &folder.join("log"))?;
        wait::until("the registry to listen", || {
            TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()
        })?;
        Ok(Some(Registry {
            host: format!("{}:{port}", Ipv4Addr::LOCALHOST),
            runtime: tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?,
            client: Client::builder().no_proxy().build()?,
            _server: server,
        }))
    }

    /// Stores an image under some tags.
    ///
    /// # Errors
    ///
    /// If the registry refuses it.
    pub fn push(&self, name: &str, tags: &[&str], image: &Image) -> Result<()> {
        self.runtime
            .block_on(async {
                for blob in &image.blobs {
                    self.push_blob(name, blob).await?;
                }
                for manifest in &image.inner {
                    self.push_manifest(name, &manifest.digest, manifest).await?;
                }
                for tag in tags {
                    self.push_manifest(name, tag, &image.top).await?;
                }
                Ok::<_, anyhow::Error>(())
            })
            .with_context(|| format!("pushing {name} to the registry on {}", self.host))
    }

    async fn push_blob(&self, name: &str, blob: &Blob) -> Result<()> {
        let url = format!("http://{}/v2/{name}/blobs", self.host);
        let there = self
            .client
            .head(format!("{url}/{}", blob.digest))
            .send()
            .await?;
        if there.status() == StatusCode::OK {
            return Ok(());
        }
        let started = expect(
            self.client
                .post(format!("{url}/uploads/"))
                .body(Vec::new())
                .send()
                .await?,
            StatusCode::ACCEPTED,
        )?;
        let location = started
            .headers()
            .get(header::LOCATION)
            .context("no upload location")?;
        let mut upload = started.url().join(location.to_str()?)?;
        upload.query_pairs_mut().append_pair("digest", &blob.digest);
        self.put(upload.as_str(), "application/octet-stream", blob)
            .await
    }

    async fn push_manifest(&self, name: &str, reference: &str, manifest: &Blob) -> Result<()> {
        let url = format!("http://{}/v2/{name}/manifests/{reference}", self.host);
        self.put(&url, manifest.media_type, manifest).await
    }

    async fn put(&self, url: &str, media_type: &str, blob: &Blob) -> Result<()> {
        let request = self.client.request(Method::PUT, url);
        let request = request
            .header(header::CONTENT_TYPE, media_type)
            .body(blob.bytes.to_vec());
        expect(request.send().await?, StatusCode::CREATED)?;
        Ok(())
    }
}

fn expect(response: Response, status: StatusCode) -> Result<Response> {
    if response.status() != status {
        bail!("{} answered {}", response.url(), response.status());
    }
    Ok(response)
}

/// A port that nobody uses now.
///
/// # Errors
///
/// If the machine has none left.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
        .local_addr()?
        .port())
}

fn configuration(folder: &Path, port: u16, extra: &Extra) -> String {
    let Extra { http, tables } = extra;
    format!(
        "version: 0.1\n\
         log: {{level: warn, accesslog: {{disabled: true}}}}\n\
         storage: {{filesystem: {{rootdirectory: {}}}, delete: {{enabled: true}}}}\n\
         http:\n  addr: 127.0.0.1:{port}\n{http}\
         compatibility: {{schema1: {{enabled: true}}}}\n{tables}",
        folder.join("blobs").display()
    )
}
