//! Classes of service that pods and plugins name: of block I/O, whose file is the engine's, and of cache
//! and memory bandwidth (RDT), whose folders in the resctrl file system are somebody else's.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use oci_spec::runtime::LinuxBlockIo;
use pod::plan::{ClassNames, NamedClass, Shares};

use crate::blockio::BlockIoClasses;
use crate::error::{Error, OpenError};
use crate::{Engine, Inner, LOCK, blocking};

/// Where the resctrl file system is mounted (kernel, `Documentation/filesystems/resctrl.rst`).
const RESCTRL: &str = "/sys/fs/resctrl";

/// What the engine is told of classes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClassConfig {
    /// The file of classes of block I/O, if there is one.
    pub blockio: Option<PathBuf>,
    /// Without such a file a pod that names a class gets none, instead of being refused.
    pub ignore_blockio: bool,
    /// Where the host has no RDT, a pod that names a class of it gets none, instead of being refused.
    pub ignore_rdt: bool,
}

/// The classes that hold.
#[derive(Clone, Debug, Default)]
pub struct Classes {
    blockio: Option<BlockIoClasses>,
    config: ClassConfig,
}

impl Classes {
    /// Reads the file that `config` names.
    ///
    /// # Errors
    ///
    /// [`OpenError::Config`] says what is wrong with it.
    pub fn read(config: &ClassConfig) -> Result<Self, OpenError> {
        let read = |path: &PathBuf| {
            let what = |error| format!("the classes of block I/O in {path:?}: {error}");
            BlockIoClasses::read(path).map_err(|error| OpenError::Config(what(error)))
        };
        Ok(Self {
            blockio: config.blockio.as_ref().map(read).transpose()?,
            config: config.clone(),
        })
    }

    /// What a class of block I/O comes to; the error says why it is none.
    pub(crate) fn block_io(&self, class: &str) -> Result<LinuxBlockIo, String> {
        match &self.blockio {
            Some(classes) => classes.resolve(class),
            None => Err(format!(
                "{class:?} cannot be had: this node has no classes of block I/O (the key \
                 blockio.config names a file of them)"
            )),
        }
    }

    /// What the classes come to that a pod names.
    fn shares(&self, names: &ClassNames, resctrl: &Path) -> Result<Shares, Error> {
        let refused = |named: &NamedClass, why: String| {
            Error::Invalid(format!("annotations[{:?}]: {why}", named.annotation))
        };
        let no_blockio = self.blockio.is_none() && self.config.ignore_blockio;
        let blockio = names.blockio.as_ref().filter(|_| !no_blockio);
        let no_rdt = self.config.ignore_rdt && !is_class(resctrl);
        let rdt = names.rdt.as_ref().filter(|_| !no_rdt);
        let block_io = blockio.map(|named| {
            let found = self.block_io(&named.class);
            found.map_err(|why| refused(named, why))
        });
        let rdt_class = rdt.map(|named| {
            let found = rdt_class(&named.class, resctrl);
            found.map_err(|why| refused(named, why))
        });
        Ok(Shares {
            block_io: block_io.transpose()?,
            rdt_class: rdt_class.transpose()?,
        })
    }
}

/// A folder of the resctrl file system that is a class.
fn is_class(folder: &Path) -> bool {
    folder.join("schemata").is_file()
}

/// The class, if the host has it.
fn rdt_class(class: &str, resctrl: &Path) -> Result<String, String> {
    if !is_class(resctrl) {
        return Err(format!(
            "{class:?} cannot be had: no resctrl file system is mounted at {}",
            resctrl.display()
        ));
    }
    let plain = !class.is_empty() && !class.contains('/') && !class.starts_with('.');
    if plain && is_class(&resctrl.join(class)) {
        return Ok(class.to_owned());
    }
    let entries = std::fs::read_dir(resctrl).into_iter().flatten().flatten();
    let mut known: Vec<String> = entries
        .filter(|entry| is_class(&entry.path()))
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    known.sort();
    let known = match known.is_empty() {
        true => "none".to_owned(),
        false => known.join(", "),
    };
    Err(format!(
        "{class:?} is no class of RDT; {} has {known}",
        resctrl.display()
    ))
}

/// What the classes come to that a pod names.
pub(crate) async fn shares(engine: &Inner, names: ClassNames) -> Result<Shares, Error> {
    if names == ClassNames::default() {
        return Ok(Shares::default());
    }
    let classes = engine.classes();
    blocking(move || classes.shares(&names, Path::new(RESCTRL))).await
}

/// What a class of block I/O comes to that a plugin names; the empty one is none.
pub(crate) async fn block_io(engine: &Inner, class: &str) -> Result<LinuxBlockIo, String> {
    if class.is_empty() {
        return Ok(LinuxBlockIo::default());
    }
    let (classes, class) = (engine.classes(), class.to_owned());
    blocking(move || classes.block_io(&class)).await
}

impl Inner {
    fn classes(&self) -> Arc<Classes> {
        Arc::clone(&self.classes.lock().expect(LOCK))
    }
}

impl Engine {
    /// Changes the classes that containers get from now on.
    pub fn set_classes(&self, classes: Classes) {
        *self.inner.classes.lock().expect(LOCK) = Arc::new(classes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(class: &str) -> Option<NamedClass> {
        Some(NamedClass {
            annotation: "a/pod".into(),
            class: class.into(),
        })
    }

    #[test]
    fn a_pod_that_names_what_is_not_there_is_refused_unless_told_otherwise() {
        let (folder, gone) = (tempfile::tempdir().unwrap(), Path::new("/no/such"));
        let names = ClassNames {
            blockio: named("slow"),
            rdt: None,
        };
        let mut classes = Classes::default();
        let error = classes.shares(&names, gone).unwrap_err().to_string();
        assert!(
            error.contains("annotations[\"a/pod\"]: \"slow\" cannot be had"),
            "{error}"
        );
        classes.config.ignore_blockio = true;
        assert_eq!(classes.shares(&names, gone).unwrap(), Shares::default());
        let file = folder.path().join("classes");
        std::fs::write(&file, "Classes: {quick: [{Weight: 400}]}").unwrap();
        // With a file, a class that it has not is a mistake all the same.
        classes.config.blockio = Some(file);
        let classes = Classes::read(&classes.config).unwrap();
        assert!(
            classes
                .shares(&names, gone)
                .unwrap_err()
                .to_string()
                .contains("quick")
        );
        let quick = ClassNames {
            blockio: named("quick"),
            rdt: None,
        };
        let found = classes.shares(&quick, gone).unwrap();
        assert_eq!(found.block_io.unwrap().weight(), Some(400));
    }

    #[test]
    fn classes_of_rdt_are_folders() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let names = ClassNames {
            blockio: None,
            rdt: named("gold"),
        };
        let mut classes = Classes::default();
        let error = classes.shares(&names, root).unwrap_err().to_string();
        assert!(error.contains("no resctrl file system"), "{error}");
        classes.config.ignore_rdt = true;
        assert_eq!(classes.shares(&names, root).unwrap(), Shares::default());
        std::fs::create_dir(root.join("silver")).unwrap();
        for file in ["schemata", "silver/schemata"] {
            std::fs::write(root.join(file), "").unwrap();
        }
        let error = classes.shares(&names, root).unwrap_err().to_string();
        assert!(error.contains("has silver"), "{error}");
        assert!(rdt_class("../x", root).is_err());
        assert_eq!(rdt_class("silver", root).unwrap(), "silver");
    }
}
