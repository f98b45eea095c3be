//! Every way to mount an overlay that this kernel knows, on real folders.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::mount::{OpenTreeFlags, open_tree};

use super::overlay::{Look, Way};
use crate::store::lower::Lower;
use crate::tests::forms::UserNamespace;

/// Names that mean something in options of mount(2), and one that is too long for fsconfig(2).
fn folders(root: &Path, count: usize) -> Vec<PathBuf> {
    let long = "long".repeat(60);
    let base = root.join("a:b,c\\d lowerdir=x").join(long);
    let folder = |n: usize| {
        let folder = base.join(format!("layer{n}"));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(format!("f{n}")), "x").unwrap();
        std::fs::write(folder.join("top"), n.to_string()).unwrap();
        folder
    };
    (0..count).map(folder).collect()
}

fn lowers(folders: &[PathBuf]) -> Vec<Lower> {
    folders.iter().cloned().map(Lower::Folder).collect()
}

/// The folders of one writable overlay, and the place for mounts.
struct Room {
    temp: tempfile::TempDir,
    upper: PathBuf,
    work: PathBuf,
    place: PathBuf,
}

impl Room {
    fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        let [upper, work, place] = ["up:per,x", "work", "place"].map(|name| {
            let folder = temp.path().join(name);
            std::fs::create_dir(&folder).unwrap();
            folder
        });
        Self {
            temp,
            upper,
            work,
            place,
        }
    }

    fn writable(&self) -> [(&'static str, &Path); 2] {
        [("upperdir", &self.upper), ("workdir", &self.work)]
    }

    /// Mounts so many layers and looks into what came out.
    fn mount(&self, way: Way, count: usize) {
        let layers = folders(self.temp.path(), count);
        let mount = way.overlay(
            &lowers(&layers),
            &self.writable(),
            Look::default(),
            &self.place,
        );
        let mount = mount.unwrap();
        // By `.` and not by its link in /proc, which shows what the mount lies over.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = openat(&mount, ".", flags, Mode::empty()).unwrap();
        let names = rustix::fs::Dir::new(root).unwrap().count();
        assert_eq!(
            names,
            count + 1 + 2,
            "{way:?}: the files, `top`, `.` and `..`"
        );
        assert_eq!(read(&mount, "top"), "0", "{way:?}: the first is on top");
        let new = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
        openat(&mount, "new", new, Mode::RUSR).unwrap();
        assert!(self.upper.join("new").exists(), "{way:?}");
        // Nothing stays where it was put together.
        assert_eq!(std::fs::read_dir(&self.place).unwrap().count(), 0);
    }
}

fn read(mount: &impl std::os::fd::AsFd, name: &str) -> String {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let file = openat(mount, name, flags, Mode::empty()).unwrap();
    std::io::read_to_string(std::fs::File::from(file)).unwrap()
}

/// Those that this kernel has; the text of options every kernel has.
fn ways() -> Vec<Way> {
    let room = Room::new();
    match Way::find([&room.upper, &room.place]) {
        Way::Descriptors => vec![Way::Descriptors, Way::Folders, Way::Page],
        Way::Folders => vec![Way::Folders, Way::Page],
        Way::Page => vec![Way::Page],
    }
}

#[test]
fn every_way_takes_a_hundred_layers_whatever_their_paths() {
    for way in ways() {
        Room::new().mount(way, 100);
    }
}

#[test]
fn as_many_layers_as_overlayfs_takes_fit_into_a_page() {
    Room::new().mount(Way::Page, 500);
}

#[test]
fn every_way_maps_ids() {
    let Some(namespace) = UserNamespace::new() else {
        return println!("skipped: needs a user namespace");
    };
    let ids = namespace.map();
    let look = Look {
        ids: Some(&ids),
        label: None,
    };
    for way in ways() {
        let room = Room::new();
        let layers = lowers(&folders(room.temp.path(), 3));
        let mount = match way.overlay(&layers, &room.writable(), look, &room.place) {
            Ok(mount) => mount,
            Err(error) if error.to_string().contains("5.19") => {
                return println!("skipped: needs overlays with mapped layers (Linux 5.19)");
            }
            Err(error) => panic!("{way:?}: {error}"),
        };
        let owner = rustix::fs::statat(&mount, "f2", rustix::fs::AtFlags::empty()).unwrap();
        assert_eq!((owner.st_uid, owner.st_gid), (100_000, 100_000), "{way:?}");
        assert_eq!(read(&mount, "f2"), "x", "{way:?}");
        let plain = std::fs::metadata(room.upper.join(".")).unwrap();
        assert_eq!(plain.uid(), 0);
    }
}

#[test]
fn more_than_fits_and_what_is_no_folder_are_refused_in_words() {
    let room = Room::new();
    let gone = vec![Lower::Folder(room.temp.path().join("gone")); 2];
    let refused = |lowers: &[Lower]| {
        let refused = Way::Page.overlay(lowers, &[], Look::default(), &room.place);
        refused.unwrap_err().to_string()
    };
    assert!(refused(&gone).contains("gone"));
    let many = vec![Lower::Folder(room.place.clone()); 2000];
    assert!(refused(&many).contains("2000 layers; overlayfs takes 500"));
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let mount = Arc::new(open_tree(CWD, &room.place, flags).unwrap());
    assert!(refused(&[Lower::Mount(mount)]).contains("needs Linux 6.14"));
}
