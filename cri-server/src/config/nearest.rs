//! What somebody may have meant who wrote a key that there is not.

use super::key::Key;

/// How alike two names must be for one to be proposed for the other in the same table (0 to 1,
/// Jaro-Winkler's distance).
const ALIKE: f64 = 0.8;
/// The same in other tables, where chance has more names to choose from.
const VERY_ALIKE: f64 = 0.95;

/// The known name that is most like that of `path`, with its tables, if any is like it at all.
pub(super) fn nearest(keys: &[Key], path: &[String]) -> Option<String> {
    let (name, table) = path.split_last()?;
    let beside = keys
        .iter()
        .filter(|key| key.begins_with(table))
        .filter_map(|key| key.components().nth(table.len()));
    if let Some(own) = most_alike(name, beside, ALIKE) {
        return Some(join(table, own));
    }
    let best = keys
        .iter()
        .filter_map(|key| Some((strsim::jaro_winkler(name, key.components().last()?), key)))
        .filter(|(likeness, _)| *likeness >= VERY_ALIKE)
        .max_by(|one, other| one.0.total_cmp(&other.0));
    best.map(|(_, key)| key.name.replace('*', "<name>"))
}

fn most_alike<'a>(name: &str, known: impl Iterator<Item = &'a str>, least: f64) -> Option<&'a str> {
    known
        .filter(|own| *own != "*")
        .map(|own| (strsim::jaro_winkler(name, own), own))
        .filter(|(likeness, _)| *likeness >= least)
        .max_by(|one, other| one.0.total_cmp(&other.0))
        .map(|(_, own)| own)
}

/// The name of a key with its tables, as it is shown.
pub(super) fn join(table: &[String], name: &str) -> String {
    let parts = table.iter().map(String::as_str).chain([name]);
    parts.collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests {
    use super::super::keys::KEYS;
    use super::*;

    fn check(path: &str, expect: Option<&str>) {
        let path: Vec<String> = path.split('.').map(str::to_owned).collect();
        assert_eq!(nearest(KEYS, &path).as_deref(), expect, "{path:?}");
    }

    #[test]
    fn nearest_names() {
        check("lisen", Some("listen"));
        check("roots", Some("root"));
        check("default-runtime", Some("default_runtime"));
        check("network.bridg", Some("network.bridge"));
        check("netwrk", Some("network"));
        check("runtimes.a.pth", Some("runtimes.a.path"));
        check("bridge", Some("network.bridge"));
        check("log.subnet", Some("network.subnet"));
        check("zzz", None);
        check("", None);
    }
}
