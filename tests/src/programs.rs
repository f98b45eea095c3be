//! Programs as image content: the file itself, the libraries that it needs, and its loader.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::image::Layer;
use crate::process;

/// Adds a program and whatever it is linked with.
///
/// `root` is where an unpacked package has its own libraries, or `/` for a program of the machine.
///
/// # Errors
///
/// If a library is missing.
pub fn add(layer: &mut Layer, root: &Path, program: &str, at: &str) -> Result<()> {
    let file = root.join(program.trim_start_matches('/'));
    for (inside, outside) in libraries(root, &file)? {
        layer.file_once(&inside, 0o755, &fs::read(outside)?)?;
    }
    layer.file(
        at,
        0o755,
        &fs::read(&file).with_context(|| format!("reading {program}"))?,
    )
}

/// Paths inside the image of a program's libraries and loader, with the files to take.
fn libraries(root: &Path, program: &Path) -> Result<BTreeMap<String, PathBuf>> {
    let library_path = library_folders(root)?;
    let mut ldd = process::bounded("ldd");
    ldd.env("LD_LIBRARY_PATH", library_path).arg(program);
    let output = process::run(&mut ldd)?;
    if output.code != 0 {
        // Not a dynamic program: it needs nothing.
        return Ok(BTreeMap::new());
    }
    output
        .stdout
        .lines()
        .filter_map(|line| library(line).transpose())
        .collect()
}

/// One line of ldd: `name => path (address)`, `path (address)`, or the kernel's own.
fn library(line: &str) -> Result<Option<(String, PathBuf)>> {
    let words: Vec<&str> = line.split_whitespace().collect();
    match words[..] {
        [name, "=>", "not", "found"] => bail!("library {name} is missing"),
        [name, "=>", path, _] if name.starts_with('/') => {
            Ok(Some((name.to_owned(), PathBuf::from(path))))
        }
        [name, "=>", path, _] => Ok(Some((format!("/lib/{name}"), PathBuf::from(path)))),
        [path, _] if path.starts_with('/') => Ok(Some((path.to_owned(), PathBuf::from(path)))),
        _ => Ok(None),
    }
}

/// Where libraries of an unpacked package lie, joined by colons.
fn library_folders(root: &Path) -> Result<String> {
    let mut folders = Vec::new();
    if root != Path::new("/") {
        for base in ["lib", "usr/lib"] {
            let base = root.join(base);
            for entry in base.read_dir().into_iter().flatten() {
                let path = entry?.path();
                if path.is_dir() {
                    folders.push(path.display().to_string());
                }
            }
        }
    }
    Ok(folders.join(":"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_ldd() {
        let check = |line: &str, expect: Option<(&str, &str)>| {
            let expect = expect.map(|(a, b)| (a.to_owned(), PathBuf::from(b)));
            assert_eq!(library(line).unwrap(), expect, "{line}");
        };
        check("linux-vdso.so.1 (0x00007ffd)", None);
        check(
            "libc.so.6 => /lib/x/libc.so.6 (0x7f)",
            Some(("/lib/libc.so.6", "/lib/x/libc.so.6")),
        );
        check(
            "/lib64/ld.so.2 (0x7f)",
            Some(("/lib64/ld.so.2", "/lib64/ld.so.2")),
        );
        assert!(library("libx.so => not found").is_err());
    }
}
