//! The folders of an image, written when all names are known, and the first block with the root.
//!
//! First each folder gets its place, so that others can name it; then their content is written.

use std::io;

use rustix::fs::FileType;

use super::format::{BLOCK, Data, INODE, Inode, Member, ROOT_AT, SLOT, Super, Xattr};
use super::format::{folder_content, folder_size, xattrs_inline, xattrs_shared};
use super::image::{Image, block_number};
use super::names::{Folder, FolderId, Names, Node, ROOT};

/// The mark of a folder that hides what is below it (kernel documentation, overlayfs.rst).
const OPAQUE: &[u8] = b"trusted.overlay.opaque";

/// Where a folder goes.
struct Placed {
    folder: FolderId,
    inode: Inode,
    /// Where the inode and what follows it lie in the file.
    place: u64,
    xattrs: Vec<u8>,
    /// Where the part of the content lies that has blocks of its own.
    blocks: u64,
}

/// Writes all folders to an image with nothing left to flush, and ends it; answers as
/// [`Image::finish`].
pub(super) fn write(names: &Names, mut image: Image) -> io::Result<(u64, u32)> {
    let root = names.folder_at(ROOT);
    let (behind, elsewhere) = xattrs_shared(&xattrs_of(root))
        .ok_or_else(|| io::Error::other("the root has too many extended attributes"))?;
    let shared = image.reserve_blocks(elsewhere.len());
    image.fill(shared, &elsewhere);
    let mut numbers = vec![0; names.folders()];
    let placed = place(names, &mut image, &mut numbers)?;
    for folder in &placed {
        fill(names, &mut image, folder, &numbers);
    }
    let root_inode = placed[0].inode.encode(behind.len());
    let inodes = image.inodes();
    let shared = block_number(shared)?;
    image.finish(|blocks| {
        let mut first = Super {
            inodes,
            blocks,
            xattrs: shared,
        }
        .encode();
        let behind_at = ROOT_AT + INODE;
        first[ROOT_AT..behind_at].copy_from_slice(&root_inode);
        first[behind_at..behind_at + behind.len()].copy_from_slice(&behind);
        first
    })
}

/// Extended attributes with the mark for an opaque folder.
fn xattrs_of(folder: &Folder) -> Vec<Xattr> {
    let mark = folder.opaque.then(|| Xattr::new(OPAQUE, b"y"));
    let mark = mark.flatten();
    folder.look.xattrs.iter().cloned().chain(mark).collect()
}

/// Gives each folder a place and a number, those on the way to it first: the root is the first.
fn place(names: &Names, image: &mut Image, numbers: &mut [u64]) -> io::Result<Vec<Placed>> {
    let mut placed = Vec::new();
    let mut left = vec![ROOT];
    while let Some(id) = left.pop() {
        let folder = names.folder_at(id);
        let inner = folder.members.values().filter_map(|node| match node {
            Node::Folder(inner) => Some(*inner),
            Node::Leaf(_) => None,
        });
        let inner: Vec<_> = inner.collect();
        let one = place_one(names, image, id, inner.len())?;
        numbers[id] = one.place / SLOT as u64;
        placed.push(one);
        // Neighbours by name become neighbours on disk.
        left.extend(inner.into_iter().rev());
    }
    Ok(placed)
}

fn place_one(names: &Names, image: &mut Image, id: FolderId, inner: usize) -> io::Result<Placed> {
    let folder = names.folder_at(id);
    let size = folder_size(sorted(names, id, &[]).iter().map(|member| member.0));
    let too_large = |_| io::Error::other("a folder is too large for an image");
    let length = usize::try_from(size).map_err(too_large)?;
    let xattrs = xattrs_inline(&xattrs_of(folder))
        .ok_or_else(|| io::Error::other("a folder has too many extended attributes"))?;
    let tail = length % BLOCK;
    let has_tail = id != ROOT && INODE + xattrs.len() + tail <= BLOCK;
    let in_blocks = if has_tail { length - tail } else { length };
    let blocks = image.reserve_blocks(in_blocks);
    let data = block_number(blocks)?;
    let data = if has_tail {
        Data::Tail(data)
    } else {
        Data::Blocks(data)
    };
    let place = if id == ROOT {
        ROOT_AT as u64
    } else {
        image.reserve(INODE + xattrs.len() + if has_tail { tail } else { 0 })
    };
    let look = &folder.look;
    let links = u32::try_from(inner).unwrap_or(u32::MAX).saturating_add(2);
    let inode = Inode {
        kind: FileType::Directory,
        mode: look.mode,
        uid: look.uid,
        gid: look.gid,
        mtime: look.mtime,
        size,
        links,
        data,
        serial: image.next_serial(),
    };
    Ok(Placed {
        folder: id,
        inode,
        place,
        xattrs,
        blocks,
    })
}

/// What is in a folder, with numbers as far as they are known.
fn sorted<'a>(names: &'a Names, id: FolderId, numbers: &[u64]) -> Vec<Member<'a>> {
    let number = |folder: FolderId| numbers.get(folder).copied().unwrap_or(0);
    let folder = names.folder_at(id);
    let members = folder.members.iter().map(|(name, node)| match node {
        Node::Folder(inner) => (&name[..], number(*inner), FileType::Directory),
        Node::Leaf(leaf) => {
            let leaf = names.leaf(*leaf);
            (&name[..], leaf.number, leaf.kind)
        }
    });
    let itself: Member<'a> = (b".", number(id), FileType::Directory);
    let parent: Member<'a> = (b"..", number(folder.parent), FileType::Directory);
    let mut members: Vec<_> = members.chain([itself, parent]).collect();
    members.sort_unstable_by_key(|member| member.0);
    members
}

fn fill(names: &Names, image: &mut Image, placed: &Placed, numbers: &[u64]) {
    let members = sorted(names, placed.folder, numbers);
    let content = folder_content(members.into_iter());
    let in_blocks = match placed.inode.data {
        Data::Tail(_) => content.len() - content.len() % BLOCK,
        _ => content.len(),
    };
    let (in_blocks, tail) = content.split_at(in_blocks);
    image.fill(placed.blocks, in_blocks);
    // That of the root goes into the first block.
    if placed.folder != ROOT {
        let head = placed.inode.encode(placed.xattrs.len());
        let bytes = [&head[..], &placed.xattrs, tail].concat();
        image.fill(placed.place, &bytes);
    }
}
