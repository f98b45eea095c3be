//! What a test has left on the machine, read from the kernel's own lists.
//!
//! Everything is found by the marks that a daemon and its pods carry; what other programs have is
//! not ours to judge.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use crate::process;

/// Deepest control group that is looked at below the test's own parent.
const CGROUP_DEPTH: usize = 6;

/// By what the things of one daemon are known.
#[derive(Clone, Debug)]
pub struct Marks {
    /// Folder below which all of its files and mounts lie, and which its programs have on their
    /// command lines.
    pub folder: PathBuf,
    /// The daemon's two folders, which must be gone or empty in the end.
    pub kept: Vec<PathBuf>,
    /// Parent of its pods' control groups, without the leading slash. It belongs to the client
    /// that names it, so it may stay itself.
    pub cgroup: String,
    /// Its bridge, which names its firewall table too.
    pub bridge: String,
}

/// Everything of a test that is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Traces {
    /// Processes that name the folder or live in the control group, with their command lines.
    pub processes: Vec<(i32, String)>,
    /// Mount points below the folder.
    pub mounts: Vec<PathBuf>,
    /// Interfaces: the bridge and its ports.
    pub links: Vec<String>,
    /// Tables of nftables with the bridge's name.
    pub tables: Vec<String>,
    /// Control groups below the pods' parent.
    pub cgroups: Vec<PathBuf>,
    /// What lies in the daemon's two folders.
    pub files: Vec<PathBuf>,
}

impl fmt::Display for Traces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (pid, command) in &self.processes {
            writeln!(f, "process {pid}: {command}")?;
        }
        let paths = [
            ("mount", &self.mounts),
            ("control group", &self.cgroups),
            ("file", &self.files),
        ];
        for (kind, path) in paths
            .iter()
            .flat_map(|(kind, list)| list.iter().map(move |p| (kind, p)))
        {
            writeln!(f, "{kind}: {}", path.display())?;
        }
        let names = [("link", &self.links), ("nft table", &self.tables)];
        for (kind, name) in names
            .iter()
            .flat_map(|(kind, list)| list.iter().map(move |n| (kind, n)))
        {
            writeln!(f, "{kind}: {name}")?;
        }
        Ok(())
    }
}

impl Traces {
    /// Looks for everything with these marks.
    pub fn of(marks: &Marks) -> Traces {
        Traces {
            processes: processes(marks),
            mounts: mounts(&marks.folder),
            links: links(&marks.bridge),
            tables: tables(&marks.bridge),
            cgroups: cgroups(&marks.cgroup),
            files: marks
                .kept
                .iter()
                .flat_map(|folder| children(folder))
                .collect(),
        }
    }

    /// Whether nothing is there.
    pub fn is_empty(&self) -> bool {
        *self == Traces::default()
    }

    /// Removes all of it by force.
    pub fn remove(&self) {
        let run = |program: &str, args: &[&str]| {
            // What is gone already cannot be removed; what cannot be removed was reported.
            process::run(process::bounded(program).args(args)).ok();
        };
        for (pid, _) in &self.processes {
            run("kill", &["-KILL", &pid.to_string()]);
        }
        for mount in self.mounts.iter().rev() {
            run("umount", &["-l", &mount.display().to_string()]);
        }
        for link in &self.links {
            run("ip", &["link", "delete", link]);
        }
        for table in &self.tables {
            let words: Vec<&str> = table.split(' ').collect();
            run("nft", &[&["delete", "table"], &words[..]].concat());
        }
        for cgroup in self.cgroups.iter().rev() {
            fs::remove_dir(cgroup).ok();
        }
    }
}

/// Numbers in /proc.
fn pids() -> impl Iterator<Item = i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn processes(marks: &Marks) -> Vec<(i32, String)> {
    let folder = marks.folder.display().to_string();
    let below = format!(":/{}/", marks.cgroup);
    let own = i32::try_from(std::process::id()).unwrap_or_default();
    let mut found = Vec::new();
    for pid in pids().filter(|pid| *pid != own) {
        // It may end while we look.
        let read = |file: &str| fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
        let command = String::from_utf8_lossy(&read("cmdline")).replace('\0', " ");
        let cgroup = String::from_utf8_lossy(&read("cgroup")).into_owned();
        if command.contains(&folder) || cgroup.contains(&below) {
            found.push((pid, command));
        }
    }
    found
}

/// Mount points at or below a folder, in the order in which they were made.
pub fn mounts(folder: &Path) -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = table.lines().filter_map(|line| line.split(' ').nth(4));
    points
        .map(PathBuf::from)
        .filter(|point| point.starts_with(folder))
        .collect()
}

fn links(bridge: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/sys/class/net")
        .into_iter()
        .flatten()
        .flatten()
    {
        let name = entry.file_name().to_string_lossy().into_owned();
        let master = fs::read_link(entry.path().join("master")).unwrap_or_default();
        if name == bridge || master.file_name().is_some_and(|master| master == bridge) {
            found.push(name);
        }
    }
    found
}

/// `family name` of tables; none where there is no nft program.
fn tables(name: &str) -> Vec<String> {
    let listed = process::run(process::bounded("nft").args(["list", "tables"]));
    let text = listed.map(|output| output.stdout).unwrap_or_default();
    let tables = text.lines().filter_map(|line| line.strip_prefix("table "));
    tables
        .filter(|table| table.contains(name))
        .map(str::to_owned)
        .collect()
}

/// Folders of a control group in every hierarchy; v2 has one hierarchy, v1 one a controller.
fn hierarchies(name: &str) -> impl Iterator<Item = PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    let all = std::iter::once(root.to_owned()).chain(children(root));
    all.map(move |hierarchy| hierarchy.join(name))
        .filter(|group| group.is_dir())
}

/// Every control group below a parent, parents first.
fn cgroups(name: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for child in hierarchies(name).flat_map(|parent| children(&parent)) {
        descend(&child, CGROUP_DEPTH, &mut found);
    }
    found
}

/// Removes a control group that is empty, in every hierarchy: what the client made by naming it.
pub fn remove_parent(name: &str) {
    for group in hierarchies(name) {
        fs::remove_dir(group).ok();
    }
}

fn descend(folder: &Path, depth: usize, found: &mut Vec<PathBuf>) {
    if depth == 0 || !folder.is_dir() {
        return;
    }
    found.push(folder.to_owned());
    for child in children(folder) {
        descend(&child, depth - 1, found);
    }
}

/// What lies in a folder; nothing if it is not there.
pub fn children(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}
