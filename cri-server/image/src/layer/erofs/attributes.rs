//! Extended attributes as the kernel would take them for a file of the `dir` form.
//!
//! Pure. What the kernel checks when an attribute is set has to be checked here, and what it changes
//! has to be changed: an access control list has its own say about the permission bits (acl(5)).

use super::format::Xattr;
use crate::layer::tree::{Wanted, wanted};

/// Size of an access control list without its entries, and of one of these, in bytes.
const ACL_HEADER: usize = 4;
const ACL_ENTRY: usize = 8;
/// Its version (linux/posix_acl_xattr.h).
const ACL_VERSION: u32 = 2;
/// Sizes of file capabilities, by their version (linux/capability.h).
const CAPS_2: usize = 20;
const CAPS_3: usize = 24;

const ACCESS: &[u8] = b"system.posix_acl_access";
const DEFAULT: &[u8] = b"system.posix_acl_default";

/// Which of the attributes are kept, and the permissions that follow from them; or what is wrong.
pub(super) fn kept(
    given: &[(Vec<u8>, Vec<u8>)],
    mode: u32,
    is_folder: bool,
) -> Result<(Vec<Xattr>, u32), String> {
    let mut kept: Vec<Xattr> = Vec::new();
    let mut mode = mode;
    for (name, value) in given {
        if wanted(name) == Wanted::No {
            continue;
        }
        let shown = || String::from_utf8_lossy(name).into_owned();
        let xattr = Xattr::new(name, value)
            .ok_or_else(|| format!("its extended attribute {:?} is too long", shown()))?;
        kept.retain(|other| !other.same_name(&xattr));
        let bad = || format!("its extended attribute {:?} is not a valid one", shown());
        let needed = match &name[..] {
            ACCESS => {
                let acl = Acl::parse(value).ok_or_else(bad)?;
                mode = acl.permissions(mode);
                acl.says_more
            }
            DEFAULT => {
                let acl = Acl::parse(value).ok_or_else(bad)?;
                if !is_folder && !acl.is_empty {
                    return Err(bad());
                }
                !acl.is_empty
            }
            b"security.capability" => are_capabilities(value).then_some(true).ok_or_else(bad)?,
            _ => true,
        };
        if needed {
            kept.push(xattr);
        }
    }
    Ok((kept, mode))
}

fn number(bytes: &[u8]) -> u32 {
    let low = bytes.iter().take(4).rev();
    low.fold(0, |sum, byte| sum << 8 | u32::from(*byte))
}

fn are_capabilities(value: &[u8]) -> bool {
    let version = value.get(..4).map_or(0, number) >> 24;
    matches!((value.len(), version), (CAPS_2, 2) | (CAPS_3, 3))
}

/// What an access control list means for the permissions.
struct Acl {
    is_empty: bool,
    /// It says what permission bits cannot.
    says_more: bool,
    owner: u32,
    /// That of the mask, where there is one.
    group: u32,
    other: u32,
}

impl Acl {
    fn parse(value: &[u8]) -> Option<Self> {
        const OWNER: u32 = 0x01;
        const USER: u32 = 0x02;
        const GROUP: u32 = 0x04;
        const NAMED_GROUP: u32 = 0x08;
        const MASK: u32 = 0x10;
        const OTHER: u32 = 0x20;
        let entries = value.get(ACL_HEADER..)?;
        if number(value) != ACL_VERSION || entries.len() % ACL_ENTRY != 0 {
            return None;
        }
        let mut acl = Self {
            is_empty: entries.is_empty(),
            says_more: false,
            owner: 0,
            group: 0,
            other: 0,
        };
        let (mut seen, mut last) = (0, 0);
        for entry in entries.chunks(ACL_ENTRY) {
            let (tag, permissions) = (number(&entry[..2]), number(&entry[2..4]));
            // They stand in this order, and only those of the named ones may come again.
            let again = tag == last && matches!(tag, USER | NAMED_GROUP);
            if permissions > 7 || (tag <= last && !again) {
                return None;
            }
            match tag {
                OWNER => acl.owner = permissions,
                GROUP => acl.group = permissions,
                MASK => acl.group = permissions,
                OTHER => acl.other = permissions,
                USER | NAMED_GROUP => {}
                _ => return None,
            }
            seen |= tag;
            last = tag;
        }
        let named = seen & (USER | NAMED_GROUP) != 0;
        let whole = seen & (OWNER | GROUP | OTHER) == OWNER | GROUP | OTHER;
        acl.says_more = named || seen & MASK != 0;
        (acl.is_empty || whole && (!named || seen & MASK != 0)).then_some(acl)
    }

    fn permissions(&self, mode: u32) -> u32 {
        if self.is_empty {
            return mode;
        }
        mode & !0o777 | self.owner << 6 | self.group << 3 | self.other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acl(entries: &[(u8, u8)]) -> Vec<u8> {
        let mut bytes = ACL_VERSION.to_le_bytes().to_vec();
        for (tag, permissions) in entries {
            bytes.extend_from_slice(&[*tag, 0, *permissions, 0, 0xe8, 3, 0, 0]);
        }
        bytes
    }

    /// The permissions and whether the list is kept.
    fn check(entries: &[(u8, u8)], expect: Option<(u32, bool)>) {
        let given = [(ACCESS.to_vec(), acl(entries))];
        let found = kept(&given, 0o4600, false).ok();
        let found = found.map(|(xattrs, mode)| (mode, !xattrs.is_empty()));
        assert_eq!(found, expect, "{entries:?}");
    }

    #[test]
    fn lists_decide_about_permissions() {
        check(&[], Some((0o4600, false)));
        check(&[(1, 7), (4, 5), (32, 1)], Some((0o4751, false)));
        check(
            &[(1, 6), (2, 7), (4, 4), (16, 6), (32, 0)],
            Some((0o4660, true)),
        );
        // No mask, wrong order, no other, too many bits, unknown tag.
        check(&[(1, 6), (2, 7), (4, 4), (32, 0)], None);
        check(&[(4, 4), (1, 6), (32, 0)], None);
        check(&[(1, 6), (4, 4)], None);
        check(&[(1, 8), (4, 4), (32, 0)], None);
        check(&[(1, 6), (4, 4), (32, 0), (64, 0)], None);
        let of_a_file = [(DEFAULT.to_vec(), acl(&[(1, 7), (4, 5), (32, 1)]))];
        assert!(kept(&of_a_file, 0, false).is_err());
        assert_eq!(kept(&of_a_file, 0, true).unwrap().0.len(), 1);
    }

    #[test]
    fn the_last_of_a_name_counts_and_strangers_are_left_out() {
        let given = [
            ("user.a", "1"),
            ("trusted.overlay.opaque", "y"),
            ("user.a", "2"),
        ];
        let given = given.map(|(name, value)| (name.into(), value.into()));
        let (xattrs, mode) = kept(&given, 0o755, true).unwrap();
        assert_eq!(
            (xattrs, mode),
            (vec![Xattr::new(b"user.a", b"2").unwrap()], 0o755)
        );
        assert!(kept(&[(b"security.capability".to_vec(), vec![0; 20])], 0, false).is_err());
    }
}
