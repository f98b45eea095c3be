//! Names of systemd's units, and where their groups lie (systemd.unit(5), systemd.slice(5)): pure.

use std::path::PathBuf;

use crate::Error;

/// The longest name that systemd takes (`UNIT_NAME_MAX`).
const MAX_NAME: usize = 255;

/// A scope or slice: its name and the slice that it lies in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Names {
    pub(crate) slice: String,
    pub(crate) unit: String,
}

impl Names {
    /// Reads `slice:prefix:name`. Without a slice it is `default_slice`; without a prefix the unit
    /// bears the name alone; a name that ends in `.slice` is a slice itself.
    pub(crate) fn parse(path: &str, default_slice: &str) -> Result<Self, Error> {
        let bad = |reason| Error::BadPath(path.to_owned(), reason);
        let parts: Vec<&str> = path.split(':').collect();
        let [slice, prefix, name] = parts[..] else {
            return Err(bad("for systemd it must have the form slice:prefix:name"));
        };
        if name.is_empty() {
            return Err(bad("it names no unit"));
        }
        let unit = match prefix {
            _ if is_slice(name) => name.to_owned(),
            "" => format!("{name}.scope"),
            prefix => format!("{prefix}-{name}.scope"),
        };
        let slice = if slice.is_empty() {
            default_slice
        } else {
            slice
        };
        if !is_unit_name(&unit) {
            return Err(bad("the unit's name is none that systemd takes"));
        }
        let names = Self {
            slice: slice.to_owned(),
            unit,
        };
        names.path().map(|_valid| names)
    }

    pub(crate) fn is_slice(&self) -> bool {
        is_slice(&self.unit)
    }

    /// The group's path below the manager's own.
    pub(crate) fn path(&self) -> Result<PathBuf, Error> {
        // A slice's name says what it lies in.
        if self.is_slice() {
            return slice_path(&self.unit);
        }
        Ok(slice_path(&self.slice)?.join(&self.unit))
    }
}

pub(crate) fn is_slice(unit: &str) -> bool {
    unit.ends_with(".slice")
}

fn is_unit_name(name: &str) -> bool {
    let allowed = |letter: char| letter.is_ascii_alphanumeric() || ":-_.\\@".contains(letter);
    name.len() <= MAX_NAME && name.chars().all(allowed)
}

/// `a-b.slice` is `a.slice/a-b.slice`; `-.slice` is the root.
fn slice_path(slice: &str) -> Result<PathBuf, Error> {
    let bad = |reason| Err(Error::BadPath(slice.to_owned(), reason));
    let Some(stem) = slice.strip_suffix(".slice").filter(|stem| !stem.is_empty()) else {
        return bad("a slice's name ends in .slice");
    };
    if stem == "-" {
        return Ok(PathBuf::new());
    }
    if !is_unit_name(slice) {
        return bad("the slice's name is none that systemd takes");
    }
    let mut path = PathBuf::new();
    let mut name = String::new();
    for part in stem.split('-') {
        if part.is_empty() {
            return bad("a slice's name has a name on each side of a dash");
        }
        if !name.is_empty() {
            name.push('-');
        }
        name.push_str(part);
        path.push(format!("{name}.slice"));
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(path: &str, unit: &str, expect: &str) {
        let names = Names::parse(path, "system.slice").unwrap();
        assert_eq!(names.unit, unit, "{path}");
        assert_eq!(names.path().unwrap().to_str().unwrap(), expect, "{path}");
    }

    #[test]
    fn paths() {
        check(
            "system.slice:docker:ab",
            "docker-ab.scope",
            "system.slice/docker-ab.scope",
        );
        check(":cri:ab", "cri-ab.scope", "system.slice/cri-ab.scope");
        check("system.slice::ab", "ab.scope", "system.slice/ab.scope");
        check(
            "kubepods-burstable-pod1_2.slice:crio:x",
            "crio-x.scope",
            "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1_2.slice/crio-x.scope",
        );
        check("-.slice:p:n", "p-n.scope", "p-n.scope");
        check("a.slice:p:a-b.slice", "a-b.slice", "a.slice/a-b.slice");
    }

    #[test]
    fn refusals() {
        for path in [
            "/a/b",
            "a:b",
            "a.slice:b:c:d",
            "a.slice:b:",
            "a:b:c",
            ".slice:b:c",
            "a--b.slice:p:n",
            "-a.slice:p:n",
            "a/b.slice:p:n",
            "a.slice:p:../n",
            "a.slice:p:n\0",
        ] {
            let parsed = Names::parse(path, "system.slice");
            assert!(matches!(parsed, Err(Error::BadPath(..))), "{path:?}");
        }
        let long = format!("a.slice:p:{}", "x".repeat(300));
        assert!(Names::parse(&long, "").is_err());
    }
}
