//! Classes of service that pods and plugins name: limits of block devices as the kernel has them.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;
use tests::node::{Node, Pod};
use tests::{pod, process};

use crate::config::{READ_AGAIN, reload, wait_for_log};

/// The annotation of a pod that names a class for all its containers.
pub(crate) const BLOCKIO: &str = "blockio.resources.beta.kubernetes.io/pod";

/// A block device that nobody uses: a loop over a file. Both go with the test.
pub(crate) struct Loop {
    device: PathBuf,
    number: String,
    folder: tempfile::TempDir,
}

impl Loop {
    /// `None`, said so, where there are none, or no groups that limit them.
    pub(crate) fn make() -> Option<Loop> {
        let groups = Path::new("/sys/fs/cgroup");
        let v2 = fs::read_to_string(groups.join("cgroup.controllers"));
        if !groups.join("blkio").is_dir() && !v2.is_ok_and(|all| all.contains("io")) {
            tests::skipped("the control groups blkio or io");
            return None;
        }
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        let file = folder.path().join("disk");
        fs::File::create(&file).unwrap().set_len(1 << 20).unwrap();
        let mut losetup = process::bounded("losetup");
        let made = process::ok(losetup.args(["--find", "--show"]).arg(&file));
        let Ok(made) = made else {
            tests::skipped("a loop device");
            return None;
        };
        let device = PathBuf::from(made.trim());
        let name = device.file_name().unwrap().to_str().unwrap();
        let number = fs::read_to_string(format!("/sys/block/{name}/dev")).unwrap();
        Some(Loop {
            number: number.trim().to_owned(),
            device,
            folder,
        })
    }

    /// A file of classes in which the device goes by a link.
    fn classes(&self) -> PathBuf {
        let link = self.folder.path().join("by-name-quick");
        if !link.exists() {
            std::os::unix::fs::symlink(&self.device, &link).unwrap();
        }
        let folder = self.folder.path().display();
        self.write(&format!(
            "Classes:\n  slow:\n    - Devices: [\"{folder}/by-*-qu[a-z]ck\", \"{folder}/disk\"]\n\
             \x20     ThrottleReadBps: 1Mi\n      ThrottleWriteIOPS: 300\n\
             \x20 slower:\n    - Devices: [\"{folder}/by-name-*\"]\n      ThrottleReadBps: 512k\n"
        ))
    }

    fn write(&self, text: &str) -> PathBuf {
        let file = self.folder.path().join("classes.yaml");
        fs::write(&file, text).unwrap();
        file
    }

    /// The keys of a daemon that has the classes.
    pub(crate) fn config(&self) -> String {
        format!("[blockio]\nconfig = {:?}\n", self.classes())
    }

    /// The limits of a container: bytes read a second, writes a second; 0 is none.
    pub(crate) fn limits(&self, node: &Node, container: &str) -> (u64, u64) {
        let group = format!("{}/{container}", node.daemon.scratch().cgroup());
        let group = group.trim_start_matches('/');
        let root = Path::new("/sys/fs/cgroup");
        let line = |text: &str| {
            let mut lines = text.lines();
            let rest = lines.find_map(|line| line.strip_prefix(&format!("{} ", self.number)));
            rest.unwrap_or_default().to_owned()
        };
        let v1 = |file: &str| {
            let text = fs::read_to_string(root.join("blkio").join(group).join(file)).ok()?;
            Some(line(&text).parse().unwrap_or(0))
        };
        if let (Some(read), Some(write)) = (
            v1("blkio.throttle.read_bps_device"),
            v1("blkio.throttle.write_iops_device"),
        ) {
            return (read, write);
        }
        let all = line(&fs::read_to_string(root.join(group).join("io.max")).unwrap());
        let value = |key: &str| {
            let mut words = all.split(' ');
            let value = words.find_map(|word| word.strip_prefix(key));
            value.and_then(|value| value.parse().ok()).unwrap_or(0)
        };
        (value("rbps="), value("wiops="))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        process::run(
            process::bounded("losetup")
                .arg("--detach")
                .arg(&self.device),
        )
        .ok();
    }
}

/// A pod whose annotation names a class.
pub(crate) fn classed(node: &Node, name: &str, key: &str, class: &str) -> anyhow::Result<Pod> {
    let mut sandbox = pod::sandbox(node.daemon.scratch(), name);
    sandbox["annotations"][key] = json!(class);
    let container = pod::container(name, &node.image, "exec sleep 1000");
    node.run_as(&[], &sandbox, &container)
}

#[track_caller]
pub(crate) fn refused(made: anyhow::Result<Pod>, parts: &[&str]) {
    let error = format!("{:#}", made.unwrap_err());
    for part in parts {
        assert!(error.contains(part), "{part}: {error}");
    }
}

#[test]
fn a_pod_gets_the_class_that_it_names() {
    let Some(disk) = Loop::make() else { return };
    let config = disk.config();
    let Some(node) = Node::start_with(|setup| setup.config(&config)).unwrap() else {
        return;
    };
    let slow = classed(&node, "slow", BLOCKIO, "slow").unwrap();
    assert_eq!(disk.limits(&node, &slow.container), (1 << 20, 300));
    let only = "blockio.resources.beta.kubernetes.io/container.other";
    let free = classed(&node, "free", only, "slow").unwrap();
    assert_eq!(disk.limits(&node, &free.container), (0, 0));
    let unknown = classed(&node, "unknown", BLOCKIO, "quick");
    refused(
        unknown,
        &["annotations[", "quick", "slow, slower", "InvalidArgument"],
    );

    // A file that is wrong changes nothing; one that is right holds from then on.
    disk.write("Classes: {quick: [{Weight: 1}]}\n");
    reload(&node.daemon);
    wait_for_log(&node.daemon, "Weight: 1 is not within 10 and 1000", 1);
    let again = classed(&node, "again", BLOCKIO, "slow").unwrap();
    assert_eq!(disk.limits(&node, &again.container), (1 << 20, 300));
    let device = disk.device.display();
    disk.write(&format!(
        "Classes: {{quick: [{{Devices: [{device}], ThrottleReadBps: 2000}}]}}\n"
    ));
    reload(&node.daemon);
    wait_for_log(&node.daemon, READ_AGAIN, 1);
    let quick = classed(&node, "quick", BLOCKIO, "quick").unwrap();
    assert_eq!(disk.limits(&node, &quick.container), (2000, 0));
    refused(
        classed(&node, "gone", BLOCKIO, "slow"),
        &["/classes.yaml has quick"],
    );
    assert_eq!(disk.limits(&node, &slow.container), (1 << 20, 300));
    for pod in [&slow, &free, &again, &quick] {
        node.remove(pod).unwrap();
    }
}

#[test]
fn without_classes_a_pod_is_refused_or_made_without() {
    let ignoring = "[blockio]\nunavailable = \"ignore\"\n";
    let Some(node) = Node::start_with(|setup| setup.config(ignoring)).unwrap() else {
        return;
    };
    let pod = classed(&node, "without", BLOCKIO, "slow").unwrap();
    node.remove(&pod).unwrap();
    if Path::new("/sys/fs/resctrl/schemata").exists() {
        return;
    }
    let rdt = classed(&node, "rdt", "rdt.resources.beta.kubernetes.io/pod", "gold");
    refused(rdt, &["rdt.resources.beta", "gold", "resctrl"]);
}
