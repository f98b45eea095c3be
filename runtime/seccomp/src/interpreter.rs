//! Runs a filter as the kernel would: for tests.

use crate::Instruction;

/// `struct seccomp_data` of linux/seccomp.h.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Call {
    pub(crate) number: u32,
    pub(crate) audit: u32,
    pub(crate) args: [u64; 6],
}

impl Call {
    fn word(&self, offset: u32) -> u32 {
        match offset {
            0 => self.number,
            4 => self.audit,
            16..64 => {
                let arg = self.args[(offset as usize - 16) / 8];
                let half = if offset.is_multiple_of(8) {
                    arg
                } else {
                    arg >> 32
                };
                u32::try_from(half & 0xffff_ffff).unwrap()
            }
            _ => panic!("load from {offset}"),
        }
    }
}

/// The `SECCOMP_RET_*` value that `filter` gives to `call`, and the instructions that it ran.
pub(crate) fn run(filter: &[Instruction], call: &Call) -> (u32, usize) {
    let (mut accumulator, mut at) = (0_u32, 0_usize);
    for steps in 1..=filter.len() {
        let Instruction { code, jt, jf, k } = filter[at];
        at += 1;
        let holds = match code {
            0x20 => {
                accumulator = call.word(k);
                continue;
            }
            0x54 => {
                accumulator &= k;
                continue;
            }
            0x05 => {
                at += k as usize;
                continue;
            }
            0x06 => return (k, steps),
            0x15 => accumulator == k,
            0x25 => accumulator > k,
            0x35 => accumulator >= k,
            _ => panic!("instruction {code:#x}"),
        };
        at += usize::from(if holds { jt } else { jf });
    }
    panic!("a program that only jumps forward ends");
}
