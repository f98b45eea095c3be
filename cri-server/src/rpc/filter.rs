//! What lists leave out.

use std::collections::{BTreeMap, HashMap};

use cri_api as cri;
use engine::{Container, Sandbox};

use super::reply;

/// Whether the client wants to see the sandbox. Ids may be short.
pub(super) fn wants_sandbox(filter: &cri::PodSandboxFilter, sandbox: &Sandbox) -> bool {
    sandbox.id.starts_with(&filter.id)
        && filter
            .state
            .is_none_or(|wanted| wanted.state() == reply::sandbox_state(sandbox))
        && has_labels(&sandbox.spec.labels, &filter.label_selector)
}

/// Whether the client wants to see the container. Ids may be short.
pub(super) fn wants_container(filter: &cri::ContainerFilter, container: &Container) -> bool {
    container.id.starts_with(&filter.id)
        && container.sandbox_id.starts_with(&filter.pod_sandbox_id)
        && filter
            .state
            .is_none_or(|wanted| wanted.state() == reply::container_state(container))
        && has_labels(&container.spec.labels, &filter.label_selector)
}

/// Whether the client wants the container's figures. Ids may be short.
pub(super) fn wants_stats(filter: &cri::ContainerStatsFilter, container: &Container) -> bool {
    container.id.starts_with(&filter.id)
        && container.sandbox_id.starts_with(&filter.pod_sandbox_id)
        && has_labels(&container.spec.labels, &filter.label_selector)
}

/// Whether the client wants the sandbox's figures. Ids may be short.
pub(super) fn wants_sandbox_stats(filter: &cri::PodSandboxStatsFilter, sandbox: &Sandbox) -> bool {
    sandbox.id.starts_with(&filter.id) && has_labels(&sandbox.spec.labels, &filter.label_selector)
}

fn has_labels(labels: &BTreeMap<String, String>, wanted: &HashMap<String, String>) -> bool {
    wanted
        .iter()
        .all(|(key, value)| labels.get(key) == Some(value))
}

#[cfg(test)]
mod tests {
    use super::super::reply::samples::{container, sandbox};
    use super::*;

    fn labels(key: &str, value: &str) -> HashMap<String, String> {
        HashMap::from([(key.to_owned(), value.to_owned())])
    }

    #[test]
    fn sandboxes() {
        let check = |filter: cri::PodSandboxFilter, expect: bool| {
            assert_eq!(wants_sandbox(&filter, &sandbox()), expect, "{filter:?}");
        };
        let state = |state: cri::PodSandboxState| {
            Some(cri::PodSandboxStateValue {
                state: state.into(),
            })
        };
        check(Default::default(), true);
        check(
            cri::PodSandboxFilter {
                id: "a1a".into(),
                ..Default::default()
            },
            true,
        );
        check(
            cri::PodSandboxFilter {
                id: "a2".into(),
                ..Default::default()
            },
            false,
        );
        let ready = state(cri::PodSandboxState::SandboxReady);
        check(
            cri::PodSandboxFilter {
                state: ready,
                ..Default::default()
            },
            true,
        );
        let stopped = state(cri::PodSandboxState::SandboxNotready);
        check(
            cri::PodSandboxFilter {
                state: stopped,
                ..Default::default()
            },
            false,
        );
        let web = labels("app", "web");
        check(
            cri::PodSandboxFilter {
                label_selector: web,
                ..Default::default()
            },
            true,
        );
        let other = labels("app", "db");
        check(
            cri::PodSandboxFilter {
                label_selector: other,
                ..Default::default()
            },
            false,
        );
        let missing = labels("none", "");
        check(
            cri::PodSandboxFilter {
                label_selector: missing,
                ..Default::default()
            },
            false,
        );
    }

    #[test]
    fn containers() {
        let check = |filter: cri::ContainerFilter, expect: bool| {
            assert_eq!(wants_container(&filter, &container()), expect, "{filter:?}");
        };
        let state = |state: cri::ContainerState| {
            Some(cri::ContainerStateValue {
                state: state.into(),
            })
        };
        check(Default::default(), true);
        check(
            cri::ContainerFilter {
                pod_sandbox_id: "a1".into(),
                ..Default::default()
            },
            true,
        );
        check(
            cri::ContainerFilter {
                pod_sandbox_id: "b2".into(),
                ..Default::default()
            },
            false,
        );
        let exited = state(cri::ContainerState::ContainerExited);
        check(
            cri::ContainerFilter {
                state: exited,
                ..Default::default()
            },
            true,
        );
        let created = state(cri::ContainerState::ContainerCreated);
        check(
            cri::ContainerFilter {
                state: created,
                ..Default::default()
            },
            false,
        );
        let front = labels("tier", "front");
        check(
            cri::ContainerFilter {
                label_selector: front,
                ..Default::default()
            },
            true,
        );
    }
}
