//! A seccomp profile to a program: one that the kernel would take, and that ends for every call.

use oci_spec::runtime::LinuxSeccomp;
use seccomp::{Instruction, MAX_INSTRUCTIONS, Program};

/// Offsets of `struct seccomp_data` end here (linux/seccomp.h).
const DATA: u32 = 64;

/// `linux.seccomp`.
pub(crate) fn seccomp(bytes: &[u8]) {
    let Ok(profile) = serde_json::from_slice::<LinuxSeccomp>(bytes) else {
        return;
    };
    let Ok(program) = seccomp::compile(&profile) else {
        return;
    };
    check(&program.filter);
    let again = Program::from_bytes(&program.to_bytes()).expect("what was written is read");
    assert_eq!(again, program);
}

/// What the kernel's checker demands (bpf_check_classic, seccomp_check_filter): a length that it
/// takes, known operations, loads within the data, every jump forward and inside, a return at the
/// end. Such a program ends whatever it is run on.
fn check(filter: &[Instruction]) {
    assert!(!filter.is_empty() && filter.len() <= MAX_INSTRUCTIONS);
    for (at, instruction) in filter.iter().enumerate() {
        let Instruction { code, jt, jf, k } = *instruction;
        let left = filter.len() - at - 1;
        match code {
            // Load a word of the data.
            0x20 => assert!(k < DATA && k.is_multiple_of(4), "{at}: load from {k}"),
            // And with a constant; return a constant.
            0x54 | 0x06 => {}
            // Jump.
            0x05 => assert!((k as usize) < left, "{at}: jump by {k}, {left} are left"),
            // Equal, greater, greater or equal, a bit in common.
            0x15 | 0x25 | 0x35 | 0x45 => {
                let furthest = usize::from(jt.max(jf));
                assert!(
                    furthest < left,
                    "{at}: branch by {furthest}, {left} are left"
                );
            }
            _ => panic!("{at}: operation {code:#x}"),
        }
    }
    assert_eq!(filter.last().map(|last| last.code), Some(0x06), "no end");
}
