//! What the program finds: environment, folder, user, host name, kernel parameters, an init.

use tests::engines::Engine;
use tests::wait;

use crate::SERVICE;

pub(crate) fn environment_folder_and_names(engine: &Engine) {
    let flags = [
        "-e",
        "A=b c",
        "-w",
        "/var/tmp",
        "--hostname",
        "ferry",
        "--add-host",
        "quay:10.1.2.3",
    ];
    let script = "echo $A; pwd; hostname; grep -c quay /etc/hosts; echo $HOSTNAME";
    assert_eq!(
        engine.output(&flags, script).unwrap(),
        "b c\n/var/tmp\nferry\n1\nferry"
    );
    // docker makes a folder that is not in the image; podman refuses it.
    if !engine.is_podman() {
        assert_eq!(
            engine.output(&["-w", "/new/one"], "pwd").unwrap(),
            "/new/one"
        );
    }
}

pub(crate) fn users_and_groups(engine: &Engine) {
    let ids = "id -u; id -g; id -G";
    let said = engine
        .output(&["--user", "1000:1001", "--group-add", "77"], ids)
        .unwrap();
    assert_eq!(said, "1000\n1001\n1001 77");
    let said = engine
        .output(&["--user", "www-data"], "id -un; echo $HOME")
        .unwrap();
    assert_eq!(said, "www-data\n/var/www");
}

pub(crate) fn kernel_parameters(engine: &Engine) {
    let flags = [
        "--sysctl",
        "net.core.somaxconn=321",
        "--sysctl",
        "kernel.msgmax=12345",
    ];
    let script = "cat /proc/sys/net/core/somaxconn /proc/sys/kernel/msgmax";
    assert_eq!(engine.output(&flags, script).unwrap(), "321\n12345");
    let refused = engine.run(&["--sysctl", "kernel.panic=1"], "true").unwrap();
    assert!(refused.code >= 125, "{}{}", refused.stdout, refused.stderr);
}

pub(crate) fn an_init_reaps(engine: &Engine) {
    let container = engine
        .detached(&["--init"], "(sleep 0 &); echo ready; exec sleep 1000")
        .unwrap();
    container.wait_for("ready").unwrap();
    let first = container.output("tr '\\0' ' ' </proc/1/cmdline").unwrap();
    assert!(first.contains("init"), "{first}");
    let zombies = "grep -l 'State:.Z' /proc/[0-9]*/status 2>/dev/null; true";
    wait::until("orphans to be reaped", || {
        container.output(zombies).ok().filter(String::is_empty)
    })
    .unwrap();
    // An init passes signals on: sleep has no handler and dies of it.
    container.ok(&["kill", "-s", "TERM"]).unwrap();
    assert_eq!(container.wait().unwrap(), 143);
}

pub(crate) fn namespaces_are_shared_as_asked(engine: &Engine) {
    let first = engine.detached(&["--ipc", "shareable"], SERVICE).unwrap();
    let of = |name: &str| format!("container:{name}");
    let other = of(&first.name);
    let flags = ["--pid", other.as_str(), "--ipc", &other];
    let script = "for n in pid ipc uts; do readlink /proc/self/ns/$n; done; cat /proc/1/comm";
    let inside = engine.output(&flags, script).unwrap();
    let own = first.output(script).unwrap();
    let (inside, own): (Vec<&str>, Vec<&str>) = (inside.lines().collect(), own.lines().collect());
    assert_eq!((inside[0], inside[1], inside[3]), (own[0], own[1], own[3]));
    assert_ne!(inside[2], own[2]);

    let host = |kind: &str| std::fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
    let script = "readlink /proc/self/ns/pid; readlink /proc/self/ns/uts";
    let said = engine
        .output(&["--pid", "host", "--uts", "host"], script)
        .unwrap();
    assert_eq!(
        said,
        format!("{}\n{}", host("pid").display(), host("uts").display())
    );
    let script = "readlink /proc/self/ns/cgroup; cat /proc/self/cgroup";
    let said = engine.output(&["--cgroupns", "private"], script).unwrap();
    assert_ne!(said.lines().next(), host("cgroup").to_str());
    assert!(said.lines().any(|line| line.ends_with(":/")), "{said}");
}

pub(crate) fn health_is_asked(engine: &Engine) {
    let flags = [
        "--health-cmd",
        "test -e /tmp/well",
        "--health-interval",
        "300ms",
        "--health-retries",
        "1",
    ];
    // Without systemd podman has nobody who asks by himself.
    let flags = if engine.is_podman() {
        &flags[..2]
    } else {
        &flags[..]
    };
    let container = engine.detached(flags, SERVICE).unwrap();
    let until = |state: &str| {
        let seen = wait::until("a state of health", || {
            if engine.is_podman() {
                engine.call(&["healthcheck", "run", &container.name]).ok();
            }
            let said = container.inspect().ok()?;
            (said["State"]["Health"]["Status"] == state).then_some(())
        });
        seen.unwrap_or_else(|_| panic!("{state}: {:?}", container.inspect()));
    };
    until("unhealthy");
    container.output("touch /tmp/well").unwrap();
    until("healthy");
}
