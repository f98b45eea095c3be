//! How folders look that a layer holds but does not describe.
//!
//! A tar may hold `tmp/x` without an entry for `tmp`. Unpacked on its own, such a layer has a
//! `tmp` with made-up owner and permissions, and since overlayfs shows the topmost folder, it would
//! mask the one that a lower layer describes. Layers are shared and never changed, so the cure is
//! in the writable folder: there, above all layers, such a folder gets the look that the image
//! means. The root of the file system is the commonest of them.

use std::collections::{BTreeMap, HashSet};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use registry::Digest;
use rustix::fs::{CWD, Gid, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, Uid};
use rustix::fs::{fchmod, fchown, fgetxattr, fstat, futimens, mkdirat, openat, openat2};
use rustix::io::Errno;

use super::IdMap;
use crate::Error;
use crate::error::During;
use crate::store::layers::{Facts, Layers};

/// Looks of folders, by path; the empty path is the root. Parents come before what is in them.
pub(crate) type Looks = BTreeMap<String, Stat>;

/// One layer, open.
struct Layer {
    facts: Arc<Facts>,
    tree: OwnedFd,
    implicit: HashSet<String>,
}

/// What a layer has at a path.
enum Seen {
    /// A folder; whether it hides what is below.
    Folder(Stat, bool),
    /// Nothing.
    Absent,
    /// Something that hides what is below.
    Other,
}

/// The looks that have to be imprinted for an image, whose layers come lowest first.
pub(crate) fn wanted(layers: &Layers, ids: &[Digest]) -> Result<Looks, Error> {
    let stack = open(layers, ids)?;
    let mut looks = Looks::new();
    // The writable folder is the topmost root, so it always needs the look of the one described.
    if let Some(layer) = stack.iter().find(|layer| !layer.implicit.contains(""))
        && let Seen::Folder(look, _) = layer.look("")?
    {
        looks.insert(String::new(), look);
    }
    for layer in &stack {
        for path in &layer.implicit {
            if path.is_empty() || looks.contains_key(path) {
                continue;
            }
            if let Some(look) = described(&stack, path)? {
                imprint_parents(&stack, path, &mut looks)?;
                looks.insert(path.clone(), look);
            }
        }
    }
    Ok(looks)
}

/// The topmost first.
fn open(layers: &Layers, ids: &[Digest]) -> Result<Vec<Layer>, Error> {
    let mut stack = Vec::new();
    for id in ids.iter().rev() {
        let Some(facts) = layers.facts(id) else {
            continue;
        };
        let tree = layers.tree(id)?.open();
        let tree = tree.during(|| format!("opening layer {id}"))?;
        let opaque = facts.opaque;
        stack.push(Layer {
            implicit: facts.implicit.iter().cloned().collect(),
            facts,
            tree,
        });
        if opaque {
            break;
        }
    }
    Ok(stack)
}

/// The look of a folder that is not described where it is seen, if a lower layer describes it.
fn described(stack: &[Layer], path: &str) -> Result<Option<Stat>, Error> {
    let mut made_up = false;
    for layer in stack {
        match layer.look(path)? {
            // Seen where it is described, it needs nothing.
            Seen::Folder(..) if !layer.implicit.contains(path) && !made_up => return Ok(None),
            Seen::Folder(look, _) if !layer.implicit.contains(path) => return Ok(Some(look)),
            Seen::Folder(_, true) | Seen::Other => return Ok(None),
            Seen::Folder(_, false) => made_up = true,
            Seen::Absent => {}
        }
    }
    Ok(None)
}

/// Folders on the way have to be in the writable folder, too, and must look as they are seen.
fn imprint_parents(stack: &[Layer], path: &str, looks: &mut Looks) -> Result<(), Error> {
    for parent in prefixes(path).filter(|parent| *parent != path) {
        if looks.contains_key(parent) {
            continue;
        }
        let mut seen = described(stack, parent)?;
        for layer in stack {
            if seen.is_none()
                && let Seen::Folder(look, _) = layer.look(parent)?
            {
                seen = Some(look);
            }
        }
        looks.extend(seen.map(|look| (parent.to_owned(), look)));
    }
    Ok(())
}

/// A path and all on the way to it, without the root.
fn prefixes(path: &str) -> impl Iterator<Item = &str> {
    let ends = path
        .match_indices('/')
        .map(|(at, _)| at)
        .chain([path.len()]);
    ends.map(|end| &path[..end])
        .filter(|prefix| !prefix.is_empty())
}

impl Layer {
    fn look(&self, path: &str) -> Result<Seen, Error> {
        if path.is_empty() {
            let look = fstat(&self.tree).during(|| "looking at the root of a layer")?;
            return Ok(Seen::Folder(look, self.facts.opaque));
        }
        let mut hides = false;
        let mut look = None;
        for prefix in prefixes(path) {
            // No link is followed: what a layer holds must not decide where we look.
            let inside = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let folder = match openat2(&self.tree, prefix, flags, Mode::empty(), inside) {
                Ok(folder) => folder,
                Err(Errno::NOENT) if hides => return Ok(Seen::Other),
                Err(Errno::NOENT) => return Ok(Seen::Absent),
                Err(Errno::NOTDIR | Errno::LOOP | Errno::XDEV) => return Ok(Seen::Other),
                Err(errno) => {
                    return Err(Error::io(format!("looking at {prefix:?}"), &errno.into()));
                }
            };
            let mut mark = [0_u8; 1];
            hides |=
                fgetxattr(&folder, "trusted.overlay.opaque", &mut mark).is_ok() && mark == *b"y";
            look = Some(fstat(&folder).during(|| format!("looking at {prefix:?}"))?);
        }
        Ok(look.map_or(Seen::Absent, |look| Seen::Folder(look, hides)))
    }
}

/// Makes the folders in a new, empty writable folder.
pub(crate) fn imprint(upper: &Path, looks: &Looks, ids: Option<&IdMap>) -> Result<(), Error> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let what = || format!("preparing {}", upper.display());
    let root = openat(CWD, upper, flags, Mode::empty()).during(what)?;
    fchmod(&root, Mode::from_raw_mode(0o755)).during(what)?;
    own(&root, 0, 0, ids).during(what)?;
    for path in looks.keys().filter(|path| !path.is_empty()) {
        mkdirat(&root, path.as_str(), Mode::from_raw_mode(0o755)).during(what)?;
    }
    // Times last, and from the inside out: making a folder changes the one that it is in.
    for (path, look) in looks.iter().rev() {
        let path = if path.is_empty() { "." } else { path };
        let inside = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let folder = openat2(&root, path, flags, Mode::empty(), inside).during(what)?;
        dress(&folder, look, ids).during(what)?;
    }
    Ok(())
}

/// Gives a folder to ids of the image.
fn own(folder: &OwnedFd, uid: u32, gid: u32, ids: Option<&IdMap>) -> rustix::io::Result<()> {
    let uid = ids.map_or(uid, |ids| ids.uid(uid));
    let gid = ids.map_or(gid, |ids| ids.gid(gid));
    fchown(folder, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
}

fn dress(folder: &OwnedFd, look: &Stat, ids: Option<&IdMap>) -> rustix::io::Result<()> {
    own(folder, look.st_uid, look.st_gid, ids)?;
    fchmod(folder, Mode::from_raw_mode(look.st_mode))?;
    let time = Timespec {
        tv_sec: look.st_mtime,
        tv_nsec: look.st_mtime_nsec.cast_signed(),
    };
    futimens(
        folder,
        &Timestamps {
            last_access: time,
            last_modification: time,
        },
    )
}

#[cfg(test)]
mod tests {
    use super::prefixes;

    #[test]
    fn prefixes_come_from_the_outside_in() {
        assert_eq!(prefixes("a/b/c").collect::<Vec<_>>(), ["a", "a/b", "a/b/c"]);
        assert_eq!(prefixes("").count(), 0);
    }
}
