//! A layer's tar, put together again from its files and what tar-split noted of it.
//!
//! The notes are lines of JSON, compressed: pieces of the tar itself (headers, padding), and between
//! them the files whose content goes there. Whether the right tar comes out of it is for its digest
//! to say.

use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;

use base64::Engine as _;
use flate2::read::GzDecoder;
use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, openat, openat2};
use serde::Deserialize;

use crate::Error;

/// A line of the notes.
#[derive(Debug, Deserialize)]
struct Note {
    #[serde(rename = "type")]
    kind: u8,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    name_raw: Option<String>,
    #[serde(default)]
    size: u64,
    #[serde(default)]
    payload: Option<String>,
}

/// A note of a file.
const FILE: u8 = 1;
/// A note of a piece of the tar.
const SEGMENT: u8 = 2;

/// Writes the tar of a layer whose files lie in `folder`.
///
/// # Errors
///
/// The notes cannot be read, or a file is not there.
pub(crate) fn assemble(notes: &Path, folder: &Path, target: &mut dyn Write) -> Result<(), Error> {
    let file = File::open(notes).map_err(Error::io("opening", notes))?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = openat(CWD, folder, flags, Mode::empty())
        .map_err(|errno| Error::io("opening", folder)(errno.into()))?;
    let decoder = BufReader::new(GzDecoder::new(BufReader::new(file)));
    for note in serde_json::Deserializer::from_reader(decoder).into_iter::<Note>() {
        let note = note.map_err(|cause| Error::unreadable(notes, cause))?;
        match note.kind {
            SEGMENT => {
                let bytes = decoded(note.payload.as_deref().unwrap_or_default(), notes)?;
                target
                    .write_all(&bytes)
                    .map_err(Error::io("writing", folder))?;
            }
            FILE if note.size > 0 => content(&note, &root, notes, folder, target)?,
            FILE => {}
            kind => return Err(Error::unreadable(notes, format!("a note of kind {kind}"))),
        }
    }
    Ok(())
}

fn decoded(text: &str, notes: &Path) -> Result<Vec<u8>, Error> {
    let standard = base64::engine::general_purpose::STANDARD;
    standard
        .decode(text)
        .map_err(|cause| Error::unreadable(notes, cause))
}

/// The content of a file, of exactly the length that was noted.
fn content(
    note: &Note,
    root: &OwnedFd,
    notes: &Path,
    folder: &Path,
    target: &mut dyn Write,
) -> Result<(), Error> {
    let name = match (&note.name, &note.name_raw) {
        (Some(name), _) => name.clone().into_bytes(),
        (None, Some(raw)) => decoded(raw, notes)?,
        (None, None) => return Err(Error::unreadable(notes, "a file without a name")),
    };
    let shown = folder.join(String::from_utf8_lossy(&name).trim_start_matches('/'));
    let opened = |errno: rustix::io::Errno| Error::io("opening", &shown)(errno.into());
    // The image's links lead nowhere but into the layer, and nothing but a file is read.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOFOLLOW;
    let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let file = openat2(root, &name[..], flags, Mode::empty(), inside).map_err(opened)?;
    let status = fstat(&file).map_err(opened)?;
    if FileType::from_raw_mode(status.st_mode) != FileType::RegularFile {
        return Err(Error::unreadable(&shown, "it is no file any more"));
    }
    let copied = std::io::copy(&mut File::from(file).take(note.size), target);
    match copied.map_err(Error::io("copying", &shown))? {
        length if length == note.size => Ok(()),
        length => Err(Error::unreadable(
            &shown,
            format!("it has {length} bytes, not {}", note.size),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_and_files_in_turn() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a"), "content").unwrap();
        std::os::unix::fs::symlink("/etc/passwd", folder.path().join("out")).unwrap();
        let notes = folder.path().join("notes.gz");
        let check = |lines: &str| {
            let file = File::create(&notes).unwrap();
            let mut encoder = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
            encoder.write_all(lines.as_bytes()).unwrap();
            encoder.finish().unwrap();
            let mut tar = Vec::new();
            assemble(&notes, folder.path(), &mut tar).map(|()| String::from_utf8(tar).unwrap())
        };
        let begin = r#"{"type":2,"payload":"PDw="}"#;
        let file = r#"{"type":1,"name":"./a","size":7,"payload":"AAAAAAAAAAA="}"#;
        let raw = r#"{"type":1,"name_raw":"YQ==","size":7}"#;
        let empty = r#"{"type":1,"name":"gone","payload":null}"#;
        let whole = check(&[begin, file, empty, begin, raw].join("\n")).unwrap();
        assert_eq!(whole, "<<content<<content");
        let more = file.replace('7', "8");
        assert!(
            check(&more)
                .unwrap_err()
                .to_string()
                .contains("7 bytes, not 8")
        );
        assert!(
            check(&file.replace("./a", "out")).is_err(),
            "links are not followed"
        );
        assert!(check(&file.replace("./a", "../../../../etc/passwd")).is_err());
        assert!(check("{\"type\":3}").is_err());
        assert!(check("nonsense").is_err());
    }
}
