//! Which names a layer has, in memory: what the folders of a file system are to the `dir` form.
//!
//! Pure. Paths are resolved in the layer as the kernel resolves them for that form: symbolic links
//! are followed, and one that leads out is an error (openat2(2), `RESOLVE_BENEATH`). Content is not
//! here; a name leads to the number of an inode that was written already.

use std::collections::{BTreeMap, BTreeSet};

use rustix::fs::FileType;
use rustix::io::Errno;

use super::format::Xattr;
use crate::layer::names::Spot;
use crate::layer::tree::TreeError;

/// Most symbolic links on the way to a folder, as the kernel bounds them (path_resolution(7)).
const MAX_LINKS: usize = 40;
/// The root.
pub(super) const ROOT: FolderId = 0;

type Result<T> = std::result::Result<T, TreeError>;

/// Which folder.
pub(super) type FolderId = usize;
/// Which of all that is not a folder.
pub(super) type LeafId = usize;

/// How a folder looks.
#[derive(Clone, Debug)]
pub(super) struct Look {
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: (i64, u32),
    pub(super) xattrs: Vec<Xattr>,
}

/// A folder.
#[derive(Debug)]
pub(super) struct Folder {
    pub(super) parent: FolderId,
    pub(super) members: BTreeMap<Box<[u8]>, Node>,
    pub(super) look: Look,
    /// It hides what layers below have in it.
    pub(super) opaque: bool,
}

impl Folder {
    fn new(parent: FolderId) -> Self {
        Self {
            parent,
            members: BTreeMap::new(),
            look: Look {
                mode: 0o755,
                uid: 0,
                gid: 0,
                mtime: (0, 0),
                xattrs: Vec::new(),
            },
            opaque: false,
        }
    }
}

/// What a name leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Node {
    Folder(FolderId),
    Leaf(LeafId),
}

/// All that is not a folder.
#[derive(Debug)]
pub(super) struct Leaf {
    /// Number of its inode.
    pub(super) number: u64,
    pub(super) kind: FileType,
    /// It is the mark that hides a name of the layers below.
    pub(super) whiteout: bool,
    /// How many names it has.
    pub(super) links: u32,
    /// Of a symbolic link.
    pub(super) target: Option<Box<[u8]>>,
}

/// All names.
#[derive(Debug)]
pub(super) struct Names {
    folders: Vec<Folder>,
    leaves: Vec<Leaf>,
    /// Folders that no entry described yet, by the name under which they were made.
    implicit: BTreeSet<Vec<u8>>,
}

impl Names {
    /// Only the root.
    pub(super) fn new() -> Self {
        Self {
            folders: vec![Folder::new(ROOT)],
            leaves: Vec::new(),
            implicit: BTreeSet::from([Vec::new()]),
        }
    }

    /// How many things were named so far.
    pub(super) fn len(&self) -> usize {
        self.folders.len() + self.leaves.len()
    }

    /// How many folders there are, with those that were replaced.
    pub(super) fn folders(&self) -> usize {
        self.folders.len()
    }

    /// Folders that had to be made though no entry described them; the root is the empty path.
    pub(super) fn implicit(&self) -> &BTreeSet<Vec<u8>> {
        &self.implicit
    }

    pub(super) fn folder_at(&self, id: FolderId) -> &Folder {
        &self.folders[id]
    }

    pub(super) fn folder_mut(&mut self, id: FolderId) -> &mut Folder {
        &mut self.folders[id]
    }

    pub(super) fn leaf(&self, id: LeafId) -> &Leaf {
        &self.leaves[id]
    }

    pub(super) fn leaves_mut(&mut self) -> impl Iterator<Item = &mut Leaf> {
        self.leaves.iter_mut()
    }

    /// A folder that exists.
    pub(super) fn open(&self, path: &[u8]) -> Result<FolderId> {
        let mut left: Vec<Vec<u8>> = parts(path).collect();
        let (mut at, mut links) = (ROOT, 0);
        while let Some(part) = left.pop() {
            if part == b".." {
                if at == ROOT {
                    return Err(TreeError::Escape);
                }
                at = self.folders[at].parent;
                continue;
            }
            at = match self.folders[at].members.get(&part[..]) {
                None => return Err(TreeError::Call("open its folder", Errno::NOENT)),
                Some(Node::Folder(id)) => *id,
                Some(Node::Leaf(id)) => {
                    let Some(target) = &self.leaves[*id].target else {
                        return Err(TreeError::NotFolder);
                    };
                    links += 1;
                    if target.starts_with(b"/") || links > MAX_LINKS {
                        return Err(TreeError::Escape);
                    }
                    left.extend(parts(target));
                    at
                }
            };
        }
        Ok(at)
    }

    /// A folder, made if it is missing, as those on the way are.
    pub(super) fn folder(&mut self, path: &[u8]) -> Result<FolderId> {
        match self.open(path) {
            Err(TreeError::Call(_, Errno::NOENT) | TreeError::NotFolder) => {}
            other => return other,
        }
        let slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
        let ends: Vec<usize> = slashes.map(|(at, _)| at).chain([path.len()]).collect();
        let (mut parent, mut start) = (ROOT, 0);
        for end in ends {
            let (name, so_far) = (&path[start..end], &path[..end]);
            parent = match self.open(so_far) {
                Err(TreeError::Call(_, Errno::NOENT) | TreeError::NotFolder) => {
                    self.refuse_link(parent, name)?;
                    let made = self.folder_in(parent, name);
                    self.implicit.insert(so_far.to_vec());
                    made
                }
                other => other?,
            };
            start = end + 1;
        }
        Ok(parent)
    }

    /// A link that leads to nothing in this layer leads elsewhere: to make a folder in its place
    /// would change what the entries through it mean.
    fn refuse_link(&self, parent: FolderId, name: &[u8]) -> Result<()> {
        match self.folders[parent].members.get(name) {
            Some(Node::Leaf(id)) if self.leaves[*id].target.is_some() => Err(TreeError::Escape),
            _ => Ok(()),
        }
    }

    /// Makes a folder, or keeps the one that is there. A mark that hides what is below becomes a
    /// folder that does the same; anything else in the way was replaced by this later entry.
    fn folder_in(&mut self, parent: FolderId, name: &[u8]) -> FolderId {
        let mut folder = Folder::new(parent);
        match self.folders[parent].members.get(name) {
            Some(Node::Folder(id)) => return *id,
            Some(Node::Leaf(id)) => {
                folder.opaque = self.leaves[*id].whiteout;
                self.leaves[*id].links -= 1;
            }
            None => {}
        }
        let made = self.folders.len();
        self.folders.push(folder);
        let members = &mut self.folders[parent].members;
        members.insert(name.into(), Node::Folder(made));
        made
    }

    /// The folder that an entry describes.
    pub(super) fn described(&mut self, spot: &Spot) -> Result<FolderId> {
        let parent = self.folder(&spot.parent)?;
        let folder = self.folder_in(parent, &spot.name);
        self.implicit.remove(&spot.path());
        Ok(folder)
    }

    /// The root, which an entry describes.
    pub(super) fn described_root(&mut self) -> FolderId {
        self.implicit.remove(&b""[..]);
        ROOT
    }

    /// What is at a spot; symbolic links are not followed.
    pub(super) fn look(&mut self, spot: &Spot) -> Result<Option<Node>> {
        let parent = self.folder(&spot.parent)?;
        Ok(self.folders[parent].members.get(&spot.name[..]).copied())
    }

    /// Something that can have more names, and exists; symbolic links are not followed.
    pub(super) fn linkable(&self, spot: &Spot) -> Result<Option<LeafId>> {
        let parent = match self.open(&spot.parent) {
            Err(TreeError::Call(_, Errno::NOENT) | TreeError::NotFolder) => return Ok(None),
            other => other?,
        };
        Ok(match self.folders[parent].members.get(&spot.name[..]) {
            Some(Node::Leaf(id)) if !self.leaves[*id].whiteout => Some(*id),
            _ => None,
        })
    }

    /// Names something new, in place of what may be there.
    pub(super) fn put(&mut self, spot: &Spot, leaf: Leaf) -> Result<()> {
        self.leaves.push(leaf);
        self.link(spot, self.leaves.len() - 1)
    }

    /// One more name for something, in place of what may be there.
    pub(super) fn link(&mut self, spot: &Spot, leaf: LeafId) -> Result<()> {
        let parent = self.folder(&spot.parent)?;
        self.leaves[leaf].links += 1;
        let members = &mut self.folders[parent].members;
        match members.insert(spot.name[..].into(), Node::Leaf(leaf)) {
            None => {}
            Some(Node::Leaf(replaced)) => self.leaves[replaced].links -= 1,
            Some(Node::Folder(replaced)) => self.clear(replaced, &spot.path()),
        }
        Ok(())
    }

    /// Forgets a folder that was replaced, with all that is in it.
    fn clear(&mut self, folder: FolderId, path: &[u8]) {
        let below = [path, b"/"].concat();
        self.implicit
            .retain(|other| other != path && !other.starts_with(&below));
        let mut left = vec![folder];
        while let Some(folder) = left.pop() {
            for node in std::mem::take(&mut self.folders[folder].members).into_values() {
                match node {
                    Node::Folder(id) => left.push(id),
                    Node::Leaf(id) => self.leaves[id].links -= 1,
                }
            }
        }
    }
}

/// The parts of a path, the last first.
fn parts(path: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    let parts = path.split(|byte| *byte == b'/').rev();
    parts
        .filter(|part| !matches!(*part, b"" | b"."))
        .map(<[u8]>::to_vec)
}
