//! Getting layers onto the disk: by a thread, so that no pull waits for it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::Receiver;

use super::layers::{FACTS, IMAGE, Layers, RECIPE, TREE};
use crate::Error;
use crate::error::During;

/// Starts the thread that writes layers to disk and then takes away the marks that they are not
/// there yet. The marks are looked for before. The thread ends when
/// the layers are dropped.
pub(super) fn sync_when_woken(
    root: &Path,
    layers: &Arc<Layers>,
    woken: Receiver<()>,
) -> Result<(), Error> {
    let folder = File::open(root).during(|| format!("opening {}", root.display()))?;
    let layers = Arc::downgrade(layers);
    let root = root.to_path_buf();
    let work = move || {
        while woken.recv().is_ok() {
            let marks = layers.upgrade().map(|layers| layers.provisional());
            let marks = marks.unwrap_or_default();
            if marks.is_empty() {
                continue;
            }
            if let Err(cause) = write_to_disk(&root, &folder, &marks) {
                tracing::warn!(%cause, "layers could not be written to disk");
                continue;
            }
            for mark in marks {
                // Gone already if the layer is; a mark that stays only costs a look.
                drop(std::fs::remove_file(mark));
            }
        }
    };
    let thread = std::thread::Builder::new()
        .name("image-sync".into())
        .spawn(work);
    thread
        .during(|| "starting the thread that writes layers to disk")
        .map(drop)
}

/// Writes marked layers to disk, with all that names them. For images that is a few files; many files
/// are written at once, by writing all that the file system has.
fn write_to_disk(root: &Path, folder: &File, marks: &[PathBuf]) -> std::io::Result<()> {
    let layers = || marks.iter().filter_map(|mark| mark.parent());
    // One that went away meanwhile needs nothing.
    if layers().any(|layer| layer.join(TREE).exists()) {
        return Ok(rustix::fs::syncfs(folder)?);
    }
    for layer in layers() {
        let parent = layer.parent().into_iter().map(Path::to_path_buf);
        let files = [
            layer.join(IMAGE),
            layer.join(FACTS),
            layer.join(RECIPE),
            layer.to_path_buf(),
        ];
        files
            .into_iter()
            .chain(parent)
            .try_for_each(|path| sync_file(&path))?;
    }
    // Which records are new is not known here; for those that are on disk there is nothing to do.
    let records = root.join("images");
    for record in std::fs::read_dir(&records)? {
        sync_file(&record?.path())?;
    }
    sync_file(&records)
}

fn sync_file(path: &Path) -> std::io::Result<()> {
    match File::open(path).and_then(|file| file.sync_all()) {
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}
