//! System call names and their numbers on every architecture that a filter can meet.
//!
//! The data is `data/syscalls.tsv`; the build script packs it. A name that is unknown here is newer
//! than the table or of another operating system.

use crate::arch::Arch;
use crate::hash;

mod packed {
    include!(concat!(env!("OUT_DIR"), "/table.rs"));
}

/// A row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Row(u16);

/// The row of `name`, if the table has it.
pub(crate) fn find(name: &str) -> Option<Row> {
    let mut at = hash::slot(name);
    loop {
        let row = packed::SLOTS[at];
        if row == u16::MAX {
            return None;
        }
        if Row(row).name() == name {
            return Some(Row(row));
        }
        at = (at + 1) % hash::SLOTS;
    }
}

impl Row {
    fn name(self) -> &'static str {
        let index = usize::from(self.0);
        &packed::NAMES[usize::from(packed::ENDS[index])..usize::from(packed::ENDS[index + 1])]
    }

    /// The call's number on `arch`; on x32 without the x32 bit.
    pub(crate) fn number(self, arch: Arch) -> Option<u32> {
        let number = packed::NUMBERS[arch as usize][usize::from(self.0)];
        (number != u32::MAX).then_some(number)
    }
}

/// Every row: for tests and for differential runs.
#[cfg(test)]
pub(crate) fn rows() -> impl Iterator<Item = (&'static str, Row)> {
    (0..packed::COUNT).map(|index| {
        let row = Row(u16::try_from(index).expect("the build script checked the count"));
        (row.name(), row)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, expect: [Option<u32>; 6]) {
        let row = find(name).unwrap();
        let all = [
            Arch::X86_64,
            Arch::X86,
            Arch::X32,
            Arch::Aarch64,
            Arch::Arm,
            Arch::Riscv64,
        ];
        assert_eq!(all.map(|arch| row.number(arch)), expect, "{name}");
    }

    #[test]
    fn numbers_are_the_kernels() {
        check(
            "read",
            [Some(0), Some(3), Some(0), Some(63), Some(3), Some(63)],
        );
        check(
            "execve",
            [
                Some(59),
                Some(11),
                Some(520),
                Some(221),
                Some(11),
                Some(221),
            ],
        );
        check("socketcall", [None, Some(102), None, None, None, None]);
        check("cacheflush", [None, None, None, None, Some(0xf_0002), None]);
        check("mseal", [Some(462); 6]);
    }

    #[test]
    fn every_name_is_found_and_no_other() {
        for (name, row) in rows() {
            assert_eq!(find(name), Some(row), "{name}");
        }
        for name in ["", "reads", "NtCreateFile", "sys_read"] {
            assert_eq!(find(name), None, "{name}");
        }
    }
}
