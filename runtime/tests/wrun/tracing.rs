//! CVE-2016-9962: a process on its way into a container, as those in the container see it.

use std::path::Path;
use std::process::Stdio;

use crate::harness::{bundle, program};

/// Looks for processes whose program it may see, which takes the right to trace them, until it is
/// told to stop.
const ATTACK: &str = r#"
: >/watching
while [ ! -e /stop ]; do
  for p in /proc/[0-9]*; do
    exe=$(readlink $p/exe) || continue
    case "$exe" in ''|*/busybox) ;; *) echo "caught $exe"; ls -l $p/fd; exit ;; esac
  done
done"#;

/// The container's root may trace everything in its user namespace, and a process that enters is in
/// it for a moment before it gives up what it is on the host. strace(1) makes the moment long.
#[test]
fn a_process_that_joins_cannot_be_traced() {
    let Some(mut b) = bundle() else { return };
    if !Path::new("/usr/bin/strace").exists() {
        println!("skipped: needs strace");
        return;
    }
    b.own_user_namespace(100_000);
    b.with_all_capabilities();
    b.own_rootfs(100_000);
    b.start_sleeping();
    let attack = b
        .command(&["exec", &b.id, "sh", "-c", ATTACK])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    crate::harness::until(|| b.path("rootfs/watching").exists());
    let joined = program("timeout")
        .args([
            "60",
            "strace",
            "-f",
            "-qq",
            "-o",
            "/dev/null",
            "-e",
            "trace=setresgid",
        ])
        .args(["-e", "inject=setresgid:delay_enter=400000"])
        .arg(env!("CARGO_BIN_EXE_wrun"))
        .arg("--root")
        .arg(b.path("state"))
        .args(["exec", &b.id, "true"])
        .output()
        .unwrap();
    std::fs::write(b.path("rootfs/stop"), "").unwrap();
    let attack = attack.wait_with_output().unwrap();
    assert!(joined.status.success(), "{joined:?}");
    assert_eq!(String::from_utf8_lossy(&attack.stdout), "");
}
