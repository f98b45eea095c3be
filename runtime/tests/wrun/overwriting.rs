//! CVE-2019-5736: the runtime's own file, as a container gets hold of it.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Stdio;

use serde_json::json;

use crate::harness::{Bundle, bundle, program};

/// Waits for a process of the runtime in the container, holds its file, lets it end, and writes.
const ATTACK: &str = r#"
while :; do
  for p in /proc/[0-9]*; do
    exe=$(readlink $p/exe) || continue
    case "$exe" in ''|*/busybox) continue ;; esac
    exec 3<$p/exe
    echo held
    echo x >/pipe
    while [ -e $p/exe ]; do :; done
    until { echo evil >>/proc/self/fd/3; } 2>/reason; do
      read reason </reason
      case "$reason" in *busy*) ;; *) echo "$reason"; exit ;; esac
    done
    echo written
    exit
  done
done"#;

/// A copy of the runtime: what the attack reaches if it succeeds.
fn victim(b: &Bundle) -> PathBuf {
    let copy = b.path("victim");
    std::fs::copy(env!("CARGO_BIN_EXE_wrun"), &copy).unwrap();
    copy
}

/// The container's program is `entry`, which is the runtime once more. Its loader waits at a pipe of
/// the container's, as a library of the container's would.
fn check(entry: &str) {
    let Some(mut b) = bundle() else { return };
    let victim = victim(&b);
    let script = b.path("rootfs/bin/script");
    std::fs::write(&script, "#!/proc/self/exe\n").unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::os::unix::fs::symlink("/proc/self/exe", b.path("rootfs/bin/link")).unwrap();
    b.make_pipe("rootfs/pipe")
        .with_libraries()
        .with_all_capabilities();
    b.start_sleeping();
    let mut entering = program("timeout")
        .arg("60")
        .arg(&victim)
        .arg("--root")
        .arg(b.path("state"))
        .args(["exec", "-e", "LD_PRELOAD=/pipe", &b.id, entry, "--version"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let attack = b.exec(ATTACK);
    entering.wait().unwrap();
    assert!(attack.out.starts_with("held\n"), "{attack:?}");
    assert!(attack.out.contains("Read-only file system"), "{attack:?}");
    let same =
        std::fs::read(&victim).unwrap() == std::fs::read(env!("CARGO_BIN_EXE_wrun")).unwrap();
    assert!(same, "the runtime was overwritten");
}

#[test]
fn by_a_link_to_its_file() {
    check("/bin/link");
}

#[test]
fn by_a_script_that_it_interprets() {
    check("/bin/script");
}

#[test]
fn by_its_own_name() {
    check("/proc/self/exe");
}

#[test]
fn by_the_file_of_the_first_process() {
    let Some(mut b) = bundle() else { return };
    b.script("true").create().ok();
    let exe = format!("/proc/{}/exe", b.pid());
    // Writing is denied in any case as long as somebody executes it.
    let mount = rustix::fs::statvfs(exe).unwrap();
    assert!(mount.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY));
}

/// Without a procfs the program could not see that it has already started over.
#[test]
fn a_false_procfs_does_not_keep_it_starting_over() {
    let Some(mut b) = bundle() else { return };
    b.spec["process"]["args"] = json!(["true"]);
    b.write();
    let script = format!(
        "mount --make-rprivate / && mount -t tmpfs none /proc && mkdir /proc/self && \
         ln -s {wrun} /proc/self/exe && exec timeout 20 {wrun} --root {} run -b {} {}",
        b.path("state").display(),
        b.dir.path().display(),
        b.id,
        wrun = env!("CARGO_BIN_EXE_wrun"),
    );
    let said = program("unshare")
        .args(["-m", "sh", "-c", &script])
        .output()
        .unwrap();
    let err = String::from_utf8_lossy(&said.stderr);
    assert!(
        err.contains("/proc of the host is not a procfs"),
        "{said:?}"
    );
}
