//! An OCI runtime that does what it is told to in place of a verb: `wrun` behind a small script.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use tests::{daemon, process, wait};

/// Looks for a file with the verb's name beside itself; what is in it says what goes wrong.
const SCRIPT: &str = r#"#!/bin/sh
here=${0%/*}
for verb; do
  case $verb in create|start|kill|delete|exec) break ;; esac
done
fail() { echo "$verb fails as told" >&2; exit 1; }
fault=
[ -e "$here/$verb" ] && read -r fault <"$here/$verb"
case $fault in
  fail) fail ;;
  once) rm "$here/$verb"; fail ;;
  after) "$here/wrun" "$@"; fail ;;
  hold) echo "$verb" >>"$here/held"; read -r _ <"$here/gate" ;;
esac
exec "$here/wrun" "$@"
"#;

/// What happens in place of a verb.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fault {
    /// It fails and has done nothing.
    Fail,
    /// The same, but only the first time.
    FailOnce,
    /// It fails, but has done what was asked for.
    FailAfter,
    /// It takes until [`Faulty::release`].
    Hold,
}

impl Fault {
    fn word(self) -> &'static str {
        match self {
            Fault::Fail => "fail",
            Fault::FailOnce => "once",
            Fault::FailAfter => "after",
            Fault::Hold => "hold",
        }
    }
}

/// The runtime's own folder. What it holds waits there for words that come through a pipe.
#[derive(Debug)]
pub(super) struct Faulty {
    folder: TempDir,
    gate: File,
}

impl Faulty {
    pub(super) fn new() -> Faulty {
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        let gate = folder.path().join("gate");
        process::ok(process::bounded("mkfifo").arg(&gate)).unwrap();
        std::os::unix::fs::symlink(daemon::programs().join("wrun"), folder.path().join("wrun"))
            .unwrap();
        let faulty = Faulty {
            // Both ends, so that neither side waits for the other to open it.
            gate: File::options().read(true).write(true).open(gate).unwrap(),
            folder,
        };
        fs::write(faulty.program(), SCRIPT).unwrap();
        fs::set_permissions(faulty.program(), PermissionsExt::from_mode(0o755)).unwrap();
        faulty
    }

    pub(super) fn program(&self) -> PathBuf {
        self.at("runtime")
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// From now on this happens in place of a verb.
    pub(super) fn set(&self, verb: &str, fault: Fault) {
        replace(&self.at(verb), fault.word());
    }

    /// The verb works again.
    pub(super) fn heal(&self, verb: &str) {
        fs::remove_file(self.at(verb)).unwrap();
    }

    /// Whether something goes wrong in place of a verb.
    pub(super) fn is_set(&self, verb: &str) -> bool {
        self.at(verb).exists()
    }

    /// Waits until a verb is held, and heals it for those that come later.
    pub(super) fn wait_until_held(&self, verb: &str) {
        wait::until(&format!("{verb} to begin"), || {
            let held = fs::read_to_string(self.at("held")).unwrap_or_default();
            held.lines().any(|line| line == verb).then_some(())
        })
        .unwrap();
        fs::remove_file(self.at("held")).unwrap();
        self.heal(verb);
    }

    /// Lets one held verb go on.
    pub(super) fn release(&self) {
        (&self.gate).write_all(b"go\n").unwrap();
    }
}

/// By rename: the script never sees a half of it.
fn replace(path: &Path, word: &str) {
    let fresh = path.with_extension("new");
    fs::write(&fresh, format!("{word}\n")).unwrap();
    fs::rename(fresh, path).unwrap();
}
