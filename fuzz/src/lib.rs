//! Fuzz targets: each takes bytes from anybody to something of ours that reads such bytes, and
//! panics where that does what it never may. `hack/fuzz` runs them under libFuzzer; the tests here
//! run each once over its seeds, so that none rots.
//!
//! A new target is one function in a file named after what it feeds, a row in [`TARGETS`], and a
//! folder of seeds in `corpus/`.

mod engine_input;
mod image_input;
mod runtime_input;
mod seccomp_profile;

/// What one run does with its input.
pub type Target = fn(&[u8]);

/// Every target by its name on the command line of `hack/fuzz`, which is also that of its seeds.
pub const TARGETS: &[(&str, Target)] = &[
    ("config", runtime_input::config),
    ("mount-options", runtime_input::mount_options),
    ("command-line", runtime_input::command_line),
    ("seccomp", seccomp_profile::seccomp),
    ("cri-sandbox", cri_server::judge::sandbox),
    ("cri-container", cri_server::judge::container),
    ("cri-verbs", cri_server::judge::verbs),
    ("spdy", streaming::judge::spdy),
    ("websocket", streaming::judge::channels),
    ("websocket-tunnel", streaming::judge::tunnel),
    ("image-reference", image_input::reference),
    ("image-document", image::judge::document),
    ("image-tar", image::judge::tar),
    ("signature", trust::judge::evidence),
    ("registry-challenge", image_input::challenge),
    ("shim-message", engine_input::shim_message),
    ("engine-record", engine::judge::record),
];

/// The target of that name.
pub fn find(name: &str) -> Option<Target> {
    TARGETS
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, target)| *target)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn every_target_takes_its_seeds() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
        for (name, target) in TARGETS {
            let mut seeds = 0;
            for seed in std::fs::read_dir(corpus.join(name)).unwrap() {
                target(&std::fs::read(seed.unwrap().path()).unwrap());
                seeds += 1;
            }
            assert!(seeds > 0, "{name} has no seeds");
            target(b"");
            target(&[0xff; 64]);
        }
    }

    #[test]
    fn names_are_found() {
        assert!(find("config").is_some() && find("moon").is_none());
    }
}
