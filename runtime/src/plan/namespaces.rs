//! Namespaces: which are new, which are joined, and the maps of a new user namespace.

use super::{Error, Result};
use crate::spec::{Linux, RawIdMap, RawTimeOffset};

/// A kind of namespace.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    Mount,
    Uts,
    Ipc,
    Pid,
    Network,
    User,
    Cgroup,
    Time,
}

/// Name in the specification, name in `/proc/PID/ns` and in runc's state, flag of clone(2).
const KINDS: [(Kind, &str, &str, i32); 8] = [
    (Kind::User, "user", "user", libc_flags::USER),
    (Kind::Ipc, "ipc", "ipc", libc_flags::IPC),
    (Kind::Uts, "uts", "uts", libc_flags::UTS),
    (Kind::Network, "network", "net", libc_flags::NET),
    (Kind::Pid, "pid", "pid", libc_flags::PID),
    (Kind::Time, "time", "time", libc_flags::TIME),
    (Kind::Cgroup, "cgroup", "cgroup", libc_flags::CGROUP),
    (Kind::Mount, "mount", "mnt", libc_flags::MOUNT),
];

/// Values of `CLONE_NEW*`, the same on every architecture (linux/sched.h).
mod libc_flags {
    pub(super) const TIME: i32 = 0x80;
    pub(super) const MOUNT: i32 = 0x2_0000;
    pub(super) const CGROUP: i32 = 0x200_0000;
    pub(super) const UTS: i32 = 0x400_0000;
    pub(super) const IPC: i32 = 0x800_0000;
    pub(super) const USER: i32 = 0x1000_0000;
    pub(super) const PID: i32 = 0x2000_0000;
    pub(super) const NET: i32 = 0x4000_0000;
}

impl Kind {
    /// All kinds; the order is that in which they have to be joined: the user namespace first, since
    /// it gives the right to join the others, and the mount namespace last, since it hides paths.
    pub(crate) fn all() -> impl Iterator<Item = Kind> {
        KINDS.iter().map(|row| row.0)
    }

    fn row(self) -> &'static (Kind, &'static str, &'static str, i32) {
        KINDS
            .iter()
            .find(|row| row.0 == self)
            .expect("the table has every kind")
    }

    /// Name in the specification.
    pub(crate) fn name(self) -> &'static str {
        self.row().1
    }

    /// Name of its file in `/proc/PID/ns`.
    pub(crate) fn file(self) -> &'static str {
        self.row().2
    }

    /// `CLONE_NEW*`.
    pub(crate) fn flag(self) -> i32 {
        self.row().3
    }

    fn of_name(name: &str) -> Option<Kind> {
        // runtime-spec says "mount" and "network"; runc also takes the kernel's short names.
        KINDS
            .iter()
            .find(|row| row.1 == name || row.2 == name)
            .map(|row| row.0)
    }
}

/// One clock of a new time namespace.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct TimeOffset {
    /// `monotonic` or `boottime`.
    pub(crate) clock: &'static str,
    pub(crate) seconds: i64,
    pub(crate) nanoseconds: u32,
}

/// The namespaces of a container.
#[derive(Debug, Default)]
pub(crate) struct Namespaces<'a> {
    new: i32,
    joined: Vec<(Kind, &'a str)>,
    /// Of a new user namespace.
    pub(crate) uid_maps: Vec<RawIdMap>,
    /// Of a new user namespace.
    pub(crate) gid_maps: Vec<RawIdMap>,
    /// Of a new time namespace.
    pub(crate) time_offsets: Vec<TimeOffset>,
}

impl<'a> Namespaces<'a> {
    /// A new one of this kind is made.
    pub(crate) fn is_new(&self, kind: Kind) -> bool {
        self.new & kind.flag() != 0
    }

    /// The path of the one that is joined.
    pub(crate) fn joined(&self, kind: Kind) -> Option<&'a str> {
        self.joined
            .iter()
            .find(|(joined, _)| *joined == kind)
            .map(|(_, path)| *path)
    }

    /// The container has one that is not simply its maker's.
    pub(crate) fn has(&self, kind: Kind) -> bool {
        self.is_new(kind) || self.joined(kind).is_some()
    }

    /// Joined ones in the order of joining.
    pub(crate) fn all_joined(&self) -> impl Iterator<Item = (Kind, &'a str)> + '_ {
        Kind::all().filter_map(|kind| self.joined(kind).map(|path| (kind, path)))
    }

    /// `CLONE_NEW*` for clone3: all new ones but those that the child must make itself. A cgroup
    /// namespace is rooted where its maker is, so the child must be in its cgroup first; a time
    /// namespace would have its offsets fixed by clone.
    pub(crate) fn clone_flags(&self) -> i32 {
        self.new & !(Kind::Cgroup.flag() | Kind::Time.flag())
    }
}

/// Decides about namespaces.
///
/// # Errors
///
/// An unknown kind, a kind twice, maps without a user namespace or the other way round, or no
/// mount namespace.
pub(super) fn plan<'a>(linux: Option<&'a Linux<'a>>) -> Result<Namespaces<'a>> {
    let mut plan = Namespaces::default();
    let Some(linux) = linux else {
        return Err(Error::new("a mount namespace is required"));
    };
    for namespace in &linux.namespaces {
        let name = namespace.kind.as_str();
        let kind = Kind::of_name(name)
            .ok_or_else(|| Error::new(format!("namespace {name:?} does not exist")))?;
        if plan.has(kind) {
            return Err(Error::new(format!("namespace {name:?} is given twice")));
        }
        match namespace.path.as_str() {
            "" => plan.new |= kind.flag(),
            path => plan.joined.push((kind, path)),
        }
    }
    plan.uid_maps.clone_from(&linux.uid_mappings);
    plan.gid_maps.clone_from(&linux.gid_mappings);
    plan.time_offsets = time_offsets(linux.time_offsets.iter().map(|(k, v)| (k.as_str(), *v)))?;
    check(&plan)?;
    Ok(plan)
}

fn time_offsets<'b>(
    given: impl Iterator<Item = (&'b str, RawTimeOffset)>,
) -> Result<Vec<TimeOffset>> {
    given
        .map(|(name, offset)| {
            let clock = ["monotonic", "boottime"]
                .into_iter()
                .find(|known| *known == name);
            let clock = clock.ok_or_else(|| Error::new(format!("clock {name:?} has no offset")))?;
            Ok(TimeOffset {
                clock,
                seconds: offset.secs,
                nanoseconds: offset.nanosecs,
            })
        })
        .collect()
}

fn check(plan: &Namespaces<'_>) -> Result<()> {
    let mapped = !plan.uid_maps.is_empty() || !plan.gid_maps.is_empty();
    if !plan.has(Kind::Mount) {
        return Err(Error::new("a mount namespace is required"));
    }
    if plan.is_new(Kind::User) && (plan.uid_maps.is_empty() || plan.gid_maps.is_empty()) {
        return Err(Error::new(
            "a new user namespace needs uidMappings and gidMappings",
        ));
    }
    if mapped && !plan.has(Kind::User) {
        return Err(Error::new(
            "uidMappings and gidMappings need a user namespace",
        ));
    }
    if !plan.time_offsets.is_empty() && !plan.is_new(Kind::Time) {
        return Err(Error::new("timeOffsets need a new time namespace"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(json: &str, expect: &str) {
        let linux: Linux<'_> = serde_json::from_str(json).unwrap();
        let got = plan(Some(&linux));
        let text = got.err().map_or(String::new(), |error| error.0);
        assert!(
            text.contains(expect) && expect.is_empty() == text.is_empty(),
            "{text:?}"
        );
    }

    #[test]
    fn contradictions_are_errors() {
        check(r#"{"namespaces":[{"type":"mount"},{"type":"pid"}]}"#, "");
        check(
            r#"{"namespaces":[{"type":"mount"},{"type":"mount"}]}"#,
            "given twice",
        );
        check(
            r#"{"namespaces":[{"type":"mount"},{"type":"moon"}]}"#,
            "does not exist",
        );
        check(
            r#"{"namespaces":[{"type":"pid"}]}"#,
            "mount namespace is required",
        );
        check(
            r#"{"namespaces":[{"type":"mount"},{"type":"user"}]}"#,
            "needs uidMappings",
        );
        check(
            r#"{"namespaces":[{"type":"mount"}],"uidMappings":[{"containerID":0,"hostID":1,"size":1}]}"#,
            "need a user namespace",
        );
        check(
            r#"{"namespaces":[{"type":"mount"}],"timeOffsets":{"monotonic":{"secs":1}}}"#,
            "need a new time namespace",
        );
    }

    #[test]
    fn the_user_namespace_is_joined_first_and_the_mount_namespace_last() {
        let json = r#"{"namespaces":[{"type":"mount","path":"/m"},{"type":"network","path":"/n"},
            {"type":"user","path":"/u"}]}"#;
        let linux: Linux<'_> = serde_json::from_str(json).unwrap();
        let plan = plan(Some(&linux)).unwrap();
        let order: Vec<_> = plan.all_joined().map(|(kind, _)| kind).collect();
        assert_eq!(order, [Kind::User, Kind::Network, Kind::Mount]);
        assert_eq!(plan.clone_flags(), 0);
    }

    #[test]
    fn cgroup_and_time_are_not_for_clone() {
        let json = r#"{"namespaces":[{"type":"mount"},{"type":"cgroup"},{"type":"time"}]}"#;
        let linux: Linux<'_> = serde_json::from_str(json).unwrap();
        assert_eq!(
            plan(Some(&linux)).unwrap().clone_flags(),
            Kind::Mount.flag()
        );
    }
}
