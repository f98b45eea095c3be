//! Resource limits of a process.

use rustix::process::Resource;

use super::{Error, Result};
use crate::spec::RawRlimit;

/// One limit.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Limit {
    pub(crate) resource: Resource,
    /// `None`: unlimited.
    pub(crate) soft: Option<u64>,
    /// `None`: unlimited.
    pub(crate) hard: Option<u64>,
}

/// Names by resource (getrlimit(2)).
const RESOURCES: [(&str, Resource); 16] = [
    ("RLIMIT_AS", Resource::As),
    ("RLIMIT_CORE", Resource::Core),
    ("RLIMIT_CPU", Resource::Cpu),
    ("RLIMIT_DATA", Resource::Data),
    ("RLIMIT_FSIZE", Resource::Fsize),
    ("RLIMIT_LOCKS", Resource::Locks),
    ("RLIMIT_MEMLOCK", Resource::Memlock),
    ("RLIMIT_MSGQUEUE", Resource::Msgqueue),
    ("RLIMIT_NICE", Resource::Nice),
    ("RLIMIT_NOFILE", Resource::Nofile),
    ("RLIMIT_NPROC", Resource::Nproc),
    ("RLIMIT_RSS", Resource::Rss),
    ("RLIMIT_RTPRIO", Resource::Rtprio),
    ("RLIMIT_RTTIME", Resource::Rttime),
    ("RLIMIT_SIGPENDING", Resource::Sigpending),
    ("RLIMIT_STACK", Resource::Stack),
];

/// `RLIM_INFINITY` is the largest number.
fn finite(limit: u64) -> Option<u64> {
    (limit != u64::MAX).then_some(limit)
}

/// Limits by their names.
///
/// # Errors
///
/// An unknown name, one given twice, a soft limit above the hard one.
pub(super) fn plan(raw: &[RawRlimit<'_>]) -> Result<Vec<Limit>> {
    let mut limits: Vec<Limit> = Vec::with_capacity(raw.len());
    for given in raw {
        let name = given.kind.as_str();
        let row = RESOURCES.iter().find(|row| row.0 == name);
        let (_, resource) =
            row.ok_or_else(|| Error::new(format!("invalid rlimit type: {name}")))?;
        if limits.iter().any(|limit| limit.resource == *resource) {
            return Err(Error::new(format!("rlimit {name} is given twice")));
        }
        if given.soft > given.hard {
            return Err(Error::new(format!(
                "rlimit {name}: the soft limit is above the hard one"
            )));
        }
        limits.push(Limit {
            resource: *resource,
            soft: finite(given.soft),
            hard: finite(given.hard),
        });
    }
    Ok(limits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(json: &str, expect: Option<&str>) {
        let raw: Vec<RawRlimit<'_>> = serde_json::from_str(json).unwrap();
        match (plan(&raw), expect) {
            (Ok(_), None) => {}
            (Err(error), Some(expect)) => assert!(error.0.contains(expect), "{error}"),
            (got, expect) => panic!("{got:?}, not {expect:?}"),
        }
    }

    #[test]
    fn limits_are_checked() {
        check(
            r#"[{"type":"RLIMIT_NOFILE","soft":1,"hard":18446744073709551615}]"#,
            None,
        );
        check(
            r#"[{"type":"RLIMIT_MOON","soft":1,"hard":1}]"#,
            Some("invalid rlimit type"),
        );
        check(r#"[{"type":"RLIMIT_AS","soft":2,"hard":1}]"#, Some("above"));
        check(
            r#"[{"type":"RLIMIT_AS","soft":1,"hard":1},{"type":"RLIMIT_AS","soft":1,"hard":1}]"#,
            Some("twice"),
        );
    }
}
