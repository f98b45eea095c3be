//! Which rule holds for whom, and files that are refused.

use super::authority::evidence;
use super::{DIGEST, NAME, World, answer, load, subject};
use crate::{Demand, Verdict};

#[test]
fn the_first_rule_that_fits_holds() {
    let world = World::new();
    let policy = world
        .load(
            "[[rules]]\nnamespaces = ['kube-system']\nthen = 'allow'\n\
             [[rules]]\nnamespaces = ['prod', 'prod-*']\nimages = ['registry.example/team/*']\nany = [{ key = 'one' }]\n\
             [[rules]]\nnamespaces = ['prod*']\nthen = 'refuse'\n\
             [[rules]]\nnamespaces = ['']\nmode = 'warn'\nany = [{ key = 'one' }]\n\
             [[rules]]\nimages = ['docker.io/*']\nany = [{ key = 'two' }]\n",
        )
        .unwrap();
    let demand = |namespace, name| policy.demand(namespace, name);
    assert_eq!(demand("kube-system", NAME), Demand::Nothing);
    assert_eq!(demand("prod", NAME), Demand::Signatures);
    assert_eq!(demand("prod-eu", NAME), Demand::Signatures);
    assert_eq!(demand("prod", "docker.io/library/a"), Demand::Refusal);
    assert_eq!(demand("test", "docker.io/library/a"), Demand::Signatures);
    assert_eq!(demand("test", NAME), Demand::Refusal);

    let signed = [evidence(&world.one.bundle(DIGEST))];
    let judge = |namespace, evidence| policy.judge(&subject(namespace, NAME, None), evidence);
    assert_eq!(judge("prod", &signed), Verdict::Allowed);
    assert_eq!(judge("kube-system", &[]), Verdict::Allowed);
    assert!(matches!(judge("prod", &[]), Verdict::Refused(_)));
    assert!(matches!(judge("test", &signed), Verdict::Refused(_)));
    assert!(matches!(judge("", &[]), Verdict::Warned(_)));
    assert_eq!(answer(judge("", &signed)), Ok(()));
}

#[test]
fn a_file_that_could_mean_anything_but_one_is_refused() {
    let world = World::new();
    let check = |rules: &str, reason: &str| {
        let error = world.load(rules).unwrap_err();
        assert!(error.contains(reason), "{rules}: {error}");
        assert!(error.contains("policy.toml"), "{error}");
    };
    check(
        "[[rules]]\nname = 'x'\nthen = 'allow'",
        "unknown field `name`",
    );
    check(
        "[[rules]]\nimages = ['a']",
        "one of then, any, all is missing",
    );
    check(
        "[[rules]]\nthen = 'allow'\nany = [{ key = 'one' }]",
        "excludes",
    );
    check(
        "[[rules]]\nany = [{ key = 'one' }]\nall = [{ key = 'one' }]",
        "exclude",
    );
    check("[[rules]]\nall = []", "empty");
    check("[[rules]]\nany = [{}]", "needs a key");
    check(
        "[[rules]]\nany = [{ key = 'three' }]",
        "\"three\" is not among [keys]",
    );
    check(
        "[[rules]]\nany = [{ root = 'three' }]",
        "\"three\" is not among [roots]",
    );
    check(
        "[[rules]]\nany = [{ root = 'ours' }]",
        "issuer or issuer_regex is missing",
    );
    check(
        "[[rules]]\nany = [{ root = 'ours', issuer = 'i' }]",
        "identity or identity_regex is missing",
    );
    check(
        "[[rules]]\nany = [{ key = 'one', identity = 'x' }]",
        "no identity",
    );
    check(
        "[[rules]]\nany = [{ root = 'ours', issuer = 'i', issuer_regex = 'i', identity = 'x' }]",
        "exclude",
    );
    check(
        "[[rules]]\nany = [{ root = 'ours', issuer_regex = '(', identity = 'x' }]",
        "issuer_regex",
    );
    check("[[rules]]\nimages = ['*/a']\nthen = 'allow'", "*");
    check("[[rules]]\nthen = 'maybe'", "maybe");
    let deep = format!(
        "{}{{ key = 'one' }}{}",
        "{ any = [".repeat(9),
        "] }".repeat(9)
    );
    check(&format!("[[rules]]\nany = [{deep}]"), "nested");
}

#[test]
fn keys_and_roots_that_are_none_are_refused_by_name() {
    let world = World::new();
    let check = |file: &str, text: &str| {
        let place = world.folder.path().join(file);
        let before = std::fs::read_to_string(&place).unwrap();
        world.write(file, text);
        let error = world.load("").unwrap_err();
        assert!(error.contains(file), "{error}");
        world.write(file, &before);
    };
    check("one.pub", "nonsense");
    check(
        "one.pub",
        "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
    );
    check("root.json", "{}");
    check(
        "root.json",
        &world.authority.root().replace("rawBytes", "rawbytes"),
    );
    std::fs::remove_file(world.folder.path().join("two.pub")).unwrap();
    assert!(world.load("").unwrap_err().contains("two.pub"));
    world.write("policy.toml", "[keys]\n");
    let error = load(&world.folder.path().join("policy.toml")).unwrap_err();
    assert!(error.contains("default"), "{error}");
}
