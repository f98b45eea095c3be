//! Lays a [`Policy`] out as instructions.
//!
//! ```text
//! load arch; one comparison each -> block | kill
//! block: load number; balanced search over the runs -> return | argument checks
//! ```
//!
//! Jumps go forward only and conditional ones reach 255 instructions, so the program is written
//! from its end: every target exists before what jumps to it. A target out of reach gets a copy
//! (a return) or an unconditional jump, which reaches everything.

use seccompiler::{BpfProgram, SeccompRule};

use crate::Error;
use crate::policy::{Block, Outcome, OutcomeId, Policy, RET_KILL_THREAD, Rule};
use crate::program::{Instruction, MAX_INSTRUCTIONS};

const LOAD: u16 = 0x20;
const JUMP: u16 = 0x05;
const JUMP_EQ: u16 = 0x15;
const JUMP_GE: u16 = 0x35;
const RETURN: u16 = 0x06;
/// Offsets in `struct seccomp_data`.
const OFFSET_NUMBER: u32 = 0;
const OFFSET_ARCH: u32 = 4;

/// How far a conditional jump may be from its target when its two targets are settled: settling
/// one may put an instruction between, and so may the other.
const REACH: usize = 253;

/// The program of `policy`.
pub(crate) fn program(policy: &Policy) -> Result<Vec<Instruction>, Error> {
    let mut writer = Writer {
        policy,
        reversed: Vec::with_capacity(256),
        placed: vec![None; policy.outcomes.len()],
    };
    let entries: Vec<(u32, Place)> = policy
        .blocks
        .iter()
        .rev()
        .map(|block| Ok((block.audit, writer.block(block)?)))
        .collect::<Result<_, Error>>()?;
    writer.dispatch(&entries);
    if writer.reversed.len() > MAX_INSTRUCTIONS {
        return Err(Error::TooLong(writer.reversed.len()));
    }
    writer.reversed.reverse();
    Ok(writer.reversed)
}

/// Where an instruction is, counted from the program's end.
type Place = usize;

struct Writer<'a> {
    policy: &'a Policy,
    reversed: Vec<Instruction>,
    /// Where each outcome was written last, which is nearest to what comes next.
    placed: Vec<Option<Place>>,
}

impl Writer<'_> {
    fn dispatch(&mut self, entries: &[(u32, Place)]) {
        let mut next = self.push(RETURN, 0, 0, RET_KILL_THREAD);
        for (audit, entry) in entries {
            next = self.branch(JUMP_EQ, *audit, *entry, next);
        }
        self.push(LOAD, 0, 0, OFFSET_ARCH);
    }

    fn block(&mut self, block: &Block) -> Result<Place, Error> {
        let search = self.search(&block.runs)?;
        // The load falls through to what was written last, which the search's root need not be
        // when the block has a single run.
        if search + 1 != self.reversed.len() {
            self.jump(search);
        }
        Ok(self.push(LOAD, 0, 0, OFFSET_NUMBER))
    }

    fn search(&mut self, runs: &[(u32, OutcomeId)]) -> Result<Place, Error> {
        match runs {
            [] => self.outcome(0),
            [(_, id)] => self.outcome(*id),
            // One number in the midst of others.
            [(_, around), (number, id), (after, other)]
                if around == other && number + 1 == *after =>
            {
                let (hit, miss) = (self.outcome(*id)?, self.outcome(*around)?);
                Ok(self.branch(JUMP_EQ, *number, hit, miss))
            }
            _ => {
                let (low, high) = runs.split_at(runs.len() / 2);
                let high_place = self.search(high)?;
                let low_place = self.search(low)?;
                Ok(self.branch(JUMP_GE, high[0].0, high_place, low_place))
            }
        }
    }

    /// A place in reach that carries outcome `id` out.
    fn outcome(&mut self, id: OutcomeId) -> Result<Place, Error> {
        if let Some(place) = self.placed[usize::from(id)] {
            let place = self.near(place);
            self.placed[usize::from(id)] = Some(place);
            return Ok(place);
        }
        let place = match &self.policy.outcomes[usize::from(id)] {
            Outcome::Return(action) => self.push(RETURN, 0, 0, *action),
            Outcome::Check(rules) => self.checks(rules)?,
        };
        self.placed[usize::from(id)] = Some(place);
        Ok(place)
    }

    /// Rules in order, each falling to the next, the last to the default.
    fn checks(&mut self, rules: &[Rule]) -> Result<Place, Error> {
        let mut place = self.push(RETURN, 0, 0, self.policy.default_action());
        for rule in rules.iter().rev() {
            self.push(RETURN, 0, 0, rule.action);
            let compiled: BpfProgram = SeccompRule::new(rule.conditions.clone())
                .map_err(Error::Condition)?
                .into();
            // The compiler's first two instructions enter and leave the rule in its own layout;
            // a condition that fails skips exactly the return behind the rule, which is ours.
            for filter in compiled.iter().skip(2).rev() {
                place = self.push(filter.code, filter.jt, filter.jf, filter.k);
            }
        }
        Ok(place)
    }

    fn branch(&mut self, code: u16, k: u32, yes: Place, no: Place) -> Place {
        let yes = self.near(yes);
        let no = self.near(no);
        let (jt, jf) = (self.distance(yes), self.distance(no));
        let short = |distance: usize| u8::try_from(distance).expect("near() keeps it in reach");
        self.push(code, short(jt), short(jf), k)
    }

    /// `place` itself, or if it is out of a branch's reach, a stand-in that is not.
    fn near(&mut self, place: Place) -> Place {
        if self.distance(place) < REACH {
            return place;
        }
        let target = self.reversed[place];
        if target.code == RETURN {
            self.push(RETURN, 0, 0, target.k)
        } else {
            self.jump(place)
        }
    }

    fn jump(&mut self, place: Place) -> Place {
        let distance = u32::try_from(self.distance(place)).unwrap_or(u32::MAX);
        self.push(JUMP, 0, 0, distance)
    }

    /// Instructions between the next one to be written and `place`.
    fn distance(&self, place: Place) -> usize {
        self.reversed.len() - place - 1
    }

    fn push(&mut self, code: u16, jt: u8, jf: u8, k: u32) -> Place {
        self.reversed.push(Instruction { code, jt, jf, k });
        self.reversed.len() - 1
    }
}
