//! Verdicts on signatures by keys, an authority and a log that each test makes for itself.

mod authority;
mod certificates;
mod keys;
mod rules;
mod stamps;

use std::path::Path;

use authority::{Authority, Signer};

use crate::{Evidence, Policy, Subject, Verdict};

/// The image of most tests.
const DIGEST: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
/// Another.
const OTHER: &str = "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";
const NAME: &str = "registry.example/team/app";

/// A policy with keys `one` and `two`, a root `ours`, and rules of the test's own.
struct World {
    one: Signer,
    two: Signer,
    authority: Authority,
    folder: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let world = Self {
            one: Signer::new(),
            two: Signer::new(),
            authority: Authority::new(),
            folder: tempfile::tempdir().unwrap(),
        };
        world.write("one.pub", &world.one.pem());
        world.write("two.pub", &world.two.pem());
        world.write("root.json", &world.authority.root());
        world
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.folder.path().join(name), text).unwrap();
    }

    /// Reads a policy whose keys and roots are there.
    fn load(&self, rules: &str) -> Result<Policy, String> {
        let text = format!(
            "default = \"refuse\"\n[keys]\none = \"one.pub\"\ntwo = \"two.pub\"\n\
             [roots]\nours = \"root.json\"\n{rules}"
        );
        self.write("policy.toml", &text);
        load(&self.folder.path().join("policy.toml"))
    }

    /// Judges the usual image by one rule; the reason if it is refused.
    fn judge(&self, rule: &str, evidence: &[Evidence]) -> Result<(), String> {
        let policy = self.load(&format!("[[rules]]\n{rule}")).unwrap();
        answer(policy.judge(&subject("default", NAME, Some("1")), evidence))
    }

    #[track_caller]
    fn allowed(&self, rule: &str, evidence: &[Evidence]) {
        assert_eq!(self.judge(rule, evidence), Ok(()), "{rule}");
    }

    #[track_caller]
    fn refused(&self, rule: &str, evidence: &[Evidence], reason: &str) {
        let refusal = self.judge(rule, evidence).unwrap_err();
        assert!(refusal.contains(reason), "{rule}: {refusal}");
    }
}

fn load(path: &Path) -> Result<Policy, String> {
    Policy::load(path).map_err(|error| error.to_string())
}

fn subject<'a>(namespace: &'a str, repository: &'a str, tag: Option<&'a str>) -> Subject<'a> {
    static DIGESTS: std::sync::LazyLock<[String; 1]> =
        std::sync::LazyLock::new(|| [DIGEST.to_owned()]);
    Subject {
        namespace,
        repository,
        tag,
        digests: &*DIGESTS,
    }
}

fn answer(verdict: Verdict) -> Result<(), String> {
    match verdict {
        Verdict::Allowed => Ok(()),
        Verdict::Warned(reason) => Err(format!("warned: {reason}")),
        Verdict::Refused(reason) => Err(reason),
    }
}
