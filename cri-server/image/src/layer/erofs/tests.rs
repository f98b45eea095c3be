//! Layers in this form, mounted, beside the same layers in the `dir` form.

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use proptest::prelude::*;
use registry::Digest;
use registry_double::{Head, Tar};
use rustix::fs::{CWD, Mode, OFlags, openat};

use super::ErofsBuilder;
use crate::Error;
use crate::layer::table::Unpaced;
use crate::layer::unpack::{Notes, unpack};
use crate::layer::{Contents, Promise, Target, build};
use crate::mount::mount_image;

fn promise(tar: &[u8]) -> Promise {
    Promise {
        sent: None,
        diff_id: Digest::of(tar),
    }
}

/// Both forms of one layer.
struct Both {
    temp: tempfile::TempDir,
    dir: Result<Contents, Error>,
    erofs: Result<Contents, Error>,
}

fn both(tar: &[u8]) -> Both {
    let temp = tempfile::tempdir().unwrap();
    let (fs, trash) = (temp.path().join("fs"), temp.path().join("trash"));
    std::fs::create_dir(&fs).unwrap();
    std::fs::create_dir(&trash).unwrap();
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let target = Target::Dir {
        folder: openat(CWD, &fs, flags, Mode::empty()).unwrap(),
        table: tempfile::tempfile().unwrap(),
        trash: openat(CWD, &trash, flags, Mode::empty()).unwrap(),
    };
    let dir = build(tar, &promise(tar), target, Notes::default());
    // What was replaced has more names as long as it lies there.
    std::fs::remove_dir_all(temp.path().join("trash")).unwrap();
    let image = temp.path().join("image");
    let mut options = std::fs::File::options();
    let file = options
        .read(true)
        .write(true)
        .create_new(true)
        .open(&image)
        .unwrap();
    let too_many = Arc::default();
    let erofs = build(
        tar,
        &promise(tar),
        Target::Erofs { file, too_many },
        Notes::default(),
    );
    Both { temp, dir, erofs }
}

impl Both {
    fn image(&self) -> PathBuf {
        self.temp.path().join("image")
    }
}

/// A mounted image; nothing if the kernel cannot.
fn mounted(image: &Path) -> Option<(OwnedFd, PathBuf)> {
    match mount_image(&std::fs::File::open(image).unwrap()) {
        Ok(mount) => {
            let path = format!("/proc/self/fd/{}", mount.as_raw_fd()).into();
            Some((mount, path))
        }
        Err(_) if !kernel_can() => {
            eprintln!("skipped: needs EROFS mounted from a file (Linux 6.12)");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// Whether an image without anything in it is mounted, too.
fn kernel_can() -> bool {
    let file = tempfile::NamedTempFile::new().unwrap();
    let tar = Tar::new().end();
    let builder = ErofsBuilder::new(file.reopen().unwrap(), Arc::default()).unwrap();
    unpack(&tar[..], builder, Notes::default()).unwrap();
    mount_image(&file.reopen().unwrap()).is_ok()
}

/// Everything that can be seen of everything in a tree. What has several names is told by the first.
fn seen(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut all = BTreeMap::new();
    let mut left = vec![PathBuf::new()];
    while let Some(path) = left.pop() {
        let place = root.join(&path);
        let meta = if path.as_os_str().is_empty() {
            std::fs::metadata(&place).unwrap()
        } else {
            std::fs::symlink_metadata(&place).unwrap()
        };
        if meta.is_dir() {
            for entry in std::fs::read_dir(&place).unwrap() {
                let entry = entry.unwrap();
                assert_eq!(
                    entry.file_type().unwrap(),
                    entry.metadata().unwrap().file_type()
                );
                left.push(path.join(entry.file_name()));
            }
        }
        all.insert(path, meta);
    }
    let mut first: BTreeMap<u64, PathBuf> = BTreeMap::new();
    let mut lines = BTreeMap::new();
    for (path, meta) in all {
        let same = first.entry(meta.ino()).or_insert_with(|| path.clone());
        let line = line(&root.join(&path), &meta);
        lines.insert(path, format!("{} {line}", same.display()));
    }
    lines
}

fn line(place: &Path, meta: &std::fs::Metadata) -> String {
    let kind = meta.file_type();
    let content = if kind.is_file() {
        let content = std::fs::read(place).unwrap();
        format!("{} bytes {:x}", content.len(), crc32fast::hash(&content))
    } else if kind.is_symlink() {
        let target = std::fs::read_link(place).unwrap();
        assert_eq!(meta.len(), target.as_os_str().len() as u64);
        format!("-> {}", target.display())
    } else if kind.is_char_device() || kind.is_block_device() {
        format!("device {}", meta.rdev())
    } else {
        String::new()
    };
    let is_whiteout = kind.is_char_device() && meta.rdev() == 0;
    // Nothing says when a mark was made.
    let mtime = if is_whiteout {
        (0, 0)
    } else {
        (meta.mtime(), meta.mtime_nsec())
    };
    format!(
        "{:o} {}:{} {} names {mtime:?} {content} {:?}",
        meta.mode(),
        meta.uid(),
        meta.gid(),
        meta.nlink(),
        xattrs(place)
    )
}

fn xattrs(place: &Path) -> BTreeMap<String, Vec<u8>> {
    // Of the root itself, whose path here is a link.
    let follow = place.parent() == Some(Path::new("/proc/self/fd"));
    let mut list = vec![0; 64 << 10];
    let length = if follow {
        rustix::fs::listxattr(place, &mut list)
    } else {
        rustix::fs::llistxattr(place, &mut list)
    };
    list.truncate(length.unwrap());
    let names = list
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty());
    let value = |name: &[u8]| {
        let mut value = vec![0; 64 << 10];
        let length = if follow {
            rustix::fs::getxattr(place, name, &mut value)
        } else {
            rustix::fs::lgetxattr(place, name, &mut value)
        };
        value.truncate(length.unwrap());
        value
    };
    names
        .map(|name| (String::from_utf8_lossy(name).into_owned(), value(name)))
        .collect()
}

/// Has a layer unpacked in both forms, and sees no difference.
fn check(tar: Tar) -> Both {
    let both = both(&tar.end());
    let (dir, erofs) = (both.dir.as_ref().unwrap(), both.erofs.as_ref().unwrap());
    assert_eq!((&dir.implicit, dir.opaque), (&erofs.implicit, erofs.opaque));
    let image = std::fs::File::open(both.image()).unwrap();
    assert_eq!(image.metadata().unwrap().len(), erofs.bytes);
    assert_eq!(super::sum(&image, &Unpaced).unwrap(), Some(erofs.sum));
    if let Some((_mount, root)) = mounted(&both.image()) {
        similar(&seen(&both.temp.path().join("fs")), &seen(&root));
    }
    checked_by_fsck(&both.image());
    both
}

/// Maps of maps that differ are not printed whole.
fn similar(dir: &BTreeMap<PathBuf, String>, erofs: &BTreeMap<PathBuf, String>) {
    for (path, line) in dir {
        assert_eq!(erofs.get(path), Some(line), "{}", path.display());
    }
    let more: Vec<_> = erofs
        .keys()
        .filter(|path| !dir.contains_key(*path))
        .collect();
    assert!(more.is_empty(), "{more:?}");
}

/// Another reader's opinion.
#[expect(clippy::disallowed_methods, reason = "a test waits for its child")]
fn checked_by_fsck(image: &Path) {
    let Ok(output) = Command::new("fsck.erofs").arg(image).output() else {
        eprintln!("skipped: needs fsck.erofs (erofs-utils)");
        return;
    };
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
}

fn acl(entries: &[(u8, u8)]) -> String {
    let mut text = String::from("\u{2}\0\0\0");
    for (tag, permissions) in entries {
        text.extend([*tag, 0, *permissions, 0, 0x68, 3, 0, 0].map(char::from));
    }
    text
}

#[test]
fn every_kind_of_entry_is_as_in_a_folder() {
    let node = |name, flag, device| Head {
        name,
        flag,
        device,
        mode: 0o620,
        gid: 5,
        ..Head::default()
    };
    let owned = Head {
        name: b"owned",
        mode: 0o6751,
        uid: 100_000,
        gid: 4_000_000,
        ..Head::default()
    };
    let tar = Tar::new()
        .dir("./", 0o1777)
        .dir("d", 0o750)
        .file("d/f", b"1")
        .file("d/empty", b"")
        .symlink("s", "/nowhere")
        .pax(&[("linkpath", &"x/".repeat(1000))])
        .symlink("long", "x")
        .pax(&[("linkpath", &"y/".repeat(2047))])
        .symlink("longest", "y")
        .hard_link("h", "/d/f")
        .hard_link("s2", "s")
        .head(&owned)
        .head(&node(b"null", b'3', (1, 3)))
        .head(&node(b"large", b'3', (4095, 0xf_ffff)))
        .head(&node(b"disk", b'4', (259, 300)))
        .head(&node(b"pipe", b'6', (0, 0)))
        .hard_link("null2", "null")
        .pax(&[("mtime", "1234567890.123456789")])
        .file("d/timed", b"")
        .pax(&[("mtime", "-5.25")])
        .dir("before", 0o700)
        .file("made/up/here", b"2");
    check(tar);
}

#[test]
fn extended_attributes_are_as_in_a_folder() {
    let caps = "\u{1}\0\0\u{2}\0\u{4}\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let list = acl(&[(1, 6), (2, 7), (4, 4), (16, 6), (32, 0)]);
    let plain = acl(&[(1, 7), (4, 5), (32, 1)]);
    let large = "v".repeat(3000);
    let tar = Tar::new()
        .pax(&[
            ("SCHILY.xattr.user.root", "r"),
            ("SCHILY.xattr.user.more", &large),
        ])
        .dir("./", 0o755)
        .pax(&[("SCHILY.xattr.security.capability", caps)])
        .file("caps", b"1")
        .pax(&[
            ("SCHILY.xattr.user.a", "1"),
            ("SCHILY.xattr.user.bc", ""),
            ("SCHILY.xattr.trusted.overlay.opaque", "y"),
            ("SCHILY.xattr.user.overlay.opaque", "y"),
            ("SCHILY.xattr.user.large", &large),
        ])
        .file("many", &[7; 3000])
        .pax(&[("SCHILY.xattr.system.posix_acl_access", &list)])
        .file("listed", b"2")
        .pax(&[("SCHILY.xattr.system.posix_acl_access", &plain)])
        .file("plain", b"3")
        .pax(&[
            ("SCHILY.xattr.system.posix_acl_default", &list),
            ("SCHILY.xattr.user.x", "x"),
        ])
        .dir("folder", 0o700)
        .file("folder/.wh..wh..opq", b"")
        .hard_link("many2", "many");
    check(tar);
}

#[test]
fn what_is_refused_in_a_folder_is_refused() {
    let bad_caps = [("SCHILY.xattr.security.capability", "short")];
    let bad_list = acl(&[(1, 6)]);
    let bad_list = [("SCHILY.xattr.system.posix_acl_access", &bad_list[..])];
    for tar in [
        Tar::new().pax(&bad_caps).file("f", b""),
        Tar::new().pax(&bad_list).file("f", b""),
        Tar::new().symlink("e", "/etc").file("e/x", b""),
        Tar::new().symlink("e", "../..").dir("e/x", 0o700),
        Tar::new().symlink("e", "missing").file("e/x", b""),
        Tar::new()
            .symlink("a", "b")
            .symlink("b", "a")
            .file("a/x", b""),
        Tar::new().symlink("e", "/etc").hard_link("h", "e/passwd"),
        Tar::new().hard_link("h", "missing"),
        Tar::new().dir("d", 0o700).hard_link("h", "d"),
        Tar::new().file("f", b"").hard_link("f/h", "f"),
        Tar::new().file(".wh.w", b"").hard_link("h", "w"),
        Tar::new()
            .pax(&[("linkpath", &"x".repeat(4096))])
            .symlink("s", "x"),
    ] {
        let both = both(&tar.end());
        let told = |result: &Result<Contents, Error>| match result {
            Err(Error::Corrupt(text)) => text.clone(),
            other => panic!("{other:?}"),
        };
        drop((told(&both.dir), told(&both.erofs)));
    }
}

#[test]
fn later_entries_replace_earlier_ones_as_in_a_folder() {
    let tar = Tar::new()
        .file("a", b"1")
        .file("a", b"2")
        .file("b", b"1")
        .dir("b", 0o700)
        .file("c/d/e", b"1")
        .hard_link("kept", "c/d/e")
        .file("c", b"2")
        .file(".wh.w", b"")
        .file("w/x", b"1")
        .file(".wh.w", b"")
        .file("v", b"1")
        .file(".wh.v", b"")
        .dir("lib", 0o711)
        .symlink("l", "lib")
        .file("l/in", b"1")
        .symlink("deep", "l/../lib/./new")
        .dir("lib/new", 0o701)
        .file("deep/er", b"3")
        .file("h1", b"5")
        .hard_link("h2", "h1")
        .hard_link("h2", "h1")
        .hard_link("h3", "h2")
        .file("h1", b"6")
        .file(".wh..wh..opq", b"");
    check(tar);
}

#[test]
fn contents_of_every_length_are_whole() {
    let mut tar = Tar::new();
    let around = [
        0_usize, 1, 512, 4032, 4033, 4095, 4096, 4097, 8191, 8192, 60_000, 65_536, 65_537,
    ];
    let large = [(1 << 20) - 1, (1 << 20) + 4095, 5 << 20];
    for (number, length) in around.into_iter().chain(large).enumerate() {
        let content: Vec<u8> = (0..length)
            .map(|at| (at * 7 + at / 251 + number).to_le_bytes()[0])
            .collect();
        tar = tar.file(&format!("f{number}"), &content);
        // Small things in between, so that blocks are shared in all ways.
        for small in 0..number {
            tar = tar.file(
                &format!("d{number}/{small}"),
                &content[..length.min(small * 97)],
            );
        }
    }
    check(tar.hard_link("again", "f5"));
}

#[test]
fn large_folders_are_searched_and_listed() {
    let count = if std::env::var_os("WHERRY_TEST_ALL").is_some() {
        100_000
    } else {
        5_000
    };
    let mut tar = Tar::new();
    for number in 0..count {
        // Also names that sort before the dot.
        let first = ["", "!", "-", "z", "\u{e9}"][number % 5];
        tar = tar.file(&format!("many/{first}{number:x}"), b"");
    }
    let both = check(
        tar.file(&"n".repeat(99), b"")
            .file("many/.x", b"")
            .file("many/...", b""),
    );
    let Some((_mount, root)) = mounted(&both.image()) else {
        return;
    };
    assert!(root.join("many/.x").exists() && !root.join("many/.y").exists());
    assert!(!root.join("many/zz").exists() && !root.join("many/\u{7f}").exists());
}

#[test]
fn too_many_names_are_told_apart() {
    let too_many = Arc::new(AtomicBool::new(false));
    let file = tempfile::tempfile().unwrap();
    let mut builder = ErofsBuilder::new(file, Arc::clone(&too_many)).unwrap();
    builder.max_names = 3;
    let tar = Tar::new()
        .file("a", b"")
        .file("b", b"")
        .file("c", b"")
        .end();
    unpack(&tar[..], builder, Notes::default()).unwrap_err();
    assert!(too_many.load(std::sync::atomic::Ordering::SeqCst));
}

#[test]
fn a_spoilt_image_is_found() {
    let both = both(&Tar::new().file("f", &[1; 9000]).end());
    let right = both.erofs.unwrap().sum;
    let path = both.temp.path().join("image");
    let whole = std::fs::read(&path).unwrap();
    for at in [0, 1024, 1160, 4096, 9000, whole.len() - 1] {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        assert_ne!(sum_of(&path), right, "{at}");
    }
    std::fs::write(&path, &whole[..4096]).unwrap();
    assert_ne!(sum_of(&path), right);
    std::fs::write(&path, b"").unwrap();
    assert!(super::sum(&std::fs::File::open(&path).unwrap(), &Unpaced).is_err());
}

/// An entry of few names, so that entries meet.
fn any_entry() -> impl Strategy<Value = (u8, String, String)> {
    let part = prop_oneof![Just("a"), Just("b"), Just("c")];
    let path = proptest::collection::vec(part.clone(), 1..4).prop_map(|parts| parts.join("/"));
    let target = prop_oneof![
        path.clone(),
        proptest::collection::vec(prop_oneof![part, Just("..")], 1..4)
            .prop_map(|parts| parts.join("/")),
    ];
    (0_u8..8, path, target)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn whatever_comes_both_forms_agree(
        entries in proptest::collection::vec(any_entry(), 1..25)
    ) {
        let mut tar = Tar::new();
        for ((kind, path, target), number) in entries.iter().zip(0_u8..) {
            let content = vec![number; usize::from(number) * 301];
            tar = match kind {
                0 | 1 => tar.file(path, &content),
                2 | 3 => tar.dir(path, 0o700 + u32::from(number)),
                // By one that leads back an entry could take the place of its own way there; the
                // folder form looks for it once more, and is more careful.
                4 => tar.symlink(path, &target.replace("..", "b")),
                5 => tar.hard_link(path, target),
                6 => tar.file(&whiteout(path), b""),
                _ => tar.file(&format!("{path}/.wh..wh..opq"), b""),
            };
        }
        let both = both(&tar.end());
        match (&both.dir, &both.erofs) {
            (Ok(dir), Ok(erofs)) => {
                prop_assert_eq!((&dir.implicit, dir.opaque), (&erofs.implicit, erofs.opaque));
                if let Some((_mount, root)) = mounted(&both.image()) {
                    similar(&timeless(&both.temp.path().join("fs")), &timeless(&root));
                }
            }
            (Err(Error::Corrupt(_)), Err(Error::Corrupt(_))) => {}
            other => panic!("{other:?}"),
        }
    }
}

/// What is seen but for times: a folder gets its times by name at the end. By then a link on the way
/// may have been replaced, and the name mean another folder, or none.
fn timeless(root: &Path) -> BTreeMap<PathBuf, String> {
    let without = |line: String| match (line.find('('), line.find(')')) {
        (Some(start), Some(end)) => format!("{}{}", &line[..start], &line[end + 1..]),
        _ => line,
    };
    let lines = seen(root).into_iter();
    lines.map(|(path, line)| (path, without(line))).collect()
}

fn whiteout(path: &str) -> String {
    match path.rsplit_once('/') {
        Some((parent, name)) => format!("{parent}/.wh.{name}"),
        None => format!(".wh.{path}"),
    }
}

fn sum_of(path: &Path) -> u32 {
    let image = std::fs::File::open(path).unwrap();
    super::sum(&image, &Unpaced).unwrap().unwrap()
}
