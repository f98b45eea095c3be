//! Layers unpacked into real folders.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use registry::Digest;
use registry_double::{Head, Tar};
use rustix::fs::{CWD, Mode, OFlags, openat};

use super::unpack::Notes;
use super::{Contents, Promise, Target, build};
use crate::Error;

fn unpack_into(tar: &[u8], folder: &Path) -> Result<Contents, Error> {
    let (tree, trash) = (folder.join("fs"), folder.join("trash"));
    std::fs::create_dir_all(&tree).unwrap();
    std::fs::create_dir_all(&trash).unwrap();
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let target = Target::Dir {
        folder: openat(CWD, &tree, flags, Mode::empty()).unwrap(),
        table: tempfile::tempfile().unwrap(),
        trash: openat(CWD, &trash, flags, Mode::empty()).unwrap(),
    };
    let promise = Promise {
        sent: Some((Digest::of(tar), tar.len() as u64)),
        diff_id: Digest::of(tar),
    };
    build(tar, &promise, target, Notes::default())
}

/// What is there: path, kind, and content or target or mark.
fn listing(folder: &Path) -> Vec<String> {
    let (mut lines, mut left) = (Vec::new(), vec![folder.to_path_buf()]);
    while let Some(at) = left.pop() {
        for entry in std::fs::read_dir(&at).unwrap() {
            let path = entry.unwrap().path();
            let meta = std::fs::symlink_metadata(&path).unwrap();
            let name = path.strip_prefix(folder).unwrap().display().to_string();
            let kind = meta.file_type();
            lines.push(if kind.is_dir() {
                let mark = if is_opaque(&path) { " opaque" } else { "" };
                left.push(path);
                format!("{name}/{mark}")
            } else if kind.is_symlink() {
                format!("{name} -> {}", std::fs::read_link(&path).unwrap().display())
            } else if kind.is_char_device() {
                format!("{name} device {}", meta.rdev())
            } else if kind.is_fifo() {
                format!("{name} fifo")
            } else {
                format!(
                    "{name} = {}",
                    String::from_utf8_lossy(&std::fs::read(&path).unwrap())
                )
            });
        }
    }
    lines.sort();
    lines
}

fn is_opaque(path: &Path) -> bool {
    let mut mark = [0_u8; 1];
    rustix::fs::lgetxattr(path, "trusted.overlay.opaque", &mut mark).is_ok() && mark == *b"y"
}

fn check(tar: Tar, expect: &[&str]) -> Contents {
    let temp = tempfile::tempdir().unwrap();
    let contents = unpack_into(&tar.end(), temp.path()).unwrap();
    assert_eq!(listing(&temp.path().join("fs")), expect);
    contents
}

fn check_refused(tar: Tar, named: &str, reason: &str) {
    let temp = tempfile::tempdir().unwrap();
    match unpack_into(&tar.end(), temp.path()) {
        Err(Error::Corrupt(why)) => assert!(why.contains(named) && why.contains(reason), "{why}"),
        other => panic!("{named}: {other:?}"),
    }
}

#[test]
fn every_kind_of_entry_is_made() {
    let node = Head {
        flag: b'3',
        name: b"null",
        device: (1, 3),
        ..Head::default()
    };
    let tar = Tar::new()
        .dir("d", 0o750)
        .file("d/f", b"1")
        .symlink("s", "/nowhere")
        .hard_link("h", "/d/f");
    let tar = tar.head(&node).head(&Head {
        name: b"p",
        flag: b'6',
        ..Head::default()
    });
    let contents = check(
        tar,
        &[
            "d/",
            "d/f = 1",
            "h = 1",
            "null device 259",
            "p fifo",
            "s -> /nowhere",
        ],
    );
    // The root and five more: a hard link is no inode of its own.
    assert_eq!((contents.inodes, contents.implicit), (6, vec![vec![]]));
}

#[test]
fn owners_permissions_times_and_attributes_are_kept() {
    let temp = tempfile::tempdir().unwrap();
    let owned = Head {
        name: b"f",
        mode: 0o4751,
        uid: 1000,
        gid: 1001,
        ..Head::default()
    };
    let tar = Tar::new()
        .dir("./", 0o1777)
        .pax(&[
            ("SCHILY.xattr.trusted.overlay.opaque", "y"),
            ("SCHILY.xattr.user.overlay.opaque", "y"),
        ])
        .dir("d/", 0o700)
        .file("d/inner", b"")
        .head(&owned)
        .end();
    unpack_into(&tar, temp.path()).unwrap();
    let meta = |name: &str| std::fs::symlink_metadata(temp.path().join("fs").join(name)).unwrap();
    assert_eq!(
        (meta("f").mode() & 0o7777, meta("f").uid(), meta("f").gid()),
        (0o4751, 1000, 1001)
    );
    assert_eq!(
        (
            meta("d").mode() & 0o7777,
            meta("d").mtime(),
            meta("f").mtime()
        ),
        (0o700, 1000, 1000)
    );
    assert_eq!(meta("").mode() & 0o7777, 0o1777);
    assert!(!is_opaque(&temp.path().join("fs/d")));
}

#[test]
fn later_entries_replace_earlier_ones() {
    check(Tar::new().file("a", b"1").file("a", b"2"), &["a = 2"]);
    check(Tar::new().file("a", b"1").dir("a", 0o755), &["a/"]);
    check(Tar::new().file("a/b", b"1").file("a", b"2"), &["a = 2"]);
    check(
        Tar::new().dir("a", 0o700).file("a/b", b"1").dir("a", 0o755),
        &["a/", "a/b = 1"],
    );
    check(Tar::new().symlink("a", "b").file("a", b"1"), &["a = 1"]);
    check(Tar::new().file("a", b"1").hard_link("a", "a"), &["a = 1"]);
    check(
        Tar::new()
            .file("a", b"1")
            .file("b", b"2")
            .hard_link("b", "a"),
        &["a = 1", "b = 1"],
    );
}

#[test]
fn whiteouts_mean_the_same_in_any_order() {
    check(Tar::new().file(".wh.a", b""), &["a device 0"]);
    check(Tar::new().file(".wh.a", b"").file("a", b"1"), &["a = 1"]);
    check(Tar::new().file("a", b"1").file(".wh.a", b""), &["a = 1"]);
    for tar in [
        Tar::new().file(".wh.a", b"").dir("a", 0o755),
        Tar::new().dir("a", 0o755).file(".wh.a", b""),
        Tar::new().dir("a", 0o755).file("a/.wh..wh..opq", b""),
        Tar::new().file("a/.wh..wh..opq", b"").dir("a", 0o755),
    ] {
        check(tar, &["a/ opaque"]);
    }
    check(
        Tar::new().file(".wh.a", b"").file("a/b", b"1"),
        &["a/ opaque", "a/b = 1"],
    );
    check(
        Tar::new().file("a/b", b"1").file("a/.wh..wh..opq", b""),
        &["a/ opaque", "a/b = 1"],
    );
    check(
        Tar::new()
            .file(".wh..wh.plnk", b"")
            .file(".wh..wh.aufs", b""),
        &[],
    );
    assert!(
        check(
            Tar::new().file(".wh..wh..opq", b"").file("a", b"1"),
            &["a = 1"]
        )
        .opaque
    );
}

#[test]
fn folders_that_are_not_described_are_remembered() {
    let contents = check(
        Tar::new().file("a/b/c", b"1").dir("a", 0o755),
        &["a/", "a/b/", "a/b/c = 1"],
    );
    assert_eq!(contents.implicit, [b"".to_vec(), b"a/b".to_vec()]);
}

#[test]
fn links_within_the_layer_are_followed() {
    let tar = Tar::new()
        .dir("usr/lib", 0o755)
        .symlink("lib", "usr/lib")
        .file("lib/x", b"1");
    check(
        tar,
        &["lib -> usr/lib", "usr/", "usr/lib/", "usr/lib/x = 1"],
    );
}

#[test]
fn entries_that_lead_out_are_refused_by_name() {
    check_refused(Tar::new().file("../x", b""), "../x", "..");
    check_refused(Tar::new().file("a/../../x", b""), "a/../../x", "..");
    check_refused(
        Tar::new().file("/etc/passwd", b""),
        "/etc/passwd",
        "absolute",
    );
    check_refused(
        Tar::new().symlink("e", "/etc").file("e/x", b""),
        "e/x",
        "symbolic link",
    );
    check_refused(
        Tar::new().symlink("e", "../..").file("e/x", b""),
        "e/x",
        "symbolic link",
    );
    check_refused(
        Tar::new().symlink("e", "missing").file("e/x", b""),
        "e/x",
        "symbolic link",
    );
    check_refused(
        Tar::new().symlink("e", "/etc").file("e/.wh.passwd", b""),
        "e/.wh.passwd",
        "symbolic link",
    );
    check_refused(
        Tar::new().symlink("e", "/etc").hard_link("h", "e/passwd"),
        "h",
        "symbolic link",
    );
    check_refused(
        Tar::new()
            .symlink("e", "/proc/self/root")
            .file("e/x/y", b""),
        "e/x/y",
        "symbolic link",
    );
    check_refused(Tar::new().hard_link("h", "../../etc/passwd"), "h", "..");
    check_refused(
        Tar::new().hard_link("h", "etc/passwd"),
        "h",
        "does not have",
    );
    check_refused(
        Tar::new().file(".wh.w", b"").hard_link("h", "w"),
        "h",
        "does not have",
    );
    check_refused(
        Tar::new()
            .file("f", b"")
            .file("f/x", b"")
            .hard_link("h", "f"),
        "h",
        "does not have",
    );
    check_refused(Tar::new().symlink("s", ""), "s", "without a target");
}

#[test]
fn a_link_is_never_followed_by_what_replaces_it() {
    let outside = tempfile::NamedTempFile::new().unwrap();
    let target = String::from_utf8(outside.path().as_os_str().as_bytes().to_vec()).unwrap();
    check(
        Tar::new().symlink("e", &target).file("e", b"new"),
        &["e = new"],
    );
    assert_eq!(std::fs::read(outside.path()).unwrap(), b"");
    assert_eq!(outside.as_file().metadata().unwrap().mode() & 0o777, 0o600);
}

#[test]
fn a_tar_that_is_not_the_promised_one_is_refused() {
    let temp = tempfile::tempdir().unwrap();
    let tar = Tar::new().file("a", b"1").end();
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let check = |promise: Promise, reason: &str| {
        let folder = openat(CWD, temp.path(), flags, Mode::empty()).unwrap();
        let target = Target::Dir {
            folder,
            table: tempfile::tempfile().unwrap(),
            trash: openat(CWD, temp.path(), flags, Mode::empty()).unwrap(),
        };
        let error = build(&tar[..], &promise, target, Notes::default())
            .unwrap_err()
            .to_string();
        assert!(error.contains(reason), "{error}");
    };
    let (right, size) = (Digest::of(&tar), tar.len() as u64);
    let wrong = Digest::of(b"");
    check(
        Promise {
            sent: None,
            diff_id: wrong.clone(),
        },
        "its content has the digest",
    );
    check(
        Promise {
            sent: Some((wrong, size)),
            diff_id: right.clone(),
        },
        "was sent has the digest",
    );
    check(
        Promise {
            sent: Some((right.clone(), size - 1)),
            diff_id: right.clone(),
        },
        "more than the promised",
    );
    check(
        Promise {
            sent: Some((right.clone(), size + 1)),
            diff_id: right,
        },
        "instead of the promised",
    );
}
