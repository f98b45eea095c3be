//! Where an entry of a layer goes: its name, checked and cleaned.
//!
//! Pure. A name is relative to the layer's root; `.` and repeated slashes mean nothing; `..` and
//! absolute names are refused, since no builder needs them and tricks do. Names that start with
//! `.wh.` are marks (image-spec, layer.md, "Whiteouts").

use super::tar::MAX_PATH;

/// Longest component, in bytes (`NAME_MAX`).
const MAX_COMPONENT: usize = 255;

/// What an entry's name asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// The root of the layer.
    Root,
    /// Something in a folder.
    In(Spot),
    /// Hides what layers below have here.
    Whiteout(Spot),
    /// Hides all that layers below have in this folder; empty for the root.
    Opaque(Vec<u8>),
    /// A mark of a file system that is not used here.
    Ignored,
}

/// A folder, relative to the root and empty for it, and a name in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Spot {
    /// The folder.
    pub(crate) parent: Vec<u8>,
    /// The name.
    pub(crate) name: Vec<u8>,
}

impl Spot {
    /// Both, as one path.
    pub(crate) fn path(&self) -> Vec<u8> {
        if self.parent.is_empty() {
            return self.name.clone();
        }
        [&self.parent[..], &self.name[..]].join(&b'/')
    }
}

/// Reads the name of an entry; says what is wrong with it.
pub(crate) fn place(path: &[u8]) -> Result<Place, String> {
    if path.starts_with(b"/") && path.iter().any(|b| *b != b'/') {
        return Err("the name is absolute".into());
    }
    let Some(spot) = clean(path)? else {
        return Ok(Place::Root);
    };
    if spot
        .parent
        .split(|b| *b == b'/')
        .any(|c| c.starts_with(b".wh."))
    {
        return Err("a folder's name starts with .wh.".into());
    }
    Ok(match spot.name.strip_prefix(b".wh.") {
        None => Place::In(spot),
        Some(b".wh..opq") => Place::Opaque(spot.parent),
        Some(rest) if rest.starts_with(b".wh.") => Place::Ignored,
        Some(b"" | b"." | b"..") => return Err("a whiteout without a name".into()),
        Some(hidden) => Place::Whiteout(Spot {
            name: hidden.to_vec(),
            parent: spot.parent,
        }),
    })
}

/// Reads the target of a hard link, which is the name of another entry. Unlike a name it may start
/// with a slash: some builders write it so, and it means the same.
pub(crate) fn link_target(path: &[u8]) -> Result<Spot, String> {
    clean(path)?.ok_or_else(|| "a hard link to the root".into())
}

fn clean(path: &[u8]) -> Result<Option<Spot>, String> {
    let mut components = Vec::new();
    for component in path.split(|b| *b == b'/') {
        match component {
            b"" | b"." => {}
            b".." => return Err("the name holds \"..\"".into()),
            long if long.len() > MAX_COMPONENT => {
                return Err(format!("a component is longer than {MAX_COMPONENT} bytes"));
            }
            fine => components.push(fine),
        }
    }
    if path.is_empty() {
        return Err("the name is empty".into());
    }
    if path.len() > MAX_PATH {
        return Err(format!("the name is longer than {MAX_PATH} bytes"));
    }
    let Some(name) = components.pop() else {
        return Ok(None);
    };
    Ok(Some(Spot {
        parent: components.join(&b'/'),
        name: name.to_vec(),
    }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn spot(parent: &str, name: &str) -> Spot {
        Spot {
            parent: parent.into(),
            name: name.into(),
        }
    }

    #[test]
    fn names_are_cleaned() {
        let check =
            |path: &str, expect: Place| assert_eq!(place(path.as_bytes()), Ok(expect), "{path}");
        check("./", Place::Root);
        check("/", Place::Root);
        check("a", Place::In(spot("", "a")));
        check("./a//b/./c/", Place::In(spot("a/b", "c")));
        check("a/.wh.b", Place::Whiteout(spot("a", "b")));
        check(".wh..wh..opq", Place::Opaque(vec![]));
        check("a/b/.wh..wh..opq", Place::Opaque(b"a/b".to_vec()));
        check(".wh..wh.plnk", Place::Ignored);
    }

    #[test]
    fn tricks_are_refused() {
        let long = "x".repeat(256);
        for bad in [
            "",
            "..",
            "a/../b",
            "../a",
            "/etc/passwd",
            "//a",
            ".wh.",
            ".wh...",
            "a/.wh.b/c",
            &long,
        ] {
            assert!(place(bad.as_bytes()).is_err(), "{bad}");
        }
        assert_eq!(link_target(b"/a/b"), Ok(spot("a", "b")));
        assert!(link_target(b"../a").is_err());
        assert!(link_target(b"./").is_err());
    }

    proptest! {
        #[test]
        fn no_place_ever_leaves_the_root(path in proptest::collection::vec(prop_oneof![
            Just(b'.'), Just(b'/'), Just(b'a'), Just(b'w'), Just(b'h')], 0..40)) {
            if let Ok(Place::In(spot) | Place::Whiteout(spot)) = place(&path) {
                let path = spot.path();
                prop_assert!(!path.starts_with(b"/"));
                prop_assert!(path.split(|b| *b == b'/').all(|c| !matches!(c, b"" | b"." | b"..")));
            }
        }
    }
}
