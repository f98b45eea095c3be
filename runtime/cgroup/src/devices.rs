//! Device rules: OCI's list, where the last rule that speaks of an access decides, carried out
//! as v1's lists or as a v2 program. Pure, but for [`attach`].
//!
//! v1 knows a default and exceptions to it, so the list is condensed to those; a rule that would
//! cut a hole into an exception cannot be said there and is refused. The v2 program walks the
//! rules from the last to the first and can say everything.

use std::os::fd::{AsFd, BorrowedFd};

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceCgroupBuilder, LinuxDeviceType};
use sys::bpf::{self, Instruction};

use crate::Error;

const MKNOD: u8 = 1;
const READ: u8 = 2;
const WRITE: u8 = 4;
const ALL: u8 = MKNOD | READ | WRITE;

/// What a container may use whatever its own rules say (runtime-spec, "Default Devices"), and
/// mknod of anything, which gives no access by itself.
const DEFAULTS: &[(Kind, Option<u32>, Option<u32>, u8)] = &[
    (Kind::Char, None, None, MKNOD),
    (Kind::Block, None, None, MKNOD),
    // null, zero, full, tty, random, urandom
    (Kind::Char, Some(1), Some(3), ALL),
    (Kind::Char, Some(1), Some(5), ALL),
    (Kind::Char, Some(1), Some(7), ALL),
    (Kind::Char, Some(5), Some(0), ALL),
    (Kind::Char, Some(1), Some(8), ALL),
    (Kind::Char, Some(1), Some(9), ALL),
    // pseudo-terminals: slaves, and the multiplexer
    (Kind::Char, Some(136), None, ALL),
    (Kind::Char, Some(5), Some(2), ALL),
    // net/tun: of no use without CAP_NET_ADMIN over a network, and runc's and crun's containers
    // that have it make the node themselves
    (Kind::Char, Some(10), Some(200), ALL),
];

/// What every container may use; [`Group::apply`](crate::Group::apply) adds them by itself.
pub fn default_device_rules() -> Vec<LinuxDeviceCgroup> {
    DEFAULTS.iter().map(|rule| oci(*rule)).collect()
}

fn oci((kind, major, minor, access): (Kind, Option<u32>, Option<u32>, u8)) -> LinuxDeviceCgroup {
    let typ = match kind {
        Kind::Char => LinuxDeviceType::C,
        Kind::Block => LinuxDeviceType::B,
    };
    let number = |number: Option<u32>| number.map_or(-1, i64::from);
    LinuxDeviceCgroupBuilder::default()
        .allow(true)
        .typ(typ)
        .major(number(major))
        .minor(number(minor))
        .access(letters(access))
        .build()
        .expect("every field has a value")
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Char,
    Block,
}

/// One rule; `None` stands for every value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rule {
    allow: bool,
    kind: Option<Kind>,
    major: Option<u32>,
    minor: Option<u32>,
    access: u8,
}

impl Rule {
    fn parse(rule: &LinuxDeviceCgroup) -> Result<Self, Error> {
        let bad = |reason| Error::Device {
            rule: rule.to_string(),
            reason,
        };
        let number = |value: Option<i64>| match value {
            None | Some(-1) => Ok(None),
            Some(value) => match u32::try_from(value) {
                Ok(value) if i32::try_from(value).is_ok() => Ok(Some(value)),
                _ => Err(bad("the device number is out of range")),
            },
        };
        let kind = match rule.typ().unwrap_or_default() {
            LinuxDeviceType::A => None,
            LinuxDeviceType::B => Some(Kind::Block),
            LinuxDeviceType::C | LinuxDeviceType::U => Some(Kind::Char),
            LinuxDeviceType::P => return Err(bad("a pipe is no device")),
        };
        let access = rule.access().as_deref().unwrap_or("");
        let (major, minor) = (number(rule.major())?, number(rule.minor())?);
        // The kernel's "a" takes no numbers and means every access; so does a list without any.
        if kind.is_none() {
            return Ok(Self {
                allow: rule.allow(),
                kind,
                major: None,
                minor: None,
                access: ALL,
            });
        }
        let access = access_bits(access).ok_or_else(|| bad("access is made of r, w and m"))?;
        Ok(Self {
            allow: rule.allow(),
            kind,
            major,
            minor,
            access,
        })
    }

    fn is_everything(&self) -> bool {
        self.kind.is_none()
    }

    /// Whether each device of `other` is one of ours.
    fn covers(&self, other: &Self) -> bool {
        let over = |mine: Option<u32>, theirs: Option<u32>| mine.is_none() || mine == theirs;
        self.kind == other.kind && over(self.major, other.major) && over(self.minor, other.minor)
    }

    fn overlaps(&self, other: &Self) -> bool {
        let meet = |a: Option<u32>, b: Option<u32>| a.is_none() || b.is_none() || a == b;
        self.kind == other.kind && meet(self.major, other.major) && meet(self.minor, other.minor)
    }

    /// As devices.allow and devices.deny take it.
    fn line(&self) -> String {
        let kind = match self.kind {
            None => return "a".to_owned(),
            Some(Kind::Char) => "c",
            Some(Kind::Block) => "b",
        };
        let number = |number: Option<u32>| number.map_or("*".to_owned(), |n| n.to_string());
        format!(
            "{kind} {}:{} {}",
            number(self.major),
            number(self.minor),
            letters(self.access)
        )
    }
}

fn access_bits(letters: &str) -> Option<u8> {
    let bit = |letter| match letter {
        b'm' => Some(MKNOD),
        b'r' => Some(READ),
        b'w' => Some(WRITE),
        _ => None,
    };
    letters
        .bytes()
        .try_fold(0, |bits, letter| Some(bits | bit(letter)?))
}

fn letters(access: u8) -> String {
    [(READ, 'r'), (WRITE, 'w'), (MKNOD, 'm')]
        .iter()
        .filter(|(bit, _)| access & bit != 0)
        .map(|(_, letter)| letter)
        .collect()
}

/// The rules of `spec` with the defaults behind them. Without any rule everything else is denied.
pub(crate) fn rules(spec: &[LinuxDeviceCgroup]) -> Result<Vec<Rule>, Error> {
    let deny = Rule {
        allow: false,
        kind: None,
        major: None,
        minor: None,
        access: ALL,
    };
    let own: Vec<Rule> = spec.iter().map(Rule::parse).collect::<Result<_, _>>()?;
    let defaults = DEFAULTS.iter().map(|&(kind, major, minor, access)| Rule {
        allow: true,
        kind: Some(kind),
        major,
        minor,
        access,
    });
    Ok(std::iter::once(deny).chain(own).chain(defaults).collect())
}

/// What v1's lists shall say.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Lists {
    /// What happens to devices without an exception.
    pub(crate) allow: bool,
    /// As `devices.deny` (if `allow`) or `devices.allow` takes them.
    pub(crate) exceptions: Vec<String>,
}

/// Condenses rules to a default and exceptions.
pub(crate) fn lists(rules: &[Rule]) -> Result<Lists, Error> {
    let mut allow = false;
    let mut exceptions: Vec<Rule> = Vec::new();
    for rule in rules.iter().filter(|rule| rule.access != 0) {
        if rule.is_everything() {
            allow = rule.allow;
            exceptions.clear();
        } else if rule.allow == allow {
            fill(&mut exceptions, rule)?;
        } else {
            add(&mut exceptions, rule);
        }
    }
    Ok(Lists {
        allow,
        exceptions: exceptions.iter().map(Rule::line).collect(),
    })
}

fn add(exceptions: &mut Vec<Rule>, rule: &Rule) {
    let same = |known: &&mut Rule| known.covers(rule) && rule.covers(known);
    match exceptions.iter_mut().find(same) {
        Some(known) => known.access |= rule.access,
        None => exceptions.push(*rule),
    }
}

/// Takes `rule`, which says what the default says, out of the exceptions.
fn fill(exceptions: &mut Vec<Rule>, rule: &Rule) -> Result<(), Error> {
    for known in exceptions.iter_mut().filter(|known| known.overlaps(rule)) {
        if rule.covers(known) {
            known.access &= !rule.access;
        } else if known.access & rule.access != 0 {
            let reason = "it takes a part out of an earlier rule, which cgroup v1 cannot express";
            return Err(Error::Device {
                rule: rule.line(),
                reason,
            });
        }
    }
    exceptions.retain(|known| known.access != 0);
    Ok(())
}

// The program: eBPF, linux/bpf.h. r0 result, r1 context, r2 kind, r3 access, r4 major, r5 minor.
const LOAD_WORD: u8 = 0x61;
const MOVE: u8 = 0xb4;
const MOVE_REGISTER: u8 = 0xbc;
const AND: u8 = 0x54;
const SHIFT_RIGHT: u8 = 0x74;
const JUMP_NOT_EQUAL: u8 = 0x55;
const JUMP: u8 = 0x05;
const JUMP_IF_SET: u8 = 0x45;
const EXIT: u8 = 0x95;
/// `BPF_DEVCG_DEV_BLOCK`, `BPF_DEVCG_DEV_CHAR`.
const KIND_BLOCK: i32 = 1;
const KIND_CHAR: i32 = 2;

/// The v2 program for `rules`: answers 1 to allow, 0 to deny.
///
/// r3 holds the accesses that no rule has decided yet. A rule that allows takes its own out; when
/// none is left, all were allowed. A rule that denies any of them ends it.
pub(crate) fn program(rules: &[Rule]) -> Vec<Instruction> {
    let op =
        |code, to: u8, from: u8, offset, value| Instruction::new(code, to, from, offset, value);
    let mut program = vec![
        // struct bpf_cgroup_dev_ctx { access_type, major, minor }; access << 16 | kind
        op(LOAD_WORD, 2, 1, 0, 0),
        op(MOVE_REGISTER, 3, 2, 0, 0),
        op(AND, 2, 0, 0, 0xffff),
        op(SHIFT_RIGHT, 3, 0, 0, 16),
        op(LOAD_WORD, 4, 1, 4, 0),
        op(LOAD_WORD, 5, 1, 8, 0),
    ];
    let mut decided = false;
    for rule in rules.iter().rev().filter(|rule| rule.access != 0) {
        if rule.is_everything() {
            program.extend(answer(rule.allow));
            decided = true;
            break;
        }
        program.extend(block(rule));
    }
    if !decided {
        program.extend(answer(false));
    }
    program
}

fn answer(allow: bool) -> [Instruction; 2] {
    [
        Instruction::new(MOVE, 0, 0, 0, i32::from(allow)),
        Instruction::new(EXIT, 0, 0, 0, 0),
    ]
}

/// One rule: leave if it is not about this device, else decide.
fn block(rule: &Rule) -> Vec<Instruction> {
    let kind = rule.kind.map(|kind| match kind {
        Kind::Char => KIND_CHAR,
        Kind::Block => KIND_BLOCK,
    });
    let number = |number: Option<u32>| number.and_then(|number| i32::try_from(number).ok());
    let tests = [(2, kind), (4, number(rule.major)), (5, number(rule.minor))];
    let tests: Vec<(u8, i32)> = tests
        .iter()
        .filter_map(|(r, v)| Some((*r, (*v)?)))
        .collect();
    let access = i32::from(rule.access);
    let mut decide = if rule.allow {
        vec![
            Instruction::new(AND, 3, 0, 0, !access & i32::from(ALL)),
            Instruction::new(JUMP_NOT_EQUAL, 3, 0, 2, 0),
        ]
    } else {
        vec![
            Instruction::new(JUMP_IF_SET, 3, 0, 1, access),
            Instruction::new(JUMP, 0, 0, 2, 0),
        ]
    };
    decide.extend(answer(rule.allow));
    let count = tests.len() + decide.len();
    let leave = |at: usize| i16::try_from(count - at - 1).expect("a rule is a few instructions");
    let mut code: Vec<Instruction> = tests
        .iter()
        .enumerate()
        .map(|(at, (register, value))| {
            Instruction::new(JUMP_NOT_EQUAL, *register, 0, leave(at), *value)
        })
        .collect();
    code.extend(decide);
    code
}

/// Loads the program of `rules` and makes it the only one of the group behind `group`.
pub(crate) fn attach(
    group: BorrowedFd<'_>,
    rules: &[Rule],
) -> Result<(), (&'static str, std::io::Error)> {
    let earlier =
        bpf::attached_device_programs(group).map_err(|error| ("list programs of", error))?;
    let program = bpf::load_device_program(&program(rules)).map_err(|error| ("load", error))?;
    let attach = |replace| {
        bpf::attach_device_program(group, program.as_fd(), replace)
            .map_err(|error| ("attach", error))
    };
    // One program is replaced in one step, so that there is no moment without a filter.
    if let [one] = earlier[..] {
        let old = bpf::program_by_id(one).map_err(|error| ("open the earlier", error))?;
        return attach(Some(old.as_fd()));
    }
    attach(None)?;
    for id in earlier {
        let old = bpf::program_by_id(id).map_err(|error| ("open the earlier", error))?;
        bpf::detach_device_program(group, old.as_fd()).map_err(|error| ("detach", error))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(json: &str) -> Result<Vec<Rule>, Error> {
        let rules: Vec<LinuxDeviceCgroup> = serde_json::from_str(json).unwrap();
        rules.iter().map(Rule::parse).collect()
    }

    /// One request for access to a device.
    #[derive(Debug, Clone, Copy)]
    struct Request {
        kind: Kind,
        major: u32,
        minor: u32,
        access: u8,
    }

    /// For each access asked for, the last rule that speaks of it decides.
    fn model(rules: &[Rule], request: Request) -> bool {
        let about = |rule: &Rule, bit: u8| {
            rule.access & bit != 0
                && rule.kind.is_none_or(|kind| kind == request.kind)
                && rule.major.is_none_or(|major| major == request.major)
                && rule.minor.is_none_or(|minor| minor == request.minor)
        };
        let bits = [MKNOD, READ, WRITE]
            .into_iter()
            .filter(|bit| request.access & bit != 0);
        bits.map(|bit| rules.iter().rev().find(|rule| about(rule, bit)))
            .all(|rule| rule.is_some_and(|rule| rule.allow))
    }

    /// The program, run by another implementation than the kernel's.
    fn run(rules: &[Rule], request: Request) -> bool {
        let kind = match request.kind {
            Kind::Block => 1,
            Kind::Char => 2,
        };
        let code: Vec<u8> = program(rules)
            .into_iter()
            .flat_map(Instruction::to_bytes)
            .collect();
        let words = [
            u32::from(request.access) << 16 | kind,
            request.major,
            request.minor,
        ];
        let mut context: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        rbpf::EbpfVmRaw::new(Some(&code))
            .unwrap()
            .execute_program(&mut context)
            .unwrap()
            == 1
    }

    /// What the kernel makes of v1's lists, for a single access.
    fn listed(lists: &Lists, request: Request) -> bool {
        let kind = if request.kind == Kind::Char { "c" } else { "b" };
        let about = |line: &String| {
            let parts: Vec<&str> = line.split([' ', ':']).collect();
            let fits = |text: &str, number: u32| text == "*" || text == number.to_string();
            parts[0] == kind
                && fits(parts[1], request.major)
                && fits(parts[2], request.minor)
                && access_bits(parts[3]).unwrap() & request.access != 0
        };
        lists.allow != lists.exceptions.iter().any(about)
    }

    #[test]
    fn without_rules_only_the_defaults() {
        let rules = rules(&[]).unwrap();
        let char = |major, minor, access| Request {
            kind: Kind::Char,
            major,
            minor,
            access,
        };
        for (request, expect) in [
            (char(1, 3, READ | WRITE), true),
            (char(136, 9, READ | WRITE), true),
            (char(10, 200, READ | WRITE), true),
            (char(10, 229, READ), false),
            (char(1, 11, READ), false),
            (char(1, 11, MKNOD), true),
            (char(1, 11, MKNOD | READ), false),
            (
                Request {
                    kind: Kind::Block,
                    major: 8,
                    minor: 0,
                    access: READ,
                },
                false,
            ),
        ] {
            assert_eq!(model(&rules, request), expect, "{request:?}");
            assert_eq!(run(&rules, request), expect, "{request:?}");
        }
        let lists = lists(&rules).unwrap();
        assert!(!lists.allow);
        assert!(
            lists.exceptions.contains(&"c 136:* rwm".to_owned()),
            "{lists:?}"
        );
        assert_eq!(default_device_rules().len(), DEFAULTS.len());
    }

    #[test]
    fn a_privileged_container_has_no_exceptions() {
        let spec: Vec<LinuxDeviceCgroup> =
            serde_json::from_str(r#"[{"allow":true,"access":"rwm"}]"#).unwrap();
        let lists = lists(&rules(&spec).unwrap()).unwrap();
        assert_eq!(
            lists,
            Lists {
                allow: true,
                exceptions: vec![]
            }
        );
    }

    #[test]
    fn holes_cannot_be_listed() {
        let rules = parse(
            r#"[{"allow":true,"type":"c","major":1,"access":"rw"},
                {"allow":false,"type":"c","major":1,"minor":3,"access":"w"}]"#,
        );
        assert!(matches!(lists(&rules.unwrap()), Err(Error::Device { .. })));
    }

    #[test]
    fn bad_rules_are_refused() {
        for json in [
            r#"[{"allow":true,"type":"p","access":"rw"}]"#,
            r#"[{"allow":true,"type":"c","major":4294967296,"access":"rw"}]"#,
            r#"[{"allow":true,"type":"c","major":-2,"access":"rw"}]"#,
            r#"[{"allow":true,"type":"c","access":"rx"}]"#,
        ] {
            assert!(matches!(parse(json), Err(Error::Device { .. })), "{json}");
        }
    }

    fn any_kind() -> impl Strategy<Value = Kind> {
        prop::sample::select(vec![Kind::Char, Kind::Block])
    }

    fn any_rule() -> impl Strategy<Value = Rule> {
        let number = || prop::option::of(0..3_u32);
        let part = (any::<bool>(), any_kind(), number(), number(), 1..=ALL).prop_map(
            |(allow, kind, major, minor, access)| Rule {
                allow,
                kind: Some(kind),
                major,
                minor,
                access,
            },
        );
        let all = any::<bool>().prop_map(|allow| Rule {
            allow,
            kind: None,
            major: None,
            minor: None,
            access: ALL,
        });
        prop_oneof![8 => part, 1 => all]
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn program_and_lists_say_what_the_rules_say(
            rules in prop::collection::vec(any_rule(), 0..8),
            (kind, major, minor, access) in (any_kind(), 0..3_u32, 0..3_u32, 1..=ALL),
        ) {
            let request = Request { kind, major, minor, access };
            prop_assert_eq!(run(&rules, request), model(&rules, request));
            if let Ok(lists) = lists(&rules) {
                for access in [MKNOD, READ, WRITE] {
                    let request = Request { access, ..request };
                    prop_assert_eq!(listed(&lists, request), model(&rules, request), "{:?}", lists);
                }
            }
        }
    }
}
