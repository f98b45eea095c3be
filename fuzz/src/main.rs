//! libFuzzer around one target, which the environment variable `FUZZ_TARGET` names: one program for
//! all of them, because building is what takes time.
#![no_main]

use std::sync::OnceLock;

/// The chosen target.
static TARGET: OnceLock<fuzz::Target> = OnceLock::new();

fn chosen() -> fuzz::Target {
    let name = std::env::var("FUZZ_TARGET").expect("FUZZ_TARGET names a target");
    fuzz::find(&name).unwrap_or_else(|| panic!("no target is called {name:?}"))
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| TARGET.get_or_init(chosen)(bytes));
