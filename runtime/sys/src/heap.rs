//! What the C library's allocator keeps of memory that was freed.

/// `int malloc_trim(size_t pad)` (malloc_trim(3)) with no pad: pages of which nothing is in use go
/// back to the kernel, in all arenas.
///
/// By itself glibc gives back only what lies at an arena's end, so that after much work one small
/// value that stays keeps all that was freed below it. Takes about as long as clearing that memory;
/// each arena is locked meanwhile. Does nothing under another C library.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: no pointers are passed, and the function may be called at any time by any thread
    // (malloc_trim(3), attributes: MT-Safe).
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
#[cfg(target_env = "gnu")]
mod tests {
    use super::give_back;

    /// Bytes of the program that are in memory (`VmRSS` of proc_pid_status(5)).
    fn resident() -> usize {
        let text = std::fs::read_to_string("/proc/self/status").unwrap();
        let mut words = text.split_ascii_whitespace();
        words.find(|word| *word == "VmRSS:").unwrap();
        words.next().unwrap().parse::<usize>().unwrap() * 1024
    }

    #[test]
    fn memory_below_a_value_that_stays_is_given_back() {
        const PIECES: usize = 20_000;
        let mut pieces: Vec<Box<[u8; 1000]>> = (0..PIECES).map(|_| Box::new([1; 1000])).collect();
        let full = resident();
        let last = pieces.pop();
        drop(pieces);
        give_back();
        // Other tests run in the same program: half of it will do.
        let half = PIECES * 1000 / 2;
        assert!(resident() + half < full, "{} of {full}", resident());
        drop(last);
    }
}
