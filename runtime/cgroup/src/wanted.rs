//! Whether a specification asks for any limit at all: without one, a process can do without a group.

use oci_spec::runtime::{LinuxCpu, LinuxMemory, LinuxResources};

/// The name of the first limit that `resources` asks for; device rules are none, since who may make
/// no group may not use other devices than everybody either.
pub fn first_limit(resources: &LinuxResources) -> Option<&'static str> {
    let memory = resources.memory().as_ref();
    let cpu = resources.cpu().as_ref();
    let network = resources.network().as_ref();
    let maps = [
        resources
            .rdma()
            .as_ref()
            .map(|map| ("rdma", map.is_empty())),
        resources
            .unified()
            .as_ref()
            .map(|map| ("unified", map.is_empty())),
        resources
            .hugepage_limits()
            .as_ref()
            .map(|list| ("hugetlb", list.is_empty())),
    ];
    let single = [
        ("pids", resources.pids().is_some()),
        (
            "memory",
            memory.is_some_and(|memory| *memory != LinuxMemory::default()),
        ),
        ("cpu", cpu.is_some_and(|cpu| *cpu != LinuxCpu::default())),
        (
            "blkio",
            resources
                .block_io()
                .as_ref()
                .is_some_and(|io| *io != oci_spec::runtime::LinuxBlockIo::default()),
        ),
        (
            "network",
            network.is_some_and(|network| *network != oci_spec::runtime::LinuxNetwork::default()),
        ),
    ];
    let maps = maps.into_iter().flatten();
    single
        .into_iter()
        .chain(maps.map(|(name, empty)| (name, !empty)))
        .find_map(|(name, asked)| asked.then_some(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(json: &str, expect: Option<&str>) {
        let resources: LinuxResources = serde_json::from_str(json).unwrap();
        assert_eq!(first_limit(&resources), expect, "{json}");
    }

    #[test]
    fn empty_parts_and_device_rules_are_no_limits() {
        check("{}", None);
        check(r#"{"devices":[{"allow":false,"access":"rwm"}]}"#, None);
        check(r#"{"memory":{},"cpu":{},"unified":{}}"#, None);
        check(r#"{"cpu":{"shares":7},"memory":{}}"#, Some("cpu"));
        check(r#"{"pids":{"limit":0}}"#, Some("pids"));
        check(r#"{"unified":{"pids.max":"7"}}"#, Some("unified"));
        check(
            r#"{"hugepageLimits":[{"pageSize":"2MB","limit":0}]}"#,
            Some("hugetlb"),
        );
    }
}
