//! Mount options: one table from names to what they change.

use sys::mount::{
    ATIME, MountAttr, NOATIME, NODEV, NODIRATIME, NOEXEC, NOSUID, NOSYMFOLLOW, RDONLY, STRICTATIME,
};

use super::mounts::Propagation;

/// What one option does.
#[derive(Clone, Copy, Debug)]
enum Effect {
    /// Turns attributes of the mount on.
    Set(u64),
    /// Turns attributes of the mount off.
    Clear(u64),
    /// Chooses how access times are kept.
    Atime(u64),
    /// A flag of the filesystem itself, by its name for fsconfig.
    Superblock(&'static str),
    Bind(bool),
    Propagate(Propagation),
    Remount,
    CopyUp,
    /// Accepted without effect.
    Nothing,
}

const fn spread(kind: u64, recursive: bool) -> Effect {
    Effect::Propagate(Propagation { kind, recursive })
}

/// `MS_UNBINDABLE`, `MS_PRIVATE`, `MS_SLAVE`, `MS_SHARED` (linux/mount.h).
pub(super) const UNBINDABLE: u64 = 1 << 17;
pub(super) const PRIVATE: u64 = 1 << 18;
pub(super) const SLAVE: u64 = 1 << 19;
pub(super) const SHARED: u64 = 1 << 20;

/// mount(8) "filesystem-independent mount options", and those that runtime-spec adds.
const TABLE: [(&str, Effect); 42] = [
    ("async", Effect::Superblock("async")),
    ("atime", Effect::Atime(0)),
    ("bind", Effect::Bind(false)),
    ("defaults", Effect::Nothing),
    ("dev", Effect::Clear(NODEV)),
    ("diratime", Effect::Clear(NODIRATIME)),
    ("dirsync", Effect::Superblock("dirsync")),
    ("exec", Effect::Clear(NOEXEC)),
    ("iversion", Effect::Nothing),
    ("lazytime", Effect::Superblock("lazytime")),
    ("loud", Effect::Nothing),
    ("mand", Effect::Superblock("mand")),
    ("noatime", Effect::Atime(NOATIME)),
    ("nodev", Effect::Set(NODEV)),
    ("nodiratime", Effect::Set(NODIRATIME)),
    ("noexec", Effect::Set(NOEXEC)),
    ("noiversion", Effect::Nothing),
    ("nolazytime", Effect::Superblock("nolazytime")),
    ("nomand", Effect::Superblock("nomand")),
    ("norelatime", Effect::Nothing),
    ("nostrictatime", Effect::Nothing),
    ("nosuid", Effect::Set(NOSUID)),
    ("nosymfollow", Effect::Set(NOSYMFOLLOW)),
    ("private", spread(PRIVATE, false)),
    ("rbind", Effect::Bind(true)),
    ("relatime", Effect::Atime(0)),
    ("remount", Effect::Remount),
    ("ro", Effect::Set(RDONLY)),
    ("rprivate", spread(PRIVATE, true)),
    ("rshared", spread(SHARED, true)),
    ("rslave", spread(SLAVE, true)),
    ("runbindable", spread(UNBINDABLE, true)),
    ("rw", Effect::Clear(RDONLY)),
    ("shared", spread(SHARED, false)),
    ("silent", Effect::Nothing),
    ("slave", spread(SLAVE, false)),
    ("strictatime", Effect::Atime(STRICTATIME)),
    ("suid", Effect::Clear(NOSUID)),
    ("symfollow", Effect::Clear(NOSYMFOLLOW)),
    ("sync", Effect::Superblock("sync")),
    ("tmpcopyup", Effect::CopyUp),
    ("unbindable", spread(UNBINDABLE, false)),
];

/// Attributes of a mount and of all mounts below it.
const RECURSIVE: [(&str, Effect); 18] = [
    ("rro", Effect::Set(RDONLY)),
    ("rrw", Effect::Clear(RDONLY)),
    ("rnosuid", Effect::Set(NOSUID)),
    ("rsuid", Effect::Clear(NOSUID)),
    ("rnodev", Effect::Set(NODEV)),
    ("rdev", Effect::Clear(NODEV)),
    ("rnoexec", Effect::Set(NOEXEC)),
    ("rexec", Effect::Clear(NOEXEC)),
    ("rnodiratime", Effect::Set(NODIRATIME)),
    ("rdiratime", Effect::Clear(NODIRATIME)),
    ("rrelatime", Effect::Atime(0)),
    ("rnorelatime", Effect::Nothing),
    ("ratime", Effect::Atime(0)),
    ("rnoatime", Effect::Atime(NOATIME)),
    ("rstrictatime", Effect::Atime(STRICTATIME)),
    ("rnostrictatime", Effect::Nothing),
    ("rnosymfollow", Effect::Set(NOSYMFOLLOW)),
    ("rsymfollow", Effect::Clear(NOSYMFOLLOW)),
];

/// Names for `features`.
pub(crate) fn names() -> Vec<&'static str> {
    let both = TABLE.iter().chain(&RECURSIVE).map(|row| row.0);
    both.chain(["idmap", "ridmap"]).collect()
}

/// Options of one mount, sorted by what they are for.
#[derive(Debug, Default, Eq, PartialEq)]
pub(crate) struct Options<'a> {
    pub(crate) attr: MountAttr,
    pub(crate) recursive_attr: MountAttr,
    pub(crate) propagation: Vec<Propagation>,
    /// `Some(true)`: with the mounts below the source.
    pub(crate) bind: Option<bool>,
    pub(crate) remount: bool,
    pub(crate) copy_up: bool,
    /// Ids are mapped: `idmap`, or `ridmap` with the mounts below.
    pub(crate) map_ids: Option<bool>,
    /// For the filesystem: a flag, or a key with its value.
    pub(crate) data: Vec<(&'a str, Option<&'a str>)>,
}

impl<'a> Options<'a> {
    /// Sorts options; later ones win over earlier ones, as in mount(8).
    pub(crate) fn parse(given: impl Iterator<Item = &'a str>) -> Options<'a> {
        let mut options = Options::default();
        for name in given
            .flat_map(|entry| entry.split(','))
            .filter(|name| !name.is_empty())
        {
            options.add(name);
        }
        options
    }

    fn add(&mut self, name: &'a str) {
        if let Some((_, effect)) = RECURSIVE.iter().find(|row| row.0 == name) {
            return change(&mut self.recursive_attr, *effect);
        }
        match TABLE.iter().find(|row| row.0 == name).map(|row| row.1) {
            Some(Effect::Bind(recursive)) => self.bind = Some(recursive),
            Some(Effect::Propagate(propagation)) => self.propagation.push(propagation),
            Some(Effect::Superblock(flag)) => self.data.push((flag, None)),
            Some(Effect::Remount) => self.remount = true,
            Some(Effect::CopyUp) => self.copy_up = true,
            Some(effect) => change(&mut self.attr, effect),
            None => self.add_other(name),
        }
    }

    fn add_other(&mut self, name: &'a str) {
        match name {
            "idmap" => self.map_ids = Some(false),
            "ridmap" => self.map_ids = Some(true),
            _ => self.data.push(match name.split_once('=') {
                Some((key, value)) => (key, Some(value)),
                None => (name, None),
            }),
        }
    }
}

fn change(attr: &mut MountAttr, effect: Effect) {
    match effect {
        Effect::Set(bits) => {
            attr.set |= bits;
            attr.clear &= !bits;
        }
        Effect::Clear(bits) => {
            attr.clear |= bits;
            attr.set &= !bits;
        }
        Effect::Atime(value) => {
            attr.set = attr.set & !ATIME | value;
            attr.clear |= ATIME;
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attr(set: u64, clear: u64) -> MountAttr {
        MountAttr {
            set,
            clear,
            propagation: 0,
        }
    }

    fn check(given: &[&str], expect: &Options<'_>) {
        assert_eq!(&Options::parse(given.iter().copied()), expect, "{given:?}");
    }

    #[test]
    fn later_options_win() {
        check(
            &["ro", "rw"],
            &Options {
                attr: attr(0, RDONLY),
                ..Options::default()
            },
        );
        check(
            &["rw,ro", "noatime"],
            &Options {
                attr: attr(RDONLY | NOATIME, ATIME),
                ..Options::default()
            },
        );
    }

    #[test]
    fn what_is_unknown_is_for_the_filesystem() {
        let data = vec![("mode", Some("755")), ("newinstance", None)];
        check(
            &["mode=755", "newinstance"],
            &Options {
                data,
                ..Options::default()
            },
        );
    }

    #[test]
    fn recursive_ones_are_kept_apart() {
        let expect = Options {
            bind: Some(true),
            recursive_attr: attr(RDONLY | NOEXEC, 0),
            propagation: vec![Propagation {
                kind: SLAVE,
                recursive: true,
            }],
            ..Options::default()
        };
        check(&["rbind", "rro", "rslave", "rnoexec"], &expect);
    }

    #[test]
    fn no_name_is_there_twice() {
        let mut names = names();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
