//! An authority for certificates and a log of signatures, made for one test.
//!
//! Both do what Sigstore's own do, as far as it is looked at: certificates carry who vouched for an
//! identity in an extension; the log signs a promise, and a proof that an entry is one of two.

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType, date_time_ymd,
};
use serde_json::{Value, json};
use sigstore_verify::crypto::{self, sha256};
use sigstore_verify::types::{DerCertificate, DerPublicKey, SignatureBytes, pae};

use crate::requirement::SIGNED;
use crate::{Evidence, Simple};

/// Noon of the day on which [`Authority::certificate`]'s are valid, in seconds since 1970.
pub(super) const NOON: i64 = 1_704_110_400;
/// Object identifier of the extension that names the issuer (fulcio's `docs/oid-info.md`).
const ISSUER: [u64; 9] = [1, 3, 6, 1, 4, 1, 57264, 1, 8];
const ENVELOPE: &str = "application/vnd.in-toto+json";
const LOG: &str = "log.test";

/// When a certificate is valid.
#[derive(Clone, Copy)]
pub(super) enum Days {
    /// On the day of [`NOON`].
    Past,
    /// When the tests run.
    Now,
}

/// Bytes in base64.
pub(super) fn base64(bytes: &[u8]) -> String {
    SignatureBytes::from_bytes(bytes).to_base64()
}

/// Some key that can sign.
pub(super) struct Signer {
    pair: crypto::KeyPair,
    rcgen: KeyPair,
}

impl Signer {
    pub(super) fn new() -> Self {
        let rcgen = KeyPair::generate().unwrap();
        let pair = crypto::KeyPair::from_pkcs8_der(&rcgen.serialize_der()).unwrap();
        Self { pair, rcgen }
    }

    pub(super) fn pem(&self) -> String {
        self.public().to_pem()
    }

    fn public(&self) -> DerPublicKey {
        self.pair.public_key_der().unwrap()
    }

    pub(super) fn sign(&self, bytes: &[u8]) -> Vec<u8> {
        self.pair.sign(bytes).unwrap().into_bytes()
    }

    /// A statement about an image, signed with the bare key and logged nowhere.
    pub(super) fn bundle(&self, digest: &str) -> Value {
        self.attest(digest, SIGNED)
    }

    /// The same with a statement of that kind.
    pub(super) fn attest(&self, digest: &str, predicate: &str) -> Value {
        let hex = digest.strip_prefix("sha256:").unwrap();
        let statement = json!({
            "_type": "https://in-toto.io/Statement/v1",
            "subject": [{ "digest": { "sha256": hex } }],
            "predicateType": predicate,
            "predicate": {},
        })
        .to_string();
        let signature = self.sign(&pae(ENVELOPE, statement.as_bytes()));
        json!({
            "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
            "verificationMaterial": { "publicKey": { "hint": "h" } },
            "dsseEnvelope": {
                "payloadType": ENVELOPE,
                "payload": base64(statement.as_bytes()),
                "signatures": [{ "sig": base64(&signature) }],
            },
        })
    }

    /// A payload about an image under a name, signed with the bare key.
    pub(super) fn simple(&self, name: &str, digest: &str) -> Simple {
        let payload = json!({
            "critical": {
                "identity": { "docker-reference": name },
                "image": { "docker-manifest-digest": digest },
                "type": "cosign container image signature",
            },
            "optional": null,
        })
        .to_string();
        Simple {
            signature: base64(&self.sign(payload.as_bytes())),
            payload,
            ..Simple::default()
        }
    }
}

/// What is to be trusted.
pub(super) struct Authority {
    key: Signer,
    log: Signer,
    params: CertificateParams,
    root: Vec<u8>,
}

impl Authority {
    pub(super) fn new() -> Self {
        let key = Signer::new();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2040, 1, 1);
        let root = params.self_signed(&key.rcgen).unwrap().der().to_vec();
        Self {
            log: Signer::new(),
            key,
            params,
            root,
        }
    }

    fn log_id(&self) -> Vec<u8> {
        sha256(self.log.public().as_bytes()).as_bytes().to_vec()
    }

    /// The trusted root, as Sigstore writes one.
    pub(super) fn root(&self) -> String {
        let public = self.log.public();
        json!({
            "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
            "tlogs": [{
                "baseUrl": "https://log.test",
                "hashAlgorithm": "SHA2_256",
                "publicKey": {
                    "rawBytes": base64(public.as_bytes()),
                    "keyDetails": "PKIX_ECDSA_P256_SHA_256",
                    "validFor": { "start": "2020-01-01T00:00:00Z" },
                },
                "logId": { "keyId": base64(&self.log_id()) },
            }],
            "certificateAuthorities": [{
                "uri": "https://ca.test",
                "certChain": { "certificates": [{ "rawBytes": base64(&self.root) }] },
                "validFor": { "start": "2020-01-01T00:00:00Z" },
            }],
        })
        .to_string()
    }

    /// A certificate, as PEM and as DER.
    fn certificate(
        &self,
        signer: &Signer,
        identity: &str,
        issuer: &str,
        days: Days,
    ) -> (String, Vec<u8>) {
        let mut params = CertificateParams::default();
        let name = Ia5String::try_from(identity).unwrap();
        params.subject_alt_names = vec![if identity.contains("://") {
            SanType::URI(name)
        } else {
            SanType::Rfc822Name(name)
        }];
        (params.not_before, params.not_after) = match days {
            Days::Past => (date_time_ymd(2024, 1, 1), date_time_ymd(2024, 1, 2)),
            Days::Now => (date_time_ymd(2024, 1, 1), date_time_ymd(2039, 1, 1)),
        };
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning];
        let mut value = vec![0x0c, u8::try_from(issuer.len()).unwrap()];
        value.extend(issuer.as_bytes());
        params.custom_extensions = vec![CustomExtension::from_oid_content(&ISSUER, value)];
        let above = Issuer::from_params(&self.params, &self.key.rcgen);
        let made = params.signed_by(&signer.rcgen, &above).unwrap();
        (made.pem(), made.der().to_vec())
    }

    /// What the log has to say about a body: the promise, and the place in a tree of two.
    fn entry(&self, kind: &str, body: &str, time: i64) -> Value {
        let leaf = |body: &[u8]| sha256(&[&[0], body].concat());
        let (own, other) = (leaf(body.as_bytes()), leaf(b"another entry"));
        let root = sha256(&[&[1][..], other.as_slice(), own.as_slice()].concat());
        let note = format!("{LOG}\n2\n{}\n", root.to_base64());
        let hint = &self.log_id()[..4];
        let signature = [hint, &self.log.sign(note.as_bytes())].concat();
        json!({
            "logIndex": "1",
            "logId": { "keyId": base64(&self.log_id()) },
            "kindVersion": { "kind": kind, "version": "0.0.1" },
            "integratedTime": time.to_string(),
            "inclusionPromise": { "signedEntryTimestamp": self.promise(body, time) },
            "inclusionProof": {
                "logIndex": "1",
                "rootHash": root.to_base64(),
                "treeSize": "2",
                "hashes": [other.to_base64()],
                "checkpoint": { "envelope": format!("{note}\n\u{2014} {LOG} {}\n", base64(&signature)) },
            },
            "canonicalizedBody": base64(body.as_bytes()),
        })
    }

    /// The signature of the log over what it holds, in base64.
    fn promise(&self, body: &str, time: i64) -> String {
        let log: String = self.log_id().iter().map(|b| format!("{b:02x}")).collect();
        let body = base64(body.as_bytes());
        let text =
            format!(r#"{{"body":"{body}","integratedTime":{time},"logID":"{log}","logIndex":1}}"#);
        base64(&self.log.sign(text.as_bytes()))
    }

    /// A statement about an image under a certificate, logged at that time.
    pub(super) fn bundle(&self, digest: &str, identity: &str, issuer: &str, time: i64) -> Value {
        let mut bundle = self.certified(digest, identity, issuer, Days::Past);
        self.log_certified(&mut bundle, time);
        bundle
    }

    /// A statement about an image under a certificate, logged nowhere.
    pub(super) fn certified(
        &self,
        digest: &str,
        identity: &str,
        issuer: &str,
        days: Days,
    ) -> Value {
        let signer = Signer::new();
        let (_, der) = self.certificate(&signer, identity, issuer, days);
        let mut bundle = signer.bundle(digest);
        bundle["verificationMaterial"] = json!({ "certificate": { "rawBytes": base64(&der) } });
        bundle
    }

    /// Puts a bundle under a certificate into the log.
    pub(super) fn log_certified(&self, bundle: &mut Value, time: i64) {
        let der = bundle["verificationMaterial"]["certificate"]["rawBytes"].as_str();
        let pem = DerCertificate::from_base64(der.unwrap()).unwrap().to_pem();
        self.log(bundle, &pem, time);
    }

    /// Puts a bundle into the log.
    pub(super) fn log(&self, bundle: &mut Value, verifier: &str, time: i64) {
        let envelope = &bundle["dsseEnvelope"];
        let payload = SignatureBytes::from_base64(envelope["payload"].as_str().unwrap()).unwrap();
        let body = json!({
            "apiVersion": "0.0.1",
            "kind": "dsse",
            "spec": {
                "envelopeHash": { "algorithm": "sha256", "value": sha256(b"whatever").to_hex() },
                "payloadHash": { "algorithm": "sha256", "value": sha256(payload.as_bytes()).to_hex() },
                "signatures": [{
                    "signature": envelope["signatures"][0]["sig"],
                    "verifier": base64(verifier.as_bytes()),
                }],
            },
        });
        let entry = self.entry("dsse", &body.to_string(), time);
        bundle["verificationMaterial"]["tlogEntries"] = json!([entry]);
    }

    /// A payload about an image under a certificate, with the log's promise.
    pub(super) fn simple(&self, name: &str, digest: &str, identity: &str, issuer: &str) -> Simple {
        let mut simple = self.simple_certified(name, digest, identity, issuer, Days::Past);
        let pem = simple.certificate.clone().unwrap();
        self.promise_simple(&mut simple, &pem);
        simple
    }

    /// A payload about an image under a certificate, without a promise.
    pub(super) fn simple_certified(
        &self,
        name: &str,
        digest: &str,
        identity: &str,
        issuer: &str,
        days: Days,
    ) -> Simple {
        let signer = Signer::new();
        let (pem, _) = self.certificate(&signer, identity, issuer, days);
        Simple {
            certificate: Some(pem),
            ..signer.simple(name, digest)
        }
    }

    /// Adds the log's promise to a payload.
    pub(super) fn promise_simple(&self, simple: &mut Simple, verifier: &str) {
        let body = json!({
            "apiVersion": "0.0.1",
            "kind": "hashedrekord",
            "spec": {
                "data": { "hash": {
                    "algorithm": "sha256",
                    "value": sha256(simple.payload.as_bytes()).to_hex(),
                } },
                "signature": {
                    "content": simple.signature,
                    "publicKey": { "content": base64(verifier.as_bytes()) },
                },
            },
        })
        .to_string();
        let log: String = self.log_id().iter().map(|b| format!("{b:02x}")).collect();
        let promise = json!({
            "SignedEntryTimestamp": self.promise(&body, NOON),
            "Payload": {
                "body": base64(body.as_bytes()),
                "integratedTime": NOON,
                "logIndex": 1,
                "logID": log,
            },
        });
        simple.promise = Some(promise.to_string());
    }
}

/// A bundle as evidence.
pub(super) fn evidence(bundle: &Value) -> Evidence {
    Evidence::Bundle(bundle.to_string())
}
