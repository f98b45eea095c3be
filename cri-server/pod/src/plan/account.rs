//! The account of a process that runs under a number which its image does not know.
//!
//! Programs ask for the name of their own user (`whoami`, ssh, the JVM) and fail without an answer.
//! Only images that have accounts get one more: where there is no `/etc/passwd` at all, nobody
//! looks into it.

use std::collections::BTreeMap;

use super::identity::Identity;
use crate::container::{Accounts, ContainerSpec};

const PASSWD: &str = "/etc/passwd";
const GROUP: &str = "/etc/group";
/// Home of a user who says nothing about it.
const HOME: &str = "/";
/// Nobody logs in by a number.
const SHELL: &str = "/sbin/nologin";

/// Lines to add to files of the container's own layer; empty where nothing is to be added.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewAccount {
    /// For `/etc/passwd` (passwd(5)), with its newline.
    pub passwd: String,
    /// For `/etc/group` (group(5)), with its newline.
    pub group: String,
}

/// What an image's accounts lack for a process. The superuser is left out: who does not name it,
/// means it.
pub(super) fn plan(
    spec: &ContainerSpec,
    identity: &Identity,
    accounts: &Accounts,
    env: &BTreeMap<String, String>,
) -> NewAccount {
    let (uid, gid) = (identity.uid, identity.gid);
    let mut new = NewAccount::default();
    if uid != 0 && lacks(&accounts.passwd, uid) && !covered(spec, PASSWD) {
        let home = env.get("HOME").filter(|home| fits(home));
        let home = home.map_or(HOME, String::as_str);
        new.passwd = format!("{uid}:x:{uid}:{gid}:{uid} user:{home}:{SHELL}\n");
    }
    if gid != 0 && lacks(&accounts.group, gid) && !covered(spec, GROUP) {
        new.group = format!("{gid}:x:{gid}:\n");
    }
    new
}

/// Whether a file with accounts has none of this number, nor one whose name is the number's digits.
fn lacks(text: &str, id: u32) -> bool {
    let digits = id.to_string();
    let known = |line: &str| {
        let mut parts = line.trim().split(':');
        let name = parts.next();
        name == Some(&digits) || parts.nth(1).and_then(|part| part.parse().ok()) == Some(id)
    };
    !text.is_empty() && !text.lines().any(known)
}

/// Whether the client mounts something of its own there.
fn covered(spec: &ContainerSpec, path: &str) -> bool {
    let mut places = spec.mounts.iter().map(|mount| &mount.container_path);
    places.any(|place| std::path::Path::new(path).starts_with(place))
}

/// Whether a path can stand in a line of passwd(5).
fn fits(home: &str) -> bool {
    home.starts_with('/') && !home.contains([':', '\n'])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::Mount;

    const PEOPLE: &str = "root:x:0:0::/root:/bin/sh\nbin:x:1:1::/:\n77:x:5:5::/:\n";

    /// `ids` are user and group; `home` is `HOME`, if not empty.
    fn check(ids: (u32, u32), home: &str, mounted: &str, passwd: &str, group: &str) {
        let identity = Identity {
            uid: ids.0,
            gid: ids.1,
            groups: Vec::new(),
        };
        let accounts = Accounts {
            passwd: PEOPLE.into(),
            group: "root:x:0:\nbin:x:1:a,b\n".into(),
        };
        let mut env = BTreeMap::new();
        if !home.is_empty() {
            env.insert("HOME".to_owned(), home.to_owned());
        }
        let mut spec = ContainerSpec::default();
        if !mounted.is_empty() {
            spec.mounts.push(Mount {
                container_path: mounted.into(),
                ..Default::default()
            });
        }
        let new = plan(&spec, &identity, &accounts, &env);
        assert_eq!((&*new.passwd, &*new.group), (passwd, group), "{ids:?}");
    }

    #[test]
    fn only_what_is_unknown_is_added() {
        check((0, 0), "", "", "", "");
        check((1, 1), "", "", "", "");
        let line = "1234:x:1234:0:1234 user:/:/sbin/nologin\n";
        check((1234, 0), "", "", line, "");
        check((1, 50), "", "", "", "50:x:50:\n");
        check((5, 0), "", "", "", "");
        // A name that is taken, though it is another's number.
        check((77, 0), "", "", "", "");
    }

    #[test]
    fn home_is_that_of_the_environment() {
        let line = |home: &str| format!("9:x:9:1:9 user:{home}:/sbin/nologin\n");
        check((9, 1), "/home/nine", "", &line("/home/nine"), "");
        check((9, 1), "/a:b", "", &line("/"), "");
        check((9, 1), "relative", "", &line("/"), "");
    }

    #[test]
    fn what_the_client_mounts_stays_as_it_is() {
        check((9, 9), "", "/etc/passwd", "", "9:x:9:\n");
        check((9, 9), "", "/etc", "", "");
    }

    #[test]
    fn an_image_without_accounts_gets_none() {
        let identity = Identity {
            uid: 9,
            gid: 9,
            groups: Vec::new(),
        };
        let new = plan(
            &ContainerSpec::default(),
            &identity,
            &Accounts::default(),
            &BTreeMap::new(),
        );
        assert_eq!(new, NewAccount::default());
    }
}
