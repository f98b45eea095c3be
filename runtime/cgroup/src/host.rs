//! Which hierarchies this host has, and where a group's directories lie in them.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use crate::dir::{Dir, read_all};
use crate::group::Group;
use crate::systemd::Unit;
use crate::{Error, permission};

/// Where v2 is mounted on every host that has only v2.
const UNIFIED: &str = "/sys/fs/cgroup";
/// `CGROUP2_SUPER_MAGIC` of linux/magic.h.
const CGROUP2_MAGIC: u64 = 0x6367_7270;

/// Who creates groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Driver {
    /// This crate, by mkdir.
    #[default]
    Cgroupfs,
    /// systemd, as transient scopes.
    Systemd,
}

/// The control group hierarchies of this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// One hierarchy a controller; also a hybrid host.
    V1(Hierarchies),
    /// One hierarchy.
    V2 {
        /// Where it is mounted.
        mount: PathBuf,
        /// This process's own group in it (`/proc/self/cgroup`).
        own: String,
    },
}

/// The v1 hierarchies by controller; `name=systemd` is one of them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Hierarchies(BTreeMap<String, Hierarchy>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Hierarchy {
    mount: PathBuf,
    /// The group that is visible at the mount point.
    root: String,
    own: String,
}

impl Host {
    /// Reads what is mounted.
    ///
    /// # Errors
    ///
    /// [`Error::NoHierarchy`], or a file of /proc that cannot be read.
    pub fn detect() -> Result<Self, Error> {
        let own = read("/proc/self/cgroup")?;
        let unified = rustix::fs::statfs(UNIFIED)
            .is_ok_and(|fs| u64::try_from(fs.f_type).is_ok_and(|magic| magic == CGROUP2_MAGIC));
        // No look at mountinfo, which has a line for each of a node's mounts, where it is v2.
        if unified {
            let own = own_v2(&own).unwrap_or("/").to_owned();
            return Ok(Self::V2 {
                mount: PathBuf::from(UNIFIED),
                own,
            });
        }
        parse(&read("/proc/self/mountinfo")?, &own).ok_or(Error::NoHierarchy)
    }

    /// Whether this is a v2 host.
    pub fn is_v2(&self) -> bool {
        matches!(self, Self::V2 { .. })
    }

    /// Whether a controller is there, to account and to limit by.
    pub fn has_controller(&self, name: &str) -> bool {
        match self {
            Self::V1(Hierarchies(all)) => all.contains_key(name),
            Self::V2 { mount, .. } => std::fs::read_to_string(mount.join("cgroup.controllers"))
                .is_ok_and(|all| all.split_whitespace().any(|one| one == name)),
        }
    }

    /// Whether a group's use of swap can be limited: v1's files for it are missing where the kernel
    /// was started without accounting of swap, v2's only where it knows no swap at all.
    pub fn limits_swap(&self) -> bool {
        match self {
            Self::V1(Hierarchies(all)) => all
                .get("memory")
                .is_some_and(|one| one.mount.join("memory.memsw.limit_in_bytes").exists()),
            Self::V2 { .. } => Path::new("/proc/swaps").exists(),
        }
    }

    /// The group at `path`: absolute from the hierarchies' roots, or relative to this process's
    /// own group (on v2 beside it, because a group with processes cannot have children with
    /// controllers). It need not exist.
    ///
    /// # Errors
    ///
    /// [`Error::BadPath`] if the path is empty, the root, or has `..` in it.
    pub fn group(&self, path: &str) -> Result<Group, Error> {
        check(path)?;
        match self {
            Self::V1(hierarchies) => Ok(Group::v1(hierarchies.dirs(path))),
            Self::V2 { mount, own } => {
                let parent = Path::new(own).parent().unwrap_or(Path::new("/"));
                let full = if path.starts_with('/') {
                    PathBuf::from(path)
                } else {
                    parent.join(path)
                };
                Ok(Group::v2(mount, below(mount, &full)))
            }
        }
    }

    /// The group at the relative `path` for a process that may not make groups everywhere: on v2 beside
    /// this process's own group, or else below it, where a group with processes hands no controllers
    /// down; on v1 below its own in those hierarchies in which that is permitted. `None` where none
    /// is. One that exists already is preferred.
    ///
    /// # Errors
    ///
    /// As [`Host::group`].
    pub fn group_if_permitted(&self, path: &str) -> Result<Option<Group>, Error> {
        check(path)?;
        match self {
            Self::V1(hierarchies) => {
                let mut dirs = hierarchies.dirs(path);
                dirs.retain(|(_, dir)| permission::may_make(dir.path()));
                Ok((!dirs.is_empty()).then(|| Group::v1(dirs)))
            }
            Self::V2 { mount, own } => {
                let own = below(mount, Path::new(own));
                let beside = own.parent().filter(|above| above.starts_with(mount));
                let places: Vec<PathBuf> = beside
                    .into_iter()
                    .chain([own.as_path()])
                    .map(|above| below(above, Path::new(path)))
                    .collect();
                let permitted =
                    |dir: &&PathBuf| permission::may_make(dir) && permission::may_move(&own, dir);
                let found = places
                    .iter()
                    .find(|dir| dir.is_dir())
                    .or_else(|| places.iter().find(permitted));
                Ok(found.map(|dir| Group::v2(mount, dir.clone())))
            }
        }
    }

    /// As [`Host::group`], by a driver. systemd takes paths of the form `slice:prefix:name` and
    /// makes the scope `prefix-name.scope` in that slice (`system.slice` if it is empty, for
    /// ordinary users `user.slice` of their own systemd). A name that ends in `.slice` is a slice.
    ///
    /// # Errors
    ///
    /// As [`Host::group`]; [`Error::NoSystemd`] and [`Error::SystemdV1`] where there is no
    /// systemd for it (v1 has none for ordinary users); [`Error::Bus`] if an ordinary user's cannot be asked for its place.
    pub fn group_by(&self, driver: Driver, path: &str) -> Result<Group, Error> {
        match driver {
            Driver::Cgroupfs => self.group(path),
            Driver::Systemd => {
                let (unit, path) = Unit::plan(path)?;
                match self {
                    Self::V1(hierarchies) if unit.is_of_the_machine() => {
                        let dirs = hierarchies.dirs(&path.to_string_lossy());
                        Ok(Group::v1(dirs).managed_by(unit))
                    }
                    Self::V1(_) => Err(Error::SystemdV1),
                    Self::V2 { mount, .. } => {
                        Ok(Group::v2(mount, below(mount, &path)).managed_by(unit))
                    }
                }
            }
        }
    }
}

impl Hierarchies {
    fn dirs(&self, path: &str) -> Vec<(String, Dir)> {
        let dir = |hierarchy: &Hierarchy| {
            if path.starts_with('/') {
                return below(&hierarchy.mount, Path::new(path));
            }
            // In a container without a cgroup namespace the mount shows a part of the hierarchy,
            // and the own group is named from the root of the whole.
            let own = hierarchy
                .own
                .strip_prefix(&hierarchy.root)
                .unwrap_or(&hierarchy.own);
            below(&below(&hierarchy.mount, Path::new(own)), Path::new(path))
        };
        self.0
            .iter()
            .map(|(name, one)| (name.clone(), Dir::new(dir(one))))
            .collect()
    }
}

/// `path` taken as relative to `mount`.
fn below(mount: &Path, path: &Path) -> PathBuf {
    let named = path
        .components()
        .filter(|part| matches!(part, Component::Normal(_)));
    std::iter::once(mount.as_os_str())
        .chain(named.map(Component::as_os_str))
        .collect()
}

fn check(path: &str) -> Result<(), Error> {
    let bad = |reason| Err(Error::BadPath(path.to_owned(), reason));
    if path.contains('\0') {
        return bad("it holds a zero byte");
    }
    let mut parts = Path::new(path).components();
    if parts.any(|part| part == Component::ParentDir) {
        return bad("it leads upwards");
    }
    if !Path::new(path)
        .components()
        .any(|part| matches!(part, Component::Normal(_)))
    {
        return bad("it names no group");
    }
    Ok(())
}

fn read(path: &str) -> Result<String, Error> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let bytes = rustix::fs::open(path, flags, Mode::empty()).and_then(|file| read_all(&file));
    let bytes = bytes.map_err(|source| Error::Call {
        what: "read",
        path: PathBuf::from(path),
        source,
    })?;
    // A mount point may have any bytes; those of control groups are text.
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Whether this process has the rights of root on the whole machine.
pub(crate) fn is_root_of_the_machine() -> bool {
    rustix::process::geteuid().is_root() && !in_user_namespace()
}

/// Whether this process has another user namespace than the machine's first.
fn in_user_namespace() -> bool {
    // Where the file is missing the kernel knows no user namespaces.
    read("/proc/self/uid_map").is_ok_and(|map| !maps_all(&map))
}

/// The first user namespace maps every user to itself.
fn maps_all(map: &str) -> bool {
    map.split_whitespace().eq(["0", "0", "4294967295"])
}

/// The v2 line of `/proc/self/cgroup`: `0::/path`.
fn own_v2(cgroup: &str) -> Option<&str> {
    cgroup.lines().find_map(|line| line.strip_prefix("0::"))
}

/// A line of `/proc/self/cgroup` that names `controller`: `4:memory:/path`.
fn own_v1<'a>(cgroup: &'a str, controller: &str) -> Option<&'a str> {
    cgroup.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let names = parts.next()?;
        names
            .split(',')
            .any(|name| name == controller)
            .then_some(parts.next())?
    })
}

/// proc_pid_mountinfo(5) and cgroups(7) to hierarchies; v1 wins where both are mounted.
fn parse(mountinfo: &str, cgroup: &str) -> Option<Host> {
    let mut hierarchies = Hierarchies::default();
    let mut unified = None;
    for line in mountinfo.lines() {
        let Some((left, right)) = line.split_once(" - ") else {
            continue;
        };
        let left: Vec<&str> = left.split(' ').collect();
        let right: Vec<&str> = right.split(' ').collect();
        let (&[_, _, _, root, mount, ..], &[kind, _, options]) = (&left[..], &right[..]) else {
            continue;
        };
        let mount = PathBuf::from(unescape(mount));
        match kind {
            "cgroup2" => unified = unified.or(Some(mount)),
            "cgroup" => {
                for name in options.split(',') {
                    let Some(own) = own_v1(cgroup, name) else {
                        continue;
                    };
                    let hierarchy = Hierarchy {
                        mount: mount.clone(),
                        root: unescape(root).trim_end_matches('/').to_owned(),
                        own: own.to_owned(),
                    };
                    // A hierarchy may be mounted several times; the first is the host's.
                    hierarchies.0.entry(name.to_owned()).or_insert(hierarchy);
                }
            }
            _ => {}
        }
    }
    if hierarchies.0.keys().any(|name| !name.starts_with("name=")) {
        return Some(Host::V1(hierarchies));
    }
    let own = own_v2(cgroup).unwrap_or("/").to_owned();
    unified.map(|mount| Host::V2 { mount, own })
}

/// The kernel writes space, tab, newline and backslash of a path as three octal digits.
fn unescape(text: &str) -> String {
    [
        ("\\040", " "),
        ("\\011", "\t"),
        ("\\012", "\n"),
        ("\\134", "\\"),
    ]
    .iter()
    .fold(text.to_owned(), |text, (code, plain)| {
        text.replace(code, plain)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
36 31 0:32 /docker/ab /mnt/with\\040space rw - cgroup cgroup rw,pids
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";
    const OWN: &str =
        "9:name=systemd:/u\n8:pids:/docker/ab/x\n4:memory:/a/b\n2:cpu,cpuacct:/\n0::/u\n";

    fn paths(host: &Host, path: &str) -> Vec<(String, String)> {
        let paths = host.group(path).unwrap().paths();
        paths
            .into_iter()
            .map(|(name, path)| (name, path.display().to_string()))
            .collect()
    }

    fn check(host: &Host, path: &str, expect: &[(&str, &str)]) {
        let expect: Vec<_> = expect
            .iter()
            .map(|(name, path)| ((*name).to_owned(), (*path).to_owned()))
            .collect();
        assert_eq!(paths(host, path), expect, "{path}");
    }

    #[test]
    fn hybrid_is_v1() {
        let host = parse(HYBRID, OWN).unwrap();
        check(
            &host,
            "/x/y",
            &[
                ("cpu", "/sys/fs/cgroup/cpu,cpuacct/x/y"),
                ("cpuacct", "/sys/fs/cgroup/cpu,cpuacct/x/y"),
                ("memory", "/sys/fs/cgroup/memory/x/y"),
                ("name=systemd", "/sys/fs/cgroup/systemd/x/y"),
                ("pids", "/mnt/with space/x/y"),
            ],
        );
        check(
            &host,
            "y",
            &[
                ("cpu", "/sys/fs/cgroup/cpu,cpuacct/y"),
                ("cpuacct", "/sys/fs/cgroup/cpu,cpuacct/y"),
                ("memory", "/sys/fs/cgroup/memory/a/b/y"),
                ("name=systemd", "/sys/fs/cgroup/systemd/u/y"),
                ("pids", "/mnt/with space/x/y"),
            ],
        );
    }

    #[test]
    fn only_v2() {
        let line = "41 31 0:38 / /sys/fs/cgroup rw,relatime - cgroup2 cgroup2 rw\n";
        let host = parse(line, "0::/user/session\n").unwrap();
        check(&host, "/a//b/./c", &[("", "/sys/fs/cgroup/a/b/c")]);
        check(&host, "a", &[("", "/sys/fs/cgroup/user/a")]);
        let named = "40 31 0:37 / /s/systemd rw - cgroup cgroup rw,name=systemd\n";
        let both = parse(&[named, line].concat(), "1:name=systemd:/\n0::/\n").unwrap();
        assert!(
            both.is_v2(),
            "a named hierarchy alone does not make a v1 host"
        );
    }

    #[test]
    fn nothing_mounted() {
        assert_eq!(parse("", OWN), None);
    }

    #[test]
    fn the_first_user_namespace() {
        assert!(maps_all("         0          0 4294967295\n"));
        assert!(!maps_all("         0       1000          1\n"));
        assert!(!maps_all(""));
    }

    #[test]
    fn bad_paths() {
        let host = parse(HYBRID, OWN).unwrap();
        for path in ["", "/", ".", "//", "/a/../b", "..", "a\0b"] {
            assert!(
                matches!(host.group(path), Err(Error::BadPath(..))),
                "{path:?}"
            );
        }
    }
}
