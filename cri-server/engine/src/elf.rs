//! The one thing that is asked of a program: which loader it needs (elf(5)).
//!
//! Only what this machine itself can run is understood: 64 bits, its own byte order.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// How much of a program is read, bytes: its header and program headers lie at its start.
const HEAD: u64 = 4096;
/// Longest path of a loader, bytes.
const MAX_PATH: usize = 256;
/// Type of the program header that says where the loader's path is.
const PT_INTERP: u32 = 3;

/// The loader that a program needs; `None` for a static one, and for what is no program.
pub(crate) fn interpreter(program: &Path) -> io::Result<Option<String>> {
    let mut head = Vec::new();
    File::open(program)?.take(HEAD).read_to_end(&mut head)?;
    Ok(find(&head))
}

fn find(head: &[u8]) -> Option<String> {
    let is_elf64 = head.starts_with(b"\x7fELF\x02");
    let table = usize::try_from(number::<8>(head, 32)?)
        .ok()
        .filter(|_| is_elf64)?;
    let size = usize::try_from(number::<2>(head, 54)?).ok()?;
    let count = usize::try_from(number::<2>(head, 56)?).ok()?;
    let headers = (0..count).map(|place| table.saturating_add(place.saturating_mul(size)));
    let loader = headers
        .take_while(|at| *at < head.len())
        .find(|at| number::<4>(head, *at) == Some(PT_INTERP.into()))?;
    let at = usize::try_from(number::<8>(head, loader.checked_add(8)?)?).ok()?;
    let path = head.get(at..)?;
    let path = path[..path.len().min(MAX_PATH)]
        .split(|byte| *byte == 0)
        .next()?;
    Some(String::from_utf8_lossy(path).into_owned())
}

/// A number of `N` bytes.
fn number<const N: usize>(head: &[u8], at: usize) -> Option<u64> {
    let bytes = head.get(at..at.checked_add(N)?)?;
    let mut all = [0; 8];
    if cfg!(target_endian = "little") {
        all[..N].copy_from_slice(bytes);
    } else {
        all[8 - N..].copy_from_slice(bytes);
    }
    Some(u64::from_ne_bytes(all))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loaders_of_programs() {
        let shell = interpreter(Path::new("/bin/sh")).unwrap();
        assert!(shell.is_some_and(|path| path.starts_with("/lib")));
        let folder = tempfile::tempdir().unwrap();
        let script = folder.path().join("script");
        std::fs::write(&script, "#!/bin/sh\n").unwrap();
        assert_eq!(interpreter(&script).unwrap(), None);
    }

    #[test]
    fn a_program_without_the_header_is_static() {
        let mut head = vec![0; 128];
        head[..5].copy_from_slice(b"\x7fELF\x02");
        (head[32], head[54], head[56]) = (64, 56, 1);
        assert_eq!(find(&head), None);
        head[64] = 3;
        head[72] = 120;
        head[120..124].copy_from_slice(b"/ld\0");
        assert_eq!(find(&head).as_deref(), Some("/ld"));
    }

    #[test]
    fn torn_and_wild_headers_are_read_without_panic() {
        let shell = std::fs::read("/bin/sh").unwrap();
        for length in 0..200 {
            drop(find(&shell[..length]));
        }
        let mut wild = [0xff; 128];
        wild[..5].copy_from_slice(b"\x7fELF\x02");
        assert_eq!(find(&wild), None);
    }
}
