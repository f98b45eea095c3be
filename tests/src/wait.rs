//! Waiting for what another program will do, with a limit.
//!
//! Where the kernel tells of the event, wait for that instead; this is for the rest, such as a
//! state that only an RPC shows.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How long anything in these tests may take, unless a test says otherwise. Far above what is
/// usual: the machine may be building something else beside.
pub const LIMIT: Duration = Duration::from_secs(60);

/// Time between two looks.
const STEP: Duration = Duration::from_millis(20);

/// Looks until there is something to see, at most [`LIMIT`].
///
/// # Errors
///
/// If it did not appear in time; `what` says what was waited for.
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> Result<T> {
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Some(seen) = look() {
            return Ok(seen);
        }
        if Instant::now() >= deadline {
            bail!("waited {} s in vain for {what}", LIMIT.as_secs());
        }
        std::thread::park_timeout(STEP);
    }
}

/// Lets a given time pass: only for moments that a test chooses at random.
pub fn pass(time: Duration) {
    let until = Instant::now() + time;
    while let Some(rest) = until
        .checked_duration_since(Instant::now())
        .filter(|r| !r.is_zero())
    {
        std::thread::park_timeout(rest);
    }
}
