//! Which device nodes a container has, and which it may open.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxDevice, LinuxDeviceCgroup, LinuxDeviceType};

use super::{PlanError, check};
use crate::container::{Device, Security};
use crate::facts::{HostDevice, NodeFacts};

/// Permission bits of a mode.
pub(super) const PERMISSIONS: u32 = 0o7777;

/// Character devices that any container may open: null, zero, full, random, urandom, tty, console,
/// ptmx, and all pseudo-terminals. The runtime makes the first six in every container.
const OPEN_TO_ALL: [(i64, Option<i64>); 9] = [
    (1, Some(3)),
    (1, Some(5)),
    (1, Some(7)),
    (1, Some(8)),
    (1, Some(9)),
    (5, Some(0)),
    (5, Some(1)),
    (5, Some(2)),
    (136, None),
];

/// Paths below `/dev` that the runtime or a mount of ours makes: not to be copied from the host.
const OURS: [&str; 13] = [
    "/dev/null",
    "/dev/zero",
    "/dev/full",
    "/dev/random",
    "/dev/urandom",
    "/dev/tty",
    "/dev/console",
    "/dev/ptmx",
    "/dev/pts",
    "/dev/shm",
    "/dev/mqueue",
    "/dev/fd",
    "/dev/core",
];

/// The devices of a container.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Devices {
    /// Nodes to make, besides those of every container.
    pub(super) nodes: Vec<LinuxDevice>,
    /// What the control group allows, in order.
    pub(super) rules: Vec<LinuxDeviceCgroup>,
}

/// What every container may open, and no node more.
pub(super) fn default_rules() -> Vec<LinuxDeviceCgroup> {
    let mut rules = vec![access(false, None, None, None, "rwm")];
    // Making a node gives nothing without the right to open it, and tools that unpack archives
    // make them.
    rules.push(access(true, Some(LinuxDeviceType::C), None, None, "m"));
    rules.push(access(true, Some(LinuxDeviceType::B), None, None, "m"));
    rules.extend(
        OPEN_TO_ALL.map(|(major, minor)| {
            access(true, Some(LinuxDeviceType::C), Some(major), minor, "rwm")
        }),
    );
    rules
}

/// The devices asked for on top of the default ones; all of the host's for a privileged container.
pub(super) fn plan(
    security: &Security,
    asked: &[(HostDevice, Device)],
    facts: &NodeFacts,
) -> Result<Devices, PlanError> {
    let mut devices = match security.privileged {
        true => Devices {
            nodes: facts.devices.iter().filter_map(copied).collect(),
            rules: vec![access(true, None, None, None, "rwm")],
        },
        false => Devices {
            nodes: Vec::new(),
            rules: default_rules(),
        },
    };
    for (place, (found, device)) in asked.iter().enumerate() {
        let field = format!("devices[{place}]");
        let path = check::absolute(&format!("{field}.container_path"), &device.container_path)?;
        let permissions = permissions(&field, &device.permissions)?;
        let node = node(path, found);
        // The privileged may open all anyway.
        if !security.privileged {
            devices.rules.push(rule_for(&node, permissions));
        }
        devices.nodes.retain(|known| known.path() != node.path());
        devices.nodes.push(node);
    }
    Ok(devices)
}

/// A device of the host under its own path, unless a container has its own there.
fn copied(device: &HostDevice) -> Option<LinuxDevice> {
    let path = check::clean(&Path::new("/dev").join(&device.path));
    let ours = OURS.iter().any(|ours| path.starts_with(ours));
    (!ours).then(|| node(path, device))
}

fn node(path: PathBuf, found: &HostDevice) -> LinuxDevice {
    let mut node = LinuxDevice::default();
    node.set_path(path);
    node.set_typ(if found.block {
        LinuxDeviceType::B
    } else {
        LinuxDeviceType::C
    });
    node.set_major(found.major.into());
    node.set_minor(found.minor.into());
    node.set_file_mode(Some(found.mode & PERMISSIONS));
    node.set_uid(Some(found.uid));
    node.set_gid(Some(found.gid));
    node
}

pub(super) fn rule_for(node: &LinuxDevice, permissions: &str) -> LinuxDeviceCgroup {
    access(
        true,
        Some(node.typ()),
        Some(node.major()),
        Some(node.minor()),
        permissions,
    )
}

fn access(
    allow: bool,
    typ: Option<LinuxDeviceType>,
    major: Option<i64>,
    minor: Option<i64>,
    permissions: &str,
) -> LinuxDeviceCgroup {
    let mut rule = LinuxDeviceCgroup::default();
    rule.set_allow(allow);
    rule.set_typ(typ);
    rule.set_major(major);
    rule.set_minor(minor);
    rule.set_access(Some(permissions.to_owned()));
    rule
}

/// Any of `r`, `w` and `m`, each at most once.
pub(super) fn permissions<'a>(field: &str, text: &'a str) -> Result<&'a str, PlanError> {
    let once = |letter| text.matches(letter).count() <= 1;
    let known = text.chars().all(|letter| "rwm".contains(letter));
    match !text.is_empty() && known && ['r', 'w', 'm'].into_iter().all(once) {
        true => Ok(text),
        false => {
            let reason = format!("{text:?} is not made of r, w and m");
            Err(PlanError::invalid(format!("{field}.permissions"), reason))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(path: &str, major: u32, minor: u32) -> HostDevice {
        let path = path.into();
        HostDevice {
            path,
            block: false,
            major,
            minor,
            mode: 0o20_666,
            uid: 0,
            gid: 5,
        }
    }

    fn asked(path: &str, permissions: &str) -> (HostDevice, Device) {
        let device = Device {
            container_path: path.into(),
            host_path: "/dev/fuse".into(),
            permissions: permissions.into(),
        };
        (host("/dev/fuse", 10, 229), device)
    }

    #[test]
    fn a_device_asked_for_is_made_and_allowed() {
        let devices = plan(
            &Security::default(),
            &[asked("/dev/x", "rw")],
            &NodeFacts::default(),
        )
        .unwrap();
        assert_eq!(devices.nodes.len(), 1);
        assert_eq!(devices.nodes[0].path(), Path::new("/dev/x"));
        assert_eq!(devices.nodes[0].file_mode(), Some(0o666));
        assert!(!devices.rules[0].allow());
        assert_eq!(devices.rules.last().unwrap().to_string(), "c 10:229 rw");
    }

    #[test]
    fn privileged_has_all_of_the_host_but_what_it_has_of_its_own() {
        let security = Security {
            privileged: true,
            ..Default::default()
        };
        let devices = ["/dev/kvm", "/dev/null", "/dev/pts/3", "/dev/shm/x", "loop0"];
        let devices = devices.iter().map(|path| host(path, 1, 2)).collect();
        let facts = NodeFacts {
            devices,
            ..Default::default()
        };
        let found = plan(&security, &[asked("/dev/kvm", "r")], &facts).unwrap();
        let paths: Vec<_> = found
            .nodes
            .iter()
            .map(|node| node.path().to_str().unwrap())
            .collect();
        assert_eq!(paths, ["/dev/loop0", "/dev/kvm"]);
        assert_eq!(found.rules[0].to_string(), "a *:* rwm");
        assert!(found.rules[0].allow());
    }

    #[test]
    fn wrong_requests_name_the_field() {
        for (device, part) in [
            (asked("dev/x", "r"), "devices[0].container_path: "),
            (asked("/dev/x", ""), "devices[0].permissions: "),
            (asked("/dev/x", "rx"), "devices[0].permissions: "),
            (asked("/dev/x", "rr"), "devices[0].permissions: "),
        ] {
            let error = plan(&Security::default(), &[device], &NodeFacts::default()).unwrap_err();
            assert!(error.to_string().starts_with(part), "{error}");
        }
    }
}
