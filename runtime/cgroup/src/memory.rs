//! Memory and swap limits of v1, whose order of writing depends on what is set already.

use oci_spec::runtime::LinuxMemory;
use rustix::io::Errno;

use crate::Error;
use crate::dir::Dir;

const LIMIT: &str = "memory.limit_in_bytes";
const BOTH: &str = "memory.memsw.limit_in_bytes";

/// Writes the memory limits of `memory` to the group's memory hierarchy.
pub(crate) fn apply_v1(dir: &Dir, memory: &LinuxMemory) -> Result<(), Error> {
    limits(dir, memory)?;
    if let Some(value) = memory.reservation().filter(|value| *value != 0) {
        dir.write("memory.soft_limit_in_bytes", &value.to_string())?;
    }
    if memory.disable_oom_killer() == Some(true) {
        dir.write("memory.oom_control", "1")?;
    }
    match memory.swappiness() {
        Some(value @ ..=100) => dir.write("memory.swappiness", &value.to_string()),
        Some(value) => {
            let text = format!("invalid memory swappiness value: {value} (valid range is 0-100)");
            Err(Error::Limit(text))
        }
        None => Ok(()),
    }
}

/// The kernel refuses at each moment a memory limit above the limit of memory and swap, so the
/// one that grows is written first.
fn limits(dir: &Dir, memory: &LinuxMemory) -> Result<(), Error> {
    let limit = memory.limit().unwrap_or(0);
    let mut both = memory.swap().unwrap_or(0);
    if limit == -1 && both == 0 && dir.has(BOTH)? {
        both = -1;
    }
    if limit != 0 && both != 0 && (both == -1 || current(dir)? < both.unsigned_abs()) {
        write(dir, BOTH, both)?;
        return write_limit(dir, limit);
    }
    write_limit(dir, limit)?;
    write(dir, BOTH, both)
}

fn current(dir: &Dir) -> Result<u64, Error> {
    let text = dir.read(LIMIT)?;
    text.trim().parse().map_err(|_not_number| Error::Format {
        path: dir.path().join(LIMIT),
        reason: "not a number",
    })
}

fn write(dir: &Dir, file: &str, value: i64) -> Result<(), Error> {
    if value == 0 {
        Ok(())
    } else {
        dir.write(file, &value.to_string())
    }
}

/// A limit below what is used already is refused with EBUSY: say by how much.
fn write_limit(dir: &Dir, value: i64) -> Result<(), Error> {
    match write(dir, LIMIT, value) {
        Err(error) if error.errno() == Some(Errno::BUSY) => {
            let read = |file| dir.read(file).map(|text| text.trim().to_owned());
            let used = read("memory.usage_in_bytes")?;
            let peak = read("memory.max_usage_in_bytes")?;
            Err(Error::Limit(format!(
                "unable to set memory limit to {value} (current usage: {used}, peak usage: {peak})"
            )))
        }
        written => written,
    }
}
