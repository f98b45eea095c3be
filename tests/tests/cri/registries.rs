//! Registries as companies keep them, all of them real: encrypted under an authority of one's own,
//! with passwords, with a token server, behind mirrors.

mod tokens;

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::json;
use tests::conformance::images;
use tests::registry::{Extra, free_port};
use tests::{Crictl, Daemon, Registry, pod};
use tokens::Tokens;

const USER: &str = "puller";
const PASSWORD: &str = "a secret word";
/// The password as htpasswd(5) has it, by bcrypt with the least of work.
const HASH: &str = "$2b$04$oCayxGX8XTqeIvEDSoeIGuVmSz.5xDhoySc0hwWTkAK1/k.wOzmbq";

/// A daemon without anything that it was told of registries, and a folder with an image for them.
struct Place {
    crictl: Crictl,
    daemon: Daemon,
    folder: tempfile::TempDir,
}

impl Place {
    /// `None`, said so, if this machine lacks something.
    fn start() -> Option<Place> {
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        // Blobs lie in the folder, for whoever serves them next.
        let open = Registry::start(folder.path()).unwrap()?;
        images::push_busybox(&open, &images::busybox().unwrap()).unwrap();
        let daemon = Daemon::setup().start().unwrap();
        Some(Place {
            crictl: daemon.crictl()?,
            daemon,
            folder,
        })
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The registry with that folder's image.
    fn registry(&self, extra: &Extra) -> Registry {
        let started = Registry::start_with(self.folder.path(), extra).unwrap();
        started.expect("it was started once already")
    }

    /// Tells the daemon of a registry.
    fn hosts(&self, host: &str, text: &str) {
        let folder = self.daemon.scratch().join("certs.d").join(host);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("hosts.toml"), text).unwrap();
    }

    /// Tells the daemon of credentials.
    fn credentials(&self, host: &str, user: &str, password: &str) {
        let auth = tokens::base64(format!("{user}:{password}").as_bytes());
        let text = json!({"auths": {host: {"auth": auth}}}).to_string();
        fs::write(self.daemon.scratch().join("credentials.json"), text).unwrap();
    }

    /// Pulls the image and removes it again.
    fn pull(&self, host: &str, flags: &[&str]) -> Result<(), String> {
        let name = image(host);
        let pulled = self.crictl.ok(&[&["pull"], flags, &[&name]].concat());
        pulled.map_err(|error| format!("{error:?}"))?;
        self.crictl.ok(&["rmi", &name]).unwrap();
        Ok(())
    }

    #[track_caller]
    fn refused(&self, host: &str, flags: &[&str], reasons: &[&str]) {
        let said = self.pull(host, flags).unwrap_err();
        for reason in reasons {
            assert!(said.contains(reason), "{reason}: {said}");
        }
    }
}

fn image(host: &str) -> String {
    format!("{host}/{}", pod::BUSYBOX)
}

/// An authority of one's own, and a registry's certificate under it: files in a folder.
fn certificates(folder: &Path) -> (PathBuf, String) {
    let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &authority).unwrap();
    let put = |name: &str, text: String| {
        let path = folder.join(name);
        fs::write(&path, text).unwrap();
        path
    };
    let (own, key) = (
        put("server.crt", certificate.pem()),
        put("server.key", key.serialize_pem()),
    );
    let tls = format!("  tls: {{certificate: {own:?}, key: {key:?}}}\n");
    (put("ca.crt", authority.pem()), tls)
}

#[test]
fn an_encrypted_registry_wants_its_authority_and_a_password() {
    let Some(place) = Place::start() else { return };
    let (authority, http) = certificates(place.folder.path());
    let users = place.file("htpasswd");
    fs::write(&users, format!("{USER}:{HASH}\n")).unwrap();
    let tables = format!("auth: {{htpasswd: {{realm: here, path: {users:?}}}}}\n");
    let registry = place.registry(&Extra { http, tables });
    let host = &registry.host;
    let creds = format!("{USER}:{PASSWORD}");
    place.hosts(host, &format!("server = \"https://{host}\"\n"));
    place.refused(host, &["--creds", &creds], &["ertificate"]);
    place.hosts(
        host,
        &format!("server = \"https://{host}\"\nca = {authority:?}\n"),
    );
    place.refused(host, &[], &["denied"]);
    place.refused(host, &["--creds", "puller:something else"], &["denied"]);
    place.pull(host, &["--creds", &creds]).unwrap();
    let auth = tokens::base64(creds.as_bytes());
    place.pull(host, &["--auth", &auth]).unwrap();
    // What one pull brought is not there for the next.
    place.refused(host, &[], &["denied"]);
    place.credentials(host, USER, PASSWORD);
    place.pull(host, &[]).unwrap();
    // What a pull brings comes before what the node has.
    place.refused(host, &["--creds", "puller:something else"], &["denied"]);
}

#[test]
fn a_registry_with_a_token_server_gets_tokens_for_what_is_pulled() {
    let Some(place) = Place::start() else { return };
    let tokens = Tokens::start(USER, PASSWORD);
    let bundle = place.file("tokens.crt");
    fs::write(&bundle, tokens.certificate()).unwrap();
    let tables = format!(
        "auth: {{token: {{realm: {:?}, service: registry, issuer: {:?}, rootcertbundle: {bundle:?}}}}}\n",
        tokens.realm(),
        tokens::ISSUER,
    );
    let registry = place.registry(&Extra {
        tables,
        ..Extra::default()
    });
    let host = &registry.host;
    place.refused(host, &["--creds", "puller:something else"], &["denied"]);
    place.refused(host, &[], &["denied"]);
    let creds = format!("{USER}:{PASSWORD}");
    place.pull(host, &["--creds", &creds]).unwrap();
    place.credentials(host, USER, PASSWORD);
    place.pull(host, &[]).unwrap();
    let (repository, _) = pod::BUSYBOX.split_once(':').unwrap();
    let wanted = format!("repository:{repository}:pull");
    for (service, scope) in tokens.asked() {
        assert_eq!(
            (service.as_str(), scope.as_str()),
            ("registry", wanted.as_str())
        );
    }
}

#[test]
fn mirrors_are_asked_in_their_order_and_then_the_registry() {
    let Some(place) = Place::start() else { return };
    let registry = place.registry(&Extra::default());
    let other = place.file("other");
    let empty = Registry::start(&other).unwrap().unwrap();
    let dead = format!("127.0.0.1:{}", free_port().unwrap());
    let table =
        |host: &str| format!("[host.\"http://{host}\"]\ncapabilities = [\"pull\", \"resolve\"]\n");
    let name = "registry.test";
    let hosts = |server: &str, mirrors: &[&str]| {
        let mirrors: String = mirrors.iter().map(|host| table(host)).collect();
        place.hosts(name, &format!("server = \"http://{server}\"\n{mirrors}"));
    };
    // One that is gone, one that does not have it, then the registry itself.
    hosts(&registry.host, &[&dead, &empty.host]);
    place.pull(name, &[]).unwrap();
    // The registry is gone, the mirror is not.
    hosts(&dead, &[&registry.host]);
    place.pull(name, &[]).unwrap();
    hosts(&dead, &[&empty.host]);
    place.refused(name, &[], &["NotFound"]);
    // Where nobody else may be asked, nobody is.
    let only = format!(
        "server = \"http://{}\"\nfallback = false\n{}",
        registry.host,
        table(&empty.host)
    );
    place.hosts(name, &only);
    place.refused(name, &[], &["NotFound"]);
}
