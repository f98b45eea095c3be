//! Files of an archive that lies on disk, by name: a folder, or a tar, compressed or not.
//!
//! It knows nothing of images. A tar is read through once to learn where its members are; one that
//! is compressed is first inflated into a file without a name, which is gone with the process.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use registry::manifest::MAX_DOCUMENT;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};

use crate::Error;
use crate::error::During;
use crate::layer::decode::Decoder;
use crate::layer::tar::{Archive as Tar, Kind};

/// Most members of a tar.
const MAX_MEMBERS: usize = 1_000_000;
/// How many links are followed to a member.
const MAX_LINKS: usize = 8;

/// An archive.
#[derive(Debug)]
pub(crate) enum Archive {
    /// Files in a folder.
    Folder(OwnedFd),
    /// Members of a tar.
    Tar(Arc<File>, HashMap<Vec<u8>, Member>),
}

/// A member of a tar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Member {
    /// Its content: offset and length.
    Content(u64, u64),
    /// Another name of that member.
    Link(Vec<u8>),
}

impl Archive {
    /// Opens what is at `path`; `scratch` is a folder with room for what has to be inflated.
    pub(crate) fn open(path: &Path, scratch: &Path) -> Result<Self, Error> {
        let opening = || format!("opening {}", path.display());
        if std::fs::metadata(path).during(opening)?.is_dir() {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            return Ok(Self::Folder(
                openat(CWD, path, flags, Mode::empty()).during(opening)?,
            ));
        }
        let file = inflated(File::open(path).during(opening)?, scratch).during(opening)?;
        let members = members(&file)?;
        Ok(Self::Tar(Arc::new(file), members))
    }

    /// A file of the archive, if it has one of that name.
    pub(crate) fn file(&self, name: &str) -> Result<Option<Box<dyn Read + Send>>, Error> {
        match self {
            Self::Folder(folder) => {
                let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
                let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
                match openat2(folder, name, flags, Mode::empty(), inside) {
                    Ok(file) => Ok(Some(Box::new(File::from(file)))),
                    Err(rustix::io::Errno::NOENT) => Ok(None),
                    Err(errno) => Err(Error::io(format!("opening {name:?}"), &errno.into())),
                }
            }
            Self::Tar(file, members) => Ok(find(members, name).map(|(at, length)| {
                let end = at + length;
                Box::new(Content {
                    file: Arc::clone(file),
                    at,
                    end,
                }) as Box<dyn Read + Send>
            })),
        }
    }

    /// A file that must be there.
    pub(crate) fn required(&self, name: &str) -> Result<Box<dyn Read + Send>, Error> {
        let file = self.file(name)?;
        file.ok_or_else(|| Error::Corrupt(format!("the archive has no {name:?}")))
    }

    /// All of a small file.
    pub(crate) fn document(&self, name: &str) -> Result<Option<Vec<u8>>, Error> {
        let Some(file) = self.file(name)? else {
            return Ok(None);
        };
        let mut bytes = Vec::new();
        file.take(MAX_DOCUMENT + 1)
            .read_to_end(&mut bytes)
            .during(|| format!("reading {name:?}"))?;
        if bytes.len() as u64 > MAX_DOCUMENT {
            return Err(Error::Corrupt(format!(
                "{name:?} is longer than {MAX_DOCUMENT} bytes"
            )));
        }
        Ok(Some(bytes))
    }
}

/// The file itself, or what it holds if it is compressed.
fn inflated(file: File, scratch: &Path) -> io::Result<File> {
    let mut decoder = Decoder::new(file.try_clone()?)?;
    if matches!(decoder, Decoder::Plain(_)) {
        io::Seek::rewind(&mut &file)?;
        return Ok(file);
    }
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let mut target = File::from(openat(CWD, scratch, flags, Mode::RUSR | Mode::WUSR)?);
    io::copy(&mut decoder, &mut target)?;
    io::Seek::rewind(&mut target)?;
    Ok(target)
}

fn members(file: &File) -> Result<HashMap<Vec<u8>, Member>, Error> {
    let broken = |cause: &dyn std::fmt::Display| Error::Corrupt(format!("not an archive: {cause}"));
    let mut members = HashMap::new();
    let mut tar = Tar::new(Counted {
        source: BufReader::with_capacity(1 << 20, file),
        count: 0,
    });
    while let Some(entry) = tar.next_entry().map_err(|cause| broken(&cause))? {
        let name = clean(b"", &entry.path);
        let folder = name
            .iter()
            .rposition(|b| *b == b'/')
            .map_or(&b""[..], |at| &name[..at]);
        let member = match entry.kind {
            Kind::File => Member::Content(tar.source().count, entry.size),
            Kind::HardLink => Member::Link(clean(b"", &entry.link)),
            Kind::Symlink => Member::Link(clean(folder, &entry.link)),
            _ => continue,
        };
        members.insert(name, member);
        if members.len() > MAX_MEMBERS {
            return Err(broken(&format!("it has more than {MAX_MEMBERS} members")));
        }
    }
    Ok(members)
}

fn find(members: &HashMap<Vec<u8>, Member>, name: &str) -> Option<(u64, u64)> {
    let mut name = clean(b"", name.as_bytes());
    for _ in 0..=MAX_LINKS {
        match members.get(&name)? {
            Member::Content(at, length) => return Some((*at, *length)),
            Member::Link(to) => name.clone_from(to),
        }
    }
    None
}

/// A name without detours, seen from a folder. It is only looked up, so it cannot lead out.
fn clean(folder: &[u8], path: &[u8]) -> Vec<u8> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in folder
        .split(|b| *b == b'/')
        .chain(path.split(|b| *b == b'/'))
    {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join(&b'/')
}

/// A source that knows how much was read of it.
#[derive(Debug)]
struct Counted<R> {
    source: R,
    count: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.source.read(buffer)?;
        self.count += count as u64;
        Ok(count)
    }
}

/// The content of one member. Reads at its own place, so that several can be read at once.
struct Content {
    file: Arc<File>,
    at: u64,
    end: u64,
}

impl Read for Content {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.end - self.at)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        let count = self.file.read_at(&mut buffer[..most], self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}
