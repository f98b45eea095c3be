//! A bundle of an ordinary user, and the program called by that user.
//!
//! The program is handed over as an open file, because the folders above it need not be open to
//! others. What a test needs of `/etc` it mounts for itself and nobody else.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::process::Command;

use serde_json::{Value, json};

use crate::harness::{Bundle, Said, bundle, program};

/// The test's user and group; of nobody else, and in no file of the machine.
pub(crate) const USER: u32 = 61_234;
pub(crate) const GROUP: u32 = 61_235;

/// First of the further ids that the user gets where a test gives it some.
pub(crate) const FIRST_OF_MORE: u32 = 700_000;

/// How a command gets to be the user's: `$0` is the program, `$U` and `$G` the ids.
pub(crate) const AS_USER: &str = r#"exec timeout -k 5 60 setpriv --reuid="$U" --regid="$G" --clear-groups \
    /proc/self/fd/9 "$@" 9<"$0""#;

/// Gives the user further ids, in a mount namespace of this command.
pub(crate) const WITH_MORE_IDS: &str = r#"mount --make-rprivate / && cd "$ETC" &&
    for file in passwd group subuid subgid; do
        [ -e /etc/$file ] || touch /etc/$file
        mount --bind $file /etc/$file || exit 99
    done && cd / && "#;

/// A bundle that belongs to the user.
pub(crate) struct Users {
    pub(crate) bundle: Bundle,
    user: u32,
    group: u32,
}

impl Users {
    /// With the configuration that `spec --rootless` makes, which runs `script`.
    pub(crate) fn new(script: &str) -> Option<Users> {
        Users::of(USER, GROUP, script)
    }

    /// The same of another user.
    pub(crate) fn of(user: u32, group: u32, script: &str) -> Option<Users> {
        let bundle = bundle()?;
        if program("setpriv").arg("--version").output().is_err() {
            println!("skipped: needs setpriv");
            return None;
        }
        for folder in ["run", "etc"] {
            fs::create_dir(bundle.path(folder)).unwrap();
        }
        fs::set_permissions(bundle.path("run"), fs::Permissions::from_mode(0o700)).unwrap();
        let owner = format!("{user}:{group}");
        let mut give = program("chown");
        give.args(["-R", &owner]).arg(bundle.dir.path());
        assert!(give.status().unwrap().success());
        let mut users = Users {
            bundle,
            user,
            group,
        };
        users.wrun(&["spec", "--rootless", "-b", users.dir()]).ok();
        let text = fs::read(users.bundle.path("config.json")).unwrap();
        users.bundle.spec = serde_json::from_slice(&text).unwrap();
        let spec = &mut users.bundle.spec;
        spec["process"]["terminal"] = json!(false);
        spec["process"]["env"] = json!(["PATH=/bin"]);
        spec["root"]["readonly"] = json!(false);
        users.bundle.script(script);
        Some(users)
    }

    pub(crate) fn dir(&self) -> &str {
        self.bundle.dir.path().to_str().unwrap()
    }

    pub(crate) fn id(&self) -> &str {
        &self.bundle.id
    }

    pub(crate) fn spec(&mut self) -> &mut Value {
        &mut self.bundle.spec
    }

    /// A shell script of root that ends as `AS_USER`.
    pub(crate) fn shell(&self, before: &str, args: &[&str]) -> Command {
        let mut command = program("unshare");
        command
            .args(["-m", "sh", "-c", &format!("{before}{AS_USER}")])
            .arg(env!("CARGO_BIN_EXE_wrun"))
            .args(args)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("XDG_RUNTIME_DIR", self.bundle.path("run"))
            .env("ETC", self.bundle.path("etc"))
            .env("DIR", self.bundle.dir.path())
            .env("U", self.user.to_string())
            .env("G", self.group.to_string())
            .current_dir("/");
        command
    }

    pub(crate) fn said(&self, mut command: Command) -> Said {
        self.bundle.said(&mut command)
    }

    pub(crate) fn wrun(&self, args: &[&str]) -> Said {
        self.said(self.shell("", args))
    }

    pub(crate) fn write(&self) -> &Users {
        let path = self.bundle.path("config.json");
        fs::write(&path, self.bundle.spec.to_string()).unwrap();
        chown(&path, Some(self.user), Some(self.group)).unwrap();
        self
    }

    pub(crate) fn run(&self) -> Said {
        self.write().wrun(&["run", "-b", self.dir(), self.id()])
    }

    pub(crate) fn run_after(&self, before: &str) -> Said {
        let args = ["run", "-b", self.dir(), self.id()];
        self.write().said(self.shell(before, &args))
    }

    /// `/etc` with the user and `count` further ids of its own.
    pub(crate) fn give_more_ids(&self, count: u32) {
        let etc = self.bundle.path("etc");
        let line = format!("user:{FIRST_OF_MORE}:{count}\n");
        let files = [
            ("passwd", format!("user:x:{USER}:{GROUP}::/:/bin/sh\n")),
            ("group", format!("user:x:{GROUP}:\n")),
            ("subuid", line.clone()),
            ("subgid", line),
        ];
        for (name, text) in files {
            fs::write(etc.join(name), text).unwrap();
        }
    }

    /// The container maps itself to the user, and `count` ids after it to further ones.
    pub(crate) fn map_more_ids(&mut self, count: u32) {
        let map = |own: u32| {
            json!([
                { "containerID": 0, "hostID": own, "size": 1 },
                { "containerID": 1, "hostID": FIRST_OF_MORE, "size": count },
            ])
        };
        self.spec()["linux"]["uidMappings"] = map(USER);
        self.spec()["linux"]["gidMappings"] = map(GROUP);
    }

    pub(crate) fn state(&self) -> Value {
        serde_json::from_str(&self.wrun(&["state", self.id()]).ok().out).unwrap()
    }

    pub(crate) fn start_sleeping(&mut self) {
        self.spec()["process"]["args"] = json!(["sleep", "1000"]);
        self.write();
        self.wrun(&["run", "-d", "-b", self.dir(), self.id()]).ok();
    }

    #[track_caller]
    pub(crate) fn assert_nothing_left(&self) {
        let states = fs::read_dir(self.bundle.path("run/wrun")).map_or(0, Iterator::count);
        assert_eq!(states, 0, "a state is left");
    }
}

impl Drop for Users {
    fn drop(&mut self) {
        let Ok(states) = fs::read_dir(self.bundle.path("run/wrun")) else {
            return;
        };
        for state in states.flatten() {
            let name = state.file_name();
            let _deleted = self.wrun(&["delete", "--force", name.to_str().unwrap_or("")]);
        }
    }
}
