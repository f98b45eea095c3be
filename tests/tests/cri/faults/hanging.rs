//! A path on the host behind which nobody answers, like that of a file server that is gone.

use std::fs;
use std::path::PathBuf;

use tempfile::TempDir;
use tests::process;

/// An automount point without a daemon: whoever looks up its content waits until he is killed.
#[derive(Debug)]
pub(super) struct Hanging {
    folder: TempDir,
}

/// The pipe has both ends open in the kernel's own file, so that requests are never refused.
const MOUNT: &str = "exec 3<>\"$1/pipe\" && \
    mount -t autofs -o fd=3,minproto=5,maxproto=5,direct autofs \"$1/far\"";

impl Hanging {
    /// Mounts it; `None`, said so, if the kernel cannot.
    pub(super) fn mount() -> Option<Hanging> {
        let known = fs::read_to_string("/proc/filesystems").unwrap();
        if !known.lines().any(|line| line.ends_with("\tautofs")) {
            tests::skipped("autofs");
            return None;
        }
        let hanging = Hanging {
            folder: tempfile::tempdir_in("/var/tmp").unwrap(),
        };
        let folder = hanging.folder.path();
        fs::create_dir(folder.join("far")).unwrap();
        process::ok(process::bounded("mkfifo").arg(folder.join("pipe"))).unwrap();
        let mut mount = process::bounded("sh");
        process::ok(mount.args(["-c", MOUNT, "sh"]).arg(folder)).unwrap();
        Some(hanging)
    }

    /// The path that hangs.
    pub(super) fn path(&self) -> PathBuf {
        self.folder.path().join("far/away")
    }
}

impl Drop for Hanging {
    fn drop(&mut self) {
        let mut unmount = process::bounded("umount");
        let point = self.folder.path().join("far");
        process::ok(unmount.arg("-l").arg(point)).ok();
    }
}
