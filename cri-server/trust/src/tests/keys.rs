//! Signatures by plain keys.

use super::authority::{NOON, base64, evidence};
use super::{DIGEST, NAME, OTHER, World};
use crate::Evidence;

const ONE: &str = "any = [{ key = 'one' }]";
const LOGGED: &str = "any = [{ key = 'one', root = 'ours' }]";

#[test]
fn a_payload_signed_by_the_key_is_enough_and_nothing_less_is() {
    let world = World::new();
    let good = world.one.simple(NAME, DIGEST);
    let simple = |simple| [Evidence::Simple(simple)];
    world.allowed(ONE, &simple(good.clone()));
    world.refused(ONE, &[], "no signature");
    world.refused(ONE, &simple(world.two.simple(NAME, DIGEST)), "key \"one\"");
    world.refused(ONE, &simple(world.one.simple(NAME, OTHER)), OTHER);
    let elsewhere = world.one.simple("registry.example/team/other", DIGEST);
    world.refused(ONE, &simple(elsewhere.clone()), "team/other");
    world.allowed(&format!("{ONE}\nreference = 'any'"), &simple(elsewhere));
    let tagged = world.one.simple(&format!("{NAME}:2"), DIGEST);
    world.refused(ONE, &simple(tagged), "app:2");
    let mut changed = good.clone();
    changed.payload.push(' ');
    world.refused(ONE, &simple(changed), "signature");
    let mut kind = good;
    kind.payload = kind.payload.replace("cosign container", "something");
    kind.signature = base64(&world.one.sign(kind.payload.as_bytes()));
    world.refused(ONE, &simple(kind), "something");
}

#[test]
fn a_statement_signed_by_the_key_is_enough_and_nothing_less_is() {
    let world = World::new();
    world.allowed(ONE, &[evidence(&world.one.bundle(DIGEST))]);
    world.refused(ONE, &[evidence(&world.two.bundle(DIGEST))], "key \"one\"");
    world.refused(ONE, &[evidence(&world.one.bundle(OTHER))], "another image");
    let mut changed = world.one.bundle(OTHER);
    changed["dsseEnvelope"]["payload"] =
        world.one.bundle(DIGEST)["dsseEnvelope"]["payload"].clone();
    world.refused(ONE, &[evidence(&changed)], "invalid");
    let mut kind = world.one.bundle(DIGEST);
    kind["dsseEnvelope"]["payloadType"] = "text/plain".into();
    world.refused(ONE, &[evidence(&kind)], "text/plain");
}

#[test]
fn an_attestation_is_no_signature_unless_it_is_wanted() {
    let world = World::new();
    let scan = evidence(&world.one.attest(DIGEST, "https://scan.example/v1"));
    world.refused(ONE, std::slice::from_ref(&scan), "scan.example");
    let wanted = "any = [{ key = 'one', predicate = 'https://scan.example/v1' }]";
    world.allowed(wanted, &[scan]);
    let simple = Evidence::Simple(world.one.simple(NAME, DIGEST));
    world.refused(wanted, &[simple], "does not state");
}

#[test]
fn a_good_signature_counts_among_bad_ones() {
    let world = World::new();
    let pieces = [
        Evidence::Bundle("nonsense".into()),
        Evidence::Simple(world.two.simple(NAME, DIGEST)),
        evidence(&world.two.bundle(DIGEST)),
        evidence(&world.one.bundle(DIGEST)),
    ];
    world.allowed(ONE, &pieces);
    world.refused(ONE, &pieces[..3], "none of its 3 signatures");
}

#[test]
fn two_keys_can_both_be_wanted_or_either() {
    let world = World::new();
    let one = evidence(&world.one.bundle(DIGEST));
    let two = Evidence::Simple(world.two.simple(NAME, DIGEST));
    let keys = "[{ key = 'one' }, { key = 'two' }]";
    let (any, all) = (format!("any = {keys}"), format!("all = {keys}"));
    for single in [&one, &two] {
        world.allowed(&any, std::slice::from_ref(single));
    }
    world.refused(&all, std::slice::from_ref(&one), "key \"two\"");
    world.refused(&all, std::slice::from_ref(&two), "key \"one\"");
    world.allowed(&all, &[one.clone(), two]);
    let nested = "any = [{ all = [{ key = 'one' }, { key = 'two' }] }, { key = 'two' }]";
    world.refused(nested, &[one], "key \"two\"");
}

#[test]
fn a_key_can_be_wanted_in_the_log() {
    let world = World::new();
    let bare = world.one.bundle(DIGEST);
    world.refused(LOGGED, &[evidence(&bare)], "in the log of \"ours\"");
    let mut logged = bare;
    world.authority.log(&mut logged, &world.one.pem(), NOON);
    world.allowed(LOGGED, &[evidence(&logged)]);
    let mut unproven = logged.clone();
    let entry = &mut unproven["verificationMaterial"]["tlogEntries"][0];
    entry.as_object_mut().unwrap().remove("inclusionProof");
    world.refused(LOGGED, &[evidence(&unproven)], "proof");
    let mut foreign = world.one.bundle(DIGEST);
    super::Authority::new().log(&mut foreign, &world.one.pem(), NOON);
    world.refused(LOGGED, &[evidence(&foreign)], "key");

    let mut simple = world.one.simple(NAME, DIGEST);
    world.refused(LOGGED, &[Evidence::Simple(simple.clone())], "promises");
    world
        .authority
        .promise_simple(&mut simple, &world.one.pem());
    world.allowed(LOGGED, &[Evidence::Simple(simple)]);
}
