//! The system call filter of a container: compiled at create, kept beside its state for exec.
//! The only file that knows the `seccomp` crate.

use std::os::fd::OwnedFd;

use oci_spec::runtime::LinuxSeccomp;
use serde_json::value::RawValue;

use crate::failure::{Attempt, Failure, Result, because};

/// A compiled filter.
#[derive(Debug)]
pub(crate) struct Filter {
    instructions: Vec<sys::seccomp::Instruction>,
    flags: u32,
    bytes: Vec<u8>,
    /// Where the listener goes, and what goes with it.
    pub(crate) listener: Option<Listener>,
}

/// The agent that decides about system calls which the filter passes on.
#[derive(Debug)]
pub(crate) struct Listener {
    pub(crate) path: String,
    pub(crate) metadata: String,
}

impl Filter {
    /// Compiles `linux.seccomp`.
    pub(crate) fn compile(raw: &RawValue) -> Result<Filter> {
        let profile: LinuxSeccomp = serde_json::from_str(raw.get())
            .map_err(|error| because("read linux.seccomp", &error))?;
        let program =
            seccomp::compile(&profile).map_err(|error| because("compile linux.seccomp", &error))?;
        let mut filter = Filter::of(&program);
        if program.needs_listener {
            let path = profile
                .listener_path()
                .as_ref()
                .map(|path| path.display().to_string());
            let path = path.ok_or_else(|| {
                Failure::new("linux.seccomp has SCMP_ACT_NOTIFY but no listenerPath")
            })?;
            let metadata = profile.listener_metadata().clone().unwrap_or_default();
            filter.listener = Some(Listener { path, metadata });
        }
        Ok(filter)
    }

    fn of(program: &seccomp::Program) -> Filter {
        let convert = |one: &seccomp::Instruction| sys::seccomp::Instruction {
            code: one.code,
            jt: one.jt,
            jf: one.jf,
            k: one.k,
        };
        let listening = if program.needs_listener {
            sys::seccomp::NEW_LISTENER
        } else {
            0
        };
        Filter {
            instructions: program.filter.iter().map(convert).collect(),
            flags: program.flags | listening,
            bytes: program.to_bytes(),
            listener: None,
        }
    }

    /// What is kept on disk.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Reads what [`Filter::bytes`] gave.
    pub(crate) fn read(bytes: &[u8]) -> Result<Filter> {
        let program = seccomp::Program::from_bytes(bytes)
            .map_err(|error| because("read the stored seccomp filter", &error))?;
        Ok(Filter::of(&program))
    }

    /// Puts this process and its children under the filter.
    pub(crate) fn load(&self) -> Result<Option<OwnedFd>> {
        sys::seccomp::load(&self.instructions, self.flags)
            .attempt(|| "load the seccomp filter".to_owned())
    }
}
