//! The parts that read what others wrote, as functions of bytes: for fuzzing, which looks for input
//! that makes them panic or decide what may not be decided. No effects; nothing else uses this.

use std::path::Path;

use sys::mount::ATIME;

use crate::plan::{self, Choices, HostFacts};
use crate::{cli, spec};

/// A host like most.
const HOST: HostFacts = HostFacts {
    last_capability: 40,
    may_make_nodes: true,
    cgroup_v2: true,
};

/// Plans the container that `config.json` describes; `false` if it is refused.
///
/// # Panics
///
/// If a plan says what no plan may: that is what the fuzzer looks for.
pub fn config(json: &[u8]) -> bool {
    let Ok(spec) = serde_json::from_slice::<spec::Spec<'_>>(json) else {
        return false;
    };
    let cautious = HostFacts {
        may_make_nodes: false,
        cgroup_v2: false,
        ..HOST
    };
    let bundle = Path::new("/bundle");
    let [planned, elsewhere] = [HOST, cautious]
        .map(|facts| plan::init(&spec, "fuzz", bundle, facts, Choices::default()).is_ok());
    if let Some(process) = &spec.process {
        let alone = plan::exec(process, HOST).is_ok();
        assert!(alone || !planned, "a process that exec refuses was planned");
    }
    planned || elsewhere
}

/// Sorts the options of one mount, separated by commas.
///
/// # Panics
///
/// If mount_setattr(2) would refuse what comes out: an attribute both on and off, or a way to keep
/// access times that does not clear the one before.
pub fn mount_options(text: &str) {
    let options = plan::MountOptions::parse(std::iter::once(text));
    for attr in [options.attr, options.recursive_attr] {
        let times = attr.set & ATIME == 0 || attr.clear & ATIME == ATIME;
        let both = attr.set & attr.clear & !ATIME;
        assert!(times && both == 0, "{text:?} gives {attr:?}");
    }
}

/// Reads a command line; `false` if it makes no sense.
pub fn command_line(words: &[String]) -> bool {
    cli::parse(words).is_ok()
}
