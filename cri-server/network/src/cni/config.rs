//! CNI's configuration: which network a new pod gets, and what each plugin is told.
//!
//! The first valid file of the folder, in lexicographic order, counts; broken ones are skipped and
//! named. The folder is read anew each time, so a file that appears is seen by the next pod.
//! Source: CNI specification 1.1.0, section 1. Executes nothing.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

/// Versions of the specification that we speak, oldest first.
const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
/// First version with CHECK, and with `prevResult` for DEL.
const FIRST_WITH_CHECK: &str = "0.4.0";
/// Longest file that is read.
const LONGEST_FILE: u64 = 1024 * 1024;
/// Most plugins of one list.
const MOST_PLUGINS: usize = 64;
const ENDINGS: [&str; 3] = ["conf", "conflist", "json"];

/// A network: a list of plugins.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct NetworkList {
    pub(crate) name: String,
    /// One of [`VERSIONS`].
    pub(crate) version: &'static str,
    pub(crate) plugins: Vec<Plugin>,
    disable_check: bool,
    /// All of it, for the record and the cache.
    pub(crate) value: Value,
}

/// One plugin of a list.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Plugin {
    /// Name of its program.
    pub(crate) kind: String,
    conf: Map<String, Value>,
}

/// What a folder holds.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    /// The network of new pods.
    pub(crate) network: Option<NetworkList>,
    /// Files before it that could not be used, each with the reason.
    pub(crate) rejected: Vec<String>,
}

/// Reads the folder; one that is not there is empty.
pub(crate) fn scan(folder: &Path) -> Scan {
    let mut scan = Scan::default();
    let files = match files(folder, &ENDINGS) {
        Ok(files) => files,
        Err(error) => {
            scan.rejected.push(format!("{}: {error}", folder.display()));
            return scan;
        }
    };
    for path in files {
        match load(folder, &path) {
            Ok(network) => {
                scan.network = Some(network);
                break;
            }
            Err(why) => scan.rejected.push(format!("{}: {why}", path.display())),
        }
    }
    scan
}

fn files(folder: &Path, endings: &[&str]) -> std::io::Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(vec![]),
        other => other?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let ending = path.extension().and_then(|it| it.to_str());
        if ending.is_some_and(|it| endings.contains(&it)) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn load(folder: &Path, path: &Path) -> Result<NetworkList, String> {
    let mut list = wrap(read(path)?)?;
    if list.get("loadOnlyInlinedPlugins") != Some(&Value::Bool(true)) {
        append_folder(folder, &mut list)?;
    }
    NetworkList::parse(Value::Object(list))
}

fn read(path: &Path) -> Result<Map<String, Value>, String> {
    let length = std::fs::metadata(path)
        .map_err(|error| error.to_string())?
        .len();
    if length > LONGEST_FILE {
        return Err(format!("is longer than {LONGEST_FILE} bytes"));
    }
    let bytes = std::fs::read(path).map_err(|error| error.to_string())?;
    serde_json::from_slice(&bytes).map_err(|error| format!("is no JSON object: {error}"))
}

/// A single plugin's configuration becomes a list of one.
fn wrap(conf: Map<String, Value>) -> Result<Map<String, Value>, String> {
    if conf.contains_key("plugins") {
        return Ok(conf);
    }
    if !conf.contains_key("type") {
        return Err("has neither plugins nor a type".to_owned());
    }
    let mut list = Map::new();
    for key in ["cniVersion", "cniVersions", "name"] {
        list.extend(conf.get(key).map(|value| (key.to_owned(), value.clone())));
    }
    list.insert("loadOnlyInlinedPlugins".to_owned(), Value::Bool(true));
    list.insert(
        "plugins".to_owned(),
        Value::Array(vec![Value::Object(conf)]),
    );
    Ok(list)
}

/// Appends the plugins of the folder that is named like the network. The list then says that it
/// is complete, so that its undoing never reads that folder again.
fn append_folder(folder: &Path, list: &mut Map<String, Value>) -> Result<(), String> {
    let name = string(list, "name")?;
    check_name("name", &name)?;
    let found = files(&folder.join(&name), &["conf"]).map_err(|error| error.to_string())?;
    let Some(Value::Array(plugins)) = list.get_mut("plugins") else {
        return Err("plugins is no list".to_owned());
    };
    for path in found {
        plugins.push(Value::Object(read(&path)?));
    }
    list.insert("loadOnlyInlinedPlugins".to_owned(), Value::Bool(true));
    Ok(())
}

impl NetworkList {
    /// Takes a whole list apart.
    pub(crate) fn parse(value: Value) -> Result<Self, String> {
        let list = value.as_object().ok_or("is no JSON object")?;
        let name = string(list, "name")?;
        check_name("name", &name)?;
        let version = version(list)?;
        let plugins = match list.get("plugins") {
            Some(Value::Array(plugins)) if plugins.len() <= MOST_PLUGINS => plugins,
            _ => return Err(format!("plugins is no list of at most {MOST_PLUGINS}")),
        };
        let plugins = plugins
            .iter()
            .map(Plugin::parse)
            .collect::<Result<Vec<_>, _>>()?;
        if plugins.is_empty() {
            return Err("plugins is empty".to_owned());
        }
        // Some write it as a string; the specification lets them.
        let disable_check = match list.get("disableCheck") {
            Some(Value::Bool(disabled)) => *disabled,
            Some(Value::String(text)) => text == "true",
            _ => false,
        };
        Ok(Self {
            name,
            version,
            plugins,
            disable_check,
            value,
        })
    }

    /// Whether CHECK may be asked.
    pub(crate) fn checks(&self) -> bool {
        !self.disable_check && self.passes_result_to_del()
    }

    /// Whether DEL gets the cached result.
    pub(crate) fn passes_result_to_del(&self) -> bool {
        rank(self.version) >= rank(FIRST_WITH_CHECK)
    }

    /// What the plugin reads from its standard input.
    pub(crate) fn input(
        &self,
        plugin: &Plugin,
        capabilities: &Map<String, Value>,
        previous: Option<&Value>,
    ) -> Vec<u8> {
        let mut conf = plugin.conf.clone();
        conf.insert("name".to_owned(), self.name.clone().into());
        conf.insert("cniVersion".to_owned(), self.version.into());
        conf.extend(previous.map(|result| ("prevResult".to_owned(), result.clone())));
        let declared: Map<String, Value> = capabilities
            .iter()
            .filter(|(name, _)| plugin.declares(name))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        if !declared.is_empty() {
            conf.insert("runtimeConfig".to_owned(), Value::Object(declared));
        }
        serde_json::to_vec(&conf).expect("JSON values have string keys only")
    }
}

impl Plugin {
    fn parse(value: &Value) -> Result<Self, String> {
        let conf = value
            .as_object()
            .ok_or("a plugin is no JSON object")?
            .clone();
        let kind = string(&conf, "type").map_err(|why| format!("a plugin's {why}"))?;
        check_name("type", &kind)?;
        Ok(Self { kind, conf })
    }

    /// Whether the plugin wants that capability's argument.
    pub(crate) fn declares(&self, capability: &str) -> bool {
        let declared = self
            .conf
            .get("capabilities")
            .and_then(|all| all.get(capability));
        declared == Some(&Value::Bool(true))
    }
}

/// The highest version that both sides know.
fn version(list: &Map<String, Value>) -> Result<&'static str, String> {
    let one = list.get("cniVersion").and_then(Value::as_str);
    let many = list.get("cniVersions").and_then(Value::as_array);
    let offered = one
        .into_iter()
        .chain(many.into_iter().flatten().filter_map(Value::as_str));
    let offered: Vec<&str> = offered.collect();
    let known = VERSIONS
        .into_iter()
        .rev()
        .find(|known| offered.contains(known));
    known.ok_or_else(|| {
        format!(
            "cniVersion {} is none of {}",
            offered.join(", "),
            VERSIONS.join(", ")
        )
    })
}

fn rank(version: &str) -> Option<usize> {
    VERSIONS.iter().position(|known| *known == version)
}

fn string(object: &Map<String, Value>, key: &str) -> Result<String, String> {
    let value = object.get(key).and_then(Value::as_str);
    value
        .map(str::to_owned)
        .ok_or_else(|| format!("{key} is missing or no string"))
}

/// Names become parts of paths.
fn check_name(key: &str, name: &str) -> Result<(), String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let starts = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    if starts && name.chars().all(plain) {
        Ok(())
    } else {
        Err(format!(
            "{key} {name:?} is not made of letters, digits, -, _ and ."
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        folder
    }

    const LIST: &str = r#"{"cniVersion":"1.0.0","name":"net","plugins":[{"type":"bridge"}]}"#;

    #[test]
    fn the_first_valid_file_counts_and_broken_ones_are_named() {
        let folder = folder(&[
            ("00-broken.conflist", "{"),
            ("05-readme.txt", "no configuration"),
            (
                "10-single.conf",
                r#"{"cniVersion":"0.4.0","name":"one","type":"ptp","mtu":9}"#,
            ),
            ("20-list.conflist", LIST),
        ]);
        let found = scan(folder.path());
        let network = found.network.unwrap();
        assert_eq!((network.name.as_str(), network.version), ("one", "0.4.0"));
        assert_eq!(network.plugins[0].conf["mtu"], 9);
        assert_eq!(found.rejected.len(), 1);
        assert!(
            found.rejected[0].contains("00-broken.conflist"),
            "{:?}",
            found.rejected
        );
    }

    #[test]
    fn a_folder_that_is_not_there_is_empty() {
        let found = scan(Path::new("/no/such/folder"));
        assert!(found.network.is_none() && found.rejected.is_empty());
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_the_reason() {
        let check = |text: &str, expect: &str| {
            let folder = folder(&[("a.conflist", text)]);
            let found = scan(folder.path());
            assert!(found.network.is_none(), "{text}");
            assert!(found.rejected[0].contains(expect), "{:?}", found.rejected);
        };
        check("[]", "no JSON object");
        check("{}", "neither plugins nor a type");
        check(r#"{"name":"a","plugins":[]}"#, "cniVersion");
        check(
            r#"{"cniVersion":"1.0.0","plugins":[{"type":"a"}]}"#,
            "name is missing",
        );
        check(
            r#"{"cniVersion":"1.0.0","name":"a","plugins":[]}"#,
            "plugins is empty",
        );
        check(
            r#"{"cniVersion":"1.0.0","name":"a","plugins":7}"#,
            "plugins is no list",
        );
        check(
            r#"{"cniVersion":"1.0.0","name":"a/b","plugins":[{"type":"a"}]}"#,
            "name \"a/b\"",
        );
        check(
            r#"{"cniVersion":"1.0.0","name":"a","plugins":[{"type":"../a"}]}"#,
            "type \"../a\"",
        );
        check(
            r#"{"cniVersion":"1.0.0","name":"a","plugins":[{}]}"#,
            "type is missing",
        );
        check(
            r#"{"cniVersion":"9.0.0","name":"a","plugins":[{"type":"a"}]}"#,
            "9.0.0 is none of",
        );
    }

    #[test]
    fn the_highest_version_both_know_is_spoken() {
        let text = r#"{"cniVersion":"0.4.0","cniVersions":["1.0.0","7.0.0"],"name":"a",
            "plugins":[{"type":"x"}]}"#;
        let network = NetworkList::parse(serde_json::from_str(text).unwrap()).unwrap();
        assert_eq!(network.version, "1.0.0");
    }

    #[test]
    fn plugins_of_the_sibling_folder_are_appended_unless_forbidden() {
        let folder = folder(&[
            ("10.conflist", LIST),
            ("net/20-b.conf", r#"{"type":"b"}"#),
            ("net/10-a.conf", r#"{"type":"a"}"#),
        ]);
        let network = scan(folder.path()).network.unwrap();
        let kinds: Vec<_> = network.plugins.iter().map(|it| it.kind.as_str()).collect();
        assert_eq!(kinds, ["bridge", "a", "b"]);
        assert_eq!(NetworkList::parse(network.value.clone()).unwrap(), network);
    }

    #[test]
    fn a_plugin_is_told_what_it_declared_and_no_more() {
        let text = r#"{"cniVersion":"1.0.0","name":"a","plugins":[
            {"type":"x","own":1,"capabilities":{"portMappings":true,"bandwidth":false}}]}"#;
        let network = NetworkList::parse(serde_json::from_str(text).unwrap()).unwrap();
        let given = serde_json::json!({"portMappings": [1], "bandwidth": 2, "cgroupPath": "/c"});
        let previous = serde_json::json!({"ips": []});
        let input = network.input(
            &network.plugins[0],
            given.as_object().unwrap(),
            Some(&previous),
        );
        let told: Value = serde_json::from_slice(&input).unwrap();
        assert_eq!(
            told["runtimeConfig"],
            serde_json::json!({"portMappings": [1]})
        );
        assert_eq!(told["prevResult"], previous);
        assert_eq!((&told["own"], &told["name"]), (&1.into(), &"a".into()));
        assert_eq!(told["cniVersion"], "1.0.0");
    }
}
