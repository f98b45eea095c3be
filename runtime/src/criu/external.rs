//! Mounts whose source is no part of the images: in them they have a name, their place in the
//! container, and whoever restores says what is to be there.

use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, open, readlinkat};

use super::wire::ExternalMount;
use crate::failure::{Attempt, Result};
use crate::init::rooted;
use crate::plan::{InitPlan, NamespaceKind, Source};

/// What criu calls the source of a masked file.
const NULL: &str = "/dev/null";

/// One such mount.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct External {
    /// In the container.
    place: String,
    /// On the host.
    source: PathBuf,
}

/// All that the plan has, but for masked files. `folders` are the container's control groups as
/// mounts of type cgroup show them; `resolved` gives the place that a path in the container leads to.
pub(super) fn all(
    plan: &InitPlan<'_>,
    folders: &[(String, PathBuf)],
    resolved: impl Fn(&str) -> String,
) -> Vec<External> {
    let mut all = Vec::new();
    let mut add = |place: String, source: &Path| {
        let source = source.to_owned();
        all.push(External { place, source });
    };
    for mount in &plan.mounts {
        let place = resolved(mount.destination);
        match &mount.source {
            Source::Bind { path, .. } => add(place, path),
            Source::CgroupV1 => folders
                .iter()
                .for_each(|(name, folder)| add(format!("{place}/{name}"), folder)),
            // Without a namespace of its own it is the host's, a plain filesystem to criu.
            Source::CgroupV2 if plan.namespaces.has(NamespaceKind::Cgroup) => {
                folders
                    .iter()
                    .for_each(|(_, folder)| add(place.clone(), folder));
            }
            _ => {}
        }
    }
    for device in plan.devices.iter().flatten() {
        add(resolved(device.path), Path::new(device.path));
    }
    all
}

/// For a dump: each is named after its place.
pub(super) fn named(all: Vec<External>) -> Vec<ExternalMount> {
    let named = |external: External| ExternalMount {
        key: external.place.clone(),
        value: external.place,
    };
    all.into_iter().map(named).collect()
}

/// For a restore: where each name comes from.
pub(super) fn found(all: Vec<External>) -> Vec<ExternalMount> {
    let found = |external: External| ExternalMount {
        key: external.place,
        value: external.source.to_string_lossy().into_owned(),
    };
    all.into_iter().map(found).collect()
}

/// Masked files, for a dump: they all have the name of the null device. `root` is the container's.
pub(super) fn masked(plan: &InitPlan<'_>, root: &OwnedFd) -> Vec<ExternalMount> {
    let is_file = |path: &&&str| {
        rooted::open(root.as_fd(), path, OFlags::PATH)
            .and_then(rustix::fs::fstat)
            .is_ok_and(|status| {
                rustix::fs::FileType::from_raw_mode(status.st_mode)
                    != rustix::fs::FileType::Directory
            })
    };
    let name = |path: &&str| ExternalMount {
        key: (*path).to_owned(),
        value: NULL.to_owned(),
    };
    plan.masked_paths.iter().filter(is_file).map(name).collect()
}

/// Masked files, for a restore.
pub(super) fn null(plan: &InitPlan<'_>) -> Option<ExternalMount> {
    (!plan.masked_paths.is_empty()).then(|| ExternalMount {
        key: NULL.to_owned(),
        value: NULL.to_owned(),
    })
}

/// A root file system on the host, in which paths of the container are resolved.
#[derive(Debug)]
pub(super) struct Root {
    fd: OwnedFd,
    path: String,
}

impl Root {
    pub(super) fn open(path: &Path) -> Result<Root> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let what = || format!("open the root file system {path:?}");
        let fd = open(path, flags, Mode::empty()).attempt(what)?;
        let path = name_of(&fd).attempt(what)?;
        Ok(Root { fd, path })
    }

    /// The place that `path` leads to by symlinks of the root file system. What is not there (a
    /// place in a filesystem that is mounted in the container only) stays as it is given.
    pub(super) fn resolved(&self, path: &str) -> String {
        let path = path.trim_end_matches('/');
        let mut above = path;
        loop {
            if let Ok(fd) = rooted::open(self.fd.as_fd(), above, OFlags::PATH)
                && let Some(place) = name_of(&fd).ok().and_then(|name| {
                    name.strip_prefix(self.path.trim_end_matches('/'))
                        .map(str::to_owned)
                })
            {
                return format!("{}{}", place.trim_end_matches('/'), &path[above.len()..]);
            }
            match above.rsplit_once('/') {
                Some((shorter, _)) => above = shorter,
                None => return format!("/{path}"),
            }
        }
    }
}

fn name_of(fd: &OwnedFd) -> std::io::Result<String> {
    let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let name = readlinkat(CWD, &link, Vec::new())?;
    name.into_string().map_err(std::io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{self, Choices, HostFacts};

    const SPEC: &str = r#"{"process":{"args":["sh"],"cwd":"/"},"root":{"path":"rootfs"},
        "mounts":[{"destination":"/dev","type":"tmpfs","source":"tmpfs"},
            {"destination":"/data","source":"/host/data","options":["rbind"]},
            {"destination":"/sys/fs/cgroup","type":"cgroup","source":"cgroup"}],
        "linux":{"namespaces":[{"type":"mount"},{"type":"cgroup"}],"maskedPaths":["/proc/kcore"]}}"#;

    fn places(cgroup_v2: bool) -> Vec<String> {
        let spec = serde_json::from_str(SPEC).unwrap();
        let facts = HostFacts {
            last_capability: 40,
            may_make_nodes: true,
            cgroup_v2,
        };
        let plan = plan::init(&spec, "c", Path::new("/b"), facts, Choices::default());
        let folders = [("memory".to_owned(), PathBuf::from("/cg/memory/c"))];
        let all = all(&plan.as_ref().unwrap().0, &folders, |path| {
            format!("!{path}")
        });
        found(all)
            .into_iter()
            .map(|mount| format!("{} {}", mount.key, mount.value))
            .collect()
    }

    #[test]
    fn binds_groups_and_devices_come_from_outside() {
        let v1 = places(false);
        assert!(v1.contains(&"!/data /host/data".to_owned()), "{v1:?}");
        assert!(v1.contains(&"!/sys/fs/cgroup/memory /cg/memory/c".to_owned()));
        assert!(v1.contains(&"!/dev/zero /dev/zero".to_owned()));
        assert!(!v1.iter().any(|mount| mount.starts_with("!/dev ")));
        assert!(places(true).contains(&"!/sys/fs/cgroup /cg/memory/c".to_owned()));
    }

    #[test]
    fn places_are_resolved_in_the_root() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("run/a")).unwrap();
        std::fs::create_dir(dir.path().join("var")).unwrap();
        std::os::unix::fs::symlink("/run", dir.path().join("var/run")).unwrap();
        let root = Root::open(dir.path()).unwrap();
        for (path, expect) in [
            ("/var/run/a", "/run/a"),
            ("/var/run/b/c/", "/run/b/c"),
            ("/none", "/none"),
            ("none", "/none"),
            ("/", ""),
        ] {
            assert_eq!(root.resolved(path), expect, "{path}");
        }
    }
}
