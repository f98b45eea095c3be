//! What stands beside a container fails: its runtime, its shim, the daemon, a disk, the host's files.
//! Whatever it is, the container's end is told as it was, requests come back, nothing is left.

mod faulty;
mod hanging;
mod ill;

use std::fs;
use std::path::Path;
use std::time::Duration;

use cri_api::ExecSyncRequest;
use serde_json::json;
use tests::process::{self, Output};
use tests::{Node, pod, wait};
use tonic::Code;

use self::faulty::Fault;
use self::hanging::Hanging;
use self::ill::{HANDLER, Ill, SCRIPT, ended, name, promptly, send};

#[test]
fn a_start_that_fails_ends_the_container() {
    let Some(ill) = Ill::start() else { return };
    for (n, fault) in [Fault::Fail, Fault::FailAfter].into_iter().enumerate() {
        let pod = ill.create(&name("unstarted", n), SCRIPT);
        ill.runtime.set("start", fault);
        let error = promptly("a failed start", || ill.refused(&["start", &pod.container]));
        assert!(error.contains("start fails as told"), "{error}");
        assert_eq!(ill.end(&pod.container), (128, "StartError".into()));
        ill.runtime.heal("start");
        ill.no_process_remains();
        ill.ok(&["rm", &pod.container]);
        ill.remove(&pod.id);
    }
}

#[test]
fn a_create_that_fails_leaves_nothing() {
    let Some(ill) = Ill::start() else { return };
    for (n, fault) in [Fault::Fail, Fault::FailAfter].into_iter().enumerate() {
        let name = name("uncreated", n);
        let id = ill.empty_pod(&name);
        let args = ill.create_args(&id, &ill.container(&name, SCRIPT));
        ill.runtime.set("create", fault);
        let error = promptly("a failed create", || ill.refused(&args));
        assert!(error.contains("create fails as told"), "{error}");
        ill.runtime.heal("create");
        assert_eq!(ill.ok(&["ps", "-a", "-q"]), "");
        ill.no_process_remains();
        ill.remove(&id);
    }
}

/// A kubelet whose time is over asks again: it gets the container that is being made, not a word
/// about a name that is taken.
#[test]
fn a_retry_joins_the_create_that_goes_on() {
    let Some(ill) = Ill::start() else { return };
    let id = ill.empty_pod("slow");
    let args = ill.create_args(&id, &ill.container("slow", SCRIPT));
    ill.runtime.set("create", Fault::Hold);
    let mut first = ill.begin(&args);
    ill.runtime.wait_until_held("create");
    // The client goes away, as one whose deadline has passed.
    first.kill();
    let mut second = ill.begin(&args);
    let mut third = ill.begin(&args);
    wait::pass(Duration::from_millis(300));
    assert!(second.ended().is_none() && third.ended().is_none());
    ill.runtime.release();
    for retry in [&mut second, &mut third] {
        ended(retry);
        assert!(retry.ended().is_some_and(|status| status.success()));
    }
    assert_eq!(ill.ok(&["ps", "-a", "-q"]).lines().count(), 1);
    ill.remove(&id);
}

/// Shims that do not answer: more than a serial restart could wait for in time.
const HANGING_SHIMS: usize = 6;

#[test]
fn a_restart_does_not_wait_for_one_shim_after_another() {
    let Some(mut ill) = Ill::start() else { return };
    let pods: Vec<_> = (0..HANGING_SHIMS)
        .map(|n| ill.run(&name("hung", n), SCRIPT))
        .collect();
    ill.node.daemon.kill();
    for pod in &pods {
        ill.signal_shim("STOP", &pod.container);
    }
    let began = std::time::Instant::now();
    ill.node.daemon.start().unwrap();
    let took = began.elapsed();
    // The daemon gives a shim five seconds to say how its container is.
    assert!(took < Duration::from_secs(20), "{took:?}");
    for pod in &pods {
        ill.signal_shim("CONT", &pod.container);
    }
    for pod in &pods {
        ill.ok(&["stopp", &pod.id]);
        ill.ok(&["rmp", &pod.id]);
    }
    ill.nothing_remains();
}

#[test]
fn a_shim_that_dies_during_a_create_leaves_nothing() {
    let Some(ill) = Ill::start() else { return };
    let id = ill.empty_pod("shimless");
    let args = ill.create_args(&id, &ill.container("shimless", SCRIPT));
    ill.runtime.set("create", Fault::Hold);
    let mut create = ill.begin(&args);
    ill.runtime.wait_until_held("create");
    let shims = ill.processes("wherry-shim", "--bundle");
    assert_eq!(shims.len(), 1, "{shims:?}");
    promptly("losing a shim", || {
        send("KILL", shims[0]);
        ended(&mut create);
    });
    assert_eq!(ill.ok(&["ps", "-a", "-q"]), "");
    ill.runtime.release();
    ill.no_process_remains();
    ill.remove(&id);
}

/// Shims that are killed around the end of a create, four at each moment.
const KILLED: u64 = 16;

#[test]
fn a_shim_that_dies_as_a_create_ends_leaves_what_can_be_removed() {
    let Some(ill) = Ill::start() else { return };
    let id = ill.empty_pod("razor");
    let args = ill.create_args(&id, &ill.container("razor", SCRIPT));
    for n in 0..KILLED {
        ill.runtime.set("create", Fault::Hold);
        let mut create = ill.begin(&args);
        ill.runtime.wait_until_held("create");
        let shims = ill.processes("wherry-shim", "--bundle");
        ill.runtime.release();
        wait::pass(Duration::from_millis(n / 4));
        send("KILL", shims[0]);
        ended(&mut create);
        promptly("a removal", || {
            for container in ill.ok(&["ps", "-a", "-q"]).lines() {
                assert_eq!(ill.end(container), (255, "Unknown".into()));
                ill.ok(&["rm", container]);
            }
        });
        ill.no_process_remains();
    }
    ill.remove(&id);
}

#[test]
fn a_shim_that_dies_without_a_daemon_is_missed_afterwards() {
    let Some(mut ill) = Ill::start() else { return };
    let pod = ill.run("missed", SCRIPT);
    pod.wait_for_log("begin").unwrap();
    ill.node.daemon.kill();
    ill.signal_shim("KILL", &pod.container);
    promptly("a restart", || ill.node.daemon.start().unwrap());
    assert_eq!(ill.end(&pod.container), (255, "Unknown".into()));
    ill.no_process_remains();
    ill.remove(&pod.id);
}

#[test]
fn a_shim_that_dies_during_a_start_takes_its_container_along() {
    let Some(ill) = Ill::start() else { return };
    let pod = ill.create("shimless", SCRIPT);
    ill.runtime.set("start", Fault::Hold);
    let mut start = ill.begin(&["start", &pod.container]);
    ill.runtime.wait_until_held("start");
    promptly("losing a shim", || {
        ill.signal_shim("KILL", &pod.container);
        ended(&mut start);
        let (code, _) = ill.end(&pod.container);
        assert!([128, 255].contains(&code), "{code}");
    });
    // The runtime goes on, and finds nothing to start.
    ill.runtime.release();
    ill.no_process_remains();
    assert!(pod.messages().unwrap_or_default().is_empty());
    ill.remove(&pod.id);
}

#[test]
fn a_daemon_that_dies_during_a_start_finds_the_container_running() {
    let Some(mut ill) = Ill::start() else { return };
    for (n, late) in [false, true].into_iter().enumerate() {
        let pod = ill.create(&name("orphaned", n), SCRIPT);
        ill.runtime.set("start", Fault::Hold);
        let mut start = ill.begin(&["start", &pod.container]);
        ill.runtime.wait_until_held("start");
        ill.node.daemon.kill();
        ended(&mut start);
        if !late {
            ill.runtime.release();
        }
        promptly("a restart", || ill.node.daemon.start().unwrap());
        assert_eq!(ill.state(&pod.container), "CONTAINER_RUNNING");
        if late {
            ill.runtime.release();
        }
        pod.wait_for_log("begin").unwrap();
        assert_eq!(ill.state(&pod.container), "CONTAINER_RUNNING");
        ill.ok(&["stop", "-t", "10", &pod.container]);
        assert_eq!(ill.end(&pod.container), (5, "Error".into()));
        ill.ok(&["rm", &pod.container]);
        ill.remove(&pod.id);
    }
}

#[test]
fn an_exit_during_a_start_without_a_daemon_is_known_afterwards() {
    let Some(mut ill) = Ill::start() else { return };
    let pod = ill.create("brief", "echo begin; exit 9");
    ill.runtime.set("start", Fault::Hold);
    let mut start = ill.begin(&["start", &pod.container]);
    ill.runtime.wait_until_held("start");
    ill.node.daemon.kill();
    ended(&mut start);
    ill.runtime.release();
    wait::until("container and shim to end", || {
        ill.node.daemon.traces().processes.is_empty().then_some(())
    })
    .unwrap();
    ill.node.daemon.start().unwrap();
    assert_eq!(ill.end(&pod.container), (9, "Error".into()));
    ill.remove(&pod.id);
}

#[test]
fn a_daemon_that_dies_during_a_create_undoes_it() {
    let Some(mut ill) = Ill::start() else { return };
    let id = ill.empty_pod("unmade");
    let args = ill.create_args(&id, &ill.container("unmade", SCRIPT));
    ill.runtime.set("create", Fault::Hold);
    let mut create = ill.begin(&args);
    ill.runtime.wait_until_held("create");
    ill.node.daemon.kill();
    ended(&mut create);
    promptly("a restart", || ill.node.daemon.start().unwrap());
    assert_eq!(ill.ok(&["ps", "-a", "-q"]), "");
    ill.no_process_remains();
    // The client asks again, as for something new.
    let container = ill.ok(&args);
    ill.ok(&["start", &container]);
    ill.remove(&id);
}

#[test]
fn a_handler_that_is_gone_keeps_its_containers() {
    let Some(mut ill) = Ill::start() else { return };
    let removed = ill.run("removed", SCRIPT);
    let reset = ill.run("reset", SCRIPT);
    for pod in [&removed, &reset] {
        pod.wait_for_log("begin").unwrap();
    }
    ill.node.daemon.terminate().unwrap();
    ill.node
        .daemon
        .forget_runtime(HANDLER, &ill.runtime.program());
    ill.node.daemon.start().unwrap();
    for pod in [&removed, &reset] {
        assert_eq!(ill.state(&pod.container), "CONTAINER_RUNNING");
    }
    let file = ill
        .node
        .file("other", &pod::sandbox(ill.node.daemon.scratch(), "other"))
        .unwrap();
    let error = ill.refused(&["runp", "-r", HANDLER, &file]);
    assert!(error.contains(HANDLER), "{error}");
    promptly("ending a container", || {
        ill.ok(&["stop", "-t", "10", &removed.container]);
        assert_eq!(ill.end(&removed.container), (5, "Error".into()));
        ill.ok(&["rm", &removed.container]);
        ill.ok(&["stopp", &removed.id]);
        ill.ok(&["rmp", &removed.id]);
    });
    let known = ill.known();
    assert_eq!(known.len(), 1, "{known:?}");
    // The other goes with the daemon's folders, by the command alone.
    ill.node.daemon.kill();
    ill.node.daemon.finish().unwrap();
}

#[test]
fn a_runtime_that_cannot_kill_holds_up_nothing() {
    let Some(ill) = Ill::start() else { return };
    ill.runtime.set("kill", Fault::Fail);
    let deaf = ill.run("deaf", SCRIPT);
    promptly("stop", || {
        ill.ok(&["stop", "-t", "0", &deaf.container]);
        assert_eq!(ill.end(&deaf.container), (137, "Error".into()));
    });
    // Here the signal that asks cannot be delivered, so that the grace passes.
    let asked = ill.run("asked", SCRIPT);
    promptly("stop with a grace", || {
        ill.ok(&["stop", "-t", "1", &asked.container]);
        assert_eq!(ill.end(&asked.container), (137, "Error".into()));
    });
    let whole = ill.run("whole", SCRIPT);
    promptly("stopp and rmp", || {
        ill.ok(&["stopp", &whole.id]);
        ill.ok(&["rmp", &whole.id]);
    });
    for pod in [deaf, asked] {
        ill.ok(&["stopp", &pod.id]);
        ill.ok(&["rmp", &pod.id]);
    }
    ill.nothing_remains();
}

#[test]
fn what_a_runtime_did_not_delete_is_deleted_later() {
    let Some(ill) = Ill::start() else { return };
    let once = ill.run("once", SCRIPT);
    ill.runtime.set("delete", Fault::FailOnce);
    ill.ok(&["stopp", &once.id]);
    wait::until("the first delete", || {
        (!ill.runtime.is_set("delete")).then_some(())
    })
    .unwrap();
    ill.ok(&["rmp", &once.id]);
    ill.nothing_remains();

    let twice = ill.run("twice", SCRIPT);
    ill.runtime.set("delete", Fault::Fail);
    ill.ok(&["stop", "-t", "0", &twice.container]);
    assert_eq!(ill.known().len(), 1);
    let error = promptly("a refused rm", || ill.refused(&["rm", &twice.container]));
    assert!(error.contains("delet"), "{error}");
    assert_eq!(ill.state(&twice.container), "CONTAINER_EXITED");
    ill.runtime.heal("delete");
    ill.ok(&["rm", &twice.container]);
    ill.remove(&twice.id);
}

#[test]
fn a_shim_that_hangs_is_ended_with_its_pod() {
    let Some(ill) = Ill::start() else { return };
    let pod = ill.run("frozen", SCRIPT);
    pod.wait_for_log("begin").unwrap();
    ill.signal_shim("STOP", &pod.container);
    // Its pod's own patience is 10 s; what others ask for does not wait meanwhile.
    let mut removal = ill.begin(&["rmp", "-f", &pod.id]);
    let other = promptly("another pod", || ill.run("thawed", SCRIPT));
    ended(&mut removal);
    assert!(removal.ended().unwrap().success());
    ill.remove(&other.id);
}

#[test]
fn profiles_that_are_no_files_are_refused_at_once() {
    let Some(ill) = Ill::start() else { return };
    let profile = ill.node.daemon.scratch().join("profile");
    process::ok(process::bounded("mkfifo").arg(&profile)).unwrap();
    let id = ill.empty_pod("profiled");
    let mut config = ill.container("profiled", SCRIPT);
    // 2 is Localhost on the wire.
    config["linux"]["security_context"]["seccomp"] =
        json!({"profile_type": 2, "localhost_ref": profile});
    let args = ill.create_args(&id, &config);
    // More than there are permits to look at the host's files.
    promptly("20 refusals", || {
        for _ in 0..20 {
            let error = ill.refused(&args);
            assert!(error.contains("not a regular file"), "{error}");
        }
    });
    ill.remove(&id);
}

#[test]
fn sources_that_hang_hold_up_no_other_pod() {
    let Some(hanging) = Hanging::mount() else {
        return;
    };
    let Some(mut ill) = Ill::start() else { return };
    let create = |n: usize| {
        let name = name("stuck", n);
        let id = ill.empty_pod(&name);
        let mut config = ill.container(&name, SCRIPT);
        config["mounts"] = json!([{"container_path": "/far", "host_path": hanging.path()}]);
        let args = ill.create_args(&id, &config);
        (ill.begin(&args), id)
    };
    // One more than may hang at once: it is told so, the others wait for the host.
    let mut creates: Vec<_> = (0..9).map(create).collect();
    wait::until("one create to be refused", || {
        creates.iter_mut().find_map(|(create, _)| create.ended())
    })
    .unwrap();
    promptly("runp and rmp of another pod", || {
        let other = ill.empty_pod("free");
        ill.ok(&["stopp", &other]);
        ill.ok(&["rmp", &other]);
    });
    ill.node.daemon.kill();
    for (mut create, _) in creates.drain(..) {
        ended(&mut create);
    }
    drop(hanging);
    promptly("a restart", || ill.node.daemon.start().unwrap());
    assert_eq!(ill.ok(&["ps", "-a", "-q"]), "");
    for pod in ill.ok(&["pods", "-q"]).lines() {
        ill.ok(&["stopp", pod]);
        ill.ok(&["rmp", pod]);
    }
    ill.nothing_remains();
}

/// Bytes of a state folder that is soon full.
const SMALL: &str = "size=8m";

/// Puts a small file system in the place of the state folder of a daemon that has just been reset.
fn mount_small_state(node: &mut Node) {
    let reset = node.daemon.command(&["reset"]).unwrap();
    assert_eq!(reset.code, 0, "{reset:?}");
    node.daemon.kill();
    let state = node.daemon.state();
    fs::create_dir(&state).unwrap();
    process::ok(
        process::bounded("mount")
            .args(["-t", "tmpfs", "-o", SMALL, "tmpfs"])
            .arg(&state),
    )
    .unwrap();
    node.daemon.start().unwrap();
    node.crictl.ok(&["pull", &node.image]).unwrap();
}

/// Writes until there is no room.
fn fill(path: &Path) {
    let Output { code, stderr, .. } = process::run(
        process::bounded("dd")
            .args(["if=/dev/zero", "bs=4096"])
            .arg(format!("of={}", path.display())),
    )
    .unwrap();
    assert!(code == 1 && stderr.contains("No space left"), "{stderr}");
}

#[test]
fn an_exit_code_needs_no_room_on_the_disk() {
    let Some(mut ill) = Ill::start() else { return };
    mount_small_state(&mut ill.node);
    let shared = ill.node.daemon.scratch().join("shared");
    fs::create_dir(&shared).unwrap();
    let id = ill.empty_pod("full");
    let script = "while [ ! -e /shared/go ]; do sleep 0.1; done; exit 7";
    let mut config = ill.container("full", script);
    config["mounts"] = json!([{"container_path": "/shared", "host_path": shared}]);
    let args = ill.create_args(&id, &config);
    let container = ill.ok(&args);
    ill.ok(&["start", &container]);
    let filler = ill.node.daemon.state().join("filler");
    fill(&filler);
    fs::write(shared.join("go"), "").unwrap();
    assert_eq!(ill.end(&container), (7, "Error".into()));
    // The shim could only tell it; from now on the daemon's own record must know.
    let bundle = ill.node.daemon.state().join("bundles").join(&container);
    assert!(!bundle.join("exit").exists());
    ill.node.daemon.kill();
    ill.node.daemon.start().unwrap();
    assert_eq!(ill.end(&container), (7, "Error".into()));
    ill.ok(&["rm", &container]);
    ill.ok(&["stopp", &id]);
    ill.ok(&["rmp", &id]);
    fs::remove_file(filler).unwrap();
    ill.nothing_remains();
}

#[test]
fn a_pod_without_its_init_is_not_ready() {
    let Some(ill) = Ill::start() else { return };
    let mut sandbox = pod::sandbox(ill.node.daemon.scratch(), "headless");
    pod::sharing_pids(&mut sandbox);
    let id = ill.pod(&sandbox);
    let mut config = ill.container("headless", SCRIPT);
    pod::sharing_pids(&mut config);
    let args = ill.create_args(&id, &config);
    let container = ill.ok(&args);
    ill.ok(&["start", &container]);
    let status = ill.node.crictl.json(&["inspectp", &id]).unwrap();
    assert_ne!(status["status"]["network"]["ip"], "", "{status}");
    send(
        "KILL",
        i32::try_from(status["info"]["pid"].as_i64().unwrap()).unwrap(),
    );
    let status = wait::until("the pod not to be ready", || {
        let status = ill.node.crictl.json(&["inspectp", &id]).ok()?;
        (status["status"]["state"] == "SANDBOX_NOTREADY").then_some(status)
    })
    .unwrap();
    assert_eq!(status["status"]["network"]["ip"], "", "{status}");
    assert_eq!(ill.end(&container), (137, "Error".into()));
    promptly("stopp and rmp", || ill.remove(&id));
}

#[test]
fn a_command_whose_time_is_over_is_never_run() {
    let Some(ill) = Ill::start() else { return };
    let pod = ill.run("slow", SCRIPT);
    pod.wait_for_log("begin").unwrap();
    ill.runtime.set("exec", Fault::Hold);
    let client = ill.node.daemon.client().unwrap();
    let request = ExecSyncRequest {
        container_id: pod.container.clone(),
        cmd: ["touch", "/ran"].map(str::to_owned).into(),
        timeout: 1,
    };
    let status = promptly("a command with a time-out", || {
        client.call(async |mut cri| cri.exec_sync(request).await)
    })
    .unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
    ill.runtime.wait_until_held("exec");
    // Without the runtime nobody is left who would run it.
    let runtime = ill.runtime.program();
    wait::until("the runtime to end", || {
        let runtimes = ill.processes(&runtime.display().to_string(), " exec ");
        runtimes.is_empty().then_some(())
    })
    .unwrap();
    ill.runtime.release();
    ill.node.exec(&pod.container, "[ ! -e /ran ]").unwrap();
    ill.remove(&pod.id);
}
