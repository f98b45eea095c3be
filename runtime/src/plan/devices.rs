//! Device nodes in `/dev`.

use super::namespaces::Kind;
use super::{Error, HostFacts, Namespaces, Result};
use crate::spec::{RawDevice, Spec};

/// What kind of node.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum DeviceKind {
    Character,
    Block,
    Fifo,
}

/// One node.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Device<'a> {
    /// Absolute, in the container.
    pub(crate) path: &'a str,
    pub(crate) kind: DeviceKind,
    pub(crate) major: u32,
    pub(crate) minor: u32,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Bind a node, the host's of the same name, because making one is not permitted.
    pub(crate) bind: bool,
    /// What is bound is made for that, by who may: the host's may have another name, owner or mode.
    pub(crate) made: bool,
}

/// runtime-spec, "Default Devices"; console and ptmx come with the terminal and devpts.
const DEFAULTS: [(&str, u32, u32); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

/// Nodes to make; `None` if `/dev` is not the container's own.
///
/// # Errors
///
/// A relative path, an unknown type, numbers out of range.
pub(super) fn plan<'a>(
    spec: &'a Spec<'a>,
    namespaces: &Namespaces<'_>,
    facts: HostFacts,
) -> Result<Option<Vec<Device<'a>>>> {
    if spec.mounts.iter().any(|mount| {
        mount.destination.trim_end_matches('/') == "/dev"
            && (mount.kind.as_str() == "bind"
                || mount
                    .options
                    .iter()
                    .any(|o| matches!(o.as_str(), "bind" | "rbind")))
    }) {
        return Ok(None);
    }
    let bind = namespaces.has(Kind::User) || !facts.may_make_nodes;
    let made = namespaces.is_new(Kind::User) && facts.may_make_nodes;
    let given = spec.linux.as_ref().map_or(&[][..], |linux| &linux.devices);
    let mut devices: Vec<Device<'a>> = given
        .iter()
        .map(|raw| device(raw, bind, made))
        .collect::<Result<_>>()?;
    for (path, major, minor) in DEFAULTS {
        if !devices.iter().any(|device| device.path == path) {
            let kind = DeviceKind::Character;
            devices.push(Device {
                path,
                kind,
                major,
                minor,
                mode: 0o666,
                uid: 0,
                gid: 0,
                bind,
                made: false,
            });
        }
    }
    Ok(Some(devices))
}

fn device<'a>(raw: &'a RawDevice<'a>, bind: bool, made: bool) -> Result<Device<'a>> {
    let path = raw.path.as_str();
    let kind = match raw.kind.as_str() {
        "c" | "u" => DeviceKind::Character,
        "b" => DeviceKind::Block,
        "p" => DeviceKind::Fifo,
        other => {
            return Err(Error::new(format!(
                "device {path:?}: {other:?} is no type of device"
            )));
        }
    };
    if !path.starts_with('/') {
        return Err(Error::new(format!(
            "device {path:?} is not an absolute path"
        )));
    }
    let number = |number: i64| {
        let range = || Error::new(format!("device {path:?}: {number} is no device number"));
        u32::try_from(number).map_err(|_out_of_range| range())
    };
    let fifo = kind == DeviceKind::Fifo;
    Ok(Device {
        path,
        kind,
        major: if fifo { 0 } else { number(raw.major)? },
        minor: if fifo { 0 } else { number(raw.minor)? },
        mode: raw.file_mode.unwrap_or(0o666) & 0o7777,
        uid: raw.uid.unwrap_or(0),
        gid: raw.gid.unwrap_or(0),
        bind: bind && !fifo,
        made: made && bind && !fifo,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FACTS: HostFacts = HostFacts {
        last_capability: 40,
        may_make_nodes: true,
        cgroup_v2: false,
    };

    fn check(json: &str, expect: Option<usize>) {
        let spec: Spec<'_> = serde_json::from_str(json).unwrap();
        let got = plan(&spec, &Namespaces::default(), FACTS).unwrap();
        assert_eq!(got.map(|list| list.len()), expect, "{json}");
    }

    #[test]
    fn defaults_are_always_there_unless_dev_is_bound() {
        check("{}", Some(6));
        check(
            r#"{"linux":{"devices":[{"type":"c","path":"/dev/null","major":1,"minor":3},
                {"type":"b","path":"/dev/x","major":7,"minor":1}]}}"#,
            Some(7),
        );
        check(
            r#"{"mounts":[{"destination":"/dev/","type":"none","source":"/dev","options":["rbind"]}]}"#,
            None,
        );
        check(
            r#"{"mounts":[{"destination":"/dev","type":"tmpfs","source":"tmpfs"}]}"#,
            Some(6),
        );
    }
}
