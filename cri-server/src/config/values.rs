//! The values of all keys: what files and flags say, with where they say it, over the defaults.
//!
//! A value here is of its key's kind. Whether values make sense together is not decided here.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::key::{Applies, Default, Key, Kind, seconds, size};
use super::keys::KEYS;

/// What a key may hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    Text(String),
    Texts(Vec<String>),
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Nobody has set it.
    Default,
    /// A line of a file, from 1.
    File { path: PathBuf, line: usize },
    /// A flag of the command line, with its dashes.
    Flag(&'static str),
}

/// The values that somebody has set; the rest is as [`KEYS`] has it.
#[derive(Clone, Debug, std::default::Default)]
pub(crate) struct Values {
    set: BTreeMap<String, (Value, Origin)>,
    /// Tables whose names the operator chose, and where: `runtimes.runc`.
    pub(super) named: BTreeMap<String, Origin>,
    /// Keys that were asked for: a key that nobody asks for is not to be in the table.
    #[cfg(test)]
    pub(super) asked: std::sync::Arc<std::sync::Mutex<BTreeSet<&'static str>>>,
}

/// A key as it is shown: its name with the names that the operator chose.
#[derive(Debug)]
pub(crate) struct Shown<'a> {
    pub(crate) name: String,
    pub(crate) key: &'static Key,
    pub(crate) value: Option<Value>,
    pub(crate) origin: &'a Origin,
}

impl Values {
    /// Sets a value over what is there.
    pub(super) fn set(&mut self, name: String, value: Value, origin: Origin) {
        self.set.insert(name, (value, origin));
    }

    /// The string of a key.
    pub(super) fn text(&self, name: &'static str) -> Option<String> {
        match self.value(name) {
            Some(Value::Text(text)) => Some(text),
            _ => None,
        }
    }

    /// The string of a key that has a default.
    pub(super) fn fixed(&self, name: &'static str) -> String {
        self.text(name).expect("the key has a string for a default")
    }

    /// The path of a key that has a default.
    pub(super) fn path(&self, name: &'static str) -> PathBuf {
        self.fixed(name).into()
    }

    /// The path of a key that may be absent.
    pub(super) fn optional_path(&self, name: &'static str) -> Option<PathBuf> {
        self.text(name).map(PathBuf::from)
    }

    /// The strings of a key; none where there is none.
    pub(super) fn texts(&self, name: &'static str) -> Vec<String> {
        match self.value(name) {
            Some(Value::Texts(texts)) => texts,
            _ => Vec::new(),
        }
    }

    /// The paths of a key; none where there is none.
    pub(super) fn paths(&self, name: &'static str) -> Vec<PathBuf> {
        self.texts(name).into_iter().map(PathBuf::from).collect()
    }

    /// The number of bytes of a key.
    pub(super) fn size(&self, name: &'static str) -> Option<u64> {
        let text = self.text(name)?;
        let Kind::Size(zero) = self.key(name).kind else {
            unreachable!("{name} is a size in the table");
        };
        Some(size(&text, zero).expect("it was looked at when it was set"))
    }

    /// The time of a key that has a default.
    pub(super) fn time(&self, name: &'static str) -> Duration {
        let text = self.fixed(name);
        let Kind::Seconds(most) = self.key(name).kind else {
            unreachable!("{name} is a time in the table");
        };
        Duration::from_secs(seconds(&text, most).expect("it was looked at when it was set"))
    }

    /// The strings of a key with `*` in its name, by the name that stands there.
    pub(super) fn by_name(&self, name: &'static str) -> BTreeMap<String, String> {
        let key = self.key(name);
        let (before, after) = key
            .name
            .split_once('*')
            .expect("the key has a * in its name");
        let texts = self.set.iter().filter_map(|(name, (value, _))| {
            let chosen = name.strip_prefix(before)?.strip_suffix(after)?;
            match value {
                Value::Text(text) => Some((chosen.to_owned(), text.clone())),
                Value::Texts(_) => None,
            }
        });
        texts.collect()
    }

    /// Whether anybody has set a value.
    pub(super) fn is_set(&self, name: &str) -> bool {
        self.set.contains_key(name)
    }

    /// All keys with their values, those that the operator named included.
    pub(crate) fn shown(&self) -> Vec<Shown<'_>> {
        KEYS.iter().flat_map(|key| self.shown_of(key)).collect()
    }

    fn shown_of(&self, key: &'static Key) -> Vec<Shown<'_>> {
        let Some((before, after)) = key.name.split_once('*') else {
            let set = self.set.get(key.name);
            return vec![Shown {
                name: key.name.to_owned(),
                key,
                value: set
                    .map(|(value, _)| value.clone())
                    .or_else(|| key.default()),
                origin: set.map_or(&Origin::Default, |(_, origin)| origin),
            }];
        };
        let chosen = |name: &str| {
            name.strip_prefix(before)
                .and_then(|rest| rest.strip_suffix(after))
                .is_some()
        };
        let set = self.set.iter().filter(|(name, _)| chosen(name));
        let shown = set.map(|(name, (value, origin))| Shown {
            name: name.clone(),
            key,
            value: Some(value.clone()),
            origin,
        });
        shown.collect()
    }

    /// The keys whose values differ in `other`, with when a change of them takes effect.
    pub(crate) fn differing(&self, other: &Self) -> Vec<(String, Applies)> {
        let values = |values: &Self| -> BTreeMap<String, (Option<Value>, Applies)> {
            let shown = values.shown().into_iter();
            shown
                .map(|shown| (shown.name, (shown.value, shown.key.applies)))
                .collect()
        };
        let (own, others) = (values(self), values(other));
        let names: BTreeSet<&String> = own.keys().chain(others.keys()).collect();
        let differs = |name: &&&String| {
            let value = |values: &BTreeMap<String, (Option<Value>, Applies)>| {
                values.get(**name).and_then(|(value, _)| value.clone())
            };
            value(&own) != value(&others)
        };
        let applies = |name: &String| own.get(name).or_else(|| others.get(name)).map(|it| it.1);
        names
            .iter()
            .filter(differs)
            .filter_map(|name| Some(((*name).clone(), applies(name)?)))
            .collect()
    }

    /// Takes over from `other` what a reload changes; the rest stays what the daemon started with.
    pub(crate) fn take_reloadable(&mut self, other: Self) {
        let at_reload = |name: &str| {
            let path: Vec<String> = name.split('.').map(str::to_owned).collect();
            let mut keys = KEYS.iter().filter(|key| key.applies == Applies::AtReload);
            keys.any(|key| key.is_at(&path))
        };
        self.set.retain(|name, _| !at_reload(name));
        let others = other.set.into_iter();
        self.set.extend(others.filter(|(name, _)| at_reload(name)));
    }

    fn value(&self, name: &'static str) -> Option<Value> {
        let key = self.key(name);
        let set = self.set.get(name).map(|(value, _)| value.clone());
        set.or_else(|| key.default())
    }

    fn key(&self, name: &'static str) -> &'static Key {
        #[cfg(test)]
        self.asked
            .lock()
            .expect("no test panics with it")
            .insert(name);
        KEYS.iter()
            .find(|key| key.name == name)
            .expect("a key that is read is in the table")
    }
}

impl Key {
    /// Its value when nobody sets it.
    pub(crate) fn default(&self) -> Option<Value> {
        match self.default {
            Default::Nothing(_) | Default::Required => None,
            Default::Text(text) => Some(Value::Text(text.into())),
            Default::Texts(texts) => {
                let texts = texts.iter().map(|&text| text.to_owned());
                Some(Value::Texts(texts.collect()))
            }
        }
    }
}

/// As in a TOML file.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => quoted(text).fmt(f),
            Self::Texts(texts) => {
                let texts: Vec<String> = texts.iter().map(|text| quoted(text)).collect();
                write!(f, "[{}]", texts.join(", "))
            }
        }
    }
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Flag(flag) => f.write_str(flag),
        }
    }
}
