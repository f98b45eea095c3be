//! Images as volumes: mounted beside a container's root file system, bound into it read-only.
//!
//! The store treats each as a root file system of its own, so that the image's layers stay for as
//! long as the volume does. What a process could write never reaches it: the bind mount is
//! read-only, and nobody else sees the volume.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use pod::container::{ImageVolume, Mount};
use rustix::fs::{Mode, OFlags, ResolveFlags};

use crate::error::Error;
use crate::making::Place;
use crate::shim::Launch;
use crate::store;
use crate::{Inner, blocking, making};

/// Folder in the bundle with a folder for each volume.
const FOLDER: &str = "volumes";

/// The name of a container's volume in the image store; `place` is that of its mount.
fn name(container: &str, place: usize) -> String {
    format!("{container}-volume-{place}")
}

/// Names of all volumes of a container in the image store.
pub(crate) fn names(container: &str, mounts: &[Mount]) -> Vec<String> {
    places(mounts)
        .map(|(place, _)| name(container, place))
        .collect()
}

fn places(mounts: &[Mount]) -> impl Iterator<Item = (usize, &ImageVolume)> {
    let with_place = mounts.iter().enumerate();
    with_place.filter_map(|(place, mount)| Some((place, mount.image.as_ref()?)))
}

/// Mounts all volumes of a container, and puts where each really lies into `sources`. Answers with
/// the digest name of each mount's image, empty where it has none.
pub(crate) async fn mount(
    place_of: &Place,
    launch: &Launch,
    mounts: &[Mount],
    ids: Option<&image::IdMap>,
    sources: &mut [PathBuf],
) -> Result<Vec<String>, Error> {
    let mut refs = vec![String::new(); mounts.len()];
    for (place, volume) in places(mounts) {
        let mounted = mount_one(place_of, launch, place, volume, ids).await;
        // The word is how clients know this error from others.
        (sources[place], refs[place]) = mounted.map_err(|error| {
            let (image, error) = (&volume.image, error.to_string());
            Error::Failed(format!(
                "ImageVolumeMountFailed: mounts[{place}] of image {image:?}: {error}"
            ))
        })?;
    }
    Ok(refs)
}

async fn mount_one(
    place_of: &Place,
    launch: &Launch,
    place: usize,
    volume: &ImageVolume,
    ids: Option<&image::IdMap>,
) -> Result<(PathBuf, String), Error> {
    let engine = &place_of.engine;
    let image = engine.images.resolve(&volume.image);
    let image = image.ok_or_else(|| Error::NotFound {
        kind: "image",
        id: volume.image.clone(),
    })?;
    let named = making::asked_as(&volume.image, &volume.user_specified_image);
    let namespace = &place_of.sandbox.spec.namespace;
    engine.images.permit(&image, named, namespace).await?;
    let target = launch.bundle.join(FOLDER).join(place.to_string());
    let folder = target.clone();
    blocking(move || making::make_folder(&folder, 0o711))
        .await
        .map_err(|error| Error::failed("making the volume's folder", error))?;
    let name = name(&launch.container, place);
    engine
        .images
        .mount_rootfs(&image.id, &name, &target, ids)
        .await?;
    let below = volume.sub_path.clone();
    let source = blocking(move || resolve(&target, &below))
        .await
        .map_err(|error| Error::failed(format!("looking up {:?}", volume.sub_path), error))?;
    Ok((source, making::digest_name(&image)))
}

/// Where a path in a volume really lies. Links in it lead nowhere but into the volume.
fn resolve(volume: &Path, below: &str) -> io::Result<PathBuf> {
    if below.is_empty() {
        return Ok(volume.to_owned());
    }
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let root = rustix::fs::open(volume, flags | OFlags::DIRECTORY, Mode::empty())?;
    let inside: OwnedFd = rustix::fs::openat2(
        &root,
        below,
        flags,
        Mode::empty(),
        ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
    )?;
    fs::read_link(format!("/proc/self/fd/{}", inside.as_raw_fd()))
}

/// Takes all volumes of a container away: those of its mounts, and those that are found. Already
/// gone is fine.
pub(crate) async fn unmount(
    engine: &Inner,
    launch: &Launch,
    mounts: &[Mount],
) -> Result<(), Error> {
    let folder = launch.bundle.join(FOLDER);
    let found = {
        let folder = folder.clone();
        blocking(move || store::names(&folder)).await
    };
    let found = found.map_err(|error| Error::failed("looking for volumes", error))?;
    let mut all: Vec<usize> = found.iter().filter_map(|name| name.parse().ok()).collect();
    all.extend(places(mounts).map(|(place, _)| place));
    all.sort_unstable();
    all.dedup();
    for place in all {
        let (name, target) = (
            name(&launch.container, place),
            folder.join(place.to_string()),
        );
        engine.images.unmount_rootfs(&name, &target).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_stay_in_the_volume() {
        let folder = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(folder.path()).unwrap();
        fs::create_dir_all(root.join("etc")).unwrap();
        std::os::unix::fs::symlink("/etc", root.join("up")).unwrap();
        std::os::unix::fs::symlink("../../../..", root.join("out")).unwrap();
        assert_eq!(resolve(&root, "").unwrap(), root);
        assert_eq!(resolve(&root, "up").unwrap(), root.join("etc"));
        assert_eq!(resolve(&root, "out").unwrap(), root);
        assert!(resolve(&root, "none").is_err());
    }

    #[test]
    fn only_images_are_volumes() {
        let image = Mount {
            image: Some(ImageVolume::default()),
            ..Mount::default()
        };
        let mounts = [Mount::default(), image];
        assert_eq!(names("c", &mounts), ["c-volume-1"]);
    }
}
