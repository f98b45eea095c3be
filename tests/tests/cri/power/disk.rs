//! A disk of one test's own: a file system in a file, whose power can be cut.

use std::path::{Path, PathBuf};

use tests::process;

/// Its size: what the smallest xfs needs. The file has holes.
const SIZE: u64 = 320 << 20;
/// Shuts a file system down without its journal being written: `FS_IOC_SHUTDOWN` (linux/fs.h) with
/// 2, the flag that every file system has for that. Perl is where Debian is; a shell has no ioctl.
const CUT: &str = "open(F, '<', $ARGV[0]) or die \"open: $!\"; \
    my $flag = pack('L', 2); ioctl(F, 0x8004587d, $flag) or die \"ioctl: $!\"";

/// The disk; removed when dropped.
pub(super) struct Disk {
    folder: tempfile::TempDir,
    system: String,
    /// How often its power was cut.
    cuts: usize,
    mounted: Option<PathBuf>,
}

impl Disk {
    /// With an empty file system; `None`, said so, if the machine cannot make one.
    pub(super) fn new(system: &str) -> Option<Self> {
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        let file = folder.path().join("disk0");
        std::fs::File::create(&file).unwrap().set_len(SIZE).unwrap();
        let program = format!("mkfs.{system}");
        let mut command = process::bounded(&program);
        command
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .arg("-q")
            .arg(&file);
        let made = process::run(&mut command);
        let has_loop = Path::new("/dev/loop-control").exists();
        let has_perl = Path::new("/usr/bin/perl").exists();
        if !made.is_ok_and(|made| made.code == 0) || !has_loop || !has_perl {
            tests::skipped(&format!("{program}, loop devices and perl"));
            return None;
        }
        Some(Self {
            folder,
            system: system.to_owned(),
            cuts: 0,
            mounted: None,
        })
    }

    pub(super) fn mount(&mut self, target: &Path) {
        // The twin of a disk that is mounted elsewhere still is refused by xfs, but for this.
        let options = if self.system == "xfs" {
            "loop,nouuid"
        } else {
            "loop"
        };
        let mut command = process::bounded("mount");
        command.args(["-o", options]).arg(self.file()).arg(target);
        process::ok(&mut command).unwrap();
        self.mounted = Some(target.to_owned());
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join(format!("disk{}", self.cuts))
    }

    /// What the power cut has left, as another disk: mount namespaces of other tests may hold on to
    /// the one that was shut down, and who mounts it again would get just that.
    pub(super) fn replace(&mut self) {
        self.unmount();
        let before = self.file();
        self.cuts += 1;
        let mut command = process::bounded("cp");
        command.arg("--sparse=always").arg(&before).arg(self.file());
        process::ok(&mut command).unwrap();
        std::fs::remove_file(before).unwrap();
    }

    /// What was not written by now never will be.
    pub(super) fn cut(&self) {
        if self.cuts % 2 == 1 {
            // A file that somebody syncs takes all names with it to the disk, and no contents.
            let other = self.place().join("other");
            std::fs::write(&other, "").unwrap();
            process::ok(process::bounded("sync").arg(other)).unwrap();
        }
        let mut command = process::bounded("perl");
        command.args(["-e", CUT]).arg(self.place());
        process::ok(&mut command).unwrap();
    }

    /// Nothing can be written until [`Disk::thaw`].
    pub(super) fn freeze(&self) {
        self.fsfreeze("--freeze");
    }

    pub(super) fn thaw(&self) {
        self.fsfreeze("--unfreeze");
    }

    fn fsfreeze(&self, what: &str) {
        let mut command = process::bounded("/usr/sbin/fsfreeze");
        process::ok(command.arg(what).arg(self.place())).unwrap();
    }

    fn place(&self) -> &Path {
        self.mounted.as_deref().unwrap()
    }

    fn unmount(&mut self) {
        let place = self.mounted.take().unwrap();
        tests::wait::until("the disk to be free", || {
            process::ok(process::bounded("umount").arg(&place)).ok()
        })
        .unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let Some(place) = self.mounted.take() else {
            return;
        };
        // Frozen, it could not be unmounted; lazily, since a failed test may still use it.
        drop(process::run(
            process::bounded("/usr/sbin/fsfreeze")
                .arg("--unfreeze")
                .arg(&place),
        ));
        drop(process::run(
            process::bounded("umount").arg("-l").arg(&place),
        ));
    }
}
