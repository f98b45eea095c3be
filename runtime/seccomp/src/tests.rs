//! Filters against a plain model of what a profile means.

mod differential;

use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompArg, LinuxSeccompOperator as Operator};
use proptest::prelude::*;

use crate::arch::{Arch, X32_BIT};
use crate::interpreter::{Call, run};
use crate::{Error, Program, compile, compile_for, table};

const ALLOW: u32 = 0x7fff_0000;
const EPERM: u32 = 0x0005_0001;
const ENOSYS: u32 = 0x0005_0026;
const KILL: u32 = 0;

fn profile(json: &str) -> LinuxSeccomp {
    serde_json::from_str(json).unwrap()
}

fn call(arch: Arch, name: &str, args: [u64; 6]) -> Call {
    let number = table::find(name).unwrap().number(arch).unwrap();
    let number = if arch == Arch::X32 {
        number | X32_BIT
    } else {
        number
    };
    Call {
        number,
        audit: arch.audit(),
        args,
    }
}

/// One call of a family's architecture through the filter of the native one.
fn check(profile: &LinuxSeccomp, arch: Arch, name: &str, args: [u64; 6], expect: u32) {
    let native = match arch {
        Arch::X86 | Arch::X32 => Arch::X86_64,
        Arch::Arm => Arch::Aarch64,
        native => native,
    };
    let program = compile_for(profile, native).unwrap();
    let (verdict, _) = run(&program.filter, &call(arch, name, args));
    assert_eq!(
        verdict, expect,
        "{name} {args:x?} on {arch:?}: {verdict:#x}"
    );
}

#[test]
fn each_action_has_its_value() {
    for (action, expect) in [
        (r#""action":"SCMP_ACT_KILL""#, 0),
        (r#""action":"SCMP_ACT_KILL_THREAD""#, 0),
        (r#""action":"SCMP_ACT_KILL_PROCESS""#, 0x8000_0000),
        (r#""action":"SCMP_ACT_TRAP""#, 0x0003_0000),
        (r#""action":"SCMP_ACT_ERRNO""#, EPERM),
        (r#""action":"SCMP_ACT_ERRNO","errnoRet":38"#, ENOSYS),
        (r#""action":"SCMP_ACT_TRACE","errnoRet":7"#, 0x7ff0_0007),
        (r#""action":"SCMP_ACT_NOTIFY""#, 0x7fc0_0000),
        (r#""action":"SCMP_ACT_LOG""#, 0x7ffc_0000),
    ] {
        let json = format!(
            r#"{{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{{"names":["mount"],{action}}}]}}"#
        );
        check(&profile(&json), Arch::X86_64, "mount", [0; 6], expect);
        check(&profile(&json), Arch::X86_64, "read", [0; 6], ALLOW);
    }
}

#[test]
fn calls_newer_than_the_profile_do_not_exist() {
    let errno = profile(
        r#"{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[
            {"names":["read","openat2"],"action":"SCMP_ACT_ALLOW"}]}"#,
    );
    check(&errno, Arch::X86_64, "faccessat2", [0; 6], ENOSYS);
    check(&errno, Arch::X86_64, "write", [0; 6], EPERM);
    check(&errno, Arch::Aarch64, "faccessat2", [0; 6], ENOSYS);
    let allow = profile(
        r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[
            {"names":["read"],"action":"SCMP_ACT_ERRNO"}]}"#,
    );
    check(&allow, Arch::X86_64, "mseal", [0; 6], ALLOW);
    let own = profile(
        r#"{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":38,"syscalls":[
            {"names":["read","nonsense"],"action":"SCMP_ACT_ALLOW"},
            {"names":["mount"],"action":"SCMP_ACT_ERRNO","errnoRet":1}]}"#,
    );
    check(&own, Arch::X86_64, "write", [0; 6], ENOSYS);
    check(&own, Arch::X86_64, "mount", [0; 6], EPERM);
}

#[test]
fn architectures_are_kept_apart() {
    let one = r#"{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":38,"syscalls":[
        {"names":["execve","socket","semop"],"action":"SCMP_ACT_ALLOW"}]"#;
    let native = profile(&format!("{one}}}"));
    check(&native, Arch::X86_64, "execve", [0; 6], ALLOW);
    check(&native, Arch::X86, "execve", [0; 6], KILL);
    check(&native, Arch::X32, "execve", [0; 6], KILL);
    let all = profile(&format!(
        r#"{one},"architectures":["SCMP_ARCH_X86","SCMP_ARCH_X32","SCMP_ARCH_ARM","SCMP_ARCH_S390X"]}}"#
    ));
    for arch in [Arch::X86_64, Arch::X86, Arch::X32, Arch::Aarch64, Arch::Arm] {
        check(&all, arch, "execve", [0; 6], ALLOW);
        check(&all, arch, "read", [0; 6], ENOSYS);
    }
    // x86_64's own number of execve is not x32's.
    let program = compile_for(&all, Arch::X86_64).unwrap();
    let odd = Call {
        number: 59 | X32_BIT,
        audit: Arch::X32.audit(),
        args: [0; 6],
    };
    assert_eq!(run(&program.filter, &odd).0, ENOSYS);
    // socketcall(SYS_SOCKET), ipc(SEMOP) and no other.
    check(&all, Arch::X86, "socketcall", [1, 0, 0, 0, 0, 0], ALLOW);
    check(&all, Arch::X86, "socketcall", [2, 0, 0, 0, 0, 0], ENOSYS);
    check(&all, Arch::X86, "ipc", [1, 0, 0, 0, 0, 0], ALLOW);
    check(&all, Arch::X86, "ipc", [2, 0, 0, 0, 0, 0], ENOSYS);
}

#[test]
fn a_multiplexer_is_as_new_as_its_calls() {
    let only = profile(
        r#"{"defaultAction":"SCMP_ACT_ERRNO","architectures":["SCMP_ARCH_X86"],"syscalls":[
            {"names":["semop","read"],"action":"SCMP_ACT_ALLOW"}]}"#,
    );
    check(&only, Arch::X86, "ipc", [1, 0, 0, 0, 0, 0], ALLOW);
    check(&only, Arch::X86, "ipc", [2, 0, 0, 0, 0, 0], EPERM);
}

#[test]
fn private_calls_of_arm_are_reached() {
    let arm = profile(
        r#"{"defaultAction":"SCMP_ACT_ERRNO","architectures":["SCMP_ARCH_ARM"],"syscalls":[
            {"names":["set_tls","openat2"],"action":"SCMP_ACT_ALLOW"}]}"#,
    );
    check(&arm, Arch::Arm, "set_tls", [0; 6], ALLOW);
    check(&arm, Arch::Arm, "cacheflush", [0; 6], EPERM);
    check(&arm, Arch::Arm, "mseal", [0; 6], ENOSYS);
}

#[test]
fn an_unconditional_entry_beats_conditions() {
    let both = |first: &str, second: &str| {
        profile(&format!(
            r#"{{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{first},{second}]}}"#
        ))
    };
    let plain = r#"{"names":["clone"],"action":"SCMP_ACT_ALLOW"}"#;
    let masked = r#"{"names":["clone"],"action":"SCMP_ACT_ERRNO","errnoRet":9,
        "args":[{"index":0,"value":1,"op":"SCMP_CMP_EQ"}]}"#;
    check(
        &both(plain, masked),
        Arch::X86_64,
        "clone",
        [1, 0, 0, 0, 0, 0],
        ALLOW,
    );
    check(
        &both(masked, plain),
        Arch::X86_64,
        "clone",
        [1, 0, 0, 0, 0, 0],
        ALLOW,
    );
}

#[test]
fn an_argument_named_twice_means_either() {
    let twice = profile(
        r#"{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["personality"],"action":"SCMP_ACT_ALLOW",
        "args":[{"index":0,"value":0,"op":"SCMP_CMP_EQ"},{"index":0,"value":8,"op":"SCMP_CMP_EQ"}]}]}"#,
    );
    for (value, expect) in [(0, ALLOW), (8, ALLOW), (1, EPERM), (1 << 32, EPERM)] {
        check(
            &twice,
            Arch::X86_64,
            "personality",
            [value, 0, 0, 0, 0, 0],
            expect,
        );
    }
}

#[test]
fn bad_profiles_are_refused() {
    let refused = |json: &str| compile(&profile(json)).unwrap_err();
    let notify = r#"{"defaultAction":"SCMP_ACT_NOTIFY"}"#;
    assert!(matches!(refused(notify), Error::NotifyByDefault));
    let write = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["write"],"action":"SCMP_ACT_NOTIFY"}]}"#;
    assert!(matches!(refused(write), Error::NotifyWrite));
    let index = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],"action":"SCMP_ACT_ERRNO",
        "args":[{"index":6,"value":0,"op":"SCMP_CMP_EQ"}]}]}"#;
    assert!(matches!(
        refused(index),
        Error::ArgumentIndex { index: 6, .. }
    ));
    let errno = r#"{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":65536}"#;
    assert!(matches!(refused(errno), Error::Errno(65536)));
}

#[test]
fn flags_and_listener() {
    let flags = |flags: &str, action: &str| {
        let json = format!(
            r#"{{"defaultAction":"SCMP_ACT_ALLOW"{flags},"syscalls":[{{"names":["mount"],"action":"{action}"}}]}}"#
        );
        let Program {
            flags,
            needs_listener,
            ..
        } = compile(&profile(&json)).unwrap();
        (flags, needs_listener)
    };
    assert_eq!(flags("", "SCMP_ACT_ERRNO"), (4, false));
    assert_eq!(flags(r#","flags":[]"#, "SCMP_ACT_ERRNO"), (0, false));
    let many = r#","flags":["SECCOMP_FILTER_FLAG_LOG","SECCOMP_FILTER_FLAG_TSYNC","SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]"#;
    assert_eq!(flags(many, "SCMP_ACT_ERRNO"), (2, false));
    assert_eq!(flags(many, "SCMP_ACT_NOTIFY"), (2 | 32, true));
}

/// A profile of the size and shape of docker's: nearly every call allowed, some conditions.
fn engine_profile() -> LinuxSeccomp {
    let denied = [
        "acct",
        "add_key",
        "bpf",
        "clock_settime",
        "clone3",
        "delete_module",
        "init_module",
        "kexec_load",
        "keyctl",
        "mount",
        "move_mount",
        "open_by_handle_at",
        "perf_event_open",
        "personality",
        "pivot_root",
        "ptrace",
        "quotactl",
        "reboot",
        "request_key",
        "setns",
        "settimeofday",
        "swapon",
        "swapoff",
        "umount2",
        "unshare",
        "userfaultfd",
        "clone",
        "socket",
        "mbind",
        "nfsservctl",
        "iopl",
        "ioperm",
        "vm86",
        "lookup_dcookie",
    ];
    let names: Vec<&str> = table::rows()
        .map(|(name, _)| name)
        .filter(|name| !denied.contains(name))
        .collect();
    let names = serde_json::to_string(&names).unwrap();
    profile(&format!(
        r#"{{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":1,
        "architectures":["SCMP_ARCH_X86_64","SCMP_ARCH_X86","SCMP_ARCH_X32"],"syscalls":[
        {{"names":{names},"action":"SCMP_ACT_ALLOW"}},
        {{"names":["clone"],"action":"SCMP_ACT_ALLOW",
          "args":[{{"index":0,"value":2114060288,"valueTwo":0,"op":"SCMP_CMP_MASKED_EQ"}}]}},
        {{"names":["socket"],"action":"SCMP_ACT_ALLOW",
          "args":[{{"index":0,"value":40,"op":"SCMP_CMP_NE"}}]}},
        {{"names":["personality"],"action":"SCMP_ACT_ALLOW","args":[
          {{"index":0,"value":0,"op":"SCMP_CMP_EQ"}}, {{"index":0,"value":8,"op":"SCMP_CMP_EQ"}},
          {{"index":0,"value":131072,"op":"SCMP_CMP_EQ"}},
          {{"index":0,"value":4294967295,"op":"SCMP_CMP_EQ"}}]}},
        {{"names":["clone3"],"action":"SCMP_ACT_ERRNO","errnoRet":38}}]}}"#
    ))
}

#[test]
fn an_engines_profile_is_a_short_search() {
    let profile = engine_profile();
    let program = compile_for(&profile, Arch::X86_64).unwrap();
    assert!(
        program.filter.len() < 330,
        "{} instructions",
        program.filter.len()
    );
    let mut longest = 0;
    for number in 0..500 {
        for arch in [Arch::X86_64, Arch::X86, Arch::X32] {
            let number = if arch == Arch::X32 {
                number | X32_BIT
            } else {
                number
            };
            let call = Call {
                number,
                audit: arch.audit(),
                args: [0; 6],
            };
            let (verdict, steps) = run(&program.filter, &call);
            assert_eq!(verdict, model(&profile, Arch::X86_64, &call), "{call:?}");
            longest = longest.max(steps);
        }
    }
    assert!(longest < 40, "{longest} instructions for one call");
    check(
        &profile,
        Arch::X86_64,
        "clone",
        [0x1000_0000, 0, 0, 0, 0, 0],
        EPERM,
    );
    check(&profile, Arch::X86_64, "clone3", [0; 6], ENOSYS);
}

#[test]
fn long_programs_use_trampolines() {
    // No two neighbours alike: the search is as long as it can get.
    let entries: Vec<String> = table::rows()
        .enumerate()
        .map(|(at, (name, _))| {
            format!(
                r#"{{"names":["{name}"],"action":"SCMP_ACT_ERRNO","errnoRet":{}}}"#,
                at + 2
            )
        })
        .collect();
    let json = format!(
        r#"{{"defaultAction":"SCMP_ACT_KILL","architectures":["SCMP_ARCH_X86","SCMP_ARCH_X32"],"syscalls":[{}]}}"#,
        entries.join(",")
    );
    let profile = profile(&json);
    let program = compile_for(&profile, Arch::X86_64).unwrap();
    for number in 0..600 {
        for (bit, arch) in [(0, Arch::X86_64), (0, Arch::X86), (X32_BIT, Arch::X32)] {
            let call = Call {
                number: number | bit,
                audit: arch.audit(),
                args: [0; 6],
            };
            assert_eq!(
                run(&program.filter, &call).0,
                model(&profile, Arch::X86_64, &call)
            );
        }
    }
}

/// What the specification says, said as plainly as possible.
fn model(profile: &LinuxSeccomp, native: Arch, call: &Call) -> u32 {
    let x32 = call.audit == Arch::X86_64.audit() && call.number >= X32_BIT;
    let arch = match call.audit {
        _ if x32 => Arch::X32,
        audit => *native.family().iter().find(|a| a.audit() == audit).unwrap(),
    };
    let listed = profile
        .architectures()
        .iter()
        .flatten()
        .any(|named| arch.is(*named));
    if arch != native && !listed {
        let skipped = x32 && call.number == u32::MAX;
        return if skipped {
            profile.default_action().as_u32(profile.default_errno_ret())
        } else {
            KILL
        };
    }
    let number = if x32 {
        call.number & !X32_BIT
    } else {
        call.number
    };
    let default = profile.default_action().as_u32(profile.default_errno_ret());
    let calls = || profile.syscalls().iter().flatten();
    let number_of = |name: &String| table::find(name).and_then(|row| row.number(arch));
    let (mut unconditional, mut conditional) = (None, None);
    for entry in calls() {
        let action = entry.action().as_u32(entry.errno_ret());
        if action == default {
            continue;
        }
        let args = entry.args().as_deref().unwrap_or_default();
        for name in entry.names() {
            if number_of(name) == Some(number) {
                if args.is_empty() {
                    unconditional = unconditional.or(Some(action));
                } else if matches(args, call, arch, false) {
                    conditional = conditional.or(Some(action));
                }
            }
            if let Some((through, selector)) = arch.multiplexed(name) {
                let through = number_of(&through.to_owned());
                if through == Some(number)
                    && call.args[0] & 0xffff_ffff == selector
                    && matches(args, call, arch, true)
                {
                    conditional = conditional.or(Some(action));
                }
            }
        }
    }
    if let Some(action) = unconditional.or(conditional) {
        return action;
    }
    let private = arch == Arch::Arm && matches!(number, 0xf_0000..=0xf_000f);
    if !private && newest(profile, arch).is_some_and(|newest| number > newest) {
        ENOSYS
    } else {
        default
    }
}

/// The newest call that the profile names, if what is newer gets ENOSYS: where the default is strict.
fn newest(profile: &LinuxSeccomp, arch: Arch) -> Option<u32> {
    let default = profile.default_action().as_u32(profile.default_errno_ret());
    let calls = || profile.syscalls().iter().flatten();
    let number_of = |name: &String| table::find(name).and_then(|row| row.number(arch));
    let through = |name: &String| Some(arch.multiplexed(name)?.0.to_owned());
    let active = calls().filter(|e| e.action().as_u32(e.errno_ret()) != default);
    let through = active.flat_map(|e| e.names()).filter_map(through);
    let named = calls().flat_map(|e| e.names()).cloned().chain(through);
    let newest = named
        .filter_map(|name| number_of(&name))
        .filter(|n| *n < 1024)
        .max();
    let strict = default < 0x7ff0_0000 || default == 0x8000_0000;
    newest.filter(|_| strict)
}

fn matches(args: &[LinuxSeccompArg], call: &Call, arch: Arch, multiplexed: bool) -> bool {
    let twice = args
        .iter()
        .any(|a| args.iter().filter(|b| a.index() == b.index()).count() > 1);
    let mut held = args
        .iter()
        .map(|arg| (multiplexed && arg.index() == 0) || holds(arg, call, arch));
    if twice {
        held.any(|held| held)
    } else {
        held.all(|held| held)
    }
}

fn holds(arg: &LinuxSeccompArg, call: &Call, arch: Arch) -> bool {
    let narrow = |value: u64| {
        if arch.wide() {
            value
        } else {
            value & 0xffff_ffff
        }
    };
    let (is, one) = (narrow(call.args[arg.index()]), narrow(arg.value()));
    match arg.op() {
        Operator::ScmpCmpNe => is != one,
        Operator::ScmpCmpLt => is < one,
        Operator::ScmpCmpLe => is <= one,
        Operator::ScmpCmpEq => is == one,
        Operator::ScmpCmpGe => is >= one,
        Operator::ScmpCmpGt => is > one,
        Operator::ScmpCmpMaskedEq => is & one == narrow(arg.value_two().unwrap_or(0)) & one,
    }
}

/// Names of every kind: common to all, of some only, multiplexed, unknown.
const NAMES: &[&str] = &[
    "read",
    "write",
    "open",
    "clone",
    "socket",
    "socketcall",
    "semop",
    "ipc",
    "shmat",
    "mmap2",
    "personality",
    "set_tls",
    "mseal",
    "execve",
    "ioctl",
    "time",
    "nosuchcall",
    "newfstatat",
];

/// Values at the borders of both words.
const VALUES: &[u64] = &[
    0,
    1,
    2,
    3,
    0x7fff_ffff,
    0xffff_ffff,
    0x1_0000_0000,
    0x1_0000_0001,
    u64::MAX,
];

fn any_value() -> impl Strategy<Value = u64> {
    prop::sample::select(VALUES)
}

fn any_arg() -> impl Strategy<Value = String> {
    let operators =
        ["NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"].map(|name| format!("SCMP_CMP_{name}"));
    (
        0..3_usize,
        any_value(),
        any_value(),
        prop::sample::select(operators.to_vec()),
    )
        .prop_map(|(index, value, two, op)| {
            format!(r#"{{"index":{index},"value":{value},"valueTwo":{two},"op":"{op}"}}"#)
        })
}

fn any_action() -> impl Strategy<Value = String> {
    let plain = prop::sample::select(vec!["KILL", "KILL_PROCESS", "TRAP", "LOG", "ALLOW"]);
    prop_oneof![
        plain.prop_map(|name| format!(r#""SCMP_ACT_{name}""#)),
        (1..50_u32).prop_map(|errno| format!(r#""SCMP_ACT_ERRNO","errnoRet":{errno}"#)),
    ]
}

fn any_profile() -> impl Strategy<Value = LinuxSeccomp> {
    let names = prop::collection::vec(prop::sample::select(NAMES), 1..6);
    let entry = (names, any_action(), prop::collection::vec(any_arg(), 0..4)).prop_map(
        |(names, action, args)| {
            let names = serde_json::to_string(&names).unwrap();
            format!(
                r#"{{"names":{names},"action":{action},"args":[{}]}}"#,
                args.join(",")
            )
        },
    );
    let archs = vec!["SCMP_ARCH_X86", "SCMP_ARCH_X32", "SCMP_ARCH_ARM"];
    (
        any_action(),
        prop::sample::subsequence(archs, 0..=3),
        prop::collection::vec(entry, 0..8),
    )
        .prop_map(|(default, archs, entries)| {
            let default = default.replace("errnoRet", "defaultErrnoRet");
            let archs = serde_json::to_string(&archs).unwrap();
            profile(&format!(
                r#"{{"defaultAction":{default},"architectures":{archs},"syscalls":[{}]}}"#,
                entries.join(",")
            ))
        })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn filters_do_what_the_model_says(
        profile in any_profile(),
        args in prop::collection::vec(prop::array::uniform6(any_value()), 4),
        native in prop::sample::select(vec![Arch::X86_64, Arch::Aarch64, Arch::Riscv64]),
    ) {
        let program = compile_for(&profile, native).unwrap();
        let again = Program::from_bytes(&program.to_bytes()).unwrap();
        prop_assert_eq!(&again, &program);
        for &arch in native.family() {
            let bit = if arch == Arch::X32 { X32_BIT } else { 0 };
            let ordinary = NAMES.iter().filter_map(|name| table::find(name)?.number(arch));
            for number in ordinary.chain([1000, 5000, 0xf_0000, 0xf_0010, u32::MAX]) {
                for args in &args {
                    let call = Call { number: number | bit, audit: arch.audit(), args: *args };
                    let (verdict, _) = run(&program.filter, &call);
                    prop_assert_eq!(verdict, model(&profile, native, &call), "{:?}", call);
                }
            }
        }
    }
}
