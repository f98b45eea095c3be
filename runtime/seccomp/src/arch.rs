//! The architectures that a filter on this machine can meet, and what differs between them.
//!
//! A kernel shows a filter only the calling conventions of its own family, so architectures of
//! other families in a profile are left out of the program: no call could ever reach them.

use oci_spec::runtime::Arch as OciArch;

/// A calling convention; the order is that of the columns in `data/syscalls.tsv`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arch {
    X86_64,
    X86,
    X32,
    Aarch64,
    Arm,
    Riscv64,
}

/// Set in the number of every x32 call (`__X32_SYSCALL_BIT`); x32 shares x86_64's audit value.
pub(crate) const X32_BIT: u32 = 0x4000_0000;

/// The number that a tracer sets to skip a call; no architecture's.
pub(crate) const SKIPPED: u32 = u32::MAX;

impl Arch {
    /// The architecture that this program was built for, if it is one that filters know.
    pub(crate) const fn native() -> Option<Self> {
        if cfg!(target_arch = "x86_64") {
            Some(Self::X86_64)
        } else if cfg!(target_arch = "aarch64") {
            Some(Self::Aarch64)
        } else if cfg!(target_arch = "riscv64") {
            Some(Self::Riscv64)
        } else {
            None
        }
    }

    /// The other conventions that a kernel of this architecture may run, native first.
    pub(crate) fn family(self) -> &'static [Self] {
        match self {
            Self::X86_64 => &[Self::X86_64, Self::X86, Self::X32],
            Self::Aarch64 => &[Self::Aarch64, Self::Arm],
            Self::X86 => &[Self::X86],
            Self::X32 => &[Self::X32],
            Self::Arm => &[Self::Arm],
            Self::Riscv64 => &[Self::Riscv64],
        }
    }

    /// `AUDIT_ARCH_*` of linux/audit.h, as `seccomp_data.arch` carries it.
    pub(crate) fn audit(self) -> u32 {
        match self {
            Self::X86_64 | Self::X32 => 0xc000_003e,
            Self::X86 => 0x4000_0003,
            Self::Aarch64 => 0xc000_00b7,
            Self::Arm => 0x4000_0028,
            Self::Riscv64 => 0xc000_00f3,
        }
    }

    /// Whether arguments are 64 bits wide; where not, only the low word is compared. x32 has 64-bit
    /// registers, but its `long` is 32 bits; libseccomp takes it so too.
    pub(crate) fn wide(self) -> bool {
        !matches!(self, Self::X86 | Self::X32 | Self::Arm)
    }

    /// The name that a profile gives this architecture.
    pub(crate) fn is(self, named: OciArch) -> bool {
        match self {
            Self::X86_64 => named == OciArch::ScmpArchX86_64,
            Self::X86 => named == OciArch::ScmpArchX86,
            Self::X32 => named == OciArch::ScmpArchX32,
            Self::Aarch64 => named == OciArch::ScmpArchAarch64,
            Self::Arm => named == OciArch::ScmpArchArm,
            Self::Riscv64 => named == OciArch::ScmpArchRiscv64,
        }
    }

    /// The call through which `name` can be made as well, and the selector in its first argument.
    ///
    /// On i386 the socket and System V IPC calls exist behind `socketcall(2)` and `ipc(2)` too.
    /// `recvmmsg` and `sendmmsg` have had numbers of their own from the start, so libseccomp, which
    /// profiles are written against, leaves their multiplexed form alone; so do we.
    pub(crate) fn multiplexed(self, name: &str) -> Option<(&'static str, u64)> {
        if self != Self::X86 {
            return None;
        }
        let found = |list: &[(&str, u64)]| list.iter().find(|(n, _)| *n == name).map(|(_, v)| *v);
        found(SOCKETCALL)
            .map(|selector| ("socketcall", selector))
            .or_else(|| found(IPC).map(|selector| ("ipc", selector)))
    }
}

/// Selectors of `socketcall(2)` (linux/net.h).
const SOCKETCALL: &[(&str, u64)] = &[
    ("socket", 1),
    ("bind", 2),
    ("connect", 3),
    ("listen", 4),
    ("accept", 5),
    ("getsockname", 6),
    ("getpeername", 7),
    ("socketpair", 8),
    ("send", 9),
    ("recv", 10),
    ("sendto", 11),
    ("recvfrom", 12),
    ("shutdown", 13),
    ("setsockopt", 14),
    ("getsockopt", 15),
    ("sendmsg", 16),
    ("recvmsg", 17),
    ("accept4", 18),
];

/// Selectors of `ipc(2)` (linux/ipc.h).
const IPC: &[(&str, u64)] = &[
    ("semop", 1),
    ("semget", 2),
    ("semctl", 3),
    ("semtimedop", 4),
    ("msgsnd", 11),
    ("msgrcv", 12),
    ("msgget", 13),
    ("msgctl", 14),
    ("shmat", 21),
    ("shmdt", 22),
    ("shmget", 23),
    ("shmctl", 24),
];
