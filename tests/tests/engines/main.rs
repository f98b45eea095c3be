//! `wrun` in runc's place under docker, podman and containerd, from outside: what an operator does
//! with containers, and what comes of it.
//!
//! One module a capability; most tests drive docker and podman alike (`for_both`).

#![expect(
    clippy::unwrap_used,
    reason = "what the tests' own steps cannot do fails the test"
)]

/// Makes two tests of each function that takes an engine: one with docker, one with podman. Tests
/// run in the order of their names, so that those of one engine come one after the other.
macro_rules! for_both {
    ($($module:ident: $($name:ident)*;)*) => {
        mod docker {$(
            mod $module {
                $(#[test] fn $name() {
                    crate::with(tests::engines::Kind::Docker, crate::$module::$name);
                })*
            }
        )*}
        mod podman {$(
            mod $module {
                $(#[test] fn $name() {
                    crate::with(tests::engines::Kind::Podman, crate::$module::$name);
                })*
            }
        )*}
    };
}

for_both! {
    confined:
        capabilities
        no_new_privileges
        seccomp_as_the_engine_has_it
        seccomp_profile_of_the_operator
        privileged;
    life:
        output_and_exit_code
        a_signal_is_an_exit_code
        a_missing_program_is_127
        a_program_that_cannot_run_is_126
        a_missing_working_folder_or_user_is_said
        signals
        stop_and_restart
        a_container_that_fails_is_started_again
        pause_and_unpause
        removed_while_it_runs
        many_at_once;
    limits:
        limits_are_written
        limits_change_while_it_runs
        too_much_memory_is_an_oom_kill
        processor_time_is_throttled
        no_more_processes_than_allowed
        processors_and_shares
        rlimits_and_oom_score
        top_and_stats;
    mounts:
        a_root_that_cannot_be_written
        temporary_file_systems
        folders_of_the_host
        volumes_keep_what_was_written
        propagation
        shared_memory
        devices
        masked_and_read_only_paths
        copies_in_and_out;
    process:
        environment_folder_and_names
        users_and_groups
        kernel_parameters
        an_init_reaps
        namespaces_are_shared_as_asked
        health_is_asked;
    terminal:
        input_reaches_the_program
        a_terminal_of_run
        a_terminal_of_exec
        exec_with_input_and_exit_code
        exec_of_what_is_missing
        exec_in_the_background
        exec_beside_exec;
}

mod checkpoint;
mod confined;
mod containerd;
mod docker_alone;
mod life;
mod limits;
mod mounts;
mod podman_alone;
mod process;
mod terminal;

use tests::engines::{Engine, Kind};

/// Runs a test with the engine of a kind, if it can be had.
fn with(kind: Kind, test: fn(&Engine)) {
    if let Some(engine) = Engine::shared(kind).unwrap() {
        test(&engine);
    }
}

/// A script that says `ready`, ends with 8 on SIGTERM, and says `usr1` on SIGUSR1.
const SERVICE: &str = "trap 'exit 8' TERM; trap 'echo usr1' USR1; echo ready; \
    while :; do sleep 1 & wait $!; done";

/// Asserts that a text holds one of some others.
#[track_caller]
fn assert_says(text: &str, any: &[&str]) {
    let found = any.iter().any(|part| text.contains(part));
    assert!(found, "none of {any:?} in: {text}");
}
