//! Time stamps (RFC 3161) in the place of a log, made by openssl with an authority of the test's own.

use std::path::Path;
use std::process::Command;

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use serde_json::{Value, json};

use super::authority::{Authority, Days, NOON, base64, evidence};
use super::{DIGEST, NAME, OTHER, World};
use crate::Evidence;

const ISSUER: &str = "https://issuer.example";
const WHO: &str = "ci@example.com";
/// A time at which certificates of [`Days::Now`] are valid, in seconds since 1970.
const LATER: i64 = NOON + 1000;
/// "Extended key usage: time stamping" (RFC 3161, 2.3), which rcgen cannot mark as critical.
const USAGE: [u64; 4] = [2, 5, 29, 37];
const STAMPING: [u8; 12] = [0x30, 10, 6, 8, 0x2b, 6, 1, 5, 5, 7, 3, 8];
const CONFIG: &str = "[tsa]\ndefault_tsa = own\n[own]\nserial = serial\ndefault_policy = 1.2.3.4\n\
    digests = sha256\nsigner_digest = sha256\ness_cert_id_alg = sha256\n";

/// An authority for time stamps.
struct Stamper {
    folder: tempfile::TempDir,
    chain: [Vec<u8>; 2],
}

impl Stamper {
    /// `None`, said so, if this machine has no openssl.
    fn new() -> Option<Self> {
        if openssl().arg("version").output().is_err() {
            println!("skipped: needs openssl");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let (above, key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let mut root = named("root of stamps");
        root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        root.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let root_made = root.self_signed(&above).unwrap();
        let mut leaf = named("stamps");
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let mut usage = CustomExtension::from_oid_content(&USAGE, STAMPING.to_vec());
        usage.set_criticality(true);
        leaf.custom_extensions = vec![usage];
        let made = leaf
            .signed_by(&key, &Issuer::from_params(&root, &above))
            .unwrap();
        let stamper = Self {
            chain: [made.der().to_vec(), root_made.der().to_vec()],
            folder,
        };
        for (name, text) in [
            ("leaf.pem", made.pem()),
            ("leaf.key", key.serialize_pem()),
            ("serial", "01".to_owned()),
            ("config", CONFIG.to_owned()),
        ] {
            std::fs::write(stamper.path().join(name), text).unwrap();
        }
        Some(stamper)
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// What openssl's `ts` writes.
    fn ts(&self, args: &[&str]) -> Vec<u8> {
        let done = openssl()
            .arg("ts")
            .args(args)
            .current_dir(self.path())
            .output()
            .unwrap();
        assert!(
            done.status.success(),
            "{}",
            String::from_utf8_lossy(&done.stderr)
        );
        done.stdout
    }

    /// A stamp of the present moment on a signature, in base64, with the certificate or without.
    fn stamp(&self, signature: &str, certificate: bool) -> String {
        use sigstore_verify::types::SignatureBytes;
        let signature = SignatureBytes::from_base64(signature).unwrap();
        std::fs::write(self.path().join("signature"), signature.as_bytes()).unwrap();
        let mut query = vec!["-query", "-data", "signature", "-sha256"];
        query.extend(certificate.then_some("-cert"));
        std::fs::write(self.path().join("query"), self.ts(&query)).unwrap();
        base64(&self.ts(&[
            "-reply",
            "-config",
            "config",
            "-queryfile",
            "query",
            "-signer",
            "leaf.pem",
            "-inkey",
            "leaf.key",
        ]))
    }

    /// A trusted root with this authority, and what else it has.
    fn root(&self, authority: &Authority, logs: bool) -> String {
        let mut root: Value = serde_json::from_str(&authority.root()).unwrap();
        let chain = self
            .chain
            .each_ref()
            .map(|der| json!({ "rawBytes": base64(der) }));
        root["timestampAuthorities"] = json!([{
            "uri": "https://stamps.test",
            "certChain": { "certificates": chain },
            "validFor": { "start": "2020-01-01T00:00:00Z" },
        }]);
        if !logs {
            root["tlogs"] = json!([]);
        }
        root.to_string()
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "waited for where it is asked for"
)]
fn openssl() -> Command {
    Command::new("openssl")
}

fn named(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

/// A world whose root has no log, but an authority for time stamps.
struct Stamped {
    world: World,
    stamper: Stamper,
}

impl Stamped {
    fn new() -> Option<Self> {
        let (world, stamper) = (World::new(), Stamper::new()?);
        world.write("root.json", &stamper.root(&world.authority, false));
        Some(Self { world, stamper })
    }

    /// A statement under a certificate, with a time stamp by somebody.
    fn bundle(&self, digest: &str, days: Days, stamper: &Stamper) -> Value {
        let mut bundle = self.world.authority.certified(digest, WHO, ISSUER, days);
        let signature = bundle["dsseEnvelope"]["signatures"][0]["sig"].as_str();
        let stamp = stamper.stamp(signature.unwrap(), true);
        put(&mut bundle, &stamp);
        bundle
    }
}

fn put(bundle: &mut Value, stamp: &str) {
    let data = json!({ "rfc3161Timestamps": [{ "signedTimestamp": stamp }] });
    bundle["verificationMaterial"]["timestampVerificationData"] = data;
}

fn rule() -> String {
    format!("any = [{{ root = 'ours', issuer = '{ISSUER}', identity = '{WHO}' }}]")
}

#[test]
fn where_no_log_is_kept_a_time_stamp_says_that_the_certificate_was_valid() {
    let Some(place) = &Stamped::new() else {
        return;
    };
    let Stamped { world, stamper } = place;
    let good = place.bundle(DIGEST, Days::Now, stamper);
    world.allowed(&rule(), &[evidence(&good)]);
    // As cosign writes it when it is told of the certificates above.
    let mut chained = good.clone();
    let material = &mut chained["verificationMaterial"];
    let leaf = material["certificate"].take();
    material.as_object_mut().unwrap().remove("certificate");
    material["x509CertificateChain"] = json!({ "certificates": [leaf] });
    world.allowed(&rule(), &[evidence(&chained)]);
    let simple = |stamp: &dyn Fn(&str) -> Option<String>| {
        let mut simple = world
            .authority
            .simple_certified(NAME, DIGEST, WHO, ISSUER, Days::Now);
        let stamp = stamp(&simple.signature);
        simple.timestamp = stamp.map(|s| json!({ "SignedRFC3161Timestamp": s }).to_string());
        [Evidence::Simple(simple)]
    };
    world.allowed(
        &rule(),
        &simple(&|signature| Some(stamper.stamp(signature, true))),
    );
    // Its authority's certificate is in the root, so it need not be in the stamp.
    world.allowed(
        &rule(),
        &simple(&|signature| Some(stamper.stamp(signature, false))),
    );
    world.refused(&rule(), &simple(&|_| None), "ime");
}

#[test]
fn a_time_stamp_of_another_time_signature_or_authority_is_none() {
    let Some(place) = &Stamped::new() else {
        return;
    };
    let Stamped { world, stamper } = place;
    let refused = |bundle: &Value, reason: &str| {
        world.refused(&rule(), &[evidence(bundle)], reason);
    };
    // The certificate had expired when it was signed.
    refused(&place.bundle(DIGEST, Days::Past, stamper), "ertificate");
    refused(&place.bundle(OTHER, Days::Now, stamper), "another image");
    let foreign = Stamper::new().unwrap();
    refused(&place.bundle(DIGEST, Days::Now, &foreign), "imestamp");
    let mut bundle = place.bundle(DIGEST, Days::Now, stamper);
    let other = place.bundle(DIGEST, Days::Now, stamper);
    let borrowed = other["verificationMaterial"]["timestampVerificationData"].clone();
    bundle["verificationMaterial"]["timestampVerificationData"] = borrowed;
    refused(&bundle, "imestamp");
    let none = world.authority.certified(DIGEST, WHO, ISSUER, Days::Now);
    refused(&none, "");
    let mut nonsense = none.clone();
    put(&mut nonsense, &base64(b"no stamp"));
    refused(&nonsense, "");
    // Who it is still has to be right, and who vouches for it.
    let bundle = place.bundle(DIGEST, Days::Now, stamper);
    let other =
        format!("any = [{{ root = 'ours', issuer = '{ISSUER}', identity = 'eve@example.com' }}]");
    world.refused(&other, &[evidence(&bundle)], WHO);
    let stranger = Authority::new();
    world.write("root.json", &stamper.root(&stranger, false));
    refused(&bundle, "not by");
}

#[test]
fn where_there_is_a_log_a_time_stamp_does_not_take_its_place() {
    let Some(place) = &Stamped::new() else {
        return;
    };
    let Stamped { world, stamper } = place;
    let bundle = place.bundle(DIGEST, Days::Now, stamper);
    world.write("root.json", &stamper.root(&world.authority, true));
    world.refused(&rule(), &[evidence(&bundle)], "not by");
    // With the log's entry it is one more proof, and has to be right.
    let mut logged = bundle.clone();
    world.authority.log_certified(&mut logged, LATER);
    world.allowed(&rule(), &[evidence(&logged)]);
    put(&mut logged, &base64(b"no stamp"));
    world.refused(&rule(), &[evidence(&logged)], "not by");
}

#[test]
fn a_root_without_log_and_stamps_can_prove_nothing() {
    let world = World::new();
    let mut root: Value = serde_json::from_str(&world.authority.root()).unwrap();
    root["tlogs"] = json!([]);
    world.write("root.json", &root.to_string());
    let error = world.load(&format!("[[rules]]\n{}", rule())).unwrap_err();
    assert!(error.contains("neither a log nor"), "{error}");
}
