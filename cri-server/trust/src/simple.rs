//! Simple signing: what a payload says, and the same evidence written as a bundle.
//!
//! cosign keeps the signature, the certificate and the log's promise in annotations beside the
//! payload; a bundle of the oldest form holds exactly these, so that one library judges both.

use serde::Deserialize;
use serde_json::{Value, json};
use sigstore_verify::types::{Bundle, DerCertificate, Sha256Hash};

use crate::file::ReferenceRule;
use crate::requirement::Witness;
use crate::{Simple, Subject};

/// What a payload is (cosign's `SIGNATURE_SPEC.md`; containers' `container-signature.5`).
const KINDS: [&str; 2] = [
    "cosign container image signature",
    "atomic container signature",
];
/// The bundle form whose entries have a promise of the log, but need no proof.
const PROMISED: &str = "application/vnd.dev.sigstore.bundle+json;version=0.1";
/// The one that can do without entries, and hold several certificates.
const STAMPED: &str = "application/vnd.dev.sigstore.bundle+json;version=0.2";
const BEGIN: &str = "-----BEGIN CERTIFICATE-----";

#[derive(Deserialize)]
struct Payload {
    critical: Critical,
}

#[derive(Deserialize)]
struct Critical {
    identity: Identity,
    image: Image,
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Identity {
    docker_reference: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Image {
    docker_manifest_digest: String,
}

/// Whether a payload is about the image; else what it is about.
pub(crate) fn check_payload(
    payload: &str,
    subject: &Subject<'_>,
    reference: ReferenceRule,
) -> Result<(), String> {
    let payload: Payload = serde_json::from_str(payload)
        .map_err(|cause| format!("its payload cannot be read: {cause}"))?;
    let critical = payload.critical;
    if !KINDS.contains(&critical.kind.as_str()) {
        return Err(format!("its payload is a {:?}", critical.kind));
    }
    let digest = critical.image.docker_manifest_digest;
    if !subject.digests.contains(&digest) {
        return Err(format!("it is about {digest:?}"));
    }
    let name = critical.identity.docker_reference;
    match reference {
        ReferenceRule::Any => Ok(()),
        ReferenceRule::Same if is_name_of(&name, subject) => Ok(()),
        ReferenceRule::Same => Err(format!("it is about {name:?}")),
    }
}

/// Whether a name in a payload is the image's: its repository, and its tag where both have one.
fn is_name_of(name: &str, subject: &Subject<'_>) -> bool {
    let name = name.split_once('@').map_or(name, |(name, _)| name);
    let after_slash = name.rfind('/').map_or(0, |at| at + 1);
    let (repository, tag) = match name[after_slash..].rfind(':') {
        Some(colon) => {
            let colon = after_slash + colon;
            (&name[..colon], Some(&name[colon + 1..]))
        }
        None => (name, None),
    };
    let same_tag = match (tag, subject.tag) {
        (Some(signed), Some(asked)) => signed == asked,
        _ => true,
    };
    same_tag && complete(repository) == subject.repository
}

/// The ways in which one names the registry that is meant when none is named.
fn complete(repository: &str) -> String {
    let path = match repository.strip_prefix("index.docker.io/") {
        Some(path) => path,
        None => match repository.strip_prefix("docker.io/") {
            Some(path) => path,
            None => match repository.split_once('/') {
                Some((first, _)) if first.contains(['.', ':']) || first == "localhost" => {
                    return repository.to_owned();
                }
                _ => repository,
            },
        },
    };
    let folder = if path.contains('/') { "" } else { "library/" };
    format!("docker.io/{folder}{path}")
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Promise {
    signed_entry_timestamp: String,
    payload: Entry,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    body: String,
    integrated_time: i64,
    log_index: i64,
    #[serde(rename = "logID")]
    log_id: String,
}

#[derive(Deserialize)]
struct Stamp {
    #[serde(rename = "SignedRFC3161Timestamp")]
    signed: String,
}

/// The same as a bundle, with its certificate or as one by a key, and with what has to witness it.
pub(crate) fn as_bundle(
    simple: &Simple,
    certified: bool,
    witness: Witness,
) -> Result<Bundle, String> {
    let material = if certified {
        let leaf = simple.certificate.as_deref();
        let leaf = leaf.ok_or("it has no certificate")?;
        json!({ "certificates": certificates(leaf, simple.chain.as_deref())? })
    } else {
        json!({ "hint": "" })
    };
    let kind = if certified {
        "x509CertificateChain"
    } else {
        "publicKey"
    };
    let (form, entries) = match witness {
        // A root that has no log cannot tell whether another one keeps its promise.
        Witness::Stamp => (STAMPED, Vec::new()),
        Witness::Log | Witness::Nobody => {
            let promise = simple.promise.as_deref();
            let promise = promise.ok_or("no log promises to hold it")?;
            (PROMISED, vec![entry(promise)?])
        }
    };
    let bundle = json!({
        "mediaType": form,
        "verificationMaterial": {
            kind: material,
            "tlogEntries": entries,
            "timestampVerificationData": { "rfc3161Timestamps": stamps(simple)? },
        },
        "messageSignature": { "signature": simple.signature },
    });
    serde_json::from_value(bundle).map_err(|cause| format!("it is malformed: {cause}"))
}

fn certificates(leaf: &str, chain: Option<&str>) -> Result<Vec<Value>, String> {
    // cosign writes only one certificate here; whatever follows it is not looked at.
    let above = chain.unwrap_or_default().split_inclusive(BEGIN).skip(1);
    let above = above.map(|rest| format!("{BEGIN}{}", rest.trim_end_matches(BEGIN)));
    let all = std::iter::once(leaf.to_owned()).chain(above);
    let one = |pem: String| {
        let certificate = DerCertificate::from_pem(&pem)
            .map_err(|cause| format!("a certificate cannot be read: {cause}"))?;
        Ok(json!({ "rawBytes": certificate.to_base64() }))
    };
    all.map(one).collect()
}

/// The log's promise as an entry of a bundle.
fn entry(promise: &str) -> Result<Value, String> {
    let unreadable = |cause: &dyn std::fmt::Display| format!("the log's promise: {cause}");
    let promise: Promise = serde_json::from_str(promise).map_err(|cause| unreadable(&cause))?;
    let entry = promise.payload;
    let log = Sha256Hash::from_hex(&entry.log_id).map_err(|cause| unreadable(&cause))?;
    let body = sigstore_verify::types::CanonicalizedBody::from_base64(&entry.body)
        .map_err(|cause| unreadable(&cause))?;
    let body: Value =
        serde_json::from_slice(body.as_bytes()).map_err(|cause| unreadable(&cause))?;
    Ok(json!({
        "logIndex": entry.log_index.to_string(),
        "logId": { "keyId": log.to_base64() },
        "kindVersion": { "kind": body["kind"], "version": body["apiVersion"] },
        "integratedTime": entry.integrated_time.to_string(),
        "inclusionPromise": { "signedEntryTimestamp": promise.signed_entry_timestamp },
        "canonicalizedBody": entry.body,
    }))
}

fn stamps(simple: &Simple) -> Result<Vec<Value>, String> {
    let Some(text) = &simple.timestamp else {
        return Ok(Vec::new());
    };
    let stamp: Stamp =
        serde_json::from_str(text).map_err(|cause| format!("its time stamp: {cause}"))?;
    Ok(vec![json!({ "signedTimestamp": stamp.signed })])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, repository: &str, tag: Option<&str>, expect: bool) {
        let subject = Subject {
            namespace: "",
            repository,
            tag,
            digests: &[],
        };
        assert_eq!(is_name_of(name, &subject), expect, "{name} {repository}");
    }

    #[test]
    fn names_in_payloads() {
        let busybox = "docker.io/library/busybox";
        check("busybox", busybox, Some("1"), true);
        check("index.docker.io/library/busybox", busybox, Some("1"), true);
        check("docker.io/busybox:1", busybox, Some("1"), true);
        check("docker.io/busybox:2", busybox, Some("1"), false);
        check("docker.io/busybox:2", busybox, None, true);
        check("a.example:5000/x", "a.example:5000/x", Some("1"), true);
        check("a.example:5000/x:1", "a.example:5000/x", Some("1"), true);
        check("a.example/x", "a.example:5000/x", None, false);
        check("a.example/x/y", "a.example/x", None, false);
        check("", busybox, None, false);
        check("a.example/x@sha256:00", "a.example/x", None, true);
    }
}
