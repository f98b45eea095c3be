//! Encrypted registries: Debian's, with a private authority and with certificates of clients, also
//! through a proxy.

use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use registry_double::{Pack, Tar, TestImage};

use super::debian::Registry;
use super::{Client, hosts_toml, temp};
use crate::Error;

fn image() -> TestImage {
    let tar = Tar::new().file("name", b"tls").end();
    TestImage::new(&[(tar, Pack::Gzip)])
}

/// An authority and what it has signed, as files.
struct Authority {
    folder: PathBuf,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    fn new(folder: &Path) -> Self {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let issuer = CertifiedIssuer::self_signed(params, key).unwrap();
        let authority = Self {
            folder: folder.to_path_buf(),
            issuer,
        };
        std::fs::write(authority.file("ca.crt"), authority.issuer.pem()).unwrap();
        authority
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Signs a certificate; `name.cert` and `name.key` are its files.
    fn sign(&self, name: &str, of: &str) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![of.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        std::fs::write(self.file(&format!("{name}.cert")), certificate.pem()).unwrap();
        std::fs::write(self.file(&format!("{name}.key")), key.serialize_pem()).unwrap();
    }

    /// The `http` part of a registry's configuration.
    fn tls(&self, name: &str, wants_certificates: bool) -> String {
        let file = |name: String| self.file(&name).display().to_string();
        let mut text = format!(
            "  tls:\n    certificate: {}\n    key: {}\n",
            file(format!("{name}.cert")),
            file(format!("{name}.key"))
        );
        if wants_certificates {
            text += &format!("    clientcas:\n      - {}\n", file("ca.crt".into()));
        }
        text
    }
}

#[tokio::test]
async fn a_registry_that_wants_a_certificate_gets_it() {
    let Some(binary) = Registry::program() else {
        println!("skipped: needs docker-registry");
        return;
    };
    let temp = temp();
    let authority = Authority::new(temp.path());
    authority.sign("server", "127.0.0.1");
    authority.sign("us", "us");
    let open = Registry::start(&binary, temp.path(), &authority.tls("server", false)).await;
    open.push("https", "a", "1", &image()).await;
    drop(open);
    let tls = authority.tls("server", true);
    let registry = Registry::start(&binary, temp.path(), &tls).await;
    let client = Client::at(temp.path());
    let name = format!("{}/a:1", registry.name());
    let configure = |more: &str| {
        let ca = authority.file("ca.crt");
        let text = format!(
            "server = \"https://{}\"\nca = {ca:?}\n{more}",
            registry.name()
        );
        hosts_toml(temp.path(), registry.name(), &text);
    };
    configure("");
    let refused = client.pull(&name, None).await;
    assert!(matches!(refused, Err(Error::Unavailable(_))), "{refused:?}");
    let (certificate, key) = (authority.file("us.cert"), authority.file("us.key"));
    configure(&format!("client = [[{certificate:?}, {key:?}]]"));
    assert_eq!(client.pull(&name, None).await.unwrap(), image().id());
    // The same without a file that says so, from a folder in the form of Docker.
    let folder = temp.path().join("certs.d").join(registry.name());
    std::fs::remove_file(folder.join("hosts.toml")).unwrap();
    for file in ["ca.crt", "us.cert", "us.key"] {
        std::fs::copy(authority.file(file), folder.join(file)).unwrap();
    }
    let text = format!("server = \"https://{}\"", registry.name());
    hosts_toml(temp.path(), "other.test", &text);
    let id = client.pull("other.test/a:1", None).await.unwrap();
    assert_eq!(id, image().id());
}

/// A proxy that makes tunnels (RFC 9110, 9.3.6); stops when dropped.
struct Tunnels {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
    stopped: Arc<AtomicBool>,
    accepting: Option<JoinHandle<()>>,
}

impl Tunnels {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (asked, stopped) = (
            Arc::<Mutex<Vec<String>>>::default(),
            Arc::<AtomicBool>::default(),
        );
        let (lines, stop) = (Arc::clone(&asked), Arc::clone(&stopped));
        let accepting = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stop.load(Ordering::SeqCst) {
                    break;
                }
                let lines = Arc::clone(&lines);
                // It ends when either end closes its connection.
                std::thread::spawn(move || drop(tunnel(&stream.unwrap(), &lines)));
            }
        });
        Self {
            address,
            asked,
            stopped,
            accepting: Some(accepting),
        }
    }
}

impl Drop for Tunnels {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(self.address));
        if let Some(accepting) = self.accepting.take() {
            drop(accepting.join());
        }
    }
}

fn tunnel(client: &TcpStream, asked: &Mutex<Vec<String>>) -> std::io::Result<()> {
    let mut reader = BufReader::new(client);
    let mut first = String::new();
    reader.read_line(&mut first)?;
    let mut line = first.clone();
    while !line.trim().is_empty() {
        line.clear();
        reader.read_line(&mut line)?;
    }
    let target = first.split_whitespace().nth(1).unwrap_or_default();
    asked.lock().unwrap().push(first.trim().to_owned());
    let server = TcpStream::connect(target)?;
    (&mut &*client).write_all(b"HTTP/1.1 200 Connected\r\n\r\n")?;
    let (mut up, mut down) = (server.try_clone()?, client.try_clone()?);
    let back = std::thread::spawn(move || {
        let copied = std::io::copy(&mut &server, &mut down);
        drop(down.shutdown(Shutdown::Both));
        copied
    });
    std::io::copy(&mut reader, &mut up)?;
    up.shutdown(Shutdown::Both)?;
    back.join().unwrap().map(drop)
}

#[tokio::test]
async fn an_encrypted_registry_is_reached_through_a_proxy() {
    let Some(binary) = Registry::program() else {
        println!("skipped: needs docker-registry");
        return;
    };
    let temp = temp();
    let authority = Authority::new(temp.path());
    authority.sign("server", "127.0.0.1");
    let registry = Registry::start(&binary, temp.path(), &authority.tls("server", false)).await;
    registry.push("https", "a", "1", &image()).await;
    let proxy = Tunnels::start();
    let text = format!(
        "server = \"https://{}\"\nca = {:?}\nproxy = \"http://{}\"",
        registry.name(),
        authority.file("ca.crt"),
        proxy.address
    );
    hosts_toml(temp.path(), "secret.test", &text);
    let client = Client::at(temp.path());
    let id = client.pull("secret.test/a:1", None).await.unwrap();
    assert_eq!(id, image().id());
    let asked = proxy.asked.lock().unwrap().clone();
    let expect = format!("CONNECT {} HTTP/1.1", registry.name());
    assert!(
        !asked.is_empty() && asked.iter().all(|line| *line == expect),
        "{asked:?}"
    );
}

#[tokio::test]
async fn debians_registry_is_understood() {
    let Some(binary) = Registry::program() else {
        println!("skipped: needs docker-registry");
        return;
    };
    let temp = temp();
    let registry = Registry::start(&binary, temp.path(), "").await;
    let image = image();
    registry.push("http", "sub/a", "1", &image).await;
    let client = Client::at(temp.path());
    let id = client
        .pull(&format!("{}/sub/a:1", registry.name()), None)
        .await
        .unwrap();
    assert_eq!(id, image.id());
    let missing = client
        .pull(&format!("{}/sub/none:1", registry.name()), None)
        .await;
    assert!(matches!(missing, Err(Error::NotFound(_))), "{missing:?}");
}

#[tokio::test]
async fn a_registry_with_a_private_authority_is_trusted_when_configured() {
    let Some(binary) = Registry::program() else {
        println!("skipped: needs docker-registry");
        return;
    };
    let (temp, image) = (temp(), image());
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let (certificate, key) = (temp.path().join("crt.pem"), temp.path().join("key.pem"));
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let tls = format!(
        "  tls:\n    certificate: {}\n    key: {}\n",
        certificate.display(),
        key.display()
    );
    let registry = Registry::start(&binary, temp.path(), &tls).await;
    registry.push("https", "a", "1", &image).await;
    let client = Client::at(temp.path());
    let name = format!("{}/a:1", registry.name());
    let folder = temp.path().join("certs.d").join(registry.name());
    std::fs::create_dir_all(&folder).unwrap();
    let configure = |more: &str| {
        let text = format!("server = \"https://{}\"\n{more}", registry.name());
        std::fs::write(folder.join("hosts.toml"), text).unwrap();
    };
    configure("");
    let error = client.pull(&name, None).await.unwrap_err();
    assert!(
        matches!(&error, Error::Unavailable(text) if text.contains("certificate")),
        "{error}"
    );
    configure("ca = \"missing.pem\"");
    assert!(
        client
            .pull(&name, None)
            .await
            .unwrap_err()
            .to_string()
            .contains("missing.pem")
    );
    for trust in [
        format!("ca = \"{}\"", certificate.display()),
        "skip_verify = true".into(),
    ] {
        configure(&trust);
        assert_eq!(
            client.pull(&name, None).await.unwrap(),
            image.id(),
            "{trust}"
        );
    }
}
