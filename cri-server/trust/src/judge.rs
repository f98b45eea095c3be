//! What reads what strangers say of an image, for fuzzing: whatever comes, it does not panic, and it
//! is not believed. Nothing else uses this.

use std::sync::{Arc, LazyLock};

use crate::file::ReferenceRule;
use crate::requirement::{Key, Pattern, Requirement, Root, SIGNED, Signer, Wanted, Witness};
use crate::{Evidence, Subject, verify};

/// A key whose other half is lost.
const KEY: &str = "-----BEGIN PUBLIC KEY-----\n\
    MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEtelb9ZVNnKBdV97XmbD2BFvH0pQ9\n\
    VsCBrrF83RbwFO6u1A2tAfUkSOfs41Oi0zYzkqRl0O4UmB6bPlCfOQxVHw==\n\
    -----END PUBLIC KEY-----\n";
/// A root that trusts nobody.
const ROOT: &str = r#"{"mediaType":"application/vnd.dev.sigstore.trustedroot+json;version=0.1"}"#;
/// What the seeds speak of.
const DIGEST: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

static WANTED: LazyLock<[Requirement; 4]> = LazyLock::new(|| {
    let key = Arc::new(Key::parse("lost", KEY).expect("a constant key"));
    let root = Arc::new(Root::parse("nobody", ROOT).expect("a constant root"));
    let anybody = || Pattern::settle("any", None, Some(".*")).expect("a constant pattern");
    let mut stamped = Root::parse("no log", ROOT).expect("a constant root");
    stamped.witness = Witness::Stamp;
    let signers = [
        Signer::Key(Arc::clone(&key), None),
        Signer::Key(key, Some(Arc::clone(&root))),
        Signer::Identity {
            root,
            issuer: anybody(),
            identity: anybody(),
        },
        Signer::Identity {
            root: Arc::new(stamped),
            issuer: anybody(),
            identity: anybody(),
        },
    ];
    signers.map(|by| {
        Requirement::Signature(Wanted {
            by,
            predicate: SIGNED.to_owned(),
        })
    })
});

/// Something that speaks for an image: evidence as it is kept, or a bundle.
///
/// # Panics
///
/// If it is believed, though nobody can have signed it: that is what the fuzzer looks for.
pub fn evidence(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else {
        return;
    };
    let kept = serde_json::from_str(text).ok();
    let pieces: Vec<Evidence> = kept
        .into_iter()
        .chain([Evidence::Bundle(text.to_owned())])
        .collect();
    let digests = [DIGEST.to_owned()];
    let subject = Subject {
        namespace: "default",
        repository: "registry.example/team/app",
        tag: Some("1"),
        digests: &digests,
    };
    for wanted in &*WANTED {
        for reference in [ReferenceRule::Same, ReferenceRule::Any] {
            let believed = verify::check(wanted, &subject, reference, &pieces).is_ok();
            assert!(!believed, "{wanted:?}: {text}");
        }
    }
}
