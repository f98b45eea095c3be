//! The root file system and what is mounted into it.

use std::os::unix::fs::PermissionsExt;

use tests::engines::Engine;
use tests::process;

use crate::SERVICE;

pub(crate) fn a_root_that_cannot_be_written(engine: &Engine) {
    let run = engine
        .run(
            &["--read-only", "--tmpfs", "/run"],
            "touch /run/a && touch /a",
        )
        .unwrap();
    assert_eq!(run.code, 1);
    assert!(
        run.stderr.contains("/a: Read-only file system"),
        "{}",
        run.stderr
    );
}

pub(crate) fn temporary_file_systems(engine: &Engine) {
    let flags = ["--tmpfs", "/small:rw,size=1m,mode=0751,noexec"];
    let script = "grep ' /small ' /proc/mounts; stat -c %a /small; dd if=/dev/zero of=/small/a bs=2M 2>&1 | tail -1";
    let said = engine.output(&flags, script).unwrap();
    assert!(said.starts_with("tmpfs /small tmpfs rw,"), "{said}");
    for part in ["noexec", "size=1024k", "\n751\n"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let full = engine
        .run(&flags, "dd if=/dev/zero of=/small/a bs=2M count=1")
        .unwrap();
    assert!(full.stderr.contains("No space left"), "{}", full.stderr);
}

pub(crate) fn folders_of_the_host(engine: &Engine) {
    let folder = tempfile::tempdir_in(engine.scratch().path()).unwrap();
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o777)).unwrap();
    std::fs::write(folder.path().join("given"), "by the host\n").unwrap();
    let from = folder.path().display();
    let (writable, not) = (format!("{from}:/rw"), format!("{from}:/ro:ro"));
    let flags = ["-v", &writable, "-v", &not];
    let script = "cat /ro/given; echo back >/rw/back; touch /ro/no";
    let run = engine.run(&flags, script).unwrap();
    assert_eq!(run.stdout, "by the host\n");
    assert!(
        run.stderr.contains("Read-only file system"),
        "{}",
        run.stderr
    );
    assert_eq!(
        std::fs::read_to_string(folder.path().join("back")).unwrap(),
        "back\n"
    );
    let one = format!("type=bind,source={from}/given,target=/etc/given,readonly");
    assert_eq!(
        engine.output(&["--mount", &one], "cat /etc/given").unwrap(),
        "by the host"
    );
}

pub(crate) fn volumes_keep_what_was_written(engine: &Engine) {
    let volume = format!("{}-{}", engine.scratch().name(), std::process::id());
    engine.ok(&["volume", "create", &volume]).unwrap();
    let at = format!("{volume}:/kept");
    engine.output(&["-v", &at], "echo it >/kept/it").unwrap();
    let said = engine.output(&["-v", &at], "cat /kept/it");
    engine.ok(&["volume", "rm", &volume]).unwrap();
    assert_eq!(said.unwrap(), "it");
}

/// A shared mount of a test's own, as propagation wants one.
struct Shared(tempfile::TempDir);

impl Shared {
    fn of(engine: &Engine) -> Shared {
        let folder = tempfile::tempdir_in(engine.scratch().path()).unwrap();
        let path = folder.path();
        process::ok(process::bounded("mount").arg("--bind").args([path, path])).unwrap();
        process::ok(process::bounded("mount").arg("--make-shared").arg(path)).unwrap();
        Shared(folder)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        process::run(process::bounded("umount").arg("-R").arg(self.0.path())).ok();
    }
}

pub(crate) fn propagation(engine: &Engine) {
    let shared = Shared::of(engine);
    let folder = shared.0.path();
    for (mode, mark) in [
        ("rslave", Some("master:")),
        ("rshared", Some("shared:")),
        ("rprivate", None),
    ] {
        let flag = format!("{}:/at:{mode}", folder.display());
        let said = engine
            .output(&["-v", &flag], "grep ' /at ' /proc/self/mountinfo")
            .unwrap();
        // The optional fields end at the dash.
        let fields = said.split(" - ").next().unwrap();
        let fields: Vec<&str> = fields.split(' ').skip(6).collect();
        let found = fields
            .first()
            .map(|field| field.split_inclusive(':').next().unwrap());
        assert_eq!(found, mark, "{mode}: {said}");
    }
    // What the host mounts later appears in a container that listens.
    let flag = format!("{}:/at:rslave", folder.display());
    let container = engine.detached(&["-v", &flag], SERVICE).unwrap();
    std::fs::create_dir(folder.join("late")).unwrap();
    let late = folder.join("late");
    process::ok(
        process::bounded("mount")
            .args(["-t", "tmpfs", "late"])
            .arg(&late),
    )
    .unwrap();
    let said = container.output("grep ' /at/late ' /proc/mounts").unwrap();
    assert!(said.starts_with("late "), "{said}");
}

pub(crate) fn shared_memory(engine: &Engine) {
    let said = engine
        .output(&["--shm-size", "3m"], "grep ' /dev/shm ' /proc/mounts")
        .unwrap();
    assert!(said.contains("size=3072k"), "{said}");
}

pub(crate) fn devices(engine: &Engine) {
    // A device that no runtime allows by itself; what the rule says counts when it is opened.
    let script = "stat -c %t:%T /dev/mine; true >/dev/mine; echo $?; true </dev/mine";
    let flags = ["--device", "/dev/kmsg:/dev/mine:w", "--cap-add", "SYSLOG"];
    let run = engine.run(&flags, script).unwrap();
    assert_eq!(run.stdout, "1:b\n0\n", "{}", run.stderr);
    assert!(
        run.stderr.contains("Operation not permitted"),
        "{}",
        run.stderr
    );
    // Made, but not allowed by the rules for devices.
    let script = "mknod /tmp/kmsg c 1 11 && cat /tmp/kmsg";
    let run = engine.run(&["--cap-add", "MKNOD"], script).unwrap();
    assert!(
        run.stderr.contains("'/tmp/kmsg': Operation not permitted"),
        "{}",
        run.stderr
    );
    let usual = "for d in null zero full random urandom tty; do test -c /dev/$d || echo no $d; done; \
        for l in fd stdin ptmx; do readlink /dev/$l; done";
    assert_eq!(
        engine.output(&[], usual).unwrap(),
        "/proc/self/fd\n/proc/self/fd/0\npts/ptmx"
    );
}

pub(crate) fn masked_and_read_only_paths(engine: &Engine) {
    let script = "head -c1 /proc/timer_list 2>/dev/null | wc -c; ls /sys/firmware; \
        echo 1 >/proc/sys/kernel/panic; touch /sys/a; echo end";
    let run = engine.run(&[], script).unwrap();
    assert_eq!(
        run.stdout.replace('\n', " ").trim(),
        "0 end",
        "{}",
        run.stderr
    );
    assert_eq!(
        run.stderr.matches("Read-only file system").count(),
        2,
        "{}",
        run.stderr
    );
}

pub(crate) fn copies_in_and_out(engine: &Engine) {
    let container = engine
        .detached(&[], "echo mine >/tmp/mine; echo ready; exec sleep 1000")
        .unwrap();
    container.wait_for("ready").unwrap();
    let folder = tempfile::tempdir_in(engine.scratch().path()).unwrap();
    let (out, into) = (folder.path().join("out"), folder.path().join("into"));
    let inside = |path: &str| format!("{}:{path}", container.name);
    engine
        .ok(&["cp", &inside("/tmp/mine"), out.to_str().unwrap()])
        .unwrap();
    assert_eq!(std::fs::read_to_string(out).unwrap(), "mine\n");
    std::fs::write(&into, "yours\n").unwrap();
    engine
        .ok(&["cp", into.to_str().unwrap(), &inside("/var/yours")])
        .unwrap();
    assert_eq!(container.output("cat /var/yours").unwrap(), "yours");
}
