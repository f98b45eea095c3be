//! The trees of layers as overlayfs takes them, and the mounts of those that are images.
//!
//! An image is mounted once, whoever uses it: a second mount would have a second cache of the same
//! pages. The mount hangs nowhere; overlays have clones of it, and keep it alive without this
//! daemon. It is kept for the next container until the layer goes or too many are kept.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use registry::Digest;
use rustix::fs::{CWD, Mode, OFlags, openat};

use super::layers::Facts;
use crate::error::During;
use crate::layer::Form;
use crate::layer::erofs::ErofsBuilder;
use crate::layer::unpack::{Notes, unpack};
use crate::mount::{Look, by_descriptors, mount_image};
use crate::{Error, LayerForm};

/// How many mounts are kept that no container is being made with.
const MAX_KEPT: usize = 512;
/// How many mounts may wait for being given up; who brings more waits.
const MAX_GOING: usize = 256;

/// The tree of a layer, good as long as this lives.
#[derive(Clone, Debug)]
pub(crate) enum Lower {
    /// A folder of the store.
    Folder(PathBuf),
    /// The root of a file system that is mounted nowhere.
    Mount(Arc<OwnedFd>),
}

impl Lower {
    /// The folder, for looking into it.
    pub(crate) fn open(&self) -> rustix::io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match self {
            Self::Folder(path) => openat(CWD, path, flags, Mode::empty()),
            Self::Mount(mount) => openat(mount, ".", flags, Mode::empty()),
        }
    }

    /// Whether it is a file system of its own.
    pub(crate) fn is_mount(&self) -> bool {
        matches!(self, Self::Mount(_))
    }
}

/// A mount that somebody may be about to make.
type Place = Arc<Mutex<Option<Arc<OwnedFd>>>>;

/// The mounts of images.
#[derive(Debug)]
pub(crate) struct Mounts {
    /// Why there are none.
    cannot: Option<Error>,
    kept: Mutex<HashMap<Digest, Place>>,
    /// To the thread that gives mounts up: all pages that were read by them go with them.
    going: SyncSender<Place>,
}

impl Mounts {
    /// Tries what this kernel can, in the folder of the store; answers also with the form that new
    /// layers get.
    pub(crate) fn open(root: &Path, wanted: LayerForm) -> Result<(Form, Self), Error> {
        let cannot = probe(root).err();
        let form = match (wanted, &cannot) {
            // Why not images where they can be had: see docs/decisions/layer-form.md.
            (LayerForm::Dir | LayerForm::Auto, _) => Form::Dir,
            (LayerForm::Erofs, None) => Form::Erofs,
            (LayerForm::Erofs, Some(error)) => {
                return Err(error.clone().within("layers cannot be EROFS images"));
            }
        };
        let (going, gone) = sync_channel(MAX_GOING);
        std::thread::Builder::new()
            .name("image-unmount".into())
            .spawn(move || gone.into_iter().for_each(drop::<Place>))
            .during(|| "starting the thread that unmounts layers")?;
        let mounts = Self {
            cannot,
            kept: Mutex::default(),
            going,
        };
        Ok((form, mounts))
    }

    /// Whether a layer can be used here.
    pub(crate) fn can_mount(&self, facts: &Facts) -> bool {
        if facts.form == Form::Dir {
            return true;
        }
        if let Some(error) = &self.cannot {
            let id = &facts.diff_id;
            tracing::warn!(layer = %id, %error, "a layer cannot be mounted here and is removed");
        }
        self.cannot.is_none()
    }

    /// A layer that is an image; mounted, if it is not yet.
    pub(crate) fn lower(&self, id: &Digest, image: &Path) -> Result<Lower, Error> {
        let place = self.place(id);
        // Others who need this very layer wait here, and nobody else does.
        let mut mount = place.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(mount) = &*mount {
            return Ok(Lower::Mount(Arc::clone(mount)));
        }
        let file = File::open(image).during(|| format!("opening {}", image.display()))?;
        let made = mount_image(&file).map_err(|error| error.within(format!("layer {id}")))?;
        let made = mount.insert(Arc::new(made));
        Ok(Lower::Mount(Arc::clone(made)))
    }

    fn place(&self, id: &Digest) -> Place {
        let mut gone = Vec::new();
        let mut kept = self.lock();
        if kept.len() >= MAX_KEPT && !kept.contains_key(id) {
            gone.extend(kept.extract_if(|_, place| is_idle(place)));
        }
        let place = Arc::clone(kept.entry(id.clone()).or_default());
        drop(kept);
        gone.into_iter().for_each(|(_, place)| self.give_up(place));
        place
    }

    /// Lets go of the mount of a layer. Overlays that have it keep it.
    pub(crate) fn forget(&self, id: &Digest) {
        let gone = self.lock().remove(id);
        gone.into_iter().for_each(|place| self.give_up(place));
    }

    fn give_up(&self, place: Place) {
        // Without the thread it is given up here.
        drop(self.going.send(place));
    }

    #[cfg(test)]
    pub(crate) fn kept(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Digest, Place>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether nobody is about to use it.
fn is_idle(place: &Place) -> bool {
    let mount = place.try_lock();
    Arc::strong_count(place) == 1
        && mount.is_ok_and(|mount| {
            mount
                .as_ref()
                .is_none_or(|mount| Arc::strong_count(mount) == 1)
        })
}

/// Mounts an image without anything in it, and an overlay of it, both nowhere.
fn probe(root: &Path) -> Result<(), Error> {
    let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
    let file = openat(CWD, root, flags, Mode::RUSR | Mode::WUSR)
        .during(|| format!("making a file in {}", root.display()))?;
    let file = File::from(file);
    let again = file.try_clone().during(|| "sharing a file")?;
    let builder = ErofsBuilder::new(again, Arc::default()).during(|| "beginning an image")?;
    unpack(std::io::empty(), builder, Notes::default())
        .map_err(|error| Error::Other(error.to_string()))?;
    let mounted = Lower::Mount(Arc::new(mount_image(&file)?));
    // Without a writable folder there have to be two.
    let lowers = [mounted, Lower::Folder(root.to_path_buf())];
    by_descriptors(&lowers, &[], Look::default())
        .map(drop)
        .map_err(|error| error.within("an image as a layer, which Linux takes since 6.14"))
}
