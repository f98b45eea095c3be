//! Classes of service of the resctrl file system (`linux.intelRdt`): made, entered, read, removed.
//!
//! Works on the folder where resctrl is mounted, whatever is there: [`root`] finds it, and everything
//! else takes it as an argument. See Documentation/filesystems/resctrl.rst of the kernel.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::failure::{Attempt, Failure, Result};
use crate::plan::Rdt;

/// Longest list of monitored domains that is read: more than any machine has caches.
const MAX_DOMAINS: usize = 1024;

/// What a container has of resctrl, as its state keeps it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Share {
    /// Where resctrl is mounted.
    pub(crate) root: PathBuf,
    /// Folder of its class.
    pub(crate) class: PathBuf,
    /// The class goes with the container.
    pub(crate) own: bool,
    /// Folder of its monitoring group, which goes with the container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) monitor: Option<PathBuf>,
}

/// Where this machine has resctrl mounted.
pub(crate) fn root() -> Result<PathBuf> {
    let path = "/proc/self/mountinfo";
    let text = std::fs::read_to_string(path).attempt(|| format!("read {path}"))?;
    find(&text).ok_or_else(|| {
        Failure::new("intelRdt is specified in config, but Intel RDT is not enabled")
    })
}

/// proc_pid_mountinfo(5): the mount point is the fifth field, the type comes after a lone dash.
fn find(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (fixed, rest) = line.split_once(" - ")?;
        let is_resctrl = rest.split(' ').next() == Some("resctrl");
        let point = fixed.split(' ').nth(4).filter(|_| is_resctrl)?;
        Some(PathBuf::from(point))
    })
}

/// Puts process `pid` into its class, which is made if it may be.
///
/// # Errors
///
/// A class that was to exist and does not, or exists with other schemata; what resctrl refuses, with
/// its own words for it.
pub(crate) fn enter(root: &Path, plan: &Rdt, pid: i32) -> Result<Share> {
    let class = root.join(&plan.class);
    let made = make_class(&class, plan)?;
    let share = Share {
        root: root.to_owned(),
        own: plan.own && made,
        monitor: plan
            .monitor
            .as_ref()
            .map(|name| class.join("mon_groups").join(name)),
        class,
    };
    let filled = fill(&share, plan, made, pid);
    if filled.is_err() {
        leave(&share)?;
    }
    filled.map(|()| share)
}

/// Gives whether it is new.
fn make_class(class: &Path, plan: &Rdt) -> Result<bool> {
    if !plan.own && plan.schemata.is_empty() {
        return match std::fs::metadata(class) {
            Ok(_) => Ok(false),
            Err(error) => Err(error).attempt(|| {
                format!("find the class {class:?}, which must be there when intelRdt has no schema")
            }),
        };
    }
    match std::fs::create_dir(class) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        made => made
            .attempt(|| format!("make the class {class:?}"))
            .map(|()| false),
    }
}

fn fill(share: &Share, plan: &Rdt, made: bool, pid: i32) -> Result<()> {
    if made || plan.own {
        set_schemata(share, &plan.schemata)?;
    } else {
        compare(&share.class, &plan.schemata)?;
    }
    add(share, pid, true)
}

/// Puts a further process where the container is.
pub(crate) fn join(share: &Share, pid: i32) -> Result<()> {
    add(share, pid, false)
}

fn add(share: &Share, pid: i32, make_monitor: bool) -> Result<()> {
    write(&share.root, &share.class.join("tasks"), &pid.to_string())?;
    let Some(monitor) = &share.monitor else {
        return Ok(());
    };
    if make_monitor {
        std::fs::create_dir(monitor)
            .attempt(|| format!("make the monitoring group {monitor:?}"))?;
    }
    write(&share.root, &monitor.join("tasks"), &pid.to_string())
}

/// Writes lines to the class's `schemata`; none leave it as it is.
pub(crate) fn set_schemata(share: &Share, lines: &[String]) -> Result<()> {
    if lines.is_empty() {
        return Ok(());
    }
    let text = lines.join("\n") + "\n";
    write(&share.root, &share.class.join("schemata"), &text)
}

/// One write, with what resctrl says about a refusal.
fn write(root: &Path, path: &Path, text: &str) -> Result<()> {
    let written = std::fs::OpenOptions::new()
        .write(true)
        .open(path)
        .and_then(|mut file| io::Write::write_all(&mut file, text.as_bytes()));
    written.attempt(|| {
        let said = std::fs::read_to_string(root.join("info/last_cmd_status")).unwrap_or_default();
        let said = said.trim();
        if matches!(said, "" | "ok") {
            format!("write {:?} to {path:?}", text.trim())
        } else {
            format!("write {:?} to {path:?} ({said})", text.trim())
        }
    })
}

/// A class that is shared keeps its schemata: what is asked for must be what it has.
fn compare(class: &Path, wanted: &[String]) -> Result<()> {
    let path = class.join("schemata");
    let text = std::fs::read_to_string(&path).attempt(|| format!("read {path:?}"))?;
    match wanted.iter().find(|line| !has(&text, line)) {
        Some(line) => Err(Failure::new(format!(
            "the class {class:?} has other schemata than {line:?}"
        ))),
        None => Ok(()),
    }
}

/// Each domain of `wanted` has in `schemata` what `wanted` says.
fn has(schemata: &str, wanted: &str) -> bool {
    let Some((kind, domains)) = wanted.split_once(':') else {
        return false;
    };
    let of_kind = |line: &&str| line.split(':').next().map(str::trim) == Some(kind.trim());
    let Some((_, there)) = schemata
        .lines()
        .find(of_kind)
        .and_then(|line| line.split_once(':'))
    else {
        return false;
    };
    let there: Vec<_> = there.split(';').map(domain).collect();
    domains.split(';').all(|one| there.contains(&domain(one)))
}

/// Number and value, without the spaces and zeros that resctrl adds.
fn domain(text: &str) -> Option<(&str, String)> {
    let (number, value) = text.split_once('=')?;
    let value = value.trim().trim_start_matches('0').to_ascii_lowercase();
    Some((number.trim(), value))
}

/// Removes what goes with the container; gone already is fine.
pub(crate) fn leave(share: &Share) -> Result<()> {
    let own = share.own.then_some(&share.class);
    for folder in share.monitor.iter().chain(own) {
        match std::fs::remove_dir(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            removed => removed.attempt(|| format!("remove {folder:?}"))?,
        }
    }
    Ok(())
}

/// What the class has and uses, in the form of runc's `events`.
pub(crate) fn figures(share: &Share) -> Value {
    let mut all = json!({});
    let schemata = lines(&share.class.join("schemata"));
    let at_root = lines(&share.root.join("schemata"));
    let kinds = [
        (
            "L3",
            "l3_cache_info",
            "l3_cache_schema",
            "l3_cache_schema_root",
        ),
        ("MB", "mem_bw_info", "mem_bw_schema", "mem_bw_schema_root"),
    ];
    for (kind, info, here, root) in kinds {
        let folder = share.root.join("info").join(kind);
        if !folder.is_dir() {
            continue;
        }
        all[info] = known(&folder);
        let line = |all: &[String]| all.iter().find(|line| line.contains(kind)).cloned();
        all[here] = json!(line(&schemata).unwrap_or_default());
        all[root] = json!(line(&at_root).unwrap_or_default());
    }
    if !schemata.is_empty() {
        all["schemata"] = json!(schemata);
    }
    monitored(share, &mut all);
    all
}

fn lines(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().map(|line| line.trim().to_owned()).collect()
}

/// The files of a folder of `info` that runc reports.
fn known(folder: &Path) -> Value {
    let mut all = json!({});
    for name in [
        "cbm_mask",
        "min_cbm_bits",
        "num_closids",
        "bandwidth_gran",
        "delay_linear",
        "min_bandwidth",
    ] {
        let Ok(text) = std::fs::read_to_string(folder.join(name)) else {
            continue;
        };
        let text = text.trim();
        all[name] = match text.parse::<u64>() {
            Ok(number) if name != "cbm_mask" => json!(number),
            _ => json!(text),
        };
    }
    all
}

/// Counters of each domain, in the order of their names.
fn monitored(share: &Share, all: &mut Value) {
    let group = share.monitor.as_ref().unwrap_or(&share.class);
    let features = lines(&share.root.join("info/L3_MON/mon_features"));
    let has = |name: &str| features.iter().any(|feature| feature == name);
    let Ok(domains) = std::fs::read_dir(group.join("mon_data")) else {
        return;
    };
    let mut domains: Vec<PathBuf> = domains
        .filter_map(|entry| Some(entry.ok()?.path()))
        .take(MAX_DOMAINS)
        .collect();
    domains.sort();
    let counters = |names: &[&str]| -> Value {
        let of_one = |domain: &PathBuf| {
            let counter = |name: &&&str| has(name);
            let counted = names.iter().filter(counter).map(|name| {
                let text = std::fs::read_to_string(domain.join(name)).unwrap_or_default();
                (
                    (*name).to_owned(),
                    json!(text.trim().parse::<u64>().unwrap_or(0)),
                )
            });
            Value::Object(counted.collect())
        };
        domains.iter().map(of_one).collect()
    };
    if has("mbm_total_bytes") || has("mbm_local_bytes") {
        all["mbm_stats"] = counters(&["mbm_total_bytes", "mbm_local_bytes"]);
    }
    if has("llc_occupancy") {
        all["cmt_stats"] = counters(&["llc_occupancy"]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder in which what resctrl makes by itself is there already.
    fn resctrl(class: &str) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in [
            ("info/L3/cbm_mask", "fff\n"),
            ("info/L3/min_cbm_bits", "1\n"),
            ("info/L3_MON/mon_features", "llc_occupancy\n"),
            ("schemata", "    L3:0=fff;1=fff\n    MB:0=100\n"),
            ("tasks", ""),
        ] {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        if !class.is_empty() {
            let class = root.path().join(class);
            std::fs::create_dir_all(class.join("mon_groups")).unwrap();
            std::fs::create_dir_all(class.join("mon_data/mon_L3_00")).unwrap();
            std::fs::write(class.join("mon_data/mon_L3_00/llc_occupancy"), "7\n").unwrap();
            std::fs::write(class.join("tasks"), "").unwrap();
            std::fs::write(class.join("schemata"), "    L3:0=0f0;1=fff\n").unwrap();
        }
        root
    }

    fn wanted(class: &str, own: bool, schemata: &[&str]) -> Rdt {
        Rdt {
            class: class.to_owned(),
            own,
            schemata: schemata.iter().map(|line| (*line).to_owned()).collect(),
            monitor: None,
        }
    }

    #[test]
    fn the_mount_is_found_by_its_type() {
        let other = "31 1 0:2 / /a rw - tmpfs resctrl rw\n";
        assert_eq!(find(other), None);
        let text = format!("{other}32 1 0:3 / /sys/fs/resctrl rw shared:1 - resctrl resctrl rw\n");
        assert_eq!(find(&text), Some(PathBuf::from("/sys/fs/resctrl")));
    }

    #[test]
    fn a_process_enters_a_class_that_is_there() {
        let root = resctrl("gold");
        let share = enter(root.path(), &wanted("gold", false, &[]), 42).unwrap();
        let tasks = std::fs::read_to_string(root.path().join("gold/tasks")).unwrap();
        assert_eq!((tasks.as_str(), share.own), ("42", false));
        leave(&share).unwrap();
        assert!(root.path().join("gold").is_dir());
        let missing = enter(root.path(), &wanted("silver", false, &[]), 42).unwrap_err();
        assert!(missing.to_string().contains("must be there"), "{missing}");
    }

    #[test]
    fn a_shared_class_keeps_its_schemata() {
        let root = resctrl("gold");
        let same = wanted("gold", false, &["L3:0=F0"]);
        enter(root.path(), &same, 42).unwrap();
        let other = wanted("gold", false, &["L3:0=ff"]);
        let refused = enter(root.path(), &other, 42).unwrap_err();
        assert!(refused.to_string().contains("other schemata"), "{refused}");
    }

    #[test]
    fn what_was_made_goes_when_it_cannot_be_filled() {
        // A plain folder gets no files by itself.
        let root = resctrl("");
        let refused = enter(root.path(), &wanted("c1", true, &[]), 42).unwrap_err();
        assert!(refused.to_string().contains("tasks"), "{refused}");
        assert!(!root.path().join("c1").exists());
    }

    #[test]
    fn figures_are_runcs() {
        let root = resctrl("gold");
        let share = enter(root.path(), &wanted("gold", false, &[]), 42).unwrap();
        let got = figures(&share);
        assert_eq!(
            got["l3_cache_info"],
            json!({"cbm_mask": "fff", "min_cbm_bits": 1})
        );
        assert_eq!(got["l3_cache_schema_root"], json!("L3:0=fff;1=fff"));
        assert_eq!(got["l3_cache_schema"], json!("L3:0=0f0;1=fff"));
        assert_eq!(got["cmt_stats"], json!([{"llc_occupancy": 7}]));
        assert!(got.get("mem_bw_info").is_none());
    }
}
