//! What the kernel can, feature by feature. What was tried counts; the number of its version only
//! where nothing could be tried.

use super::finding;
use crate::facts::{Facts, Layers};
use crate::{Finding, Weight};

/// First kernel with mount_setattr(2), by which every mount of a container gets its attributes.
const OLDEST: (u32, u32) = (5, 12);
/// Overlays take layers whose ids are mapped.
const MAPPED_LAYERS: (u32, u32) = (5, 19);
/// Overlays take layers that are mounts and hang nowhere, such as EROFS images of the store.
const MOUNTS_AS_LAYERS: (u32, u32) = (6, 14);
/// First version of Landlock's ABI that can allow files to be moved between folders (Linux 5.19).
const LANDLOCK: u32 = 2;

/// Version and patch level at the front of a release: `6.12.5-amd64`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|letter: char| !letter.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// Whether a kernel is at least so new; one whose age cannot be told is.
fn is_since(facts: &Facts, least: (u32, u32)) -> bool {
    version(&facts.release).is_none_or(|version| version >= least)
}

/// Without the calls that nothing can be done without, no pod can run.
pub(super) fn release(facts: &Facts) -> Finding {
    let said = format!("Linux {}", facts.release);
    let enough = match facts.tried.mount_setattr {
        Some(has) => has,
        None => is_since(facts, OLDEST),
    };
    if enough {
        return finding("kernel", Weight::Good, said);
    }
    let lacks = format!("{said}: no mount_setattr(2), no container can have its mounts");
    finding("kernel", Weight::Failure, lacks)
        .cure(format!("a kernel of at least {}.{}", OLDEST.0, OLDEST.1))
}

/// A file system that the kernel has, or gets by a module.
fn has_filesystem(facts: &Facts, name: &str) -> bool {
    facts.filesystems.contains(name) || facts.modules.contains(name)
}

pub(super) fn overlay(facts: &Facts) -> Finding {
    if !has_filesystem(facts, "overlay") {
        return finding(
            "overlay",
            Weight::Failure,
            "the kernel has no overlay file system: no container can have a root",
        )
        .cure("modprobe overlay, or a kernel with CONFIG_OVERLAY_FS");
    }
    let how = match facts.tried.layers {
        Some(Layers::Descriptors | Layers::Folders) => ", layer by layer",
        Some(Layers::Page) => ", all layers by one page of options (as before Linux 6.8)",
        None => "",
    };
    let said = format!("overlay file systems can be mounted{how}");
    finding("overlay", Weight::Good, said)
}

pub(super) fn erofs(facts: &Facts) -> Finding {
    let takes = match facts.tried.layers {
        Some(layers) => layers == Layers::Descriptors,
        None => is_since(facts, MOUNTS_AS_LAYERS),
    };
    if takes && has_filesystem(facts, "erofs") {
        return finding("erofs", Weight::Good, "layers can be EROFS images");
    }
    finding(
        "erofs",
        Weight::Note,
        "no EROFS images: layers are folders, and layer_form = \"erofs\" is refused",
    )
    .cure("a kernel of at least 6.14 with CONFIG_EROFS_FS, where you want them")
}

pub(super) fn user_namespaces(facts: &Facts) -> Finding {
    let most = facts.sysctls.get("user.max_user_namespaces");
    let newer = matches!(
        facts.tried.layers,
        Some(Layers::Descriptors | Layers::Folders)
    );
    let note = |found| finding("user-namespaces", Weight::Note, found);
    match (facts.namespaces.contains("user"), most) {
        (false, _) => note("the kernel has none: pods with hostUsers: false are refused"),
        (true, Some(0)) => finding(
            "user-namespaces",
            Weight::Warning,
            "none may be made: pods with hostUsers: false fail",
        )
        .cure("sysctl -w user.max_user_namespaces=65536"),
        // The daemon tries it when it starts: without a user namespace it cannot be tried.
        _ if !newer && !is_since(facts, MAPPED_LAYERS) => note(
            "can be made, but overlays of this age take no layers with mapped ids: pods with \
             hostUsers: false are most likely refused",
        )
        .cure(format!(
            "a kernel of at least {}.{}",
            MAPPED_LAYERS.0, MAPPED_LAYERS.1
        )),
        _ => finding("user-namespaces", Weight::Good, "can be made"),
    }
}

/// What unpacks layers is confined by several things, of which this is one.
pub(super) fn landlock(facts: &Facts) -> Finding {
    let found = facts.tried.landlock;
    if found >= LANDLOCK {
        return finding(
            "landlock",
            Weight::Good,
            format!("version {found} of its ABI"),
        );
    }
    finding(
        "landlock",
        Weight::Note,
        "not to be had in a version of use: what unpacks layers is confined without it",
    )
    .cure("a kernel of at least 5.19 with CONFIG_SECURITY_LANDLOCK, and landlock in its lsm=")
}

pub(super) fn cgroup_kill(facts: &Facts) -> Option<Finding> {
    if facts.tried.cgroup_kill != Some(false) {
        return None;
    }
    let slow = "no cgroup.kill: the processes of a container are frozen and killed one by one";
    Some(finding("cgroup-kill", Weight::Note, slow).cure("a kernel of at least 5.14"))
}
