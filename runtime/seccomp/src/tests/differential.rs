//! The compiler against libseccomp, which profiles are written against and runc compiles with: the
//! same verdict for every system call number and for arguments at every border of every condition.
//!
//! What is fed to libseccomp is what runc feeds it, and the one thing that runc adds to its filter
//! is added to its verdict: ENOSYS for what is newer than the profile.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Seek as _};
use std::sync::OnceLock;

use libseccomp::{
    ScmpAction, ScmpArch, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall,
};
use oci_spec::runtime::{LinuxSeccompAction as Action, LinuxSyscall};

use super::*;
use crate::Instruction;

/// Most argument vectors for one call of one profile.
const MAX_VECTORS: usize = 3000;

fn their_arch(arch: Arch) -> ScmpArch {
    match arch {
        Arch::X86_64 => ScmpArch::X8664,
        Arch::X86 => ScmpArch::X86,
        Arch::X32 => ScmpArch::X32,
        Arch::Aarch64 => ScmpArch::Aarch64,
        Arch::Arm => ScmpArch::Arm,
        Arch::Riscv64 => ScmpArch::Riscv64,
    }
}

fn their_action(action: Action, data: Option<u32>) -> ScmpAction {
    let data = data.unwrap_or(1);
    match action {
        Action::ScmpActKill | Action::ScmpActKillThread => ScmpAction::KillThread,
        Action::ScmpActKillProcess => ScmpAction::KillProcess,
        Action::ScmpActTrap => ScmpAction::Trap,
        Action::ScmpActErrno => ScmpAction::Errno(i32::try_from(data).unwrap()),
        Action::ScmpActTrace => ScmpAction::Trace(u16::try_from(data).unwrap()),
        Action::ScmpActNotify => ScmpAction::Notify,
        Action::ScmpActLog => ScmpAction::Log,
        Action::ScmpActAllow => ScmpAction::Allow,
    }
}

fn their_condition(arg: &LinuxSeccompArg) -> ScmpArgCompare {
    let two = arg.value_two().unwrap_or(0);
    let (operator, value) = match arg.op() {
        Operator::ScmpCmpNe => (ScmpCompareOp::NotEqual, arg.value()),
        Operator::ScmpCmpLt => (ScmpCompareOp::Less, arg.value()),
        Operator::ScmpCmpLe => (ScmpCompareOp::LessOrEqual, arg.value()),
        Operator::ScmpCmpEq => (ScmpCompareOp::Equal, arg.value()),
        Operator::ScmpCmpGe => (ScmpCompareOp::GreaterEqual, arg.value()),
        Operator::ScmpCmpGt => (ScmpCompareOp::Greater, arg.value()),
        Operator::ScmpCmpMaskedEq => (ScmpCompareOp::MaskedEqual(arg.value()), two),
    };
    ScmpArgCompare::new(u32::try_from(arg.index()).unwrap(), operator, value)
}

/// What runc makes of a profile with libseccomp; an error where libseccomp refuses a rule.
fn theirs(
    profile: &LinuxSeccomp,
    native: Arch,
) -> Result<Vec<Instruction>, libseccomp::error::SeccompError> {
    let default = their_action(profile.default_action(), profile.default_errno_ret());
    let mut context = ScmpFilterContext::new(default)?;
    if native != Arch::X86_64 {
        context.add_arch(their_arch(native))?;
        context.remove_arch(ScmpArch::X8664)?;
    }
    for arch in native.family() {
        let mut named = profile.architectures().iter().flatten();
        if *arch != native && named.any(|named| arch.is(*named)) {
            context.add_arch(their_arch(*arch))?;
        }
    }
    for entry in profile.syscalls().iter().flatten() {
        let action = their_action(entry.action(), entry.errno_ret());
        if action != default {
            add(&mut context, entry, action)?;
        }
    }
    let mut file = tempfile();
    context.export_bpf(&file)?;
    file.rewind().unwrap();
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).unwrap();
    let (instructions, []) = bytes.as_chunks::<8>() else {
        panic!("{} bytes", bytes.len())
    };
    Ok(instructions.iter().map(instruction).collect())
}

fn tempfile() -> std::fs::File {
    tempfile::tempfile().unwrap()
}

/// `struct sock_filter` as the machine has it.
fn instruction(bytes: &[u8; 8]) -> Instruction {
    let [c0, c1, jt, jf, k0, k1, k2, k3] = *bytes;
    Instruction {
        code: u16::from_ne_bytes([c0, c1]),
        jt,
        jf,
        k: u32::from_ne_bytes([k0, k1, k2, k3]),
    }
}

fn add(
    context: &mut ScmpFilterContext,
    entry: &LinuxSyscall,
    action: ScmpAction,
) -> Result<(), libseccomp::error::SeccompError> {
    let args = entry.args().as_deref().unwrap_or_default();
    let conditions: Vec<_> = args.iter().map(their_condition).collect();
    let indices: BTreeSet<_> = args.iter().map(LinuxSeccompArg::index).collect();
    for name in entry.names() {
        let Ok(call) = ScmpSyscall::from_name(name) else {
            continue;
        };
        if conditions.is_empty() {
            context.add_rule(action, call)?;
        } else if indices.len() < args.len() {
            for condition in &conditions {
                context.add_rule_conditional(action, call, &[*condition])?;
            }
        } else {
            context.add_rule_conditional(action, call, &conditions)?;
        }
    }
    Ok(())
}

/// Values of one argument at which a condition on it changes its mind, and others.
fn borders(arg: &LinuxSeccompArg) -> Vec<u64> {
    let two = arg.value_two().unwrap_or(0);
    let mut values = vec![0, u64::MAX];
    for value in [arg.value(), two, two | !arg.value(), two & arg.value()] {
        values.extend([
            value,
            value.wrapping_sub(1),
            value.wrapping_add(1),
            value ^ 1 << 32,
            value ^ 1 << 63,
            value & 0xffff_ffff,
            value | 0xffff_ffff_0000_0000,
        ]);
    }
    values
}

/// Vectors of arguments for one call: every combination of the borders, thinned out if there are
/// too many.
fn vectors<'a>(args: impl Iterator<Item = &'a LinuxSeccompArg>, selectors: bool) -> Vec<[u64; 6]> {
    let mut values: BTreeMap<usize, BTreeSet<u64>> = BTreeMap::new();
    for arg in args {
        values.entry(arg.index()).or_default().extend(borders(arg));
    }
    if selectors {
        let selector = values.entry(0).or_default();
        selector.extend(0..26);
        selector.extend([1 << 32 | 1, u64::MAX]);
    }
    let mut all = vec![[0; 6], [u64::MAX; 6]];
    let combinations: usize = values.values().map(BTreeSet::len).product();
    let stride = combinations.div_ceil(MAX_VECTORS).max(1) | 1;
    for combination in (0..combinations).step_by(stride) {
        let mut rest = combination;
        let mut vector = [0; 6];
        for (index, values) in &values {
            vector[*index] = *values.iter().nth(rest % values.len()).unwrap();
            rest /= values.len();
        }
        all.push(vector);
    }
    all
}

/// Numbers that are compared: of calls that both tables know alike, and of none.
fn numbers(arch: Arch) -> &'static [u32] {
    static NUMBERS: OnceLock<Vec<Vec<u32>>> = OnceLock::new();
    let of = |arch| {
        let odd = [1000, 1023, 1024, 5000, 0xf_0000, 0xf_0002, 0xf_0010];
        let numbers = (0..520).chain(odd);
        numbers
            .filter(|number| is_known_alike(*number, arch))
            .collect()
    };
    let archs = [
        Arch::X86_64,
        Arch::X86,
        Arch::X32,
        Arch::Aarch64,
        Arch::Arm,
        Arch::Riscv64,
    ];
    &NUMBERS.get_or_init(|| archs.map(of).into())[arch as usize]
}

/// Numbers of calls on `arch`, each with its vectors.
fn calls(profile: &LinuxSeccomp, arch: Arch) -> Vec<(u32, Vec<[u64; 6]>)> {
    let mut conditional: BTreeMap<u32, Vec<&LinuxSeccompArg>> = BTreeMap::new();
    let mut selected = BTreeSet::new();
    for entry in profile.syscalls().iter().flatten() {
        let args = entry.args().as_deref().unwrap_or_default();
        for name in entry.names() {
            let through = arch.multiplexed(name).map(|(through, _)| through);
            for (name, through) in [(Some(name.as_str()), false), (through, true)] {
                let number = name.and_then(table::find).and_then(|row| row.number(arch));
                let Some(number) = number else { continue };
                conditional.entry(number).or_default().extend(args);
                if through {
                    selected.insert(number);
                }
            }
        }
    }
    numbers(arch)
        .iter()
        .copied()
        .map(|number| {
            let args = conditional.get(&number).into_iter().flatten().copied();
            (number, vectors(args, selected.contains(&number)))
        })
        .collect()
}

/// libseccomp's table is as old as the machine's.
fn is_known_alike(number: u32, arch: Arch) -> bool {
    let ours = table::rows().find(|(_, row)| row.number(arch) == Some(number));
    let Some((name, _)) = ours else { return true };
    let bit = if arch == Arch::X32 { X32_BIT } else { 0 };
    let theirs = ScmpSyscall::from_name_by_arch(name, their_arch(arch));
    theirs.is_ok_and(|call| call.as_raw_syscall() == i32::try_from(number | bit).unwrap())
}

/// Compares every verdict; gives how many there were, or `None` if libseccomp refuses the profile.
fn compare(profile: &LinuxSeccomp, native: Arch) -> Option<u64> {
    let theirs = theirs(profile, native).ok()?;
    let ours = compile_for(profile, native).unwrap();
    let default = profile.default_action().as_u32(profile.default_errno_ret());
    let mut compared = 0;
    for &arch in native.family() {
        let bit = if arch == Arch::X32 { X32_BIT } else { 0 };
        let newer = newer_than(profile, native, arch);
        for (number, vectors) in calls(profile, arch) {
            for args in vectors {
                let call = Call {
                    number: number | bit,
                    audit: arch.audit(),
                    args,
                };
                let mut expect = run(&theirs, &call).0;
                let private = arch == Arch::Arm && matches!(number, 0xf_0000..=0xf_000f);
                let is_newer = newer.is_some_and(|newest| number > newest) && !private;
                if expect == default && is_newer {
                    expect = ENOSYS;
                }
                let got = run(&ours.filter, &call).0;
                assert_eq!(
                    got,
                    expect,
                    "{got:#x} is not {expect:#x}: {call:x?} of {arch:?}, {}",
                    serde_json::to_string(profile).unwrap()
                );
                compared += 1;
            }
        }
    }
    Some(compared)
}

/// The newest call of the profile, where newer ones get ENOSYS.
fn newer_than(profile: &LinuxSeccomp, native: Arch, arch: Arch) -> Option<u32> {
    let mut named = profile.architectures().iter().flatten();
    if arch != native && !named.any(|named| arch.is(*named)) {
        return None;
    }
    newest(profile, arch)
}

/// Every operator, with values at the borders of a word, on calls of all kinds.
#[test]
fn every_operator_is_libseccomps() {
    let mut compared = 0;
    for operator in ["NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"] {
        for value in VALUES {
            for index in [0, 5] {
                let profile = profile(&format!(
                    r#"{{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":1,
                    "architectures":["SCMP_ARCH_X86","SCMP_ARCH_X32","SCMP_ARCH_ARM"],
                    "syscalls":[{{"names":["read","ioctl","mmap2","newfstatat","set_tls"],
                    "action":"SCMP_ACT_ALLOW","args":[
                    {{"index":{index},"value":{value},"valueTwo":1,"op":"SCMP_CMP_{operator}"}}
                    ]}}]}}"#
                ));
                for native in [Arch::X86_64, Arch::Aarch64, Arch::Riscv64] {
                    compared += compare(&profile, native).expect("libseccomp takes it");
                }
            }
        }
    }
    assert!(compared > 10_000, "{compared}");
}

#[test]
fn an_engines_profile_is_libseccomps() {
    for native in [Arch::X86_64, Arch::Aarch64, Arch::Riscv64] {
        let compared = compare(&engine_profile(), native).expect("libseccomp takes it");
        assert!(compared > 1000, "{compared}");
    }
}

#[test]
fn the_first_of_overlapping_entries_decides() {
    let entry = |operator: &str, errno: u32| {
        format!(
            r#"{{"names":["ioctl"],"action":"SCMP_ACT_ERRNO","errnoRet":{errno},
            "args":[{{"index":0,"value":1,"op":"SCMP_CMP_{operator}"}}]}}"#
        )
    };
    let pairs = [
        ("LE", "EQ", 1),
        ("EQ", "LE", 1),
        ("NE", "GT", 2),
        ("GT", "NE", 2),
    ];
    for (first, second, both) in pairs {
        let (one, other) = (entry(first, 7), entry(second, 9));
        let profile = profile(&format!(
            r#"{{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{one},{other}]}}"#
        ));
        check(
            &profile,
            Arch::X86_64,
            "ioctl",
            [both, 0, 0, 0, 0, 0],
            0x0005_0007,
        );
    }
}

/// Profiles at random in every run, many with `WHERRY_TEST_ALL=1`.
#[test]
fn profiles_at_random_are_libseccomps() {
    let all = std::env::var_os("WHERRY_TEST_ALL").is_some();
    let config = ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(if all { 5000 } else { 60 })
    };
    let natives = prop::sample::select(vec![Arch::X86_64, Arch::Aarch64, Arch::Riscv64]);
    let mut runner = proptest::test_runner::TestRunner::new(config);
    let done = runner.run(&(any_profile(), natives), |(profile, native)| {
        compare(&untangled(&profile, native), native);
        Ok(())
    });
    done.unwrap();
}

/// The profile without that in which libseccomp is no measure:
///
/// - One call with several rules, from several entries or from one that names an argument twice.
///   libseccomp promises no order (seccomp_rule_add(3)) and sorts by operator and argument, so that
///   of `arg0 <= 1` and `arg0 == 1` the latter wins wherever it stands; and its 2.5.4 gives wrong
///   verdicts for some: with `arg2 < 0` or `arg2 < 1 << 32`, 1 matches neither. Ours takes the first
///   rule that matches, in the order of the profile.
/// - Names that one of the architectures does not have: beside one of them (`open` on aarch64) libseccomp 2.5.4
///   loses the condition of another call.
/// - Conditions on calls that i386 multiplexes: what they compare lies elsewhere there (ipc(2)
///   shuffles its arguments, socketcall(2) has them in memory), and no verdict on them is right.
fn untangled(profile: &LinuxSeccomp, native: Arch) -> LinuxSeccomp {
    let mut value = serde_json::to_value(profile).unwrap();
    let mut named: BTreeMap<String, usize> = BTreeMap::new();
    for name in profile
        .syscalls()
        .iter()
        .flatten()
        .flat_map(LinuxSyscall::names)
    {
        *named.entry(name.clone()).or_default() += 1;
    }
    for entry in value["syscalls"].as_array_mut().into_iter().flatten() {
        let names = entry["names"].as_array_mut().unwrap();
        names.retain(|name| {
            let row = table::find(name.as_str().unwrap());
            let everywhere = |row: table::Row| {
                let mut family = native.family().iter();
                family.all(|arch| row.number(*arch).is_some())
            };
            row.is_some_and(everywhere)
        });
        if entry["args"].as_array().is_none_or(Vec::is_empty) {
            continue;
        }
        let args = entry["args"].as_array().unwrap().iter();
        let indices: Vec<u64> = args.map(|arg| arg["index"].as_u64().unwrap()).collect();
        let twice = indices.iter().collect::<BTreeSet<_>>().len() < indices.len();
        let names = entry["names"].as_array_mut().unwrap();
        names.retain(|name| {
            let name = name.as_str().unwrap();
            !twice && named[name] == 1 && Arch::X86.multiplexed(name).is_none()
        });
    }
    let calls = value["syscalls"].as_array_mut();
    if let Some(calls) = calls {
        calls.retain(|entry| {
            entry["names"]
                .as_array()
                .is_some_and(|names| !names.is_empty())
        });
    }
    serde_json::from_value(value).unwrap()
}
