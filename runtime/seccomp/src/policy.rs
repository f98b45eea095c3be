//! What a profile decides for each system call number: pure data, before any instruction.
//!
//! The rules are those of runc with libseccomp, which profiles are written against:
//! an entry equal to the default is dropped; an unconditional entry beats every conditional one of
//! the same call, and the first unconditional one wins; conditional entries are tried in order;
//! conditions of one entry must all hold, unless an argument appears twice: then any one suffices.

use oci_spec::runtime::{
    LinuxSeccomp, LinuxSeccompAction as Action, LinuxSeccompArg, LinuxSeccompOperator as Operator,
    LinuxSyscall,
};
use seccompiler::{SeccompCmpArgLen, SeccompCmpOp, SeccompCondition};

use crate::arch::{Arch, SKIPPED, X32_BIT};
use crate::{Error, table};

const EPERM: u32 = 1;
const ENOSYS: u32 = 38;
const RET_ERRNO: u32 = 0x0005_0000;
/// What a call of an architecture outside the profile gets: libseccomp's "bad architecture".
pub(crate) const RET_KILL_THREAD: u32 = 0;

/// What happens to a call, once its number is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// `SECCOMP_RET_*` with its data.
    Return(u32),
    /// The first rule that matches, else the default action.
    Check(Vec<Rule>),
}

/// Conditions that must all hold, and the `SECCOMP_RET_*` value if they do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) conditions: Vec<SeccompCondition>,
    pub(crate) action: u32,
}

/// Index into [`Policy::outcomes`].
pub(crate) type OutcomeId = u16;

/// The default action.
const DEFAULT: OutcomeId = 0;

/// Calls of one audit architecture: from each start to the next, one outcome.
#[derive(Debug)]
pub(crate) struct Block {
    pub(crate) audit: u32,
    /// Sorted; the first starts at 0; neighbours differ.
    pub(crate) runs: Vec<(u32, OutcomeId)>,
}

/// A profile, resolved for one machine.
#[derive(Debug)]
pub(crate) struct Policy {
    pub(crate) outcomes: Vec<Outcome>,
    pub(crate) blocks: Vec<Block>,
    pub(crate) notifies: bool,
}

impl Policy {
    /// The action for what no rule matches.
    pub(crate) fn default_action(&self) -> u32 {
        match self.outcomes[usize::from(DEFAULT)] {
            Outcome::Return(action) => action,
            Outcome::Check(_) => RET_KILL_THREAD,
        }
    }
}

/// Resolves `profile` for a machine whose own architecture is `native`.
pub(crate) fn resolve(profile: &LinuxSeccomp, native: Arch) -> Result<Policy, Error> {
    let default = action(profile.default_action(), profile.default_errno_ret())?;
    if profile.default_action() == Action::ScmpActNotify {
        return Err(Error::NotifyByDefault);
    }
    let entries = entries(profile, default)?;
    let newer = newer_calls(profile.default_action(), default);
    let mut resolver = Resolver {
        outcomes: vec![Outcome::Return(default)],
    };
    let mut blocks: Vec<Block> = Vec::new();
    for &arch in native.family() {
        let listed = profile
            .architectures()
            .iter()
            .flatten()
            .any(|named| arch.is(*named));
        if arch == Arch::X32 {
            // Same audit value as x86_64: the calls are the upper part of the same number space.
            let upper = if listed {
                resolver.runs(&entries, arch, newer)?
            } else {
                // A skipped call is not one of x32, although the bit is set in its number.
                let kill = resolver.intern(Outcome::Return(RET_KILL_THREAD));
                vec![(X32_BIT, kill), (SKIPPED, DEFAULT)]
            };
            blocks[0]
                .runs
                .extend(upper.iter().map(|(start, id)| (start | X32_BIT, *id)));
            blocks[0].runs.dedup_by_key(|(_, id)| *id);
        } else if listed || arch == native {
            let runs = resolver.runs(&entries, arch, newer)?;
            blocks.push(Block {
                audit: arch.audit(),
                runs,
            });
        }
    }
    let notifies = entries.iter().any(|entry| entry.notifies);
    Ok(Policy {
        outcomes: resolver.outcomes,
        blocks,
        notifies,
    })
}

/// One entry of the profile with its action resolved.
struct Entry<'a> {
    names: &'a [String],
    args: &'a [LinuxSeccompArg],
    action: u32,
    notifies: bool,
    /// Equal to the default: decides nothing, but its names are known to the profile.
    idle: bool,
}

fn entries(profile: &LinuxSeccomp, default: u32) -> Result<Vec<Entry<'_>>, Error> {
    profile
        .syscalls()
        .iter()
        .flatten()
        .map(|call| entry(call, default))
        .collect()
}

fn entry(call: &LinuxSyscall, default: u32) -> Result<Entry<'_>, Error> {
    let notifies = call.action() == Action::ScmpActNotify;
    if notifies && call.names().iter().any(|name| name == "write") {
        return Err(Error::NotifyWrite);
    }
    let args = call.args().as_deref().unwrap_or_default();
    if let Some(arg) = args.iter().find(|arg| arg.index() > 5) {
        let name = call.names().first().cloned().unwrap_or_default();
        return Err(Error::ArgumentIndex {
            name,
            index: arg.index(),
        });
    }
    let action = action(call.action(), call.errno_ret())?;
    Ok(Entry {
        names: call.names(),
        args,
        action,
        notifies,
        idle: action == default,
    })
}

/// `SECCOMP_RET_*` (linux/seccomp.h); errno and trace carry `data`, EPERM if there is none.
fn action(action: Action, data: Option<u32>) -> Result<u32, Error> {
    let with_data = |base: u32| match data.unwrap_or(EPERM) {
        data @ 0..=0xffff => Ok(base | data),
        data => Err(Error::Errno(data)),
    };
    match action {
        Action::ScmpActKill | Action::ScmpActKillThread => Ok(RET_KILL_THREAD),
        Action::ScmpActKillProcess => Ok(0x8000_0000),
        Action::ScmpActTrap => Ok(0x0003_0000),
        Action::ScmpActErrno => with_data(RET_ERRNO),
        Action::ScmpActTrace => with_data(0x7ff0_0000),
        Action::ScmpActNotify => Ok(0x7fc0_0000),
        Action::ScmpActLog => Ok(0x7ffc_0000),
        Action::ScmpActAllow => Ok(0x7fff_0000),
    }
}

/// What calls newer than the profile get, if not the default: ENOSYS, so that a C library falls
/// back to an older call instead of failing. A permissive default needs no such help, and a tracer
/// answers by itself.
fn newer_calls(default_action: Action, default: u32) -> Option<u32> {
    let permissive = matches!(
        default_action,
        Action::ScmpActAllow | Action::ScmpActLog | Action::ScmpActTrace
    );
    let wanted = RET_ERRNO | ENOSYS;
    (!permissive && default != wanted).then_some(wanted)
}

/// Numbers below this have a slot each; the newest call of any architecture is far below.
const ORDINARY: u32 = 1024;
/// The private calls of 32-bit ARM start here (`__ARM_NR_BASE`).
const PRIVATE: u32 = 0xf_0000;
/// Slots for private calls.
const PRIVATE_SLOTS: u32 = 16;

fn slot(number: u32) -> Option<usize> {
    let slot = match number {
        0..ORDINARY => number,
        PRIVATE.. if number < PRIVATE + PRIVATE_SLOTS => number - PRIVATE + ORDINARY,
        _ => return None,
    };
    usize::try_from(slot).ok()
}

/// Collects outcomes, each once.
struct Resolver {
    outcomes: Vec<Outcome>,
}

impl Resolver {
    fn intern(&mut self, outcome: Outcome) -> OutcomeId {
        let at = self
            .outcomes
            .iter()
            .position(|known| *known == outcome)
            .unwrap_or_else(|| {
                self.outcomes.push(outcome);
                self.outcomes.len() - 1
            });
        OutcomeId::try_from(at).unwrap_or(OutcomeId::MAX)
    }

    /// The runs of equal outcome over the numbers of `arch`.
    fn runs(
        &mut self,
        entries: &[Entry<'_>],
        arch: Arch,
        newer: Option<u32>,
    ) -> Result<Vec<(u32, OutcomeId)>, Error> {
        let mut slots = [DEFAULT; (ORDINARY + PRIVATE_SLOTS) as usize];
        let mut newest = None;
        for entry in entries {
            self.add(entry, arch, &mut slots, &mut newest)?;
        }
        if self.outcomes.len() > usize::from(OutcomeId::MAX) {
            return Err(Error::TooLong(self.outcomes.len()));
        }
        let newer = newer.map(|action| self.intern(Outcome::Return(action)));
        Ok(join(&slots, newest.zip(newer), arch == Arch::Arm))
    }

    fn add(
        &mut self,
        entry: &Entry<'_>,
        arch: Arch,
        slots: &mut [OutcomeId],
        newest: &mut Option<u32>,
    ) -> Result<(), Error> {
        let mut rules = None;
        for name in entry.names {
            let Some(row) = table::find(name) else {
                continue;
            };
            let number = row.number(arch);
            *newest = (*newest).max(number.filter(|number| *number < ORDINARY));
            if entry.idle {
                continue;
            }
            if let Some(slot) = number.and_then(slot) {
                let rules = match &rules {
                    Some(rules) => rules,
                    None => rules.insert(conditions(entry.args, entry.action, arch, None)?),
                };
                self.set(&mut slots[slot], rules, entry.action);
            }
            if let Some((through, selector)) = arch.multiplexed(name) {
                let rules = conditions(entry.args, entry.action, arch, Some(selector))?;
                let number = table::find(through).and_then(|row| row.number(arch));
                *newest = (*newest).max(number);
                if let Some(slot) = number.and_then(slot) {
                    self.set(&mut slots[slot], &rules, entry.action);
                }
            }
        }
        Ok(())
    }

    /// Adds `rules` (none: unconditional) to what `slot` says.
    fn set(&mut self, slot: &mut OutcomeId, rules: &[Rule], action: u32) {
        let outcome = match (*slot, &self.outcomes[usize::from(*slot)]) {
            (DEFAULT, _) if rules.is_empty() => Outcome::Return(action),
            (DEFAULT, _) => Outcome::Check(rules.to_vec()),
            (_, Outcome::Return(_)) => return,
            (_, Outcome::Check(_)) if rules.is_empty() => Outcome::Return(action),
            (_, Outcome::Check(earlier)) => Outcome::Check([earlier, rules].concat()),
        };
        *slot = self.intern(outcome);
    }
}

/// Slots to runs; what lies above the newest number of the profile gets `newer`'s outcome. Private
/// calls are old, however high their numbers.
fn join(
    slots: &[OutcomeId],
    newer: Option<(u32, OutcomeId)>,
    has_private: bool,
) -> Vec<(u32, OutcomeId)> {
    let (above, beyond) = newer.map_or((ORDINARY, DEFAULT), |(newest, id)| (newest + 1, id));
    let mut runs: Vec<(u32, OutcomeId)> = Vec::with_capacity(64);
    let mut push = |start: u32, id: OutcomeId| {
        if runs.last().is_none_or(|(_, last)| *last != id) {
            runs.push((start, id));
        }
    };
    let (ordinary, private) = slots.split_at(ORDINARY as usize);
    (0..above)
        .zip(ordinary)
        .for_each(|(number, id)| push(number, *id));
    push(above, beyond);
    if has_private {
        (PRIVATE..)
            .zip(private)
            .for_each(|(number, id)| push(number, *id));
        push(PRIVATE + PRIVATE_SLOTS, beyond);
    }
    runs
}

/// The rules that `args` stand for; none if the entry is unconditional. A `selector` replaces
/// what the profile says of argument 0, which is the multiplexer's.
fn conditions(
    args: &[LinuxSeccompArg],
    action: u32,
    arch: Arch,
    selector: Option<u64>,
) -> Result<Vec<Rule>, Error> {
    let width = if arch.wide() {
        SeccompCmpArgLen::Qword
    } else {
        SeccompCmpArgLen::Dword
    };
    let selected = selector
        .map(|value| SeccompCondition::new(0, width.clone(), SeccompCmpOp::Eq, value))
        .transpose()
        .map_err(Error::Condition)?;
    // What the profile says of the selector's argument holds for the multiplexed call's, not for it.
    let of = |arg: &LinuxSeccompArg| match (selector, arg.index()) {
        (Some(_), 0) => Ok(None),
        _ => condition(arg, width.clone()).map(Some),
    };
    let own = args.iter().map(of).collect::<Result<Vec<_>, _>>()?;
    let rule = |own: &[Option<SeccompCondition>]| Rule {
        conditions: selected
            .iter()
            .chain(own.iter().flatten())
            .cloned()
            .collect(),
        action,
    };
    Ok(match own.as_slice() {
        [] if selected.is_none() => Vec::new(),
        own if repeats(args) => own.chunks(1).map(rule).collect(),
        own => vec![rule(own)],
    })
}

/// Whether an argument appears twice, which makes each condition a rule of its own.
fn repeats(args: &[LinuxSeccompArg]) -> bool {
    args.iter()
        .enumerate()
        .any(|(at, arg)| args[..at].iter().any(|e| e.index() == arg.index()))
}

fn condition(arg: &LinuxSeccompArg, width: SeccompCmpArgLen) -> Result<SeccompCondition, Error> {
    let two = arg.value_two().unwrap_or(0);
    let (operator, value) = match arg.op() {
        Operator::ScmpCmpNe => (SeccompCmpOp::Ne, arg.value()),
        Operator::ScmpCmpLt => (SeccompCmpOp::Lt, arg.value()),
        Operator::ScmpCmpLe => (SeccompCmpOp::Le, arg.value()),
        Operator::ScmpCmpEq => (SeccompCmpOp::Eq, arg.value()),
        Operator::ScmpCmpGe => (SeccompCmpOp::Ge, arg.value()),
        Operator::ScmpCmpGt => (SeccompCmpOp::Gt, arg.value()),
        Operator::ScmpCmpMaskedEq => (SeccompCmpOp::MaskedEq(arg.value()), two),
    };
    let index = u8::try_from(arg.index()).unwrap_or(u8::MAX);
    SeccompCondition::new(index, width, operator, value).map_err(Error::Condition)
}
