//! Signatures under certificates that live for a day, kept by a log.

use serde_json::{Value, json};

use super::authority::{Authority, NOON, base64, evidence};
use super::{DIGEST, NAME, OTHER, World};
use crate::Evidence;

const ISSUER: &str = "https://issuer.example";
const WHO: &str = "https://ci.example/team/app/release.yml@refs/heads/main";
const DAY: i64 = 24 * 60 * 60;

fn rule() -> String {
    format!("any = [{{ root = 'ours', issuer = '{ISSUER}', identity = '{WHO}' }}]")
}

/// The usual bundle, changed.
fn changed(world: &World, change: impl FnOnce(&mut Value)) -> [Evidence; 1] {
    let mut bundle = world.authority.bundle(DIGEST, WHO, ISSUER, NOON);
    change(&mut bundle);
    [evidence(&bundle)]
}

#[test]
fn an_identity_signs_with_a_certificate_that_has_long_expired() {
    let world = World::new();
    world.allowed(&rule(), &changed(&world, |_| {}));
    let simple = world.authority.simple(NAME, DIGEST, WHO, ISSUER);
    world.allowed(&rule(), &[Evidence::Simple(simple)]);
    let mail = "any = [{ root = 'ours', issuer_regex = 'https://issuer[.].*', identity_regex = '[a-z]+@example[.]com' }]";
    let bundle = world
        .authority
        .bundle(DIGEST, "ci@example.com", ISSUER, NOON);
    world.allowed(mail, &[evidence(&bundle)]);
    let evil = world
        .authority
        .bundle(DIGEST, "ci@example.com.evil", ISSUER, NOON);
    world.refused(mail, &[evidence(&evil)], "ci@example.com.evil");
}

#[test]
fn another_identity_issuer_image_or_authority_is_refused() {
    let world = World::new();
    let bundle =
        |digest, who, issuer| [evidence(&world.authority.bundle(digest, who, issuer, NOON))];
    let branch = "https://ci.example/team/app/release.yml@refs/heads/evil";
    world.refused(&rule(), &bundle(DIGEST, branch, ISSUER), "heads/evil");
    let issuer = "https://other.example";
    world.refused(&rule(), &bundle(DIGEST, WHO, issuer), issuer);
    world.refused(&rule(), &bundle(OTHER, WHO, ISSUER), "another image");
    let foreign = Authority::new().bundle(DIGEST, WHO, ISSUER, NOON);
    world.refused(&rule(), &[evidence(&foreign)], "not by");
    let simple = |name, digest, who, issuer| {
        [Evidence::Simple(
            world.authority.simple(name, digest, who, issuer),
        )]
    };
    world.refused(&rule(), &simple(NAME, DIGEST, branch, ISSUER), "heads/evil");
    world.refused(&rule(), &simple(NAME, DIGEST, WHO, issuer), issuer);
    world.refused(&rule(), &simple(NAME, OTHER, WHO, ISSUER), OTHER);
    world.refused(&rule(), &simple("a.b/c", DIGEST, WHO, ISSUER), "a.b/c");
    let bare = Evidence::Simple(world.one.simple(NAME, DIGEST));
    world.refused(&rule(), &[bare], "no certificate");
}

/// The authority vouches for the key of its certificate only on that day.
#[test]
fn a_signature_has_to_be_as_old_as_its_certificate() {
    let world = World::new();
    for time in [NOON + 2 * DAY, NOON - 2 * DAY] {
        let bundle = world.authority.bundle(DIGEST, WHO, ISSUER, time);
        world.refused(&rule(), &[evidence(&bundle)], "ertificate");
    }
    let entries = |bundle: &mut Value, entries| {
        bundle["verificationMaterial"]["tlogEntries"] = entries;
    };
    let none = changed(&world, |bundle| entries(bundle, json!([])));
    world.refused(&rule(), &none, "not by");
    let unpromised = changed(&world, |bundle| {
        let entry = &mut bundle["verificationMaterial"]["tlogEntries"][0];
        entry.as_object_mut().unwrap().remove("inclusionPromise");
    });
    world.refused(&rule(), &unpromised, "imestamp");
    let mut simple = world.authority.simple(NAME, DIGEST, WHO, ISSUER);
    simple.promise = None;
    world.refused(&rule(), &[Evidence::Simple(simple)], "promises");
}

#[test]
fn a_log_entry_that_was_tampered_with_is_refused() {
    let world = World::new();
    let entry = |change: fn(&mut Value)| {
        changed(&world, |bundle| {
            change(&mut bundle["verificationMaterial"]["tlogEntries"][0]);
        })
    };
    let tampered = [
        entry(|entry| entry["integratedTime"] = (NOON + 1).to_string().into()),
        entry(|entry| entry["logIndex"] = "0".into()),
        entry(|entry| entry["inclusionProof"]["hashes"] = json!([base64(&[7; 32])])),
        entry(|entry| entry["inclusionProof"]["hashes"] = json!([])),
        entry(|entry| entry["inclusionProof"]["rootHash"] = base64(&[7; 32]).into()),
        entry(|entry| {
            let text = entry["inclusionProof"]["checkpoint"]["envelope"].as_str();
            let text = text.unwrap().replacen("\n2\n", "\n3\n", 1);
            entry["inclusionProof"]["checkpoint"]["envelope"] = text.into();
        }),
        entry(|entry| entry["inclusionPromise"]["signedEntryTimestamp"] = base64(&[0; 70]).into()),
        entry(|entry| entry["canonicalizedBody"] = base64(b"{}").into()),
        entry(|entry| drop(entry.as_object_mut().unwrap().remove("inclusionProof"))),
    ];
    for (at, tampered) in tampered.iter().enumerate() {
        let refused = world.judge(&rule(), std::slice::from_ref(&tampered[0]));
        assert!(refused.is_err(), "change {at} went unnoticed");
    }
    // The entry of one signature says nothing for another.
    let other = world.authority.bundle(DIGEST, WHO, ISSUER, NOON);
    let borrowed = changed(&world, |bundle| {
        let entries = &other["verificationMaterial"]["tlogEntries"];
        bundle["verificationMaterial"]["tlogEntries"] = entries.clone();
    });
    world.refused(&rule(), &borrowed, "match");
    let mut simple = world.authority.simple(NAME, DIGEST, WHO, ISSUER);
    let promise = simple.promise.as_mut().unwrap();
    *promise = promise.replace(&NOON.to_string(), &(NOON + 1).to_string());
    world.refused(&rule(), &[Evidence::Simple(simple)], "SET");
}

#[test]
fn where_certificates_are_logged_one_that_is_not_is_refused() {
    let world = World::new();
    let mut root: Value = serde_json::from_str(&world.authority.root()).unwrap();
    root["ctlogs"] = root["tlogs"].clone();
    world.write("root.json", &root.to_string());
    world.refused(&rule(), &changed(&world, |_| {}), "SCT");
}

#[test]
fn the_signature_itself_has_to_be_right() {
    let world = World::new();
    let payload = changed(&world, |bundle| {
        let other = world.authority.bundle(OTHER, WHO, ISSUER, NOON);
        bundle["dsseEnvelope"]["signatures"] = other["dsseEnvelope"]["signatures"].clone();
    });
    world.refused(&rule(), &payload, "not by");
}
