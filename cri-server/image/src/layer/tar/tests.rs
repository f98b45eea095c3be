//! The reader against archives of every form, and against broken ones.

use std::io::Read;

use proptest::prelude::*;
use registry_double::{Head, Tar, pax_record};

use super::{Archive, Entry, Kind, MAX_PATH, TarError};

fn read(bytes: &[u8]) -> Result<Vec<(Entry, Vec<u8>)>, TarError> {
    let mut archive = Archive::new(bytes);
    let mut entries = Vec::new();
    while let Some(entry) = archive.next_entry()? {
        let mut content = Vec::new();
        archive.read_to_end(&mut content)?;
        entries.push((entry, content));
    }
    archive.finish()?;
    Ok(entries)
}

fn only(tar: Tar) -> Entry {
    let mut entries = read(&tar.end()).unwrap();
    assert_eq!(entries.len(), 1, "{entries:?}");
    entries.remove(0).0
}

fn check_refused(bytes: &[u8], reason: &str) {
    match read(bytes) {
        Err(TarError::Bad(why)) => assert!(why.contains(reason), "{why}"),
        other => panic!("expected a refusal about {reason:?}: {other:?}"),
    }
}

#[test]
fn plain_entries_are_read() {
    let tar = Tar::new()
        .dir("d/", 0o1777)
        .file("d/f", b"content")
        .symlink("s", "t")
        .hard_link("h", "d/f");
    let entries = read(&tar.end()).unwrap();
    let kinds: Vec<_> = entries.iter().map(|(e, _)| e.kind).collect();
    assert_eq!(
        kinds,
        [Kind::Dir, Kind::File, Kind::Symlink, Kind::HardLink]
    );
    assert_eq!((entries[0].0.mode, entries[1].0.mtime), (0o1777, (1000, 0)));
    assert_eq!(entries[1].1, b"content");
    assert_eq!(
        (&entries[2].0.link[..], &entries[3].0.link[..]),
        (&b"t"[..], &b"d/f"[..])
    );
}

#[test]
fn every_old_form_is_understood() {
    assert_eq!(
        only(Tar::new().head(&Head {
            name: b"old/",
            flag: 0,
            ..Head::default()
        }))
        .kind,
        Kind::Dir
    );
    let device = Head {
        name: b"n",
        flag: b'3',
        device: (5, 1),
        ..Head::default()
    };
    assert_eq!(only(Tar::new().head(&device)).kind, Kind::Char(5, 1));
    assert_eq!(
        only(Tar::new().head(&Head {
            flag: b'6',
            ..device
        }))
        .kind,
        Kind::Fifo
    );
    // A size where none belongs is not content.
    let odd = Head {
        name: b"d/",
        flag: b'5',
        size: 512,
        ..Head::default()
    };
    assert_eq!(
        read(&Tar::new().head(&odd).file("f", b"x").end())
            .unwrap()
            .len(),
        2
    );
}

#[test]
fn a_long_name_cut_off_behind_a_slash_is_that_of_a_file() {
    let tar = Tar::new()
        .extension(b'L', b"folder/with/a/file\0")
        .file("folder/", b"content");
    let entries = read(&tar.end()).unwrap();
    assert_eq!(entries[0].0.kind, Kind::File);
    assert_eq!(entries[0].1, b"content");
}

#[test]
fn long_names_of_gnu_and_pax_win_over_the_header() {
    let long = "x/".repeat(200) + "end";
    let gnu = Tar::new()
        .extension(b'L', format!("{long}\0").as_bytes())
        .file("short", b"1");
    assert_eq!(only(gnu).path, long.as_bytes());
    let link = Tar::new()
        .extension(b'K', format!("{long}\0").as_bytes())
        .symlink("s", "t");
    assert_eq!(only(link).link, long.as_bytes());
    let pax = Tar::new().pax(&[
        ("path", &long),
        ("mtime", "-1.5"),
        ("uid", "70000"),
        ("comment", "="),
    ]);
    let entry = only(pax.file("short", b"1"));
    assert_eq!(
        (entry.path, entry.mtime, entry.uid),
        (long.into_bytes(), (-2, 500_000_000), 70000)
    );
}

#[test]
fn extended_attributes_are_read() {
    let tar = Tar::new().pax(&[
        ("SCHILY.xattr.user.a", "1=2"),
        ("LIBARCHIVE.xattr.user.b", "x"),
    ]);
    assert_eq!(
        only(tar.file("f", b"")).xattrs,
        [(b"user.a".to_vec(), b"1=2".to_vec())]
    );
}

#[test]
fn a_size_of_pax_is_for_the_file_and_for_nothing_between() {
    // The long name in between has its own length; a reader that gave it the other would go astray.
    let head = Head {
        name: b"short",
        size: 0,
        ..Head::default()
    };
    let padded = [&b"12345"[..], &[0; 507]].concat();
    let tar = Tar::new()
        .pax(&[("size", "5")])
        .extension(b'L', b"long\0")
        .head(&head)
        .raw(&padded);
    let entries = read(&tar.file("next", b"").end()).unwrap();
    let names: Vec<_> = entries
        .iter()
        .map(|(e, content)| (&e.path[..], &content[..]))
        .collect();
    assert_eq!(
        names,
        [(&b"long"[..], &b"12345"[..]), (&b"next"[..], &b""[..])]
    );
}

#[test]
fn global_records_are_left_aside() {
    let tar = Tar::new()
        .extension(b'g', pax_record("path", "evil").as_bytes())
        .file("f", b"");
    assert_eq!(only(tar).path, b"f");
}

#[test]
fn an_archive_may_end_without_its_marks() {
    assert_eq!(read(b"").unwrap(), []);
    assert_eq!(read(&Tar::new().file("f", b"1").bytes()).unwrap().len(), 1);
    assert_eq!(
        read(&Tar::new().file("f", b"1").raw(&[0; 512]).bytes())
            .unwrap()
            .len(),
        1
    );
}

#[test]
fn what_is_broken_or_unknown_is_refused() {
    let whole = Tar::new().file("f", &[1; 700]).end();
    check_refused(&whole[..100], "within a header");
    check_refused(&whole[..600], "within");
    let mut damaged = whole.clone();
    damaged[0] ^= 1;
    check_refused(&damaged, "checksum");
    check_refused(&[7; 512], "octal");
    check_refused(
        &Tar::new()
            .head(&Head {
                flag: b'S',
                ..Head::default()
            })
            .end(),
        "sparse",
    );
    check_refused(
        &Tar::new()
            .head(&Head {
                flag: b'V',
                ..Head::default()
            })
            .end(),
        "unknown type",
    );
    check_refused(
        &Tar::new()
            .pax(&[("GNU.sparse.major", "1")])
            .file("f", b"")
            .end(),
        "sparse",
    );
    check_refused(
        &Tar::new().extension(b'x', b"9 a=b").file("f", b"").end(),
        "malformed",
    );
    check_refused(
        &Tar::new().pax(&[("size", "-1")]).file("f", b"").end(),
        "malformed",
    );
    check_refused(
        &Tar::new().pax(&[("path", "a\0b")]).file("f", b"").end(),
        "NUL",
    );
    check_refused(
        &Tar::new()
            .pax(&[("path", &"x".repeat(MAX_PATH + 1))])
            .file("f", b"")
            .end(),
        "longer",
    );
    check_refused(
        &Tar::new().pax(&[("path", "p")]).end(),
        "after an extension header",
    );
    let huge = Head {
        name: b"e",
        flag: b'x',
        size: 1 << 30,
        ..Head::default()
    };
    check_refused(&Tar::new().head(&huge).end(), "extension header of");
    let many = (0..20).fold(Tar::new(), |tar, _| tar.pax(&[("path", "p")]));
    check_refused(&many.file("f", b"").end(), "more than");
}

proptest! {
    #[test]
    fn bytes_of_any_kind_never_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2048)) {
        drop(read(&bytes));
    }

    #[test]
    fn a_spoilt_archive_never_makes_it_panic(at in 0_usize..3000, with in any::<u8>()) {
        let mut bytes = Tar::new().pax(&[("path", "a/b"), ("size", "3")]).file("x", b"abc").symlink("s", "t").end();
        let at = at % bytes.len();
        bytes[at] = with;
        drop(read(&bytes));
    }
}
