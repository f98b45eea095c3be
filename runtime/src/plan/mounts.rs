//! The mounts of a container, in the order of the configuration.

use std::path::{Path, PathBuf};

use sys::mount::MountAttr;

use super::mount_options::{Options, PRIVATE, SHARED, SLAVE, UNBINDABLE};
use super::{Error, HostFacts, Result};
use crate::spec::{RawIdMap, RawMount};

/// How mounts and unmounts cross the border of a mount.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Propagation {
    /// `MS_SHARED`, `MS_SLAVE`, `MS_PRIVATE` or `MS_UNBINDABLE`.
    pub(crate) kind: u64,
    pub(crate) recursive: bool,
}

impl Propagation {
    /// `linux.rootfsPropagation`; none given means that the host's mounts come in and none go out.
    pub(super) fn of_rootfs(name: &str) -> Result<Propagation> {
        let (kind, recursive) = match name {
            "" | "rslave" => (SLAVE, true),
            "slave" => (SLAVE, false),
            "rprivate" => (PRIVATE, true),
            "private" => (PRIVATE, false),
            "rshared" => (SHARED, true),
            "shared" => (SHARED, false),
            "runbindable" => (UNBINDABLE, true),
            "unbindable" => (UNBINDABLE, false),
            other => {
                return Err(Error::new(format!(
                    "rootfsPropagation {other:?} does not exist"
                )));
            }
        };
        Ok(Propagation { kind, recursive })
    }

    /// As an argument of mount_setattr.
    pub(crate) fn attr(self) -> MountAttr {
        MountAttr {
            propagation: self.kind,
            ..MountAttr::default()
        }
    }

    /// Mounts that are made below also appear on the other side.
    pub(crate) fn goes_out(self) -> bool {
        self.kind == SHARED
    }
}

/// What is mounted.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum Source<'a> {
    /// A file or folder of the host.
    Bind { path: PathBuf, recursive: bool },
    /// A new instance of a filesystem.
    Filesystem {
        kind: &'a str,
        source: &'a str,
        data: Vec<(&'a str, Option<&'a str>)>,
    },
    /// The container's control groups, one folder a v1 hierarchy.
    CgroupV1,
    /// The container's control group, or the whole tree if it shares the host's cgroup namespace.
    CgroupV2,
    /// The attributes of what is mounted there already.
    Remount {
        data: Vec<(&'a str, Option<&'a str>)>,
    },
}

/// Ids of a mount are mapped.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct IdMaps<'a> {
    /// Empty: those of the container's user namespace.
    pub(crate) uids: &'a [RawIdMap],
    pub(crate) gids: &'a [RawIdMap],
    pub(crate) recursive: bool,
}

/// One mount.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct Mount<'a> {
    /// In the container.
    pub(crate) destination: &'a str,
    pub(crate) source: Source<'a>,
    pub(crate) attr: MountAttr,
    pub(crate) recursive_attr: MountAttr,
    /// Applied in this order once it is in its place.
    pub(crate) propagation: Vec<Propagation>,
    pub(crate) id_maps: Option<IdMaps<'a>>,
    /// A tmpfs gets a copy of what it covers.
    pub(crate) copy_up: bool,
}

impl Mount<'_> {
    /// Must not follow a symlink in its last component: a procfs or sysfs somewhere else would be
    /// taken for the real one.
    pub(crate) fn needs_real_directory(&self) -> bool {
        matches!(
            self.source,
            Source::Filesystem {
                kind: "proc" | "sysfs",
                ..
            }
        )
    }

    /// It is a new tmpfs.
    pub(crate) fn is_tmpfs(&self) -> bool {
        matches!(self.source, Source::Filesystem { kind: "tmpfs", .. })
    }
}

/// What may be mounted over parts of procfs: values that tools such as lxcfs answer in its place.
const ALLOWED_BELOW_PROC: [&str; 10] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/uptime",
    "/proc/loadavg",
    "/proc/slabinfo",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/sys/crypto/fips_enabled",
];

/// Decides about all mounts.
///
/// # Errors
///
/// No destination, a bind without source or with filesystem options, something over procfs.
pub(super) fn plan<'a>(
    raw: &'a [RawMount<'a>],
    bundle: &Path,
    facts: HostFacts,
    inherited: Propagation,
) -> Result<Vec<Mount<'a>>> {
    raw.iter()
        .map(|mount| one(mount, bundle, facts, inherited))
        .collect()
}

/// A group that the container's user namespace does not have cannot own terminals: they then belong
/// to its root's. The usual `gid=5` is none that an ordinary user has. Says whether there was one.
pub(super) fn leave_unknown_group_out(mounts: &mut [Mount<'_>], gids: &[RawIdMap]) -> bool {
    let known = |id: u32| {
        let mut ranges = gids.iter();
        ranges.any(|map| {
            id.checked_sub(map.container_id)
                .is_some_and(|at| at < map.size)
        })
    };
    let mut found = false;
    for mount in mounts {
        if let Source::Filesystem {
            kind: "devpts",
            data,
            ..
        } = &mut mount.source
        {
            data.retain(|(key, value)| {
                let group = value.and_then(|value| value.parse().ok());
                let unknown = *key == "gid" && group.is_some_and(|group| !known(group));
                found |= unknown;
                !unknown
            });
        }
    }
    found
}

fn one<'a>(
    raw: &'a RawMount<'a>,
    bundle: &Path,
    facts: HostFacts,
    inherited: Propagation,
) -> Result<Mount<'a>> {
    let destination = raw.destination.as_str();
    if destination.is_empty() {
        return Err(Error::new("a mount has no destination"));
    }
    refuse_below_proc(destination)?;
    let mut options = Options::parse(raw.options.iter().map(|option| option.as_str()));
    let id_maps = id_maps(raw, &options)?;
    let data = std::mem::take(&mut options.data);
    let source = source(raw, bundle, facts, &options, data)?;
    let mut propagation = options.propagation;
    if matches!(source, Source::Bind { .. }) {
        // The bind starts as a peer of the host's mount; unless told otherwise it becomes what the
        // root is.
        propagation.insert(
            0,
            Propagation {
                recursive: true,
                ..inherited
            },
        );
    }
    Ok(Mount {
        destination,
        source,
        attr: options.attr,
        recursive_attr: options.recursive_attr,
        propagation,
        id_maps,
        copy_up: options.copy_up,
    })
}

fn source<'a>(
    raw: &'a RawMount<'a>,
    bundle: &Path,
    facts: HostFacts,
    options: &Options<'_>,
    data: Vec<(&'a str, Option<&'a str>)>,
) -> Result<Source<'a>> {
    if options.remount {
        return Ok(Source::Remount { data });
    }
    let kind = raw.kind.as_str();
    let bind = options.bind.or((kind == "bind").then_some(false));
    if let Some(recursive) = bind {
        if raw.source.is_empty() {
            return Err(Error::new(format!(
                "bind mount {:?} has no source",
                &*raw.destination
            )));
        }
        if let Some((key, _)) = data.first().filter(|(_, value)| value.is_some()) {
            return Err(Error::new(format!(
                "bind mount {:?} cannot have the filesystem option {key:?}",
                &*raw.destination
            )));
        }
        return Ok(Source::Bind {
            path: bundle.join(&*raw.source),
            recursive,
        });
    }
    match kind {
        "" => Err(Error::new(format!(
            "mount {:?} has no type",
            &*raw.destination
        ))),
        "cgroup" | "cgroup2" if facts.cgroup_v2 => cgroup_v2(raw, &data),
        "cgroup" => Ok(Source::CgroupV1),
        kind => Ok(Source::Filesystem {
            kind,
            source: raw.source.as_str(),
            data,
        }),
    }
}

/// Options of cgroup2 (cgroups(7)). They are those of the one hierarchy, which is mounted already.
const CGROUP2_OPTIONS: [&str; 6] = [
    "favordynmods",
    "memory_hugetlb_accounting",
    "memory_localevents",
    "memory_recursiveprot",
    "nsdelegate",
    "pids_localevents",
];

fn cgroup_v2<'a>(raw: &RawMount<'_>, data: &[(&str, Option<&str>)]) -> Result<Source<'a>> {
    match data.iter().find(|(key, _)| !CGROUP2_OPTIONS.contains(key)) {
        Some((key, _)) => Err(Error::new(format!(
            "mount {:?}: cgroup2 has no option {key:?}: invalid argument",
            &*raw.destination
        ))),
        None => Ok(Source::CgroupV2),
    }
}

fn id_maps<'a>(raw: &'a RawMount<'a>, options: &Options<'_>) -> Result<Option<IdMaps<'a>>> {
    let (uids, gids) = (raw.uid_mappings.as_slice(), raw.gid_mappings.as_slice());
    if uids.is_empty() != gids.is_empty() {
        return Err(Error::new(format!(
            "mount {:?} needs both uidMappings and gidMappings",
            &*raw.destination
        )));
    }
    let wanted = options.map_ids.is_some() || !uids.is_empty();
    let recursive = options.map_ids.unwrap_or(false);
    Ok(wanted.then_some(IdMaps {
        uids,
        gids,
        recursive,
    }))
}

fn refuse_below_proc(destination: &str) -> Result<()> {
    let clean = destination.trim_end_matches('/');
    let below = clean
        .strip_prefix("/proc/")
        .is_some_and(|rest| !rest.trim_matches('/').is_empty());
    if below && !ALLOWED_BELOW_PROC.contains(&clean) {
        return Err(Error::new(format!(
            "{destination:?} cannot be mounted because it is inside /proc"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use sys::mount::RDONLY;

    const FACTS: HostFacts = HostFacts {
        last_capability: 40,
        may_make_nodes: true,
        cgroup_v2: false,
    };

    fn check(json: &str, expect: std::result::Result<Source<'_>, &str>) {
        let raw: RawMount<'_> = serde_json::from_str(json).unwrap();
        let inherited = Propagation {
            kind: SLAVE,
            recursive: true,
        };
        match (one(&raw, Path::new("/b"), FACTS, inherited), expect) {
            (Ok(mount), Ok(source)) => assert_eq!(mount.source, source),
            (Err(error), Err(text)) => assert!(error.0.contains(text), "{error}"),
            (got, expect) => panic!("{got:?}, not {expect:?}"),
        }
    }

    #[test]
    fn a_bind_is_known_by_type_or_option() {
        let bind = |recursive| {
            Ok(Source::Bind {
                path: PathBuf::from("/b/x"),
                recursive,
            })
        };
        check(
            r#"{"destination":"/a","type":"bind","source":"x"}"#,
            bind(false),
        );
        check(
            r#"{"destination":"/a","type":"none","source":"x","options":["rbind"]}"#,
            bind(true),
        );
        check(
            r#"{"destination":"/a","source":"/b/x","options":["bind","ro"]}"#,
            bind(false),
        );
        check(r#"{"destination":"/a","type":"bind"}"#, Err("no source"));
        check(
            r#"{"destination":"/a","type":"bind","source":"x","options":["mode=1"]}"#,
            Err("filesystem option"),
        );
    }

    #[test]
    fn filesystems_keep_their_options() {
        check(
            r#"{"destination":"/dev","type":"tmpfs","source":"t","options":["nosuid","size=64k"]}"#,
            Ok(Source::Filesystem {
                kind: "tmpfs",
                source: "t",
                data: vec![("size", Some("64k"))],
            }),
        );
        check(
            r#"{"destination":"/c","type":"cgroup","source":"cgroup"}"#,
            Ok(Source::CgroupV1),
        );
        check(r#"{"destination":"/c"}"#, Err("no type"));
        check(r#"{"type":"tmpfs"}"#, Err("no destination"));
    }

    #[test]
    fn terminals_have_a_group_that_exists() {
        let json = r#"[{"destination":"/dev/pts","type":"devpts","options":["gid=5","mode=620"]}]"#;
        let raw: Vec<RawMount<'_>> = serde_json::from_str(json).unwrap();
        let inherited = Propagation::of_rootfs("").unwrap();
        for (size, expect) in [(1, 1), (6, 2)] {
            let gids = [RawIdMap {
                container_id: 0,
                host_id: 1000,
                size,
            }];
            let mut mounts = plan(&raw, Path::new("/b"), FACTS, inherited).unwrap();
            assert_eq!(leave_unknown_group_out(&mut mounts, &gids), expect == 1);
            let Source::Filesystem { data, .. } = &mounts[0].source else {
                panic!("{mounts:?}");
            };
            assert_eq!(data.len(), expect);
        }
    }

    #[test]
    fn options_of_the_one_hierarchy_are_checked() {
        let facts = HostFacts {
            cgroup_v2: true,
            ..FACTS
        };
        let inherited = Propagation {
            kind: SLAVE,
            recursive: true,
        };
        for (option, good) in [("nsdelegate", true), ("moon", false)] {
            let json = format!(
                "{{\"destination\":\"/c\",\"type\":\"cgroup\",\"options\":[\"ro\",{option:?}]}}"
            );
            let raw: RawMount<'_> = serde_json::from_str(&json).unwrap();
            let got = one(&raw, Path::new("/b"), facts, inherited);
            assert_eq!(got.is_ok(), good, "{option}: {got:?}");
        }
    }

    #[test]
    fn procfs_is_not_covered() {
        let bind = r#","type":"bind","source":"/x"}"#;
        check(
            &format!("{{\"destination\":\"/proc/sys\"{bind}"),
            Err("inside /proc"),
        );
        check(
            &format!("{{\"destination\":\"/proc/meminfo\"{bind}"),
            Ok(Source::Bind {
                path: PathBuf::from("/x"),
                recursive: false,
            }),
        );
    }

    #[test]
    fn a_bind_starts_with_the_propagation_of_the_root() {
        let raw: RawMount<'_> = serde_json::from_str(
            r#"{"destination":"/a","type":"bind","source":"x","options":["ro","rshared"]}"#,
        )
        .unwrap();
        let inherited = Propagation {
            kind: PRIVATE,
            recursive: false,
        };
        let mount = one(&raw, Path::new("/b"), FACTS, inherited).unwrap();
        assert_eq!(mount.attr.set, RDONLY);
        let kinds: Vec<_> = mount
            .propagation
            .iter()
            .map(|p| (p.kind, p.recursive))
            .collect();
        assert_eq!(kinds, [(PRIVATE, true), (SHARED, true)]);
    }
}
