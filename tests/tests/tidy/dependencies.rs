//! Who depends on whom, by `cargo metadata`.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use tests::process;

/// Every crate of ours with those of ours that it may use.
const MAY_USE: [(&str, &[&str]); 27] = [
    ("cri-api", &[]),
    ("shim-api", &[]),
    ("control-api", &[]),
    ("containerd-api", &[]),
    ("otlp-api", &[]),
    ("nri-api", &[]),
    ("sys", &[]),
    ("netlink", &[]),
    ("cgroup", &["sys"]),
    ("seccomp", &[]),
    ("runtime", &["sys", "netlink", "cgroup", "seccomp"]),
    ("shim", &["shim-api", "sys"]),
    ("pod", &[]),
    ("trust", &[]),
    ("registry-double", &[]),
    ("registry", &[]),
    ("image", &["sys", "cgroup", "seccomp", "trust", "registry"]),
    ("network", &["sys", "netlink"]),
    ("streaming", &[]),
    ("check", &["sys"]),
    ("migrate", &[]),
    ("nri", &["nri-api"]),
    (
        "engine",
        &[
            "pod", "image", "network", "nri", "nri-api", "shim-api", "sys", "cgroup",
        ],
    ),
    (
        "cri-server",
        &[
            "cri-api",
            "control-api",
            "check",
            "containerd-api",
            "engine",
            "pod",
            "image",
            "migrate",
            "network",
            "otlp-api",
            "nri",
            "streaming",
            "sys",
        ],
    ),
    (
        "tests",
        &["cri-api", "containerd-api", "shim-api", "otlp-api"],
    ),
    ("bench", &["cri-api", "image", "sys", "tests"]),
    (
        "fuzz",
        &[
            "cri-server",
            "engine",
            "image",
            "registry",
            "runtime",
            "seccomp",
            "shim-api",
            "streaming",
            "trust",
        ],
    ),
];

/// Crates that start threads or run futures: none of them reaches [`SINGLE_THREADED`].
const THREADS: [&str; 9] = [
    "tokio",
    "tonic",
    "rayon-core",
    "threadpool",
    "async-std",
    "smol",
    "async-executor",
    "futures-executor",
    "async-global-executor",
];

/// Programs and crates that have one thread by construction.
const SINGLE_THREADED: [&str; 6] = ["runtime", "shim", "sys", "netlink", "cgroup", "seccomp"];

/// What `pod` must not reach: it decides, and has no effects.
const EFFECTS: [&str; 6] = ["tokio", "tonic", "prost", "nix", "rustix", "libc"];

/// The graph of what is linked: package id to name, and to the ids that it depends on.
struct Graph {
    names: BTreeMap<String, String>,
    edges: BTreeMap<String, BTreeSet<String>>,
    ours: BTreeSet<String>,
}

impl Graph {
    fn read() -> Graph {
        let mut cargo = process::bounded(env!("CARGO"));
        cargo
            .args(["metadata", "--format-version=1", "--locked"])
            .current_dir(tests::checkout());
        // Only what this machine links.
        let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
        cargo.args(["--filter-platform", &target]);
        let metadata: Value = serde_json::from_str(&process::ok(&mut cargo).unwrap()).unwrap();
        Graph {
            names: names(&metadata),
            edges: edges(&metadata),
            ours: texts(&metadata["workspace_members"]).collect(),
        }
    }

    /// Names of our crates.
    fn members(&self) -> BTreeSet<&str> {
        self.ours.iter().map(|id| self.names[id].as_str()).collect()
    }

    /// Names of all that a crate of ours links, directly or not.
    fn reach(&self, name: &str) -> BTreeSet<&str> {
        let start = self
            .ours
            .iter()
            .find(|id| self.names[*id] == name)
            .expect("a member");
        let mut seen = BTreeSet::new();
        let mut next = vec![start];
        while let Some(id) = next.pop() {
            if seen.insert(id) {
                next.extend(&self.edges[id]);
            }
        }
        seen.remove(start);
        seen.into_iter().map(|id| self.names[id].as_str()).collect()
    }

    /// Names of our crates that a crate of ours uses itself.
    fn uses(&self, name: &str) -> BTreeSet<&str> {
        let id = self
            .ours
            .iter()
            .find(|id| self.names[*id] == name)
            .expect("a member");
        let ours = self.edges[id].intersection(&self.ours);
        ours.map(|id| self.names[id].as_str()).collect()
    }
}

fn texts(list: &Value) -> impl Iterator<Item = String> + '_ {
    list.as_array()
        .into_iter()
        .flatten()
        .filter_map(|id| id.as_str().map(str::to_owned))
}

fn names(metadata: &Value) -> BTreeMap<String, String> {
    let packages = metadata["packages"].as_array().expect("packages");
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    packages
        .iter()
        .map(|package| (text(&package["id"]), text(&package["name"])))
        .collect()
}

/// Normal dependencies only: what tests and build scripts use is not linked.
fn edges(metadata: &Value) -> BTreeMap<String, BTreeSet<String>> {
    let nodes = metadata["resolve"]["nodes"].as_array().expect("nodes");
    let linked = |dependency: &&Value| {
        let kinds = dependency["dep_kinds"].as_array().expect("kinds");
        kinds.iter().any(|kind| kind["kind"].is_null())
    };
    nodes
        .iter()
        .map(|node| {
            let dependencies = node["deps"].as_array().expect("dependencies").iter();
            let ids = dependencies
                .filter(linked)
                .filter_map(|dependency| dependency["pkg"].as_str());
            (
                node["id"].as_str().expect("an id").to_owned(),
                ids.map(str::to_owned).collect(),
            )
        })
        .collect()
}

#[test]
fn our_crates_use_only_what_the_table_allows() {
    let graph = Graph::read();
    let table: BTreeMap<&str, &[&str]> = MAY_USE.into_iter().collect();
    assert_eq!(
        graph.members(),
        table.keys().copied().collect(),
        "members and table differ"
    );
    for (name, allowed) in table {
        let allowed: BTreeSet<&str> = allowed.iter().copied().collect();
        let more: Vec<&str> = graph.uses(name).difference(&allowed).copied().collect();
        assert!(more.is_empty(), "{name} must not know {more:?}");
    }
}

#[test]
fn single_threaded_programs_link_no_threads() {
    let graph = Graph::read();
    for name in SINGLE_THREADED {
        let reach = graph.reach(name);
        let found: Vec<&str> = THREADS
            .into_iter()
            .filter(|dep| reach.contains(dep))
            .collect();
        assert!(found.is_empty(), "{name} links {found:?}");
    }
}

#[test]
fn the_room_of_decisions_links_no_effects() {
    let graph = Graph::read();
    let reach = graph.reach("pod");
    let found: Vec<&str> = EFFECTS
        .into_iter()
        .filter(|dep| reach.contains(dep))
        .collect();
    assert!(found.is_empty(), "pod links {found:?}");
}
