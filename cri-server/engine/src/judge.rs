//! Records as they lie on disk, for fuzzing: a damaged one is refused and never a panic, and what is
//! taken is the same after it was written again. Nothing else uses this.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::store::{ContainerRecord, SandboxRecord};

/// The record of a sandbox or of a container.
///
/// # Panics
///
/// If a record that was taken differs from what is written for it: that is what the fuzzer looks
/// for.
pub fn record(bytes: &[u8]) {
    judge::<SandboxRecord>(bytes);
    judge::<ContainerRecord>(bytes);
}

fn judge<T: Serialize + DeserializeOwned>(bytes: &[u8]) {
    let Ok(record) = serde_json::from_slice::<T>(bytes) else {
        return;
    };
    let written = serde_json::to_vec(&record).expect("plain data can always be written");
    let again: T = serde_json::from_slice(&written).expect("what was written is read");
    let rewritten = serde_json::to_vec(&again).expect("plain data can always be written");
    assert_eq!(written, rewritten);
}
