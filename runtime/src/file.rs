//! Whole files, with no more system calls than they take: a runtime's life is so short that those
//! which the standard library adds for the general case are a part of it.

use std::path::Path;

use rustix::buffer::spare_capacity;
use rustix::fs::{FileType, Mode, OFlags, fstat, open};
use rustix::io::{Errno, read as read_some, retry_on_intr, write as write_some};

/// What is asked for at first: all that is read on a container's way fits, as a rule.
const CHUNK: usize = 8 * 1024;

/// Everything in the file.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, Errno> {
    let file = open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut bytes = Vec::with_capacity(CHUNK);
    while retry_on_intr(|| read_some(&file, spare_capacity(&mut bytes)))? > 0 {
        if bytes.len() == bytes.capacity() {
            bytes.reserve(CHUNK);
        }
    }
    Ok(bytes)
}

/// The first `limit` bytes of a regular file that a container may have put there: neither a pipe that
/// nobody writes to nor a device without an end keeps the reader.
///
/// # Errors
///
/// `ENXIO` if it is not a regular file; what open(2) and read(2) say.
pub(crate) fn read_some_of_theirs(path: &Path, limit: usize) -> Result<Vec<u8>, Errno> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = open(path, flags, Mode::empty())?;
    if FileType::from_raw_mode(fstat(&file)?.st_mode) != FileType::RegularFile {
        return Err(Errno::NXIO);
    }
    let mut bytes = Vec::with_capacity(CHUNK);
    while bytes.len() < limit && retry_on_intr(|| read_some(&file, spare_capacity(&mut bytes)))? > 0
    {
        if bytes.len() == bytes.capacity() {
            bytes.reserve(CHUNK);
        }
    }
    bytes.truncate(limit);
    Ok(bytes)
}

/// Makes the file be `bytes`.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<(), Errno> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
    let file = open(path, flags, Mode::from_raw_mode(0o644))?;
    let mut rest = bytes;
    while !rest.is_empty() {
        let written = retry_on_intr(|| write_some(&file, rest))?;
        rest = &rest[written..];
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        for length in [0, 1, CHUNK, 3 * CHUNK + 7] {
            write(&path, &vec![7; length]).unwrap();
            assert_eq!(read(&path).unwrap(), vec![7; length]);
        }
        assert_eq!(read(&dir.path().join("none")), Err(Errno::NOENT));
    }

    #[test]
    fn what_has_no_end_is_not_read_to_it() {
        let theirs = |path: &str| read_some_of_theirs(Path::new(path), 3 * CHUNK);
        assert_eq!(theirs("/dev/zero"), Err(Errno::NXIO));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pipe");
        let mode = Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, &path, FileType::Fifo, mode, 0).unwrap();
        assert_eq!(theirs(path.to_str().unwrap()), Err(Errno::NXIO));
        let path = dir.path().join("long");
        write(&path, &vec![7; 5 * CHUNK]).unwrap();
        assert_eq!(theirs(path.to_str().unwrap()), Ok(vec![7; 3 * CHUNK]));
    }
}
