//! What containerd and CRI-O were told of plugins (NRI): the same things under two sets of names.

use crate::Moved;
use crate::tree::Tree;

/// The default socket of all engines: named, it would have to be free, which it is not as long as the
/// old engine runs.
const USUAL_SOCKET: &str = "/var/run/nri/nri.sock";
/// Longest time that our keys take, seconds.
const LONGEST: u64 = 600;

/// The names of an engine.
pub(crate) struct Names {
    /// The table, for a person.
    pub(crate) table: &'static str,
    /// Whether plugins take part, and what says that they do.
    pub(crate) switch: (&'static str, bool),
    pub(crate) socket: &'static str,
    pub(crate) plugin_path: &'static str,
    pub(crate) plugin_config_path: &'static str,
    pub(crate) registration_timeout: &'static str,
    pub(crate) request_timeout: &'static str,
    pub(crate) disable_connections: &'static str,
    /// What stands before the names of the table `default_validator`.
    pub(crate) validator_prefix: &'static str,
    pub(crate) validator_enable: &'static str,
}

/// containerd's (`internal/nri/config.go`).
pub(crate) const CONTAINERD: Names = Names {
    table: "plugins.\"io.containerd.nri.v1.nri\"",
    switch: ("disable", false),
    socket: "socket_path",
    plugin_path: "plugin_path",
    plugin_config_path: "plugin_config_path",
    registration_timeout: "plugin_registration_timeout",
    request_timeout: "plugin_request_timeout",
    disable_connections: "disable_connections",
    validator_prefix: "",
    validator_enable: "enable",
};

/// CRI-O's (`internal/config/nri/nri.go`).
pub(crate) const CRIO: Names = Names {
    table: "crio.nri",
    switch: ("enable_nri", true),
    socket: "nri_listen",
    plugin_path: "nri_plugin_dir",
    plugin_config_path: "nri_plugin_config_dir",
    registration_timeout: "nri_plugin_registration_timeout",
    request_timeout: "nri_plugin_request_timeout",
    disable_connections: "nri_disable_connections",
    validator_prefix: "nri_validator_",
    validator_enable: "nri_enable_default_validator",
};

/// What the validator may refuse: their name, ours.
const REFUSED: [(&str, &str); 6] = [
    ("reject_oci_hook_adjustment", "hooks"),
    ("reject_namespace_adjustment", "namespaces"),
    ("reject_sysctl_adjustment", "sysctls"),
    (
        "reject_runtime_default_seccomp_adjustment",
        "seccomp-runtime-default",
    ),
    ("reject_unconfined_seccomp_adjustment", "seccomp-unconfined"),
    ("reject_custom_seccomp_adjustment", "seccomp-localhost"),
];

/// Moves a table of theirs to ours.
pub(crate) fn move_over(mut tree: Tree, names: &Names, moved: &mut Moved) {
    let from = |key: &str| format!("{}.{key}", names.table);
    let (switch, on) = names.switch;
    if tree.truth(&[switch]).is_some_and(|said| said != on) {
        moved.set(&["nri", "enable"], "no", &from(switch));
    }
    if let Some(socket) = tree.text(&[names.socket]).filter(|it| it != USUAL_SOCKET) {
        moved.set(&["nri", "socket"], socket, &from(names.socket));
    }
    for (theirs, ours) in [
        (names.plugin_path, "plugin_path"),
        (names.plugin_config_path, "plugin_config_path"),
    ] {
        if let Some(path) = tree.text(&[theirs]) {
            moved.set(&["nri", ours], path, &from(theirs));
        }
    }
    for (theirs, ours) in [
        (names.registration_timeout, "registration_timeout"),
        (names.request_timeout, "request_timeout"),
    ] {
        let Some(text) = tree.text(&[theirs]) else {
            continue;
        };
        match seconds(&text) {
            Some(number) => moved.set(&["nri", ours], format!("{number}s"), &from(theirs)),
            None => moved.unlike(
                format!("{} = {text:?}", from(theirs)),
                format!("it is no time of 1 to {LONGEST} seconds"),
            ),
        }
    }
    if tree.truth(&[names.disable_connections]) == Some(true) {
        moved.set(
            &["nri", "connections"],
            "no",
            &from(names.disable_connections),
        );
    }
    validator(tree.table(&["default_validator"]), names, moved);
    tree.name_rest(names.table, &|_| None, moved);
}

fn validator(mut tree: Tree, names: &Names, moved: &mut Moved) {
    let table = format!("{}.default_validator", names.table);
    let their = |name: &str| format!("{}{name}", names.validator_prefix);
    if tree.truth(&[names.validator_enable]) == Some(true) {
        moved.set(&["nri", "validator"], "yes", &table);
    }
    let refused: Vec<String> = REFUSED
        .iter()
        .filter(|(theirs, _)| tree.truth(&[&their(theirs)]) == Some(true))
        .map(|(_, ours)| (*ours).to_owned())
        .collect();
    if !refused.is_empty() {
        moved.set(&["nri", "reject"], refused, &table);
    }
    if let Some(plugins) = tree.texts(&[&their("required_plugins")]) {
        moved.set(&["nri", "required_plugins"], plugins, &table);
    }
    if let Some(key) = tree.text(&[&their("tolerate_missing_plugins_annotation")]) {
        moved.set(&["nri", "tolerate_missing_annotation"], key, &table);
    }
    tree.name_rest(&table, &|_| None, moved);
}

/// A time as Go writes it (`1m30s`, `500ms`) in whole seconds, rounded up; `None` if it is none, or
/// beyond what our keys take.
fn seconds(text: &str) -> Option<u64> {
    let mut rest = text;
    let mut nanoseconds: u64 = 0;
    while !rest.is_empty() {
        let digits = rest.len()
            - rest
                .trim_start_matches(|it: char| it.is_ascii_digit())
                .len();
        let number: u64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        // `ms` before `m`, or minutes would be seen in it.
        let units = [
            ("ms", 1_000_000),
            ("us", 1000),
            ("ns", 1),
            ("h", 3_600_000_000_000),
            ("m", 60_000_000_000),
            ("s", 1_000_000_000),
        ];
        let (unit, worth) = units.iter().find(|(unit, _)| rest.starts_with(unit))?;
        rest = &rest[unit.len()..];
        nanoseconds = nanoseconds.checked_add(number.checked_mul(*worth)?)?;
    }
    let seconds = nanoseconds.div_ceil(1_000_000_000);
    (1..=LONGEST).contains(&seconds).then_some(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moved(text: &str, names: &Names) -> Moved {
        let mut moved = Moved::default();
        move_over(Tree(toml::from_str(text).unwrap()), names, &mut moved);
        moved
    }

    #[track_caller]
    fn check(moved: &Moved, expect: &[(&str, &str)]) {
        let found = moved.settings.iter();
        let found: Vec<_> = found
            .map(|it| (it.key.join("."), it.value.to_string()))
            .collect();
        let expect = expect.iter();
        let expect: Vec<_> = expect
            .map(|(key, value)| (format!("nri.{key}"), (*value).to_owned()))
            .collect();
        assert_eq!(found, expect);
    }

    #[test]
    fn both_say_the_same_in_their_words() {
        let containerd = moved(
            r#"
            disable = true
            socket_path = "/run/x.sock"
            plugin_path = "/p"
            plugin_config_path = "/c"
            plugin_registration_timeout = "5s"
            plugin_request_timeout = "1m500ms"
            disable_connections = true
            strange = 1
            [default_validator]
            enable = true
            reject_oci_hook_adjustment = true
            reject_custom_seccomp_adjustment = true
            required_plugins = ["a"]
            tolerate_missing_plugins_annotation = "b"
            "#,
            &CONTAINERD,
        );
        let expect = [
            ("enable", "\"no\""),
            ("socket", "\"/run/x.sock\""),
            ("plugin_path", "\"/p\""),
            ("plugin_config_path", "\"/c\""),
            ("registration_timeout", "\"5s\""),
            ("request_timeout", "\"61s\""),
            ("connections", "\"no\""),
            ("validator", "\"yes\""),
            ("reject", "[\"hooks\", \"seccomp-localhost\"]"),
            ("required_plugins", "[\"a\"]"),
            ("tolerate_missing_annotation", "\"b\""),
        ];
        check(&containerd, &expect);
        assert_eq!(containerd.unlike.len(), 1, "{:?}", containerd.unlike);
        let crio = moved(
            r#"
            enable_nri = false
            nri_listen = "/run/x.sock"
            nri_plugin_dir = "/p"
            nri_plugin_config_dir = "/c"
            nri_plugin_registration_timeout = "5s"
            nri_plugin_request_timeout = "1m500ms"
            nri_disable_connections = true
            [default_validator]
            nri_enable_default_validator = true
            nri_validator_reject_oci_hook_adjustment = true
            nri_validator_reject_custom_seccomp_adjustment = true
            nri_validator_required_plugins = ["a"]
            nri_validator_tolerate_missing_plugins_annotation = "b"
            "#,
            &CRIO,
        );
        check(&crio, &expect);
        assert!(crio.unlike.is_empty(), "{:?}", crio.unlike);
    }

    #[test]
    fn what_is_usual_is_not_written() {
        let usual = "disable = false\nsocket_path = \"/var/run/nri/nri.sock\"\n\
                     [default_validator]\nenable = false\n";
        check(&moved(usual, &CONTAINERD), &[]);
        check(&moved("enable_nri = true\n", &CRIO), &[]);
        check(&moved("", &CRIO), &[]);
    }

    #[test]
    fn times() {
        for (text, expect) in [
            ("2s", Some(2)),
            ("2500ms", Some(3)),
            ("1m30s", Some(90)),
            ("0s", None),
            ("1h", None),
            ("5", None),
            ("s", None),
            ("99999999999999999999s", None),
            ("", None),
        ] {
            assert_eq!(seconds(text), expect, "{text:?}");
        }
    }
}
