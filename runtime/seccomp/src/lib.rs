//! OCI seccomp profiles to BPF programs.
//!
//! [`compile`] is pure: profile in, [`Program`] out. It takes whole profiles (every action, errno
//! per rule, argument conditions, several architectures, flags, notification) and lays the filter
//! out as a search instead of a chain, because the kernel runs a new filter once for every system
//! call number when it is loaded, and then for each call.
//!
//! seccompiler compiles the argument conditions, its well-tested part. Its layout is not used: it
//! knows one architecture and one matching action per filter, and walks. Loading a program is the
//! caller's; so is what its listener is for.

mod arch;
mod hash;
#[cfg(test)]
mod interpreter;
mod layout;
mod policy;
mod program;
mod table;
#[cfg(test)]
mod tests;

use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompFilterFlag as Flag};

pub use program::{Instruction, MAX_INSTRUCTIONS, Program};

/// Why a profile gives no program, or bytes no stored program.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// System calls have six arguments.
    #[error("compile seccomp rule for {name}: there is no argument {index}")]
    ArgumentIndex {
        /// The first name of the entry.
        name: String,
        /// The index that the profile gives.
        index: usize,
    },
    /// The value does not fit beside an action.
    #[error("compile seccomp profile: errno {0} is out of range")]
    Errno(u32),
    /// Every call, also the runtime's own, would wait for the listener.
    #[error("SCMP_ACT_NOTIFY cannot be used as default action")]
    NotifyByDefault,
    /// The runtime hands the listener over by writing, which must not wait for the listener.
    #[error("SCMP_ACT_NOTIFY cannot be used for the write syscall")]
    NotifyWrite,
    /// The conditions of a rule cannot be compiled.
    #[error("compile seccomp condition")]
    Condition(#[source] seccompiler::BackendError),
    /// The kernel takes [`MAX_INSTRUCTIONS`].
    #[error("compile seccomp profile: {0} instructions are more than the kernel takes")]
    TooLong(usize),
    /// This program was built for an architecture whose calls are not in the table.
    #[error("compile seccomp profile: system calls of this architecture are unknown")]
    UnknownMachine,
    /// Stored bytes are no program.
    #[error("read stored seccomp program: {0}")]
    Stored(&'static str),
}

/// Compiles `profile` for the machine that this program was built for.
///
/// Names that the table does not know are ignored, as the specification wants. A profile without
/// `flags` gets `SPEC_ALLOW` (runc's default); an empty list means no flags.
///
/// # Errors
///
/// Every variant of [`Error`] but [`Error::Stored`].
pub fn compile(profile: &LinuxSeccomp) -> Result<Program, Error> {
    compile_for(profile, arch::Arch::native().ok_or(Error::UnknownMachine)?)
}

fn compile_for(profile: &LinuxSeccomp, native: arch::Arch) -> Result<Program, Error> {
    let policy = policy::resolve(profile, native)?;
    Ok(Program {
        filter: layout::program(&policy)?,
        flags: flags(profile, policy.notifies),
        needs_listener: policy.notifies,
    })
}

/// `SECCOMP_FILTER_FLAG_*` of linux/seccomp.h.
fn flags(profile: &LinuxSeccomp, notifies: bool) -> u32 {
    const LOG: u32 = 1 << 1;
    const SPEC_ALLOW: u32 = 1 << 2;
    const WAIT_KILLABLE_RECV: u32 = 1 << 5;
    let Some(flags) = profile.flags() else {
        return SPEC_ALLOW;
    };
    let bit = |flag: &Flag| match flag {
        Flag::SeccompFilterFlagLog => LOG,
        Flag::SeccompFilterFlagSpecAllow => SPEC_ALLOW,
        // The kernel refuses it where nobody listens.
        Flag::SeccompFilterFlagWaitKillableRecv if notifies => WAIT_KILLABLE_RECV,
        Flag::SeccompFilterFlagWaitKillableRecv | Flag::SeccompFilterFlagTsync => 0,
    };
    flags.iter().map(bit).fold(0, |all, one| all | one)
}
