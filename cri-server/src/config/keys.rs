//! Every key of the configuration: the one table of which come what is read, what is refused,
//! `wherryd config`, docs/configuration.md and the manual page.
//!
//! A new key is an entry here, and a line that reads it where the settings are put together; a test
//! says so if either is missing. What a key is, [`Key`] says.

use super::key::Applies::{AtReload, AtStart};
use super::key::Default::{Nothing, Required, Text, Texts};
use super::key::{Key, Kind, Zero};

/// All keys, in the order in which they are shown. Those outside of a table come first.
pub(crate) const KEYS: &[Key] = &[
    Key {
        name: "listen",
        kind: Kind::Socket,
        default: Text("unix:///run/wherry/wherryd.sock"),
        flag: Some("--listen"),
        applies: AtStart,
        meaning: "The socket on which CRI is served.",
    },
    Key {
        name: "root",
        kind: Kind::Path,
        default: Text("/var/lib/wherry"),
        flag: Some("--root"),
        applies: AtStart,
        meaning: "The folder for what must survive a reboot: images, records of pods.",
    },
    Key {
        name: "state",
        kind: Kind::Path,
        default: Text("/run/wherry"),
        flag: Some("--state"),
        applies: AtStart,
        meaning: "The folder for what must not survive a reboot; it lies apart from `root`.",
    },
    Key {
        name: "registry_config",
        kind: Kind::Path,
        default: Text("/etc/wherry/certs.d"),
        flag: Some("--registry-config"),
        applies: AtStart,
        meaning: "The folder with `<host>/hosts.toml`, beside which lie `registries.conf` and \
                  `credentials.json`. What is in these files is read anew for each pull.",
    },
    Key {
        name: "default_runtime",
        kind: Kind::Text,
        default: Text("wrun"),
        flag: None,
        applies: AtStart,
        meaning: "The handler of pods that name none.",
    },
    Key {
        name: "cgroup_driver",
        kind: Kind::OneOf(&["auto", "systemd", "cgroupfs"]),
        default: Text("auto"),
        flag: None,
        applies: AtStart,
        meaning: "Who makes control groups. `auto` is systemd where it is init and control groups \
                  are v2, else cgroupfs; the kubelet asks which.",
    },
    Key {
        name: "cdi_spec_dirs",
        kind: Kind::Paths,
        default: Texts(&["/etc/cdi", "/var/run/cdi"]),
        flag: None,
        applies: AtStart,
        meaning: "Folders in which vendors describe their devices (CDI); later ones win.",
    },
    Key {
        name: "runtimes.*.path",
        kind: Kind::Path,
        default: Required,
        flag: None,
        applies: AtStart,
        meaning: "The program of the handler of that name: any with the command line of runc. \
                  The handler `wrun` needs no entry.",
    },
    Key {
        name: "images.layer_form",
        kind: Kind::OneOf(&["auto", "dir", "erofs"]),
        default: Text("auto"),
        flag: None,
        applies: AtStart,
        meaning: "What layers become on disk that are unpacked from now on: folders, or images of \
                  a file system. `auto` is folders.",
    },
    Key {
        name: "images.preload",
        kind: Kind::Path,
        default: Nothing("nothing is read"),
        flag: None,
        applies: AtStart,
        meaning: "A folder of archives that are read at start; their images are pinned.",
    },
    Key {
        name: "images.scrub_rate",
        kind: Kind::Size(Zero::Never),
        default: Text("4Mi"),
        flag: None,
        applies: AtReload,
        meaning: "How fast all layers are looked at once a week in the background; `0` is not at \
                  all.",
    },
    Key {
        name: "signatures.policy",
        kind: Kind::Path,
        default: Nothing("no signature is asked for"),
        flag: None,
        applies: AtReload,
        meaning: "The file that says who must have signed an image, for namespaces and \
                  repositories; it is read again at a reload.",
    },
    Key {
        name: "signatures.verifiers",
        kind: Kind::Path,
        default: Nothing("no program is asked"),
        flag: None,
        applies: AtReload,
        meaning: "A folder of programs that all have to allow an image, as containerd's image \
                  verifiers.",
    },
    Key {
        name: "signatures.verifier_time",
        kind: Kind::Seconds(600),
        default: Text("10s"),
        flag: None,
        applies: AtReload,
        meaning: "How long each of these programs may take.",
    },
    Key {
        name: "network.mode",
        kind: Kind::OneOf(&["auto", "cni", "builtin"]),
        default: Text("auto"),
        flag: None,
        applies: AtStart,
        meaning: "Who connects pods: CNI plugins, or the built-in bridge. `auto` is CNI if a \
                  configuration lies in `cni_conf_dir`.",
    },
    Key {
        name: "network.bridge",
        kind: Kind::Text,
        default: Text("wherry0"),
        flag: None,
        applies: AtStart,
        meaning: "The bridge of the built-in network, and the name of its nft table.",
    },
    Key {
        name: "network.subnet",
        kind: Kind::Text,
        default: Text("10.213.0.0/16"),
        flag: None,
        applies: AtStart,
        meaning: "The addresses of the built-in network: IPv4, with 8 to 30 bits fixed.",
    },
    Key {
        name: "network.routed",
        kind: Kind::Texts,
        default: Texts(&[]),
        flag: None,
        applies: AtStart,
        meaning: "Ranges of IPv4, as of other nodes' pods, that pods of the built-in network reach \
                  without masquerade, and that reach them; the routes are the operator's.",
    },
    Key {
        name: "network.cni_conf_dir",
        kind: Kind::Path,
        default: Text("/etc/cni/net.d"),
        flag: None,
        applies: AtStart,
        meaning: "Where CNI's configuration lies; it is read anew when a file changes.",
    },
    Key {
        name: "network.cni_bin_dirs",
        kind: Kind::Paths,
        default: Texts(&["/opt/cni/bin", "/usr/lib/cni"]),
        flag: None,
        applies: AtStart,
        meaning: "Where CNI's plugins lie; the first that has one wins.",
    },
    Key {
        name: "network.cni_cache_dir",
        kind: Kind::Path,
        default: Text("/var/lib/cni/results"),
        flag: None,
        applies: AtStart,
        meaning: "Where results of CNI's plugins are kept.",
    },
    Key {
        name: "streaming.address",
        kind: Kind::Text,
        default: Text("127.0.0.1:0"),
        flag: None,
        applies: AtStart,
        meaning: "Where exec, attach and port-forward are served; port 0 is any.",
    },
    Key {
        name: "streaming.certificate",
        kind: Kind::Path,
        default: Nothing("no TLS"),
        flag: None,
        applies: AtStart,
        meaning: "The certificate for it, as PEM; it needs `key`.",
    },
    Key {
        name: "streaming.key",
        kind: Kind::Path,
        default: Nothing("no TLS"),
        flag: None,
        applies: AtStart,
        meaning: "The key of that certificate, as PEM.",
    },
    Key {
        name: "containerd.listen",
        kind: Kind::Socket,
        default: Nothing("not served"),
        flag: None,
        applies: AtStart,
        meaning: "A second socket, with what cAdvisor asks of containerd (docs/kubelet.md).",
    },
    Key {
        name: "nri.enable",
        kind: Kind::OneOf(&["yes", "no"]),
        default: Text("yes"),
        flag: None,
        applies: AtStart,
        meaning: "Whether plugins of the node (NRI, docs/nri.md) take part at all.",
    },
    Key {
        name: "nri.socket",
        kind: Kind::Socket,
        default: Text("unix:///var/run/nri/nri.sock"),
        flag: None,
        applies: AtStart,
        meaning: "The socket to which plugins connect. Where another engine has the default one, a \
                  warning says so and no plugin can connect; one that is set must be free.",
    },
    Key {
        name: "nri.connections",
        kind: Kind::OneOf(&["yes", "no"]),
        default: Text("yes"),
        flag: None,
        applies: AtStart,
        meaning: "Whether plugins may connect; `no` leaves those of `plugin_path`.",
    },
    Key {
        name: "nri.plugin_path",
        kind: Kind::Path,
        default: Text("/opt/nri/plugins"),
        flag: None,
        applies: AtStart,
        meaning: "The folder of plugins that are started with the daemon, called `<index>-<name>`.",
    },
    Key {
        name: "nri.plugin_config_path",
        kind: Kind::Path,
        default: Text("/etc/nri/conf.d"),
        flag: None,
        applies: AtStart,
        meaning: "The folder of their configurations, `<index>-<name>.conf` or `<name>.conf`.",
    },
    Key {
        name: "nri.registration_timeout",
        kind: Kind::Seconds(600),
        default: Text("5s"),
        flag: None,
        applies: AtStart,
        meaning: "How long a connection may take to register as a plugin.",
    },
    Key {
        name: "nri.request_timeout",
        kind: Kind::Seconds(600),
        default: Text("2s"),
        flag: None,
        applies: AtStart,
        meaning: "How long a plugin may take to answer; one that takes longer is disconnected.",
    },
    Key {
        name: "nri.validator",
        kind: Kind::OneOf(&["yes", "no"]),
        default: Text("no"),
        flag: None,
        applies: AtStart,
        meaning: "Whether the built-in validator looks at what plugins want, and at which are required.",
    },
    Key {
        name: "nri.reject",
        kind: Kind::Texts,
        default: Texts(&[]),
        flag: None,
        applies: AtStart,
        meaning: "What the validator permits no plugin to adjust: hooks, namespaces, sysctls, \
                  seccomp-runtime-default, seccomp-unconfined, seccomp-localhost.",
    },
    Key {
        name: "nri.required_plugins",
        kind: Kind::Texts,
        default: Texts(&[]),
        flag: None,
        applies: AtStart,
        meaning: "Plugins without which the validator lets no container be made, also static pods'.",
    },
    Key {
        name: "nri.tolerate_missing_annotation",
        kind: Kind::Text,
        default: Nothing("no pod can"),
        flag: None,
        applies: AtStart,
        meaning: "The annotation by which a pod can do without required plugins.",
    },
    Key {
        name: "limits.writable_layer",
        kind: Kind::Size(Zero::Refused),
        default: Nothing("no limit"),
        flag: None,
        applies: AtReload,
        meaning: "What a container may leave in its root file system; over it, it is killed. Holds \
                  for containers that are made from now on.",
    },
    Key {
        name: "limits.log",
        kind: Kind::Size(Zero::Refused),
        default: Nothing("no limit"),
        flag: None,
        applies: AtReload,
        meaning: "What a container's log file may grow to; over it, output is dropped until the log \
                  is rotated. Holds for containers that are made from now on.",
    },
    Key {
        name: "blockio.config",
        kind: Kind::Path,
        default: Nothing("no classes"),
        flag: None,
        applies: AtReload,
        meaning: "The file of classes of block I/O that pods (docs/operating.md) and NRI plugins name, \
                  in the form that containerd and CRI-O read; it is read again at a reload.",
    },
    Key {
        name: "blockio.unavailable",
        kind: Kind::OneOf(&["refuse", "ignore"]),
        default: Text("refuse"),
        flag: None,
        applies: AtReload,
        meaning: "What becomes of a container whose pod names a class of block I/O where there is no \
                  such file: refused, or made without.",
    },
    Key {
        name: "rdt.unavailable",
        kind: Kind::OneOf(&["refuse", "ignore"]),
        default: Text("refuse"),
        flag: None,
        applies: AtReload,
        meaning: "What becomes of a container whose pod names a class of RDT where no resctrl file \
                  system is mounted: refused, or made without.",
    },
    Key {
        name: "metrics.address",
        kind: Kind::Text,
        default: Nothing("not served"),
        flag: None,
        applies: AtStart,
        meaning: "Where Prometheus may ask for metrics, at `/metrics`: an address and a port, or `unix:///path` (docs/metrics.md).",
    },
    Key {
        name: "tracing.endpoint",
        kind: Kind::Text,
        default: Nothing("no traces"),
        flag: None,
        applies: AtStart,
        meaning: "The OpenTelemetry collector that gets traces (OTLP over gRPC): \
                  `http://host:4317`, or `unix:///path`.",
    },
    Key {
        name: "tracing.sampling",
        kind: Kind::Text,
        default: Text("100%"),
        flag: None,
        applies: AtStart,
        meaning: "How many of the operations are traced that no client traces.",
    },
    Key {
        name: "pressure.free_disk",
        kind: Kind::Text,
        default: Text("15%"),
        flag: None,
        applies: AtReload,
        meaning: "How much of a file system should be free; below it, it is warned (docs/operating.md).",
    },
    Key {
        name: "pressure.free_memory",
        kind: Kind::Size(Zero::Refused),
        default: Text("100Mi"),
        flag: None,
        applies: AtReload,
        meaning: "How much memory should be to be had; below it, it is warned.",
    },
    Key {
        name: "pressure.log",
        kind: Kind::Size(Zero::Refused),
        default: Text("1Gi"),
        flag: None,
        applies: AtReload,
        meaning: "How long one container's log may grow before it is warned that nobody rotates it.",
    },
    Key {
        name: "log.level",
        kind: Kind::Text,
        default: Text("info"),
        flag: None,
        applies: AtReload,
        meaning: "What the daemon logs: off, error, warn, info, debug or trace; for a part as in \
                  `info,network=debug`.",
    },
    Key {
        name: "log.format",
        kind: Kind::OneOf(&["text", "json"]),
        default: Text("text"),
        flag: None,
        applies: AtStart,
        meaning: "How the lines of the log look: for a person, or one JSON object each.",
    },
];

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::super::key::Default;
    use super::*;

    #[test]
    fn the_table_is_in_order() {
        let mut names = HashSet::new();
        let mut tables = vec![""];
        for key in KEYS {
            let name = key.name;
            assert!(names.insert(name), "{name} is there once");
            assert!(key.meaning.ends_with('.'), "{name} has a sentence");
            assert!(!key.meaning.contains("  "), "{name}: one space");
            let table = key.table();
            if tables.last() != Some(&table) {
                assert!(!tables.contains(&table), "{table} is together");
                tables.push(table);
            }
        }
    }

    #[test]
    fn defaults_are_values() {
        for key in KEYS {
            let texts = match &key.default {
                Default::Text(text) => std::slice::from_ref(text),
                Default::Texts(texts) => texts,
                Default::Nothing(_) | Default::Required => &[],
            };
            for text in texts {
                assert_eq!(key.kind.objection(text), None, "{}", key.name);
            }
            let list = matches!(key.default, Default::Texts(_));
            assert_eq!(list, key.kind.is_list(), "{}", key.name);
        }
    }
}
