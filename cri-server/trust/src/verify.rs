//! Whether evidence satisfies a requirement.
//!
//! Nothing in a signature is looked at for more than finding out what it claims before its maker is
//! known; a piece of evidence that does not fit is no refusal, only none that counts.

use sigstore_verify::crypto::{SigningScheme, verify_signature};
use sigstore_verify::types::{
    Artifact, Bundle, DerPublicKey, DsseEnvelope, MediaType, Sha256Hash, SignatureBytes,
    SignatureContent, Statement, VerificationMaterialContent,
};
use sigstore_verify::{PublicKeyVerificationPolicy, VerificationPolicy, VerificationResult};

use crate::file::ReferenceRule;
use crate::requirement::{Pattern, Requirement, Root, SIGNED, Signer, Wanted, Witness};
use crate::{Evidence, Simple, Subject, simple};

/// What a bundle's envelope has to hold.
const STATEMENT: &str = "application/vnd.in-toto+json";

/// Whether the requirement is satisfied; else what is missing.
pub(crate) fn check(
    wanted: &Requirement,
    subject: &Subject<'_>,
    reference: ReferenceRule,
    evidence: &[Evidence],
) -> Result<(), String> {
    let one = |wanted| check(wanted, subject, reference, evidence);
    match wanted {
        Requirement::All(list) => list.iter().try_for_each(one),
        Requirement::Any(list) => {
            let mut reasons = Vec::new();
            for wanted in list {
                match one(wanted) {
                    Ok(()) => return Ok(()),
                    Err(reason) => reasons.push(reason),
                }
            }
            Err(reasons.join("; "))
        }
        Requirement::Signature(wanted) => signed(wanted, subject, reference, evidence),
    }
}

/// Whether one of the pieces is the signature that is wanted.
fn signed(
    wanted: &Wanted,
    subject: &Subject<'_>,
    reference: ReferenceRule,
    evidence: &[Evidence],
) -> Result<(), String> {
    let mut last = None;
    for piece in evidence {
        let fits = match piece {
            Evidence::Bundle(json) => bundle(wanted, subject, json),
            Evidence::Simple(simple) => payload(wanted, subject, reference, simple),
        };
        match fits {
            Ok(()) => return Ok(()),
            Err(reason) => last = Some(reason),
        }
    }
    let by = &wanted.by;
    Err(match (last, evidence.len()) {
        (None, _) => format!("it has no signature, one by {by} is wanted"),
        (Some(reason), 1) => format!("its signature is not by {by}: {reason}"),
        (Some(reason), count) => {
            format!("none of its {count} signatures is by {by}; the last: {reason}")
        }
    })
}

/// A bundle: a signed statement about the image.
fn bundle(wanted: &Wanted, subject: &Subject<'_>, json: &str) -> Result<(), String> {
    let mut bundle = Bundle::from_json(json).map_err(|cause| cause.to_string())?;
    let material = &bundle.verification_material.content;
    if bundle.media_type == MediaType::Bundle0_3
        && matches!(
            material,
            VerificationMaterialContent::X509CertificateChain { .. }
        )
    {
        // cosign (3.1) puts a chain that it is given into a form that has no place for one. The form
        // before that has, and is the same otherwise; what the chain holds has to lead to the root.
        bundle.media_type = MediaType::Bundle0_2;
    }
    let SignatureContent::DsseEnvelope(envelope) = &bundle.content else {
        return Err("the bundle holds no statement about an image".into());
    };
    let digest = stated(wanted, subject, envelope)?;
    match &wanted.by {
        Signer::Key(key, None) => {
            let signature = &envelope.signature.sig;
            by_key(&key.public, key.scheme, &envelope.pae(), signature)
        }
        Signer::Key(key, Some(root)) => by_logged_key(root, &key.public, &bundle, digest),
        Signer::Identity {
            root,
            issuer,
            identity,
        } => by_identity(root, issuer, identity, &bundle, digest),
    }
}

/// The digest of the image that a statement is about.
fn stated(
    wanted: &Wanted,
    subject: &Subject<'_>,
    envelope: &DsseEnvelope,
) -> Result<Sha256Hash, String> {
    if envelope.payload_type != STATEMENT {
        return Err(format!("it signs a {:?}", envelope.payload_type));
    }
    let statement: Statement = serde_json::from_slice(envelope.payload.as_bytes())
        .map_err(|cause| format!("its statement cannot be read: {cause}"))?;
    // An attestation may as well say that the image is full of holes.
    if statement.predicate_type != wanted.predicate {
        return Err(format!("it states {:?}", statement.predicate_type));
    }
    let digests = subject.digests.iter();
    digests
        .filter_map(|digest| Sha256Hash::from_hex(digest.strip_prefix("sha256:")?).ok())
        .find(|digest| statement.matches_sha256(digest))
        .ok_or_else(|| "it is about another image".to_owned())
}

/// A payload in the simple signing form.
fn payload(
    wanted: &Wanted,
    subject: &Subject<'_>,
    reference: ReferenceRule,
    simple: &Simple,
) -> Result<(), String> {
    if wanted.predicate != SIGNED {
        return Err(format!("it does not state {:?}", wanted.predicate));
    }
    simple::check_payload(&simple.payload, subject, reference)?;
    let bytes = simple.payload.as_bytes();
    match &wanted.by {
        Signer::Key(key, None) => {
            let signature = SignatureBytes::from_base64(&simple.signature)
                .map_err(|cause| cause.to_string())?;
            by_key(&key.public, key.scheme, bytes, &signature)
        }
        Signer::Key(key, Some(root)) => {
            let bundle = simple::as_bundle(simple, false, Witness::Log)?;
            by_logged_key(root, &key.public, &bundle, bytes)
        }
        Signer::Identity {
            root,
            issuer,
            identity,
        } => {
            let bundle = simple::as_bundle(simple, true, root.witness)?;
            by_identity(root, issuer, identity, &bundle, bytes)
        }
    }
}

fn by_key(
    key: &DerPublicKey,
    scheme: SigningScheme,
    bytes: &[u8],
    signature: &SignatureBytes,
) -> Result<(), String> {
    verify_signature(key, bytes, signature, scheme).map_err(|cause| cause.to_string())
}

fn by_logged_key<'a>(
    root: &Root,
    key: &DerPublicKey,
    bundle: &Bundle,
    artifact: impl Into<Artifact<'a>>,
) -> Result<(), String> {
    let policy = PublicKeyVerificationPolicy::new(key.clone());
    let result = root.verifier.verify(artifact, bundle, &policy);
    let result = result.map_err(|cause| cause.to_string())?;
    witnessed(Witness::Log, &result)
}

fn by_identity<'a>(
    root: &Root,
    issuer: &Pattern,
    identity: &Pattern,
    bundle: &Bundle,
    artifact: impl Into<Artifact<'a>>,
) -> Result<(), String> {
    // Who it is is decided below: patterns are more than the library compares.
    let policy = VerificationPolicy::any_identity();
    let policy = if root.certificates_logged {
        policy
    } else {
        policy.skip_sct()
    };
    // Without a log the time stamp alone has to say that the certificate was valid.
    let policy = match root.witness {
        Witness::Stamp => policy.skip_tlog_unsafe(),
        Witness::Log | Witness::Nobody => policy,
    };
    let result = root.verifier.verify(artifact, bundle, &policy);
    let result = result.map_err(|cause| cause.to_string())?;
    witnessed(root.witness, &result)?;
    if !result.certificate_verified() {
        return Err("its certificate was not verified".into());
    }
    let found = result.issuer().unwrap_or_default();
    if !issuer.fits(found) {
        return Err(format!("its certificate's issuer is {found:?}"));
    }
    let found = result.identity().map_or("", |identity| identity.as_str());
    if !identity.fits(found) {
        return Err(format!("its certificate is for {found:?}"));
    }
    Ok(())
}

/// The library was asked to look; this is so that a change of its ways cannot pass unseen.
fn witnessed(witness: Witness, result: &VerificationResult) -> Result<(), String> {
    match witness {
        Witness::Log if result.tlog_verified() => Ok(()),
        Witness::Stamp if !result.verified_timestamps().is_empty() => Ok(()),
        Witness::Stamp => Err("no time stamp was verified".into()),
        Witness::Log | Witness::Nobody => Err("no log was verified to hold it".into()),
    }
}
