//! Races against a process that swaps folders of the root file system for symlinks out of it while
//! a container is made (CVE-2021-30465, CVE-2024-45310, CVE-2026-41579, CVE-2026-47766).

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde_json::json;

use crate::harness::{Bundle, bundle, rounds};

/// Swaps two names for as long as it lives.
struct Swapper {
    stop: &'static AtomicBool,
    thread: Option<std::thread::JoinHandle<u64>>,
}

impl Swapper {
    fn start(one: PathBuf, other: PathBuf) -> Swapper {
        let stop: &'static AtomicBool = Box::leak(Box::new(AtomicBool::new(false)));
        let swap = move || {
            let mut swaps = 0;
            while !stop.load(Ordering::Relaxed) {
                let done = renameat_with(CWD, &one, CWD, &other, RenameFlags::EXCHANGE);
                swaps += u64::from(done.is_ok());
            }
            swaps
        };
        let thread = Some(std::thread::spawn(swap));
        Swapper { stop, thread }
    }

    fn stop(mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread
            .take()
            .map_or(0, |thread| thread.join().unwrap())
    }
}

/// Makes the container again and again while `name` of its root is now a folder and now a symlink
/// to `out`; nothing may come to be there.
fn check(mut b: Bundle, name: &str, target: &Path, out: &Path) {
    std::fs::create_dir_all(out).unwrap();
    let (folder, link) = (b.path("rootfs").join(name), b.path("rootfs/.link"));
    std::fs::create_dir_all(&folder).unwrap();
    symlink(target, &link).unwrap();
    let swapper = Swapper::start(folder, link);
    let mut made = 0;
    for round in 0..rounds(15, 2000) {
        // Names that are not there yet, so that all of them have to be made.
        b.number_paths(round);
        made += u32::from(b.create().code == 0);
        b.wrun(&["delete", "-f", &b.id]).ok();
        let escaped: Vec<_> = std::fs::read_dir(out).unwrap().flatten().collect();
        assert!(escaped.is_empty(), "round {round}: {escaped:?} came out");
    }
    let swaps = swapper.stop();
    assert!(swaps > 0 && made > 0, "{swaps} swaps, {made} containers");
}

impl Bundle {
    /// Puts the round's number in the place of every `N` below `/swapped`.
    fn number_paths(&mut self, round: u32) {
        fn walk(value: &mut serde_json::Value, round: u32) {
            match value {
                serde_json::Value::String(text) => {
                    if let Some((start, end)) = text.split_once("/N") {
                        let end = end.trim_start_matches(|c: char| c.is_ascii_digit());
                        *text = format!("{start}/N{round}{end}");
                    }
                }
                serde_json::Value::Array(list) => list.iter_mut().for_each(|v| walk(v, round)),
                serde_json::Value::Object(map) => map.values_mut().for_each(|v| walk(v, round)),
                _ => {}
            }
        }
        walk(&mut self.spec, round);
    }
}

/// Everything that makes something in the root file system, below one folder.
fn everything_below(b: &mut Bundle, above: &str) {
    std::fs::create_dir(b.path("volume")).unwrap();
    std::fs::write(b.path("file"), "").unwrap();
    let bind = |name: &str, to: String| json!({ "destination": to, "type": "bind", "source": b.path(name), "options": ["bind"] });
    let folder = bind("volume", format!("{above}/N/deep/folder"));
    let file = bind("file", format!("{above}/N/file"));
    let tmpfs =
        json!({ "destination": format!("{above}/N/tmpfs"), "type": "tmpfs", "source": "t" });
    let proc = json!({ "destination": format!("{above}/N/proc"), "type": "proc", "source": "p" });
    b.mount(folder).mount(file).mount(tmpfs).mount(proc);
    b.spec["linux"]["devices"] = json!([
        { "path": format!("{above}/N/device"), "type": "c", "major": 1, "minor": 3 },
    ]);
    b.spec["process"]["cwd"] = json!(format!("{above}/N/cwd"));
}

#[test]
fn the_parent_of_a_target() {
    let Some(mut b) = bundle() else { return };
    everything_below(&mut b, "/swapped");
    let out = b.path("beyond");
    check(b, "swapped", &out.clone(), &out);
}

#[test]
fn a_folder_further_up_by_a_relative_link() {
    let Some(mut b) = bundle() else { return };
    everything_below(&mut b, "/a/swapped/b");
    // For the sake of these hooks the root is mounted at its path on the host, where `..` leads up.
    b.spec["hooks"] = json!({ "createContainer": [{ "path": "/bin/true" }] });
    let out = b.path("beyond");
    check(b, "a/swapped", Path::new("../../beyond"), &out);
}

#[test]
fn dev_itself() {
    let Some(mut b) = bundle() else { return };
    b.spec["mounts"].as_array_mut().unwrap().truncate(1);
    let out = b.path("beyond");
    check(b, "dev", &out.clone(), &out);
}
