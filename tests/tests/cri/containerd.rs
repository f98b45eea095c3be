//! `wrun` in the place of runc under Debian's own containerd.

use std::ffi::OsStr;
use std::path::Path;

use tests::conformance::images;
use tests::process::Running;
use tests::traces::{Marks, Traces, remove_parent};
use tests::{Crictl, Registry, Scratch, daemon, peers, pod, wait};

/// A containerd of the test's own; what it leaves is removed by force.
struct Containerd {
    scratch: Scratch,
    running: Option<Running>,
}

impl Drop for Containerd {
    fn drop(&mut self) {
        drop(self.running.take());
        Traces::of(&Marks {
            folder: self.scratch.path().to_owned(),
            kept: Vec::new(),
            cgroup: self.scratch.name().to_owned(),
            bridge: self.scratch.name().to_owned(),
        })
        .remove();
        remove_parent(self.scratch.name());
    }
}

/// The configuration of containerd 1.6 (version 2 of its format).
fn configuration(folder: &Path, runtime: &Path) -> String {
    let path = |name: &str| folder.join(name).display().to_string();
    let cri = "plugins.\"io.containerd.grpc.v1.cri\"";
    format!(
        "version = 2\nroot = {:?}\nstate = {:?}\n[grpc]\naddress = {:?}\n[{cri}]\n\
         sandbox_image = \"registry.k8s.io/pause:3.10\"\nrestrict_oom_score_adj = true\n\
         [{cri}.registry]\nconfig_path = {:?}\n[{cri}.containerd.runtimes.runc]\n\
         runtime_type = \"io.containerd.runc.v2\"\n[{cri}.containerd.runtimes.runc.options]\n\
         BinaryName = {:?}\n",
        path("root"),
        path("state"),
        path("cri.sock"),
        path("certs.d"),
        runtime.display().to_string(),
    )
}

#[test]
fn wrun_under_debians_containerd() {
    let Some(program) = peers::peer("debian/usr/bin/containerd") else {
        return;
    };
    let scratch = Scratch::new().unwrap();
    let Some(registry) = Registry::start(&scratch.join("registry")).unwrap() else {
        return;
    };
    images::push_busybox(&registry, &images::busybox().unwrap()).unwrap();
    images::push_pause(&registry).unwrap();
    let hosts = scratch.join("certs.d/registry.k8s.io");
    std::fs::create_dir_all(&hosts).unwrap();
    let text = daemon::hosts("registry.k8s.io", &registry.host).unwrap();
    std::fs::write(hosts.join("hosts.toml"), text).unwrap();

    let runtime = daemon::programs().join("wrun");
    let config = scratch.join("config.toml");
    std::fs::write(&config, configuration(scratch.path(), &runtime)).unwrap();
    let socket = scratch.join("cri.sock");
    let Some(crictl) = Crictl::of(&socket) else {
        return;
    };
    // containerd looks for its shim in PATH, and beside itself.
    let args = [OsStr::new("--config"), config.as_os_str()];
    let log = scratch.join("log");
    let running = Running::start(&program, &args, &log).unwrap();
    let engine = Containerd {
        scratch,
        running: Some(running),
    };
    let ready = wait::until("containerd", || crictl.ok(&["version"]).ok());
    ready.unwrap_or_else(|error| panic!("{error:?}\n{}", std::fs::read_to_string(&log).unwrap()));

    live(&crictl, &engine.scratch);
}

/// A pod on the host's network (no CNI is needed for it), from start to end.
fn live(crictl: &Crictl, scratch: &Scratch) {
    let image = "registry.k8s.io/e2e-test-images/busybox:1.29-2";
    crictl.ok(&["pull", image]).unwrap();
    let mut sandbox = pod::sandbox(scratch, "foreign");
    let script = "trap 'exit 8' TERM; echo ready; while :; do sleep 1 & wait $!; done";
    let mut container = pod::container("foreign", image, script);
    pod::on_host_network(&mut sandbox, &mut container);
    let sandbox = pod::file(scratch, "pod", &sandbox).unwrap();
    let container = pod::file(scratch, "container", &container).unwrap();

    let id = crictl.ok(&["runp", pod::arg(&sandbox)]).unwrap();
    let create = [
        "create",
        "--no-pull",
        &id,
        pod::arg(&container),
        pod::arg(&sandbox),
    ];
    let container = crictl.ok(&create).unwrap();
    crictl.ok(&["start", &container]).unwrap();
    wait::until("its log", || {
        crictl
            .ok(&["logs", &container])
            .ok()
            .filter(|log| log.contains("ready"))
    })
    .unwrap();
    assert_eq!(
        crictl
            .ok(&["exec", "-s", &container, "echo", "inside"])
            .unwrap(),
        "inside"
    );
    crictl.ok(&["stop", "-t", "10", &container]).unwrap();
    assert_eq!(crictl.exit_code(&container).unwrap(), 8);
    crictl.ok(&["stopp", &id]).unwrap();
    crictl.ok(&["rmp", &id]).unwrap();
}
