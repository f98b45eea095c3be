//! A compiled filter: instructions, the flags to load them with, and a form to keep on disk.

use crate::Error;

/// One classic BPF instruction: `struct sock_filter` of linux/filter.h.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    /// Operation.
    pub code: u16,
    /// Instructions to skip if a comparison holds.
    pub jt: u8,
    /// Instructions to skip if it does not.
    pub jf: u8,
    /// Operand.
    pub k: u32,
}

/// The kernel's limit of instructions in one program (`BPF_MAXINSNS`).
pub const MAX_INSTRUCTIONS: usize = 4096;

/// What `seccomp(SECCOMP_SET_MODE_FILTER, ...)` needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// The instructions, in the order in which the kernel takes them.
    pub filter: Vec<Instruction>,
    /// `SECCOMP_FILTER_FLAG_*` that the profile asks for; never `NEW_LISTENER` (see
    /// [`Program::needs_listener`]) and never `TSYNC`, which says nothing to a single thread.
    pub flags: u32,
    /// Whether a rule notifies a listener, so that the loader must add
    /// `SECCOMP_FILTER_FLAG_NEW_LISTENER` and pass the descriptor on.
    pub needs_listener: bool,
}

/// First bytes of a stored program; the last one is the version of the form.
const MAGIC: [u8; 8] = *b"wrunbpf\x01";
/// Magic, flags, listener.
const HEADER: usize = 16;

impl Program {
    /// The program as bytes, for [`Program::from_bytes`] on the same machine.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER + self.filter.len() * 8);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&self.flags.to_le_bytes());
        bytes.extend_from_slice(&u32::from(self.needs_listener).to_le_bytes());
        for instruction in &self.filter {
            bytes.extend_from_slice(&instruction.code.to_le_bytes());
            bytes.extend_from_slice(&[instruction.jt, instruction.jf]);
            bytes.extend_from_slice(&instruction.k.to_le_bytes());
        }
        bytes
    }

    /// Reads what [`Program::to_bytes`] wrote.
    ///
    /// # Errors
    ///
    /// [`Error::Stored`] if the bytes are cut off, of another version, or no program.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Error> {
        let (header, body) = bytes
            .split_at_checked(HEADER)
            .ok_or(Error::Stored("shorter than its header"))?;
        if header[..8] != MAGIC {
            return Err(Error::Stored("not of this version"));
        }
        let (instructions, []) = body.as_chunks::<8>() else {
            return Err(Error::Stored("cut off within an instruction"));
        };
        if instructions.is_empty() || instructions.len() > MAX_INSTRUCTIONS {
            return Err(Error::Stored("empty or longer than the kernel takes"));
        }
        let word = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|i| header[at + i]));
        Ok(Self {
            filter: instructions.iter().map(instruction).collect(),
            flags: word(8),
            needs_listener: word(12) != 0,
        })
    }
}

fn instruction(bytes: &[u8; 8]) -> Instruction {
    let [code0, code1, jt, jf, k0, k1, k2, k3] = *bytes;
    Instruction {
        code: u16::from_le_bytes([code0, code1]),
        jt,
        jf,
        k: u32::from_le_bytes([k0, k1, k2, k3]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program() -> Program {
        Program {
            filter: vec![
                Instruction {
                    code: 0x15,
                    jt: 1,
                    jf: 2,
                    k: 0xc000_003e
                };
                3
            ],
            flags: 6,
            needs_listener: true,
        }
    }

    #[test]
    fn survives_the_disk() {
        assert_eq!(
            Program::from_bytes(&program().to_bytes()).unwrap(),
            program()
        );
    }

    #[test]
    fn damage_is_an_error() {
        let bytes = program().to_bytes();
        for end in 0..bytes.len() {
            let whole = end > HEADER && end.is_multiple_of(8);
            assert_eq!(
                Program::from_bytes(&bytes[..end]).is_ok(),
                whole,
                "{end} bytes"
            );
        }
        let other = [&b"wrunbpf\x02"[..], &bytes[8..]].concat();
        assert!(Program::from_bytes(&other).is_err());
    }
}
