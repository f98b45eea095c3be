//! How the tar of a layer was made up, so that it can be written out again byte for byte.
//!
//! While a layer is unpacked all of its tar but the content of files is kept: headers, padding, the
//! end. Content is in the unpacked tree; the recipe says where. Written out again the tar has the
//! layer's digest, or it is not given to anybody.
//!
//! A recipe is a zstd frame, then the length of the tar (8 bytes, little-endian), then the CRC-32 of
//! all before (4 bytes). The frame holds records, all numbers little-endian: `b`, a length (4 bytes)
//! and as many bytes of the tar; or `c`, the length of a file's content (8 bytes), the length of its
//! path (4 bytes) and the path in the tree; in the end `e`.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, fstat, openat2};

use super::tar::MAX_PATH;

/// Fast, and headers are much alike.
const LEVEL: i32 = 1;
/// Window of the compression as a power of two: little memory, and headers repeat soon.
const WINDOW: u32 = 17;
/// Bytes of the tar that are gathered before they are written.
const GATHERED: usize = 64 << 10;
/// Longest record of bytes.
const MAX_BYTES: u32 = 128 << 10;
/// What follows the frame, in bytes.
const TRAILER: u64 = 12;
const BYTES: u8 = b'b';
const CONTENT: u8 = b'c';
const END: u8 = b'e';

/// A recipe being written, between a tar and its reader.
pub(crate) struct Tap<R> {
    source: R,
    recipe: Option<Recipe>,
    /// How much of what comes next is the content of a file.
    content: u64,
    failed: io::Result<()>,
}

struct Recipe {
    frame: zstd::Encoder<'static, Summed>,
    gathered: Vec<u8>,
    length: u64,
}

/// A file, and the sum of what was written to it.
struct Summed {
    file: BufWriter<File>,
    sum: crc32fast::Hasher,
}

impl Write for Summed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.sum.update(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Recipe {
    fn new(file: File) -> io::Result<Self> {
        let summed = Summed {
            file: BufWriter::new(file),
            sum: crc32fast::Hasher::new(),
        };
        let mut frame = zstd::Encoder::new(summed, LEVEL)?;
        frame.window_log(WINDOW)?;
        Ok(Self {
            frame,
            gathered: Vec::new(),
            length: 0,
        })
    }

    fn bytes(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        self.length += bytes.len() as u64;
        while !bytes.is_empty() {
            let room = GATHERED - self.gathered.len();
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.gathered.extend_from_slice(now);
            if self.gathered.len() == GATHERED {
                self.put_gathered()?;
            }
            bytes = later;
        }
        Ok(())
    }

    fn put_gathered(&mut self) -> io::Result<()> {
        if self.gathered.is_empty() {
            return Ok(());
        }
        self.frame.write_all(&[BYTES])?;
        self.frame.write_all(&length(&self.gathered)?)?;
        self.frame.write_all(&self.gathered)?;
        self.gathered.clear();
        Ok(())
    }

    fn content(&mut self, path: &[u8], size: u64) -> io::Result<()> {
        self.put_gathered()?;
        self.length += size;
        self.frame.write_all(&[CONTENT])?;
        self.frame.write_all(&size.to_le_bytes())?;
        self.frame.write_all(&length(path)?)?;
        self.frame.write_all(path)
    }

    fn finish(mut self) -> io::Result<()> {
        self.put_gathered()?;
        self.frame.write_all(&[END])?;
        let mut summed = self.frame.finish()?;
        summed.write_all(&self.length.to_le_bytes())?;
        let sum = summed.sum.clone().finalize();
        summed.file.write_all(&sum.to_le_bytes())?;
        summed.flush()
    }
}

fn length(bytes: &[u8]) -> io::Result<[u8; 4]> {
    let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
    Ok(length.to_le_bytes())
}

impl<R> Tap<R> {
    /// Writes to an empty file, if there is one.
    pub(crate) fn new(source: R, file: Option<File>) -> io::Result<Self> {
        Ok(Self {
            source,
            recipe: file.map(Recipe::new).transpose()?,
            content: 0,
            failed: Ok(()),
        })
    }

    /// Says that what comes next is the content of a file in the tree.
    pub(crate) fn content(&mut self, path: &[u8], size: u64) {
        if size == 0 {
            return;
        }
        self.content = size;
        self.try_to(|recipe| recipe.content(path, size));
    }

    /// Completes the recipe once the source has ended.
    pub(crate) fn finish(self) -> io::Result<()> {
        self.failed?;
        match self.recipe {
            Some(recipe) => recipe.finish(),
            None => Ok(()),
        }
    }

    /// What fails is told at the end: a reader is no place for what a writer has met.
    fn try_to(&mut self, put: impl FnOnce(&mut Recipe) -> io::Result<()>) {
        let Some(recipe) = &mut self.recipe else {
            return;
        };
        if let Err(cause) = put(recipe) {
            self.failed = Err(cause);
            self.recipe = None;
        }
    }
}

impl<R: BufRead> BufRead for Tap<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.source.fill_buf()
    }

    fn consume(&mut self, count: usize) {
        let content = usize::try_from(self.content)
            .unwrap_or(usize::MAX)
            .min(count);
        self.content -= content as u64;
        if content < count && self.recipe.is_some() {
            // What is consumed lies in the buffer: no reading takes place.
            match self.source.fill_buf() {
                Ok(buffer) => {
                    let kept = buffer[content..count].to_vec();
                    self.try_to(|recipe| recipe.bytes(&kept));
                }
                Err(cause) => self.failed = Err(cause),
            }
        }
        self.source.consume(count);
    }
}

impl<R: BufRead> Read for Tap<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(buffer)?;
        self.consume(count);
        Ok(count)
    }
}

/// A tar as its recipe and the unpacked tree make it.
pub(crate) struct Tar {
    recipe: zstd::Decoder<'static, BufReader<io::Take<File>>>,
    tree: OwnedFd,
    part: Part,
    /// Its length in bytes.
    pub(crate) length: u64,
}

enum Part {
    Bytes(u64),
    Content(File, u64),
    Ended,
}

impl Tar {
    /// Begins to put a tar together.
    pub(crate) fn new(mut recipe: File, tree: OwnedFd) -> io::Result<Self> {
        let (frame, length) = trailer(&mut recipe)?;
        let mut decoder = zstd::Decoder::new(recipe.take(frame))?;
        decoder.window_log_max(WINDOW)?;
        Ok(Self {
            recipe: decoder,
            tree,
            part: Part::Bytes(0),
            length,
        })
    }

    fn next_part(&mut self) -> io::Result<()> {
        let [kind] = self.take()?;
        self.part = match kind {
            BYTES => match u32::from_le_bytes(self.take()?) {
                length @ 0..=MAX_BYTES => Part::Bytes(length.into()),
                _ => return Err(bad()),
            },
            CONTENT => {
                let size = u64::from_le_bytes(self.take()?);
                let length = usize::try_from(u32::from_le_bytes(self.take()?)).unwrap_or(MAX_PATH);
                if length >= MAX_PATH {
                    return Err(bad());
                }
                let mut path = vec![0; length];
                self.recipe.read_exact(&mut path)?;
                Part::Content(open(&self.tree, &path)?, size)
            }
            END => Part::Ended,
            _ => return Err(bad()),
        };
        Ok(())
    }

    fn take<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.recipe.read_exact(&mut bytes)?;
        Ok(bytes)
    }
}

impl Read for Tar {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let most = |left: u64| {
                usize::try_from(left)
                    .unwrap_or(usize::MAX)
                    .min(buffer.len())
            };
            let (count, left) = match &mut self.part {
                Part::Ended => return Ok(0),
                Part::Bytes(left @ 1..) => {
                    let most = most(*left);
                    (self.recipe.read(&mut buffer[..most])?, left)
                }
                Part::Content(file, left @ 1..) => {
                    let most = most(*left);
                    (file.read(&mut buffer[..most])?, left)
                }
                Part::Bytes(0) | Part::Content(_, 0) => {
                    self.next_part()?;
                    continue;
                }
            };
            if count == 0 && !buffer.is_empty() {
                let text = "the layer has less than its recipe says";
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text));
            }
            *left -= count as u64;
            return Ok(count);
        }
    }
}

/// A file of the tree. It is the one that was unpacked, or the digest will tell.
fn open(tree: &OwnedFd, path: &[u8]) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let inside = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let file = openat2(tree, path, flags, Mode::empty(), inside).map_err(|errno| {
        let name = String::from_utf8_lossy(path);
        io::Error::other(format!("opening {name:?} of the layer: {errno}"))
    })?;
    if FileType::from_raw_mode(fstat(file.as_fd())?.st_mode) != FileType::RegularFile {
        return Err(bad());
    }
    Ok(file.into())
}

/// Length of the frame and of the tar; the file stands at its beginning.
fn trailer(recipe: &mut File) -> io::Result<(u64, u64)> {
    let whole = recipe.seek(SeekFrom::End(0))?;
    let frame = whole.checked_sub(TRAILER).ok_or_else(bad)?;
    recipe.seek(SeekFrom::Start(frame))?;
    let mut length = [0; 8];
    recipe.read_exact(&mut length)?;
    recipe.rewind()?;
    Ok((frame, u64::from_le_bytes(length)))
}

/// Whether a recipe is as it was written.
pub(crate) fn is_whole(mut recipe: File) -> io::Result<bool> {
    let Ok((frame, _)) = trailer(&mut recipe) else {
        return Ok(false);
    };
    let mut sum = crc32fast::Hasher::new();
    let mut summed = BufReader::new(recipe.try_clone()?.take(frame + 8));
    loop {
        let bytes = summed.fill_buf()?;
        if bytes.is_empty() {
            break;
        }
        sum.update(bytes);
        let count = bytes.len();
        summed.consume(count);
    }
    recipe.seek(SeekFrom::Start(frame + 8))?;
    let mut stated = [0; 4];
    recipe.read_exact(&mut stated)?;
    Ok(u32::from_le_bytes(stated) == sum.finalize())
}

fn bad() -> io::Error {
    io::Error::other("the recipe of the layer is damaged")
}

#[cfg(test)]
mod tests {
    use rustix::fs::{CWD, openat};

    use super::*;

    /// A tar in which the content of files is what lies at these places.
    fn there_and_back(tar: &[u8], contents: &[(&str, std::ops::Range<usize>)]) -> Vec<u8> {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("recipe");
        let file = File::create(&path).unwrap();
        let mut tap = Tap::new(tar, Some(file)).unwrap();
        let mut at = 0;
        for (name, place) in contents {
            std::fs::write(temp.path().join(name), &tar[place.clone()]).unwrap();
            io::copy(
                &mut (&mut tap).take((place.start - at) as u64),
                &mut io::sink(),
            )
            .unwrap();
            tap.content(name.as_bytes(), place.len() as u64);
            at = place.start;
        }
        io::copy(&mut tap, &mut io::sink()).unwrap();
        tap.finish().unwrap();
        assert!(is_whole(File::open(&path).unwrap()).unwrap());
        let tree = openat(CWD, temp.path(), OFlags::PATH, Mode::empty()).unwrap();
        let mut made = Tar::new(File::open(&path).unwrap(), tree).unwrap();
        assert_eq!(made.length, tar.len() as u64);
        let mut bytes = Vec::new();
        made.read_to_end(&mut bytes).unwrap();
        let mut spoilt = std::fs::read(&path).unwrap();
        spoilt[3] ^= 1;
        std::fs::write(&path, spoilt).unwrap();
        assert!(!is_whole(File::open(&path).unwrap()).unwrap());
        bytes
    }

    #[test]
    fn what_goes_in_comes_out() {
        let tar: Vec<u8> = (0..1_000_000_u32).map(|n| n.to_le_bytes()[0]).collect();
        assert_eq!(there_and_back(&tar, &[]), tar);
        assert_eq!(there_and_back(&[], &[]), b"");
        let contents = [
            ("a", 5..900_000),
            ("b", 900_000..900_001),
            ("c", 999_999..1_000_000),
        ];
        assert_eq!(there_and_back(&tar, &contents), tar);
    }
}
