//! The bpf(2) call, as far as device filters of control groups need it.
//!
//! Programs are given as instructions; what they decide is the caller's. Loading and attaching
//! need `CAP_BPF` and `CAP_NET_ADMIN`, or `CAP_SYS_ADMIN`.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use crate::outcome;

/// One eBPF instruction: `struct bpf_insn` of linux/bpf.h.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    value: i32,
}

impl Instruction {
    /// `code` on the registers `to` and `from`, with a jump or memory offset and an immediate.
    #[must_use]
    pub const fn new(code: u8, to: u8, from: u8, offset: i16, value: i32) -> Self {
        // The kernel's bit-fields: destination in the low half on little-endian machines.
        let registers = if cfg!(target_endian = "little") {
            from << 4 | to
        } else {
            to << 4 | from
        };
        Self {
            code,
            registers,
            offset,
            value,
        }
    }

    /// The eight bytes that the kernel reads.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 8] {
        let ([o0, o1], [v0, v1, v2, v3]) = (self.offset.to_ne_bytes(), self.value.to_ne_bytes());
        [self.code, self.registers, o0, o1, v0, v1, v2, v3]
    }
}

const PROG_LOAD: libc::c_int = 5;
const PROG_ATTACH: libc::c_int = 8;
const PROG_DETACH: libc::c_int = 9;
const PROG_GET_FD_BY_ID: libc::c_int = 13;
const PROG_QUERY: libc::c_int = 16;

const PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const CGROUP_DEVICE: u32 = 6;
const ALLOW_MULTI: u32 = 2;
const REPLACE: u32 = 4;

/// The kernel's limit of programs on one group (`BPF_CGROUP_MAX_PROGS`).
pub const MAX_PROGRAMS: usize = 64;

/// `int bpf(BPF_PROG_LOAD, union bpf_attr *attr, unsigned int size)` for a device filter.
///
/// # Errors
///
/// The kernel's, also when its verifier refuses the program.
pub fn load_device_program(instructions: &[Instruction]) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Load {
        prog_type: u32,
        insn_cnt: u32,
        insns: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log_buf: u64,
        kern_version: u32,
        prog_flags: u32,
    }
    let count = u32::try_from(instructions.len())
        .map_err(|_too_many| io::Error::from_raw_os_error(libc::E2BIG))?;
    let license = c"GPL";
    let mut load = Load {
        prog_type: PROG_TYPE_CGROUP_DEVICE,
        insn_cnt: count,
        insns: instructions.as_ptr() as u64,
        license: license.as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log_buf: 0,
        kern_version: 0,
        prog_flags: 0,
    };
    // SAFETY: `insns` points to `insn_cnt` instructions and `license` to a terminated string; both
    // outlive the call, which only reads them.
    let fd = unsafe { bpf(PROG_LOAD, &mut load) }?;
    owned(fd)
}

#[repr(C)]
struct Attach {
    target_fd: RawFd,
    attach_bpf_fd: RawFd,
    attach_type: u32,
    attach_flags: u32,
    replace_bpf_fd: RawFd,
}

/// `int bpf(BPF_PROG_ATTACH, ...)`: puts `program` on the group, beside others or in the place of
/// one.
///
/// # Errors
///
/// The kernel's.
pub fn attach_device_program(
    group: BorrowedFd<'_>,
    program: BorrowedFd<'_>,
    replace: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let mut attach = Attach {
        target_fd: group.as_raw_fd(),
        attach_bpf_fd: program.as_raw_fd(),
        attach_type: CGROUP_DEVICE,
        attach_flags: if replace.is_some() {
            ALLOW_MULTI | REPLACE
        } else {
            ALLOW_MULTI
        },
        replace_bpf_fd: replace.map_or(0, |old| old.as_raw_fd()),
    };
    // SAFETY: the structure holds numbers only.
    unsafe { bpf(PROG_ATTACH, &mut attach) }.map(drop)
}

/// `int bpf(BPF_PROG_DETACH, ...)`.
///
/// # Errors
///
/// The kernel's.
pub fn detach_device_program(group: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut detach = Attach {
        target_fd: group.as_raw_fd(),
        attach_bpf_fd: program.as_raw_fd(),
        attach_type: CGROUP_DEVICE,
        attach_flags: 0,
        replace_bpf_fd: 0,
    };
    // SAFETY: the structure holds numbers only.
    unsafe { bpf(PROG_DETACH, &mut detach) }.map(drop)
}

/// `int bpf(BPF_PROG_QUERY, ...)`: the ids of the device programs on the group itself.
///
/// # Errors
///
/// The kernel's.
pub fn attached_device_programs(group: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    #[repr(C)]
    struct Query {
        target_fd: RawFd,
        attach_type: u32,
        query_flags: u32,
        attach_flags: u32,
        prog_ids: u64,
        prog_cnt: u32,
    }
    let mut ids = [0_u32; MAX_PROGRAMS];
    let mut query = Query {
        target_fd: group.as_raw_fd(),
        attach_type: CGROUP_DEVICE,
        query_flags: 0,
        attach_flags: 0,
        prog_ids: ids.as_mut_ptr() as u64,
        prog_cnt: 64,
    };
    // SAFETY: `prog_ids` points to room for `prog_cnt` ids, which outlives the call.
    unsafe { bpf(PROG_QUERY, &mut query) }?;
    let count = usize::try_from(query.prog_cnt)
        .unwrap_or(MAX_PROGRAMS)
        .min(MAX_PROGRAMS);
    Ok(ids[..count].to_vec())
}

/// `int bpf(BPF_PROG_GET_FD_BY_ID, ...)`.
///
/// # Errors
///
/// The kernel's; `ENOENT` if the program is gone.
pub fn program_by_id(id: u32) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct ById {
        id: u32,
        next_id: u32,
        open_flags: u32,
    }
    let mut by_id = ById {
        id,
        next_id: 0,
        open_flags: 0,
    };
    // SAFETY: the structure holds numbers only.
    let fd = unsafe { bpf(PROG_GET_FD_BY_ID, &mut by_id) }?;
    owned(fd)
}

/// `int bpf(int cmd, union bpf_attr *attr, unsigned int size)`; the kernel takes fields behind
/// `size` as zero.
///
/// # Safety
///
/// `attr` must be the command's part of the union, and its pointers valid for what it does.
unsafe fn bpf<T>(command: libc::c_int, attr: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: `attr` is valid for its own size; the rest is the caller's promise.
    outcome(unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attr),
            size_of::<T>(),
        )
    })
}

fn owned(fd: libc::c_long) -> io::Result<OwnedFd> {
    let fd = RawFd::try_from(fd).map_err(|_no_fd| io::Error::from_raw_os_error(libc::EBADF))?;
    // SAFETY: the kernel has just given this descriptor (close-on-exec, as all of bpf(2)) to us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
