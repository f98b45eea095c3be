//! `checkpoint` and `restore`, with a real criu. Containers that are to be written down must not have
//! files of the host open, so their streams are the null device, pipes or a terminal.

use std::fs;
use std::io::Read as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::json;

use crate::harness::{Bundle, Said, bundle, peer, program, until};
use crate::terminal::{read_until, receive};

/// Counts in the memory of a shell, and tells how far in a file. That has one length at every moment,
/// or a restore would refuse it as changed since the dump.
const COUNT: &str = "printf '%09d' 0 > /tmp/n; i=0; \
    while true; do i=$((i+1)); printf '%09d' $i 1<> /tmp/n; sleep 0.02; done";

/// A bundle, and the `PATH` under which criu is found; `None` with the reason printed.
fn ready() -> Option<(Bundle, String)> {
    let b = bundle()?;
    let Some(criu) = peer("criu") else {
        println!("skipped: needs criu");
        return None;
    };
    let folder = criu.parent().unwrap().to_str().unwrap().to_owned();
    let path = format!("{folder}:/usr/sbin:/usr/bin:/sbin:/bin");
    static WORKS: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    if !WORKS.get_or_init(|| dumps(&criu, &path)) {
        println!("skipped: needs criu that works on this kernel");
        return None;
    }
    if peer("iptables-restore").is_none() {
        println!("skipped: needs iptables-restore, for criu");
        return None;
    }
    Some((b, path))
}

/// Whether criu can write down the simplest of all processes: its own check finds less.
fn dumps(criu: &Path, path: &str) -> bool {
    let images = tempfile::tempdir().unwrap();
    let mut sleeping = program("setsid")
        .args(["sleep", "1000"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let comm = format!("/proc/{}/comm", sleeping.id());
    until(|| fs::read_to_string(&comm).unwrap() == "sleep\n");
    let dumped = program("timeout")
        .args(["60", criu.to_str().unwrap(), "dump", "--leave-running"])
        .args(["-t", &sleeping.id().to_string(), "-D"])
        .arg(images.path())
        .env("PATH", path)
        .stdin(Stdio::null())
        .output();
    sleeping.kill().unwrap();
    sleeping.wait().unwrap();
    dumped.unwrap().status.success()
}

fn command(b: &Bundle, path: &str, args: &[&str]) -> Command {
    let mut command = b.command(args);
    command.env("PATH", path);
    command
}

/// Runs a command whose container keeps the streams, which go nowhere.
#[track_caller]
fn quiet(b: &Bundle, path: &str, args: &[&str]) -> Said {
    let log = b.path("quiet.log");
    let _none = fs::remove_file(&log);
    let mut all = vec!["--log", log.to_str().unwrap()];
    all.extend_from_slice(args);
    let status = command(b, path, &all)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    Said {
        code: status.unwrap().code().unwrap_or(-1),
        out: String::new(),
        err: fs::read_to_string(&log).unwrap_or_default(),
    }
}

#[track_caller]
fn start(b: &Bundle, path: &str) {
    b.write();
    let dir = b.dir.path().to_str().unwrap();
    quiet(b, path, &["run", "-d", "-b", dir, &b.id]).ok();
}

fn checkpoint(b: &Bundle, path: &str, more: &[&str]) -> Said {
    let (images, work) = (b.path("images"), b.path("work"));
    let mut args = vec!["checkpoint", "--image-path", images.to_str().unwrap()];
    args.extend(["--work-path", work.to_str().unwrap()]);
    args.extend_from_slice(more);
    args.push(&b.id);
    quiet(b, path, &args)
}

fn restore(b: &Bundle, path: &str, more: &[&str]) -> Said {
    let (images, work) = (b.path("images"), b.path("work"));
    let mut args = vec!["restore", "--image-path", images.to_str().unwrap()];
    args.extend(["--work-path", work.to_str().unwrap(), "-d"]);
    args.extend(["-b", b.dir.path().to_str().unwrap()]);
    args.extend_from_slice(more);
    args.push(&b.id);
    quiet(b, path, &args)
}

fn count(b: &Bundle) -> u32 {
    let text = fs::read_to_string(b.path("rootfs/tmp/n")).unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}

#[test]
fn a_container_goes_on_where_it_was() {
    let Some((mut b, path)) = ready() else { return };
    fs::create_dir(b.path("data")).unwrap();
    fs::create_dir_all(b.path("rootfs/sys/fs/cgroup")).unwrap();
    let data = b.path("data");
    b.mount(json!({ "destination": "/data/deep", "source": data, "options": ["rbind"] }));
    b.mount(
        json!({ "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
        "options": ["ro"] }),
    );
    b.spec["linux"]["maskedPaths"] = json!(["/proc/keys", "/proc/acpi", "/proc/timer_list"]);
    b.spec["linux"]["readonlyPaths"] = json!(["/proc/sys"]);
    b.spec["linux"]["resources"] = json!({ "pids": { "limit": 77 } });
    b.script(&format!(
        "sleep 1000 & echo $! > /tmp/pid; echo kept > /dev/file; {COUNT}"
    ));
    start(&b, &path);
    until(|| count(&b) > 5);
    let inside = fs::read_to_string(b.path("rootfs/tmp/pid")).unwrap();
    let namespace = |b: &Bundle| fs::read_link(format!("/proc/{}/ns/pid", b.pid())).unwrap();
    let before = namespace(&b);
    checkpoint(&b, &path, &[]).ok();
    b.wrun(&["state", &b.id]).fails("container does not exist");
    b.assert_nothing_left();
    let counted = count(&b);
    assert!(b.path("images/descriptors.json").exists() && b.path("work/dump.log").exists());

    let pid_file = b.path("pid");
    restore(&b, &path, &["--pid-file", pid_file.to_str().unwrap()]).ok();
    until(|| count(&b) > counted);
    assert!(count(&b) < counted + 10_000, "it began anew");
    assert_eq!(b.status(), "running");
    assert_eq!(fs::read_to_string(&pid_file).unwrap(), b.pid().to_string());
    assert_ne!(namespace(&b), before);
    let said = b.exec(&format!(
        "cat /proc/{}/cmdline; cat /dev/file; echo in > /data/deep/f; hostname; ls /sys/fs/cgroup; wc -c < /proc/keys; ls /proc/acpi; touch /proc/sys/kernel/domainname || echo ro",
        inside.trim()
    ));
    assert!(
        said.out.starts_with("sleep\u{0}1000\u{0}kept\nbox\n"),
        "{said:?}"
    );
    assert!(said.out.ends_with("0\nro\n"), "{said:?}");
    assert_eq!(fs::read_to_string(b.path("data/f")).unwrap(), "in\n");
    assert!(!b.path("state").join(&b.id).join("criu-root").exists());
    let said = b.exec("cat /proc/net/dev");
    assert!(said.out.contains("lo:"), "{said:?}");

    // Once more, as an engine that moves a container about would.
    checkpoint(&b, &path, &[]).ok();
    let counted = count(&b);
    restore(&b, &path, &[]).ok();
    until(|| count(&b) > counted);
    b.wrun(&["delete", "--force", &b.id]).ok();
    b.assert_nothing_left();
}

#[test]
fn a_container_can_go_on_beside_its_images() {
    let Some((mut b, path)) = ready() else { return };
    b.script(COUNT);
    start(&b, &path);
    until(|| count(&b) > 2);
    let pid = b.pid();
    checkpoint(&b, &path, &["--leave-running"]).ok();
    assert_eq!((b.status().as_str(), b.pid()), ("running", pid));
    let counted = count(&b);
    until(|| count(&b) > counted);
    b.wrun(&["delete", "--force", &b.id]).ok();
    restore(&b, &path, &[]).ok();
    until(|| count(&b) > 2);
}

#[test]
fn memory_is_dumped_ahead_where_the_kernel_can_tell_what_changed() {
    let Some((mut b, path)) = ready() else { return };
    b.script(COUNT);
    start(&b, &path);
    let images = b.path("first");
    let args = [
        "checkpoint",
        "--pre-dump",
        "--image-path",
        images.to_str().unwrap(),
        &b.id,
    ];
    let said = quiet(&b, &path, &args);
    assert_eq!(b.status(), "running");
    if said.err.contains("criu is missing features: [MemTrack]") {
        assert_eq!(said.code, 1);
        println!("skipped: needs a kernel that tracks changes of memory");
        return;
    }
    said.ok();
    assert!(images.join("pages-1.img").exists());
    checkpoint(&b, &path, &["--parent-path", "../first"]).ok();
    let counted = count(&b);
    restore(&b, &path, &[]).ok();
    until(|| count(&b) > counted);
}

#[test]
fn a_failed_dump_leaves_the_container_running() {
    let Some((mut b, path)) = ready() else { return };
    // Its streams are files of the host.
    b.script(COUNT);
    b.create().ok();
    b.wrun(&["start", &b.id]).ok();
    until(|| count(&b) > 2);
    let said = checkpoint(&b, &path, &[]).fails("criu failed: type DUMP errno");
    let log = b.path("work/dump.log");
    assert!(
        said.err.contains(&format!("log file {}", log.display())),
        "{said:?}"
    );
    assert!(said.err.contains("Dump files"), "{said:?}");
    let counted = count(&b);
    until(|| count(&b) > counted);
    assert_eq!(b.status(), "running");
}

/// Where cgroup v2 is mounted beside v1.
fn beside_v1() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let of_type = |kind: &str| {
        let mut lines = mounts.lines().map(|line| line.split(' '));
        lines.find_map(|mut line| {
            let folder = line.nth(1)?;
            (line.next()? == kind).then(|| PathBuf::from(folder))
        })
    };
    let v2 = of_type("cgroup2");
    of_type("cgroup").and(v2)
}

#[test]
fn groups_of_others_do_not_come_back() {
    let Some((mut b, path)) = ready() else { return };
    let Some(v2) = beside_v1() else {
        println!("skipped: needs cgroup v2 beside v1");
        return;
    };
    let others = v2.join(format!("others-{}", b.id));
    fs::create_dir(&others).unwrap();
    b.script(COUNT);
    start(&b, &path);
    until(|| count(&b) > 5);
    let dumped = checkpoint(&b, &path, &[]);
    fs::remove_dir(&others).unwrap();
    dumped.ok();
    let counted = count(&b);
    restore(&b, &path, &[]).ok();
    until(|| count(&b) > counted);
    let came_back = fs::remove_dir(&others).is_ok();
    assert!(!came_back, "{others:?}");
}

#[test]
fn a_failed_restore_leaves_nothing() {
    let Some((mut b, path)) = ready() else { return };
    b.script(COUNT);
    start(&b, &path);
    until(|| count(&b) > 2);
    checkpoint(&b, &path, &[]).ok();
    let (pages, away) = (b.path("images/pages-1.img"), b.path("pages"));
    fs::rename(&pages, &away).unwrap();
    restore(&b, &path, &[]).fails("criu failed: type RESTORE errno");
    b.assert_nothing_left();
    fs::rename(&away, &pages).unwrap();
    b.spec["hooks"] = json!({ "createRuntime": [{ "path": "/bin/false" }] });
    b.write();
    restore(&b, &path, &[]).fails("error running createRuntime hook #0: exit status 1");
    b.assert_nothing_left();
    b.spec["hooks"] = json!({});
    b.write();
    restore(&b, &path, &["--pid-file", "/proc/none/pid"]).fails("write pid file");
    b.assert_nothing_left();
    restore(&b, &path, &[]).ok();
    restore(&b, &path, &[]).fails("container with given ID already exists");
    assert_eq!(b.status(), "running");
}

/// The hook's parent is the runtime, whose child by then is criu.
#[test]
fn a_killed_restore_leaves_what_delete_takes_away() {
    let Some((mut b, path)) = ready() else { return };
    b.script(COUNT);
    start(&b, &path);
    until(|| count(&b) > 2);
    checkpoint(&b, &path, &[]).ok();
    let kill = |which: &str| json!({ "createRuntime": [{ "path": "/bin/sh", "args": ["sh", "-c", which] }] });
    b.spec["hooks"] = kill("kill -9 $PPID");
    b.write();
    assert_ne!(restore(&b, &path, &[]).code, 0);
    b.wrun(&["state", &b.id]).fails("container does not exist");
    b.wrun(&["delete", "--force", &b.id]).ok();
    b.assert_nothing_left();
    b.spec["hooks"] = kill(
        "for p in $(cat /proc/$PPID/task/$PPID/children); do read c < /proc/$p/comm; [ $c != criu ] || kill -9 $p; done",
    );
    b.write();
    restore(&b, &path, &[]).fails("criu");
    b.assert_nothing_left();
    b.spec["hooks"] = json!({});
    b.write();
    restore(&b, &path, &[]).ok();
    let counted = count(&b);
    until(|| count(&b) > counted);
}

#[test]
fn hooks_of_the_host_run_at_a_restore() {
    let Some((mut b, path)) = ready() else { return };
    let seen = b.path("seen");
    let write = format!(
        "cat > {}; readlink /proc/self/ns/mnt >> {0}",
        seen.display()
    );
    b.spec["hooks"] =
        json!({ "createRuntime": [{ "path": "/bin/sh", "args": ["sh", "-c", write] }] });
    b.script(COUNT);
    start(&b, &path);
    fs::remove_file(&seen).unwrap();
    until(|| count(&b) > 2);
    checkpoint(&b, &path, &[]).ok();
    restore(&b, &path, &[]).ok();
    let said = fs::read_to_string(&seen).unwrap();
    assert!(said.contains(&format!("\"pid\":{}", b.pid())), "{said}");
    let own = fs::read_link("/proc/self/ns/mnt").unwrap();
    assert!(said.contains(own.to_str().unwrap()), "{said}");
}

#[test]
fn pipes_are_those_of_who_restores() {
    let Some((mut b, path)) = ready() else { return };
    b.script("echo first; until test -e /tmp/go; do sleep 0.02; done; echo second; exit 7");
    b.write();
    let dir = b.dir.path().to_str().unwrap();
    let mut child = command(&b, &path, &["run", "-d", "-b", dir, &b.id])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    assert!(child.wait().unwrap().success());
    let mut out = child.stdout.take().unwrap();
    let mut first = [0; 6];
    out.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"first\n");
    checkpoint(&b, &path, &[]).ok();
    fs::write(b.path("rootfs/tmp/go"), "").unwrap();
    let images = b.path("images");
    let args = [
        "restore",
        "--image-path",
        images.to_str().unwrap(),
        "-b",
        dir,
        &b.id,
    ];
    let output = command(&b, &path, &args)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "second\n");
    assert_eq!(output.status.code(), Some(7));
    b.assert_nothing_left();
}

#[test]
fn a_terminal_comes_back() {
    let Some((mut b, path)) = ready() else { return };
    b.spec["process"]["terminal"] = json!(true);
    b.script("test -t 0 && echo terminal; while head -n 1; do :; done")
        .write();
    let socket = b.path("tty.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let (socket, dir) = (socket.to_str().unwrap(), b.dir.path().to_str().unwrap());
    quiet(
        &b,
        &path,
        &["run", "-d", "--console-socket", socket, "-b", dir, &b.id],
    )
    .ok();
    let (_, mut master) = receive(&listener);
    read_until(&mut master, "terminal");
    checkpoint(&b, &path, &[]).ok();
    drop(master);
    restore(&b, &path, &[]).fails("without setting console socket");
    b.assert_nothing_left();
    restore(&b, &path, &["--console-socket", socket]).ok();
    let (name, mut master) = receive(&listener);
    assert_eq!(name, "orphan-pts-master");
    std::io::Write::write_all(&mut master, b"typed\n").unwrap();
    // The echo, and what the program makes of it.
    let text = read_until(&mut master, "typed\r\ntyped");
    assert!(text.starts_with("typed"), "{text}");
}

#[test]
fn namespaces_of_others_stay_theirs() {
    let Some((mut b, path)) = ready() else { return };
    let mut holder = program("unshare")
        .args(["-n", "-i", "-u", "sh", "-c", "echo; exec sleep 1000"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = [0; 1];
    holder.stdout.take().unwrap().read_exact(&mut line).unwrap();
    let proc = format!("/proc/{}/ns", holder.id());
    b.spec["linux"]["namespaces"] = json!([
        { "type": "mount" }, { "type": "pid" },
        { "type": "network", "path": format!("{proc}/net") },
        { "type": "ipc", "path": format!("{proc}/ipc") },
        { "type": "uts", "path": format!("{proc}/uts") },
    ]);
    b.spec["hostname"] = json!("");
    b.script(COUNT);
    start(&b, &path);
    until(|| count(&b) > 2);
    checkpoint(&b, &path, &[]).ok();
    restore(&b, &path, &[]).ok();
    for kind in ["net", "ipc", "uts"] {
        let own = fs::read_link(format!("/proc/{}/ns/{kind}", b.pid())).unwrap();
        let other = fs::read_link(Path::new(&proc).join(kind)).unwrap();
        assert_eq!(own, other, "{kind}");
    }
    b.wrun(&["delete", "--force", &b.id]).ok();
    holder.kill().unwrap();
    holder.wait().unwrap();
}

#[test]
fn images_of_runc_are_restored_and_its_containers_written_down() {
    let Some((mut b, path)) = ready() else { return };
    let Some(runc) = peer("runc") else {
        println!("skipped: needs runc");
        return;
    };
    b.script(COUNT).write();
    let by_runc = |args: &[&str]| {
        let status = program("timeout")
            .args(["60", runc.to_str().unwrap(), "--root"])
            .arg(b.path("state"))
            .args(args)
            .env("PATH", &path)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        assert!(status.unwrap().success(), "runc {args:?}");
    };
    let dir = b.dir.path().to_str().unwrap();
    let images = b.path("images");
    by_runc(&["run", "-d", "-b", dir, &b.id]);
    until(|| count(&b) > 2);
    by_runc(&[
        "checkpoint",
        "--image-path",
        images.to_str().unwrap(),
        &b.id,
    ]);
    let counted = count(&b);
    restore(&b, &path, &[]).ok();
    until(|| count(&b) > counted);
    b.wrun(&["delete", "--force", &b.id]).ok();
    b.assert_nothing_left();

    fs::remove_dir_all(&images).unwrap();
    by_runc(&["run", "-d", "-b", dir, &b.id]);
    checkpoint(&b, &path, &[]).ok();
    let counted = count(&b);
    by_runc(&[
        "restore",
        "-d",
        "-b",
        dir,
        "--image-path",
        images.to_str().unwrap(),
        &b.id,
    ]);
    until(|| count(&b) > counted);
}

#[test]
fn what_cannot_be_is_said() {
    let Some(mut b) = bundle() else { return };
    b.spec["process"]["args"] = json!(["sleep", "1000"]);
    b.create().ok();
    b.wrun(&["checkpoint", &b.id])
        .fails("Container cannot be checkpointed in created state");
    b.wrun(&["start", &b.id]).ok();
    for (flags, text) in [
        (["--parent-path", "/x"], "--parent-path must be relative"),
        (["--page-server", "here"], "ADDRESS:PORT"),
        (["--empty-ns", "ipc"], "namespace \"ipc\" is not supported"),
        (
            ["--manage-cgroups-mode", "x"],
            "invalid manage-cgroups-mode",
        ),
        (
            ["--status-fd", "x"],
            "invalid value \"x\" for flag -status-fd",
        ),
    ] {
        b.wrun(&["checkpoint", flags[0], flags[1], &b.id])
            .fails(text);
    }
    // Nothing is in this PATH but what the test itself needs.
    let none = b.path("none");
    fs::create_dir(&none).unwrap();
    for args in [["checkpoint", &b.id], ["restore", "other"]] {
        let said = b
            .direct(&args)
            .current_dir(b.dir.path())
            .env("PATH", &none)
            .stdout(Stdio::null())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&said.stderr).into_owned();
        assert!(
            said.contains("criu: executable file not found in $PATH"),
            "{args:?}: {said}"
        );
    }
    assert!(!b.path("checkpoint").exists());
    assert_eq!(b.status(), "running");
    let features = |path: &Path| {
        let said = b.direct(&["features"]).env("PATH", path).output().unwrap();
        let features: serde_json::Value = serde_json::from_slice(&said.stdout).unwrap();
        features["annotations"]["org.opencontainers.runc.checkpoint.enabled"].clone()
    };
    assert_eq!(features(&none), "false");
    if let Some(criu) = peer("criu") {
        assert_eq!(features(criu.parent().unwrap()), "true");
    }
}
