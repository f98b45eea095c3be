//! An allocator for programs that live a few milliseconds: memory is handed out one piece behind the
//! other and hardly ever taken back.
//!
//! What the C library's allocator asks of the kernel costs a short program more than the memory is
//! worth. When the arena is used up, the system's allocator takes over, so that a program that lives
//! longer than it was meant to loses nothing but the arena.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes that are handed out before the system's allocator is asked. Untouched pages of it cost
/// nothing.
const SIZE: usize = 1 << 20;

/// Bytes that get memory together when the first of them is handed out; divides [`SIZE`].
const STEP: usize = 32 << 10;

#[repr(C, align(4096))]
#[derive(Debug)]
struct Memory(UnsafeCell<[u8; SIZE]>);

// SAFETY: the bytes are only reached through pointers that alloc() gave out, each of them once.
unsafe impl Sync for Memory {}

/// The allocator; to be made a `#[global_allocator]` of a program.
#[derive(Debug)]
pub struct Arena {
    memory: Memory,
    /// Offset of the first free byte.
    used: AtomicUsize,
}

impl Arena {
    /// An arena of which nothing is used.
    #[must_use]
    pub const fn new() -> Arena {
        Arena {
            memory: Memory(UnsafeCell::new([0; SIZE])),
            used: AtomicUsize::new(0),
        }
    }

    /// Has the kernel put memory behind the step that ends in `end` at once, instead of page by page
    /// (madvise(2), `MADV_POPULATE_WRITE`, Linux 5.14; without effect where that fails): a page fault
    /// costs several times what the page does.
    fn populate(&self, end: usize) {
        let from = (end - 1) / STEP * STEP;
        // SAFETY: the range lies within the arena; the advice changes no content.
        unsafe {
            let start = self.memory.0.get().cast::<u8>().add(from);
            libc::madvise(start.cast(), STEP, libc::MADV_POPULATE_WRITE);
        }
    }

    fn start(&self) -> usize {
        self.memory.0.get() as usize
    }

    /// The offset of `pointer`, if it is of this arena.
    fn offset(&self, pointer: *mut u8) -> Option<usize> {
        (pointer as usize)
            .checked_sub(self.start())
            .filter(|offset| *offset < SIZE)
    }

    fn take(&self, layout: Layout) -> Option<usize> {
        let mut used = self.used.load(Ordering::Relaxed);
        loop {
            // The arena begins on a page; nobody asks for a larger alignment than that.
            let from = used.checked_next_multiple_of(layout.align())?;
            let to = from.checked_add(layout.size()).filter(|to| *to <= SIZE)?;
            match self
                .used
                .compare_exchange_weak(used, to, Ordering::Relaxed, Ordering::Relaxed)
            {
                Ok(_) => {
                    if to > from && (from == 0 || (from - 1) / STEP != (to - 1) / STEP) {
                        self.populate(to);
                    }
                    return Some(from);
                }
                Err(other) => used = other,
            }
        }
    }

    /// Moves the end of the piece that was handed out last; `false` if this is not it.
    fn move_end(&self, from: usize, old: usize, new: usize) -> bool {
        let Some(to) = from.checked_add(new).filter(|to| *to <= SIZE) else {
            return false;
        };
        self.used
            .compare_exchange(from + old, to, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok()
    }
}

impl Default for Arena {
    fn default() -> Self {
        Arena::new()
    }
}

// SAFETY: every piece lies within the arena, is aligned, and is handed out once: `used` only moves
// past it by compare-and-exchange, and only back over the piece that is being freed.
unsafe impl GlobalAlloc for Arena {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.align() <= 4096
            && let Some(offset) = self.take(layout)
        {
            // SAFETY: offset is within the arena.
            return unsafe { self.memory.0.get().cast::<u8>().add(offset) };
        }
        // SAFETY: the caller's promises about layout are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        match self.offset(pointer) {
            Some(offset) => {
                self.move_end(offset, layout.size(), 0);
            }
            // SAFETY: it is not of the arena, so it came from the system's allocator.
            None => unsafe { System.dealloc(pointer, layout) },
        }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let Some(offset) = self.offset(pointer) else {
            // SAFETY: it came from the system's allocator; the promises are passed on.
            return unsafe { System.realloc(pointer, layout, size) };
        };
        if self.move_end(offset, layout.size(), size) || size <= layout.size() {
            return pointer;
        }
        // SAFETY: size is not zero and does not overflow, as the caller promises.
        let new = unsafe { self.alloc(Layout::from_size_align_unchecked(size, layout.align())) };
        if !new.is_null() {
            // SAFETY: both pieces are at least as long as the old one, and they do not overlap.
            unsafe { std::ptr::copy_nonoverlapping(pointer, new, layout.size()) };
        }
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(size: usize, align: usize) -> Layout {
        Layout::from_size_align(size, align).unwrap()
    }

    #[test]
    fn pieces_are_aligned_and_apart() {
        static ARENA: Arena = Arena::new();
        let arena = &ARENA;
        // SAFETY: sizes are not zero, and each piece is used within its length.
        unsafe {
            let a = arena.alloc(layout(3, 1));
            let b = arena.alloc(layout(8, 64));
            assert_eq!(b as usize % 64, 0);
            assert!(b as usize >= a as usize + 3);
            a.write_bytes(1, 3);
            let grown = arena.realloc(a, layout(3, 1), 100);
            assert_ne!(grown, a);
            assert_eq!(grown.read(), 1);
            assert_eq!(arena.realloc(grown, layout(100, 1), 200), grown);
        }
    }

    #[test]
    fn the_last_piece_is_taken_back_and_a_full_arena_is_no_end() {
        static ARENA: Arena = Arena::new();
        let arena = &ARENA;
        // SAFETY: sizes are not zero, and each piece is freed with its layout, once.
        unsafe {
            let a = arena.alloc(layout(100, 8));
            arena.dealloc(a, layout(100, 8));
            assert_eq!(arena.alloc(layout(50, 8)), a);
            let big = arena.alloc(layout(2 * SIZE, 8));
            assert!(!big.is_null() && arena.offset(big).is_none());
            arena.dealloc(big, layout(2 * SIZE, 8));
        }
    }
}
