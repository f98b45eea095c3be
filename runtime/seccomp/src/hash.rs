//! Where a system call's name lies in the packed table: shared by the build script, which fills
//! the table, and by the lookup.

/// Slots of the table; a power of two, at least twice the number of names.
pub(crate) const SLOTS: usize = 1024;

/// The slot at which the search for `name` starts (FNV-1a).
pub(crate) fn slot(name: &str) -> usize {
    let hash = name.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    });
    (hash ^ (hash >> 15)) as usize % SLOTS
}
