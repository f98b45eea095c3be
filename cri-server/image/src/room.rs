//! Room on the disk: whether a pull can fit at all is known before it begins.
//!
//! What is counted is what will be sent, by the manifests: unpacked it takes at least that much. So
//! nothing is refused that would have fitted, and what cannot fit is refused while nothing is lost.
//! A pull counts what older pulls still have to receive, and not what newer ones have.

use std::path::Path;

use crate::Error;
use crate::error::During;
use crate::progress::Pull;

/// Refuses a pull for which there is no room beside those that began before it.
pub(crate) fn check(root: &Path, pull: &Pull) -> Result<(), Error> {
    let (own, others) = pull.outstanding();
    let free = free(root)?;
    if own.saturating_add(others) <= free {
        return Ok(());
    }
    let beside = match others {
        0 => String::new(),
        others => format!(" beside {others} for pulls under way"),
    };
    Err(Error::NoSpace(format!(
        "at least {own} bytes are needed{beside}, {free} bytes are free in {}",
        root.display()
    )))
}

/// An error of a disk that filled up nevertheless, told with how much is left.
pub(crate) fn told(error: Error, root: &Path) -> Error {
    match (error, free(root)) {
        (Error::NoSpace(text), Ok(free)) if !text.contains("bytes are free") => Error::NoSpace(
            format!("{text} ({free} bytes are free in {})", root.display()),
        ),
        (error, _) => error,
    }
}

/// What is free for others than root, in bytes.
fn free(root: &Path) -> Result<u64, Error> {
    let stat =
        rustix::fs::statvfs(root).during(|| format!("looking for room in {}", root.display()))?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}
