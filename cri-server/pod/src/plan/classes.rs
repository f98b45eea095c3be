//! Classes of service that a pod names: of block I/O, and of cache and memory bandwidth (RDT).
//!
//! CRI has no field for them; the annotations are those of containerd and CRI-O (goresctrl, packages
//! blockio and rdt). What a class is, is the node's matter.

use std::collections::BTreeMap;

use oci_spec::runtime::{Linux, LinuxBlockIo, LinuxIntelRdt};

use crate::container::ContainerSpec;
use crate::sandbox::SandboxSpec;

/// The annotations of a kind of classes, the weightiest first.
struct Annotations {
    /// Of the container.
    container: &'static str,
    /// Of the pod, for one of its containers, whose name follows.
    one: &'static str,
    /// Of the pod, for all.
    all: &'static str,
}

const BLOCKIO: Annotations = Annotations {
    container: "io.kubernetes.cri.blockio-class",
    one: "blockio.resources.beta.kubernetes.io/container.",
    all: "blockio.resources.beta.kubernetes.io/pod",
};

const RDT: Annotations = Annotations {
    container: "io.kubernetes.cri.rdt-class",
    one: "rdt.resources.beta.kubernetes.io/container.",
    all: "rdt.resources.beta.kubernetes.io/pod",
};

/// A class, and the annotation that names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedClass {
    /// The annotation.
    pub annotation: String,
    /// The class.
    pub class: String,
}

/// The classes that are named for a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClassNames {
    /// Of block I/O.
    pub blockio: Option<NamedClass>,
    /// Of cache and memory bandwidth.
    pub rdt: Option<NamedClass>,
}

/// What these classes come to on the node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Shares {
    /// Weights and limits of block devices.
    pub block_io: Option<LinuxBlockIo>,
    /// A class of the resctrl file system.
    pub rdt_class: Option<String>,
}

/// The classes that a container's annotations name, or else its pod's.
#[must_use]
pub fn class_names(spec: &ContainerSpec, sandbox: &SandboxSpec) -> ClassNames {
    let named = |of: &Annotations| {
        let look = |key: &str, all: &BTreeMap<String, String>| {
            let class = all.get(key)?.clone();
            let annotation = key.to_owned();
            Some(NamedClass { annotation, class })
        };
        let one = format!("{}{}", of.one, spec.name);
        look(of.container, &spec.annotations)
            .or_else(|| look(&one, &sandbox.annotations))
            .or_else(|| look(of.all, &sandbox.annotations))
            // An empty one takes a container out of what holds for its pod.
            .filter(|named| !named.class.is_empty())
    };
    ClassNames {
        blockio: named(&BLOCKIO),
        rdt: named(&RDT),
    }
}

/// Gives a container its shares.
pub(super) fn add(shares: &Shares, linux: &mut Linux) {
    if shares.block_io.is_some() {
        let mut resources = linux.resources().clone().unwrap_or_default();
        resources.set_block_io(shares.block_io.clone());
        linux.set_resources(Some(resources));
    }
    if shares.rdt_class.is_some() {
        let mut rdt = LinuxIntelRdt::default();
        rdt.set_clos_id(shares.rdt_class.clone());
        linux.set_intel_rdt(Some(rdt));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_annotation_wins() {
        let check = |container: &[(&str, &str)], pod: &[(&str, &str)], expect: Option<&str>| {
            let all = |list: &[(&str, &str)]| -> BTreeMap<String, String> {
                let pairs = list.iter();
                pairs
                    .map(|(key, class)| ((*key).into(), (*class).into()))
                    .collect()
            };
            let spec = ContainerSpec {
                name: "web".into(),
                annotations: all(container),
                ..Default::default()
            };
            let sandbox = SandboxSpec {
                annotations: all(pod),
                ..Default::default()
            };
            let found = class_names(&spec, &sandbox);
            assert_eq!(found.blockio.map(|it| it.class).as_deref(), expect);
            assert_eq!(found.rdt, None);
        };
        let of_pod = (BLOCKIO.all, "a");
        let of_one = ("blockio.resources.beta.kubernetes.io/container.web", "b");
        let other = ("blockio.resources.beta.kubernetes.io/container.db", "x");
        check(&[], &[], None);
        check(&[], &[of_pod, other], Some("a"));
        check(&[], &[of_pod, of_one], Some("b"));
        check(&[(BLOCKIO.container, "c")], &[of_pod, of_one], Some("c"));
        check(&[(BLOCKIO.container, "")], &[of_pod], None);
        // A pod cannot be asked for by the annotation of containers, nor the other way round.
        check(&[of_pod], &[(BLOCKIO.container, "c")], None);
    }

    #[test]
    fn both_kinds_come_into_the_specification() {
        let sandbox = SandboxSpec {
            annotations: [(RDT.all.to_owned(), "gold".to_owned())].into(),
            ..Default::default()
        };
        let found = class_names(&ContainerSpec::default(), &sandbox);
        let rdt = found.rdt.unwrap();
        assert_eq!(
            (rdt.annotation.as_str(), rdt.class.as_str()),
            (RDT.all, "gold")
        );
        let mut block_io = LinuxBlockIo::default();
        block_io.set_weight(Some(80));
        let mut linux = Linux::default();
        let shares = Shares {
            block_io: Some(block_io),
            rdt_class: Some("gold".into()),
        };
        add(&shares, &mut linux);
        let resources = linux.resources().clone().unwrap();
        assert_eq!(resources.block_io().as_ref().unwrap().weight(), Some(80));
        let class = linux.intel_rdt().as_ref().unwrap().clos_id().clone();
        assert_eq!(class.as_deref(), Some("gold"));
    }
}
