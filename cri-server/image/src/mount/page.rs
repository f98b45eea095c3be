//! Overlays for kernels that take all layers in one text, which is a page of options of mount(2)
//! (overlayfs asks for layers one by one since Linux 6.8, and for mounts that hang nowhere since 6.14).
//!
//! Five hundred layers, as many as overlayfs takes, fit: each is named by the number of its open
//! descriptor, relative to the folder of descriptors, so that no path is too long and none needs its
//! `:`, `,` and `\` escaped. What mount(2) makes is attached at once, and so must be layers whose ids
//! are mapped; both happens on a thread with a mount namespace of its own, from which only a copy of
//! the overlay comes back.

use std::ffi::CString;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use nix::sched::{CloneFlags, unshare};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags};
use rustix::mount::{mount, mount_change, move_mount, open_tree};

use super::ids;
use super::overlay::Look;
use crate::Error;
use crate::error::During;
use crate::store::lower::Lower;

/// How long the options may be: a page on every machine, with the byte that ends them (mount(2)).
const MAX_OPTIONS: usize = 4096 - 1;

/// How many layers overlayfs takes (`OVL_MAX_STACK` of its source); refused before they are opened.
const MAX_LAYERS: usize = 500;

/// The folder to which the names of layers are relative.
const DESCRIPTORS: &str = "/proc/self/fd";

/// Folders over each other, the top first, mounted nowhere that anybody sees. `place` is a folder of
/// ours. Blocks.
pub(super) fn overlay(
    lowers: &[Lower],
    writable: &[(&'static str, &Path)],
    look: Look<'_>,
    place: &Path,
) -> Result<OwnedFd, Error> {
    if lowers.len() > MAX_LAYERS {
        let many = lowers.len();
        return Err(Error::Other(format!(
            "an image of {many} layers; overlayfs takes {MAX_LAYERS}"
        )));
    }
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name("image-mount".into())
            .spawn_scoped(scope, || alone(lowers, writable, look, place))
            .during(|| "starting a thread that mounts an overlay")?
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// On a thread that does nothing else and then ends, and its mount namespace with it.
fn alone(
    lowers: &[Lower],
    writable: &[(&'static str, &Path)],
    look: Look<'_>,
    place: &Path,
) -> Result<OwnedFd, Error> {
    unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS)
        .during(|| "making a mount namespace for an overlay")?;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).during(|| "keeping mounts in their namespace")?;
    // Opened here: only what is mounted in the namespace of the one who mounts can be a layer.
    let layers = match look.ids {
        None => lowers.iter().map(open_lower).collect::<Result<Vec<_>, _>>(),
        Some(ids) => {
            let namespace = ids.open()?;
            let map = |lower: &Lower| {
                let mapped = ids::map_one(lower, &namespace)?;
                attach(&mapped, place).map(|()| mapped)
            };
            lowers.iter().map(map).collect()
        }
    }?;
    let folders = writable.iter().map(|(key, path)| Ok((*key, open(path)?)));
    let folders = folders.collect::<Result<Vec<_>, Error>>()?;
    let options = options(&layers, &folders, look.label)?;
    let cannot = |errno: Errno| Error::io(explain(errno, look, &options), &errno.into());
    rustix::process::chdir(DESCRIPTORS).during(|| format!("going to {DESCRIPTORS}"))?;
    mount("overlay", place, "overlay", MountFlags::empty(), &*options).map_err(cannot)?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    open_tree(CWD, place, flags).during(|| "taking an overlay along")
}

fn open_lower(lower: &Lower) -> Result<OwnedFd, Error> {
    match lower {
        Lower::Folder(path) => open(path),
        Lower::Mount(_) => Err(Error::Other(
            "a layer that is an image needs Linux 6.14".into(),
        )),
    }
}

fn open(path: &Path) -> Result<OwnedFd, Error> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(CWD, path, flags, Mode::empty()).during(|| format!("opening {}", path.display()))
}

/// Over whatever is there already: each is found by its descriptor.
fn attach(mapped: &OwnedFd, place: &Path) -> Result<(), Error> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    move_mount(mapped, "", CWD, place, flags).during(|| "attaching a layer with mapped ids")
}

/// What mount(2) is told: `lowerdir=8:9,upperdir=10,workdir=11,volatile`.
fn options(
    layers: &[OwnedFd],
    writable: &[(&str, OwnedFd)],
    label: Option<&str>,
) -> Result<CString, Error> {
    let numbers: Vec<_> = layers
        .iter()
        .map(|layer| layer.as_raw_fd().to_string())
        .collect();
    let mut text = format!("lowerdir={}", numbers.join(":"));
    for (key, folder) in writable {
        text += &format!(",{key}={}", folder.as_raw_fd());
    }
    if !writable.is_empty() {
        text += ",volatile";
    }
    // A context may have commas in it.
    if let Some(label) = label {
        text += &format!(",context=\"{label}\"");
    }
    if text.len() > MAX_OPTIONS {
        let many = layers.len();
        return Err(Error::Other(format!(
            "{many} layers do not fit into a page of options; Linux 6.8 takes layer by layer"
        )));
    }
    CString::new(text).during(|| "telling overlayfs its options")
}

/// This call has no words of its own, only those in the kernel's log.
fn explain(errno: Errno, look: Look<'_>, options: &CString) -> String {
    let hint = match errno {
        Errno::NODEV => " (modprobe overlay, or a kernel with CONFIG_OVERLAY_FS)",
        Errno::INVAL if look.ids.is_some() => {
            " (layers with mapped ids need Linux 5.19; dmesg may say more)"
        }
        _ => " (dmesg may say more)",
    };
    format!("mounting an overlay of {options:?}{hint}")
}
