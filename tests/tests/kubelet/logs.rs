//! Logs that the kubelet turns over.

use std::io::Read;
use std::path::{Path, PathBuf};

use tests::kubelet::on_node;
use tests::wait;

use crate::{container, plain, pod, ready};

/// Lines that the container writes: each numbered, together many times the largest log.
const LINES: usize = 4000;

/// The text of a log file, packed or not.
fn text(path: &Path) -> String {
    let mut text = String::new();
    let mut file = std::fs::File::open(path).unwrap();
    if path.extension().is_some_and(|extension| extension == "gz") {
        let mut unpacked = flate2::read::GzDecoder::new(file);
        unpacked.read_to_string(&mut text).unwrap();
    } else {
        file.read_to_string(&mut text).unwrap();
    }
    text
}

/// The files of a container's log: `0.log`, and those that were turned over.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .filter(|path| !path.to_string_lossy().ends_with(".tmp"))
        .collect();
    files.sort();
    // The newest has the shortest name, and sorts first.
    if !files.is_empty() {
        files.rotate_left(1);
    }
    files
}

#[test]
fn a_log_that_grows_is_turned_over_and_loses_nothing() {
    let Some((kubelet, node)) = on_node(&plain()).unwrap() else {
        return;
    };
    // Some lines at once, some while the kubelet turns the log over; four files are kept beside the
    // current one.
    let script = format!(
        "i=0; while [ $i -lt {LINES} ]; do i=$((i+1)); echo line $i; \
         [ $((i % 500)) != 0 ] || sleep 2; done; echo all; exec sleep 1000"
    );
    kubelet
        .add(&pod("writer", &[container(&node, "writer", &script)]))
        .unwrap();
    let pod = kubelet.wait("writer", "to be ready", ready).unwrap();
    let (uid, name) = (
        pod["metadata"]["uid"].as_str().unwrap(),
        pod["metadata"]["name"].as_str().unwrap(),
    );
    let folder = kubelet.logs().join(format!("default_{name}_{uid}/writer"));
    wait::until("the last line", || {
        let files = files(&folder);
        let current = files.last().filter(|path| path.exists())?;
        text(current).contains(" all\n").then_some(())
    })
    .unwrap();
    let files = files(&folder);
    assert!(files.len() >= 2, "never turned over: {files:?}");
    let all: String = files.iter().map(|path| text(path)).collect();
    let numbers: Vec<usize> = all
        .lines()
        .filter_map(|line| line.rsplit_once(" line ")?.1.parse().ok())
        .collect();
    // The oldest may have been dropped; what is there has no gap.
    let first = numbers[0];
    let expect: Vec<usize> = (first..=LINES).collect();
    assert_eq!(numbers, expect);
    let path = kubelet.path("containerLogs", "writer", "writer");
    let shown = kubelet.secure_text(&format!("{path}?tailLines=1")).unwrap();
    assert_eq!(shown, "all\n");
    kubelet.finish(&node.crictl).unwrap();
}
