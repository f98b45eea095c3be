//! Memory with swap, huge pages, files of cgroup v2; and what stats tell of them.

use std::fs;
use std::path::{Path, PathBuf};

use cri_api as cri;
use tests::wait;
use tonic::Code;

use super::{Pod, resources};

const MIB: i64 = 1 << 20;

/// Whether this machine has nothing but cgroup v2.
fn unified() -> bool {
    Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

/// A file of a container's group of memory.
fn memory_file(pod: &Pod, container: &str, name: &str) -> String {
    let group = format!("{}/{container}", pod.node.daemon.scratch().cgroup());
    let hierarchy = match unified() {
        true => PathBuf::from("/sys/fs/cgroup"),
        false => PathBuf::from("/sys/fs/cgroup/memory"),
    };
    let file = hierarchy.join(group.trim_start_matches('/')).join(name);
    fs::read_to_string(file).unwrap().trim().to_owned()
}

/// What a container may have of swap alone; `None` is any.
fn swap(pod: &Pod, container: &str) -> Option<i64> {
    if unified() {
        return memory_file(pod, container, "memory.swap.max").parse().ok();
    }
    let number = |name| -> i64 { memory_file(pod, container, name).parse().unwrap() };
    let both = number("memory.memsw.limit_in_bytes");
    (both < 1 << 60).then(|| both - number("memory.limit_in_bytes"))
}

fn limited(pod: &Pod, name: &str, memory_swap_limit_in_bytes: i64) -> cri::ContainerConfig {
    let mut config = pod.container(name, "exec sleep 1000");
    *resources(&mut config) = cri::LinuxContainerResources {
        memory_limit_in_bytes: 64 * MIB,
        memory_swap_limit_in_bytes,
        ..Default::default()
    };
    config
}

fn stats(pod: &Pod, container: &str) -> cri::ContainerStats {
    let request = cri::ContainerStatsRequest {
        container_id: container.to_owned(),
    };
    let answer = pod
        .client
        .call(async |mut cri| cri.container_stats(request).await);
    answer.unwrap().stats.unwrap()
}

#[test]
fn swap_is_limited_together_with_memory() {
    let v1 = Path::new("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes");
    if !unified() && !v1.exists() {
        return tests::skipped("accounting of swap");
    }
    let Some(pod) = Pod::start(|_| {}) else {
        return;
    };
    let none = pod.run(limited(&pod, "none", 0));
    let some = pod.run(limited(&pod, "some", 96 * MIB));
    let any = pod.run(limited(&pod, "any", -1));
    assert_eq!(swap(&pod, &none), Some(0));
    assert_eq!(swap(&pod, &some), Some(32 * MIB));
    assert_eq!(swap(&pod, &any), None);
    let told = |id: &str| {
        let status = pod.status(id).resources.unwrap().linux.unwrap();
        status.memory_swap_limit_in_bytes
    };
    assert_eq!([told(&none), told(&some), told(&any)], [0, 96 * MIB, -1]);
    let of_some = stats(&pod, &some).swap.unwrap();
    assert!(of_some.timestamp > 0 && of_some.swap_usage_bytes.is_some());
    let left = of_some.swap_available_bytes.unwrap().value;
    assert!(left <= 32 << 20, "{left}");

    let update = |linux| {
        let request = cri::UpdateContainerResourcesRequest {
            container_id: some.clone(),
            linux: Some(linux),
            annotations: super::texts(&[("hint", "none")]),
            ..Default::default()
        };
        let client = &pod.client;
        client.call(async |mut cri| cri.update_container_resources(request).await)
    };
    let both = |memory_limit_in_bytes, memory_swap_limit_in_bytes| cri::LinuxContainerResources {
        memory_limit_in_bytes,
        memory_swap_limit_in_bytes,
        ..Default::default()
    };
    update(both(80 * MIB, 90 * MIB)).unwrap();
    assert_eq!(swap(&pod, &some), Some(10 * MIB));
    assert_eq!(told(&some), 90 * MIB);
    let refused = update(both(0, 10 * MIB)).unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    assert!(refused.message().contains("memory_swap_limit_in_bytes"));
}

#[test]
fn what_the_node_has_no_control_group_for_is_refused_by_name() {
    let Some(pod) = Pod::start(|_| {}) else {
        return;
    };
    let refused = |change: &dyn Fn(&mut cri::LinuxContainerResources), field: &str| {
        let mut config = pod.container("refused", "exit 0");
        change(resources(&mut config));
        let status = pod.create(config).unwrap_err();
        assert_eq!(status.code(), Code::Unimplemented, "{status:?}");
        assert!(status.message().contains(field), "{status:?}");
    };
    let pages = |page_size: &str| {
        let limit = cri::HugepageLimit {
            page_size: page_size.into(),
            limit: 2 << 20,
        };
        move |r: &mut cri::LinuxContainerResources| r.hugepage_limits = vec![limit.clone()]
    };
    refused(&pages("3MB"), "hugepage_limits[0]");
    if !unified() {
        let unified = |r: &mut cri::LinuxContainerResources| {
            r.unified = super::texts(&[("memory.high", "1000")]);
        };
        refused(&unified, "unified[\"memory.high\"]");
        if !Path::new("/sys/fs/cgroup/hugetlb").exists() {
            refused(&pages("2MB"), "hugepage_limits[0]");
        }
    }
}

#[test]
fn files_of_unified_groups_outweigh_other_limits() {
    if !unified() {
        return tests::skipped("cgroup v2");
    }
    let Some(pod) = Pod::start(|_| {}) else {
        return;
    };
    // What a kubelet sends with NodeSwap.
    let mut config = limited(&pod, "raw", 0);
    resources(&mut config).unified =
        super::texts(&[("memory.swap.max", "4194304"), ("memory.oom.group", "1")]);
    let id = pod.run(config);
    assert_eq!(memory_file(&pod, &id, "memory.swap.max"), "4194304");
    assert_eq!(memory_file(&pod, &id, "memory.oom.group"), "1");
}

#[test]
fn stats_count_what_a_container_writes() {
    let Some(pod) = Pod::start(|_| {}) else {
        return;
    };
    let mut config = pod.container("writer", "echo begun; exec sleep 1000");
    config.labels = super::texts(&[("who", "writer")]);
    config.annotations = super::texts(&[("why", "stats")]);
    let id = pod.run(config);
    let layer = |stats: &cri::ContainerStats| {
        let layer = stats.writable_layer.clone().unwrap();
        let value = |number: Option<cri::UInt64Value>| number.unwrap().value;
        (value(layer.used_bytes), value(layer.inodes_used))
    };
    let before = stats(&pod, &id);
    let of = before.attributes.clone().unwrap();
    assert_eq!(of.id, id);
    assert_eq!(of.labels["who"], "writer");
    assert_eq!(of.annotations["why"], "stats");
    assert_eq!(of.metadata.unwrap().name, "writer");
    assert!(layer(&before).0 < 3_000_000, "{before:?}");
    let folder = before.writable_layer.clone().unwrap().fs_id.unwrap();
    assert!(Path::new(&folder.mountpoint).is_dir(), "{folder:?}");
    pod.exec(
        &id,
        "head -c 3000000 /dev/zero >/big; for i in $(seq 50); do : >/small$i; done",
    );
    let after = wait::until("what was written to be counted", || {
        let after = stats(&pod, &id);
        (layer(&after).0 >= 3_000_000).then_some(after)
    });
    let after = after.unwrap();
    assert!(layer(&after).1 > 50, "{after:?}");
    let (cpu, memory) = (after.cpu.unwrap(), after.memory.unwrap());
    assert!(cpu.timestamp > 0 && cpu.usage_core_nano_seconds.is_some());
    assert!(memory.timestamp > 0 && memory.usage_bytes.is_some());
    assert!(memory.working_set_bytes.is_some() && memory.rss_bytes.is_some());
    assert!(memory.page_faults.unwrap().value > 0 && memory.major_page_faults.is_some());
    // No limit: nothing is "left".
    assert_eq!(memory.available_bytes, None);
    let pressure = unified() && Path::new("/proc/pressure").exists();
    assert_eq!(cpu.psi.is_some(), pressure);
    assert_eq!(memory.psi.is_some(), pressure);
    assert_eq!(after.io.is_some(), pressure);
}
