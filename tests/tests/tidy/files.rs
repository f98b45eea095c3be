//! What files may and may not hold.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Names that say nothing of what is inside.
const NAMELESS: [&str; 7] = [
    "common", "core", "util", "utils", "helpers", "misc", "manager",
];

/// Every file of the checkout, as paths from its top.
fn files() -> Vec<PathBuf> {
    let top = tests::checkout();
    let mut found = Vec::new();
    let mut folders = vec![top.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap().flatten() {
            let path = entry.path();
            let kind = entry.file_type().unwrap();
            if kind.is_dir() && !["target", ".git"].contains(&&*entry.file_name().to_string_lossy())
            {
                folders.push(path);
            } else if kind.is_file() {
                found.push(path.strip_prefix(&top).unwrap().to_owned());
            }
        }
    }
    found
}

/// Rust sources with their text.
fn sources() -> impl Iterator<Item = (PathBuf, String)> {
    let rust = files()
        .into_iter()
        .filter(|path| path.extension().is_some_and(|end| end == "rs"));
    rust.map(|path| {
        let text = fs::read_to_string(tests::checkout().join(&path)).unwrap();
        (path, text)
    })
}

/// Fails with the list of what breaks a rule.
fn none(rule: &str, broken: &[String]) {
    assert!(broken.is_empty(), "{rule}:\n{}", broken.join("\n"));
}

/// Lines of code that hold one of some texts; comments do not count.
fn lines_with(path: &Path, text: &str, wanted: &[String]) -> Vec<String> {
    let code = |line: &&str| !line.trim_start().starts_with("//");
    let lines = text.lines().enumerate().filter(|(_, line)| code(line));
    let hits = lines.filter(|(_, line)| wanted.iter().any(|text| line.contains(text)));
    hits.map(|(number, line)| format!("{}:{}: {line}", path.display(), number + 1))
        .collect()
}

#[test]
fn unsafe_code_lives_in_one_crate() {
    let wanted: Vec<String> = ["{", "fn", "impl", "extern", "_code"]
        .iter()
        .map(|next| {
            if *next == "_code" {
                "(unsafe_code".to_owned()
            } else {
                format!("unsafe {next}")
            }
        })
        .collect();
    let outside = sources().filter(|(path, _)| {
        !path.starts_with("runtime/sys") && !path.starts_with("tests/tests/tidy")
    });
    let broken: Vec<String> = outside
        .flat_map(|(p, text)| lines_with(&p, &text, &wanted))
        .collect();
    none("unsafe outside runtime/sys", &broken);
}

#[test]
fn no_test_is_ignored() {
    let wanted = [["#[", "ignore"].concat()];
    let broken: Vec<String> = sources()
        .flat_map(|(path, text)| lines_with(&path, &text, &wanted))
        .collect();
    none("ignored tests", &broken);
}

#[test]
fn every_module_says_what_it_is() {
    let broken: Vec<String> = sources()
        .filter(|(_, text)| !text.starts_with("//!"))
        .map(|(path, _)| path.display().to_string())
        .collect();
    none("modules without a first word", &broken);
}

#[test]
fn no_module_is_nameless() {
    let named = |path: &PathBuf| {
        path.components().any(|part| {
            let name = Path::new(part.as_os_str()).file_stem().unwrap_or_default();
            NAMELESS.iter().any(|nameless| name == *nameless)
        })
    };
    let broken: Vec<String> = sources()
        .map(|(path, _)| path)
        .filter(named)
        .map(|p| p.display().to_string())
        .collect();
    none("modules named for nothing", &broken);
}

#[test]
fn scripts_can_be_executed() {
    let scripts = files()
        .into_iter()
        .filter(|path| path.starts_with("hack") || path.starts_with(".ci"));
    let broken: Vec<String> = scripts
        .filter(|path| {
            let file = tests::checkout().join(path);
            let says = fs::read(&file).unwrap().starts_with(b"#!");
            says != (fs::metadata(&file).unwrap().permissions().mode() & 0o111 != 0)
        })
        .map(|path| path.display().to_string())
        .collect();
    none(
        "a first line #! and the right to be executed go together",
        &broken,
    );
}

#[test]
fn the_map_shows_every_crate() {
    let map = fs::read_to_string(tests::checkout().join("ARCHITECTURE.md")).unwrap_or_default();
    let manifests = files()
        .into_iter()
        .filter(|path| path.ends_with("Cargo.toml"));
    let rooms = manifests.filter_map(|path| Some(path.parent()?.display().to_string()));
    let broken: Vec<String> = rooms
        .filter(|room| !room.is_empty() && !map.contains(room.as_str()))
        .collect();
    none("crates that ARCHITECTURE.md does not name", &broken);
}

/// What fuzzing finds has a hash for a name, and belongs into `target`.
#[test]
fn seeds_of_fuzzing_are_chosen_by_hand() {
    let is_hash = |name: &str| name.len() == 40 && name.bytes().all(|b| b.is_ascii_hexdigit());
    let seeds = files()
        .into_iter()
        .filter(|path| path.starts_with("fuzz/corpus"));
    let broken: Vec<String> = seeds
        .filter(|path| is_hash(&path.file_name().unwrap_or_default().to_string_lossy()))
        .map(|path| path.display().to_string())
        .collect();
    none("seeds without a name", &broken);
}
