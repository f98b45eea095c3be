//! Profiles of the host: JSON files as they are written for Docker and for Kubernetes.
//!
//! The format is the one of the OCI specification (`config-linux.md`, Seccomp) with what Docker's
//! tools add: `archMap` in place of `architectures`, one `name` in place of `names`, and rules that
//! hold only with or without some capability, architecture or kernel.

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag, LinuxSyscall,
};
use serde::Deserialize;

use super::native;
use crate::facts::NodeFacts;
use crate::plan::capabilities::Set;

/// A kernel older than this cannot run the engine at all, so no rule need ask for one.
const OLDEST_KERNEL: (u32, u32) = (5, 12);

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Profile {
    default_action: LinuxSeccompAction,
    default_errno_ret: Option<u32>,
    #[serde(default)]
    architectures: Option<Vec<Arch>>,
    #[serde(default)]
    arch_map: Option<Vec<ArchFamily>>,
    #[serde(default)]
    flags: Option<Vec<LinuxSeccompFilterFlag>>,
    #[serde(default)]
    syscalls: Option<Vec<Rule>>,
    listener_path: Option<String>,
    listener_metadata: Option<String>,
}

/// An architecture and the ones that it can run too.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ArchFamily {
    architecture: Arch,
    sub_architectures: Option<Vec<Arch>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    #[serde(default)]
    name: String,
    #[serde(default)]
    names: Vec<String>,
    action: LinuxSeccompAction,
    errno_ret: Option<u32>,
    #[serde(default)]
    args: Option<Vec<LinuxSeccompArg>>,
    #[serde(default)]
    includes: Option<Condition>,
    #[serde(default)]
    excludes: Option<Condition>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Condition {
    #[serde(default)]
    caps: Vec<String>,
    #[serde(default)]
    arches: Vec<String>,
    min_kernel: Option<String>,
}

/// Reads a profile for this node and a process with capabilities `held`. The error is a phrase that
/// says what is wrong with the text.
pub(super) fn parse(text: &str, facts: &NodeFacts, held: Set) -> Result<LinuxSeccomp, String> {
    let profile: Profile = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let mut filter = LinuxSeccomp::default();
    filter.set_default_action(profile.default_action);
    filter.set_default_errno_ret(profile.default_errno_ret);
    filter.set_architectures(architectures(&profile, facts)?);
    filter.set_flags(profile.flags);
    filter.set_listener_path(profile.listener_path.map(Into::into));
    filter.set_listener_metadata(profile.listener_metadata);
    let mut rules = Vec::new();
    for (place, rule) in profile.syscalls.unwrap_or_default().into_iter().enumerate() {
        rules.extend(
            rule.applied(facts, held)
                .map_err(|why| format!("syscalls[{place}]: {why}"))?,
        );
    }
    filter.set_syscalls(Some(rules));
    Ok(filter)
}

/// The architectures that the filter covers; none named means the machine's own.
fn architectures(profile: &Profile, facts: &NodeFacts) -> Result<Option<Vec<Arch>>, String> {
    let named = profile
        .architectures
        .as_ref()
        .filter(|list| !list.is_empty());
    match (named, &profile.arch_map) {
        (Some(_), Some(map)) if !map.is_empty() => {
            Err("names both architectures and archMap".into())
        }
        (Some(list), _) => Ok(Some(list.clone())),
        (None, map) => Ok(family(map.as_deref().unwrap_or_default(), facts)),
    }
}

fn family(map: &[ArchFamily], facts: &NodeFacts) -> Option<Vec<Arch>> {
    let native = native(facts)?;
    let family = map.iter().find(|family| family.architecture == native)?;
    let others = family.sub_architectures.iter().flatten().copied();
    Some(std::iter::once(native).chain(others).collect())
}

impl Rule {
    /// The rule as the specification has it, unless its conditions do not hold here.
    fn applied(self, facts: &NodeFacts, held: Set) -> Result<Option<LinuxSyscall>, String> {
        let names = self.all_names()?;
        if !self.holds(facts, held)? {
            return Ok(None);
        }
        if self.args.iter().flatten().any(|arg| arg.index() > 5) {
            return Err("system calls have six arguments, 0 to 5".into());
        }
        let mut rule = LinuxSyscall::default();
        rule.set_names(names);
        rule.set_action(self.action);
        rule.set_errno_ret(self.errno_ret);
        rule.set_args(self.args.filter(|args| !args.is_empty()));
        Ok(Some(rule))
    }

    fn all_names(&self) -> Result<Vec<String>, String> {
        match (self.name.is_empty(), self.names.is_empty()) {
            (true, true) => Err("names no system call".into()),
            (false, false) => Err("has both name and names".into()),
            (false, true) => Ok(vec![self.name.clone()]),
            (true, false) => Ok(self.names.clone()),
        }
    }

    /// Every inclusion must hold, and no exclusion may.
    fn holds(&self, facts: &NodeFacts, held: Set) -> Result<bool, String> {
        let mut holds = true;
        if let Some(includes) = &self.includes {
            holds &= includes.caps.iter().all(|name| held.has(name));
            holds &= includes.arches.is_empty() || includes.arches.contains(&facts.architecture);
            holds &= includes.kernel_is_new_enough()?.unwrap_or(true);
        }
        if let Some(excludes) = &self.excludes {
            holds &= !excludes.caps.iter().any(|name| held.has(name));
            holds &= !excludes.arches.contains(&facts.architecture);
            holds &= !excludes.kernel_is_new_enough()?.unwrap_or(false);
        }
        Ok(holds)
    }
}

impl Condition {
    /// `None` where no kernel is asked for.
    fn kernel_is_new_enough(&self) -> Result<Option<bool>, String> {
        let Some(text) = self.min_kernel.as_deref().filter(|text| !text.is_empty()) else {
            return Ok(None);
        };
        let parts = text.split_once('.').and_then(|(major, minor)| {
            Some((major.parse::<u32>().ok()?, minor.parse::<u32>().ok()?))
        });
        match parts {
            Some(asked) if asked <= OLDEST_KERNEL => Ok(Some(true)),
            Some(_) => Err(format!(
                "minKernel {text:?} is newer than {OLDEST_KERNEL:?}"
            )),
            None => Err(format!("minKernel {text:?} is no version")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::{Capabilities, Security};
    use crate::plan::capabilities;

    fn read(text: &str) -> Result<LinuxSeccomp, String> {
        let facts = NodeFacts {
            architecture: "amd64".into(),
            last_capability: 40,
            ..Default::default()
        };
        let add = vec!["SYS_ADMIN".to_owned()];
        let capabilities = Capabilities {
            add,
            ..Default::default()
        };
        let security = Security {
            capabilities,
            ..Default::default()
        };
        parse(
            text,
            &facts,
            capabilities::plan(&security, &facts).unwrap().set,
        )
    }

    /// The system calls of the rules that are left of `rules`.
    fn names(rules: &str) -> Vec<String> {
        let text = format!(r#"{{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{rules}]}}"#);
        let rules = read(&text).unwrap().syscalls().clone().unwrap();
        rules.iter().flat_map(|rule| rule.names().clone()).collect()
    }

    #[test]
    fn both_spellings_of_a_name() {
        let rules = r#"{"name":"chmod","action":"SCMP_ACT_ERRNO"},
                       {"names":["a","b"],"action":"SCMP_ACT_ERRNO","errnoRet":38,"comment":"c"}"#;
        assert_eq!(names(rules), ["chmod", "a", "b"]);
    }

    #[test]
    fn conditions_are_settled() {
        let rule = |name: &str, condition: &str| {
            format!(r#"{{"name":"{name}","action":"SCMP_ACT_LOG",{condition}}}"#)
        };
        let rules = [
            rule(
                "yes1",
                r#""includes":{"caps":["CAP_SYS_ADMIN"],"arches":["amd64"]}"#,
            ),
            rule(
                "no1",
                r#""includes":{"caps":["CAP_SYS_ADMIN","CAP_SYS_TIME"]}"#,
            ),
            rule("no2", r#""includes":{"arches":["arm64"]}"#),
            rule("yes2", r#""includes":{"minKernel":"4.8"},"excludes":{}"#),
            rule("no3", r#""excludes":{"caps":["CAP_SYS_ADMIN"]}"#),
            rule("no4", r#""excludes":{"arches":["amd64"]}"#),
            rule(
                "yes3",
                r#""excludes":{"caps":["CAP_SYS_TIME"],"arches":["s390x"]}"#,
            ),
            rule("no5", r#""excludes":{"minKernel":"4.8"}"#),
        ];
        assert_eq!(names(&rules.join(",")), ["yes1", "yes2", "yes3"]);
    }

    #[test]
    fn architectures_by_list_or_by_map() {
        let list = r#"{"defaultAction":"SCMP_ACT_KILL","architectures":["SCMP_ARCH_X86"]}"#;
        assert_eq!(
            read(list).unwrap().architectures().as_deref(),
            Some(&[Arch::ScmpArchX86][..])
        );
        let map = r#"{"defaultAction":"SCMP_ACT_KILL","archMap":[
            {"architecture":"SCMP_ARCH_AARCH64","subArchitectures":["SCMP_ARCH_ARM"]},
            {"architecture":"SCMP_ARCH_X86_64","subArchitectures":["SCMP_ARCH_X86"]}]}"#;
        let expect = [Arch::ScmpArchX86_64, Arch::ScmpArchX86];
        assert_eq!(
            read(map).unwrap().architectures().as_deref(),
            Some(&expect[..])
        );
        let none = r#"{"defaultAction":"SCMP_ACT_KILL"}"#;
        assert_eq!(read(none).unwrap().architectures(), &None);
    }

    #[test]
    fn what_is_wrong_is_said() {
        let rule =
            |rule: &str| format!(r#"{{"defaultAction":"SCMP_ACT_LOG","syscalls":[{rule}]}}"#);
        for (text, part) in [
            ("", "EOF"),
            ("{}", "defaultAction"),
            (r#"{"defaultAction":"SCMP_ACT_MAYBE"}"#, "SCMP_ACT_MAYBE"),
            (
                &rule(r#"{"action":"SCMP_ACT_LOG"}"#),
                "syscalls[0]: names no",
            ),
            (
                &rule(r#"{"name":"a","names":["b"],"action":"SCMP_ACT_LOG"}"#),
                "both name",
            ),
            (
                &rule(r#"{"name":"a","action":"SCMP_ACT_LOG","includes":{"minKernel":"9.9"}}"#),
                "minKernel",
            ),
            (
                &rule(
                    r#"{"name":"a","action":"SCMP_ACT_LOG",
                    "args":[{"index":6,"value":1,"op":"SCMP_CMP_EQ"}]}"#,
                ),
                "six arguments",
            ),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(part), "{error} has no {part}");
        }
    }
}
