//! What each pod's network consists of: the intent, on disk before the first effect.
//!
//! `<root>/attachments/<sandbox id>.json`, one [`Record`] each, written by rename. The same records
//! are held in memory, where they also say which pod owns which host port. Knows no kernel and no
//! plugin.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{Error, Port, failed};

/// Longest sandbox id: a file's name with its ending has at most 255 bytes.
const LONGEST_ID: usize = 200;
const ENDING: &str = "json";

/// All that is needed to undo one attachment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// Id of the sandbox.
    pub(crate) id: String,
    /// Its pinned network namespace.
    pub(crate) netns: PathBuf,
    /// Name of the interface inside.
    pub(crate) interface: String,
    /// Its addresses; empty while plugins are still asked.
    #[serde(default)]
    pub(crate) ips: Vec<IpAddr>,
    /// Its host ports.
    #[serde(default)]
    pub(crate) ports: Vec<Port>,
    /// What gave it its network.
    pub(crate) via: Via,
}

/// What gave a pod its network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub(crate) enum Via {
    /// The built-in bridge.
    Builtin {
        /// The host's end of the pair.
        link: String,
    },
    /// CNI plugins.
    Cni {
        /// The list as it was when the pod was attached.
        conflist: Value,
        /// `CNI_ARGS` pairs.
        args: BTreeMap<String, String>,
        /// Capability arguments, whether or not a plugin declared them.
        capabilities: Map<String, Value>,
    },
}

/// A record and what is going on with it.
#[derive(Clone, Debug)]
struct Entry {
    record: Record,
    /// Being undone: owns its ports still, but gets no rules any more.
    leaving: bool,
}

/// All records of one daemon.
#[derive(Debug)]
pub(crate) struct Records {
    folder: PathBuf,
    entries: Mutex<BTreeMap<String, Entry>>,
}

impl Records {
    /// Reads what lies in the folder, which is made if it is missing. A file that cannot be read
    /// as a record is left to [`Records::unreadable`].
    pub(crate) fn open(folder: PathBuf) -> Result<Self, Error> {
        let what = || format!("reading attachments in {}", folder.display());
        std::fs::create_dir_all(&folder).map_err(failed(what()))?;
        let mut entries = BTreeMap::new();
        for id in ids(&folder).map_err(failed(what()))? {
            if let Some(record) = read(&folder, &id) {
                entries.insert(
                    id,
                    Entry {
                        record,
                        leaving: false,
                    },
                );
            }
        }
        Ok(Self {
            folder,
            entries: Mutex::new(entries),
        })
    }

    /// Puts a record on disk. Fails if another pod owns one of its ports, or if its id is no name.
    pub(crate) fn claim(&self, record: &Record) -> Result<(), Error> {
        check_id(&record.id)?;
        {
            let mut entries = self.lock();
            check_ports(record, entries.values().map(|entry| &entry.record))?;
            let entry = Entry {
                record: record.clone(),
                leaving: false,
            };
            entries.insert(record.id.clone(), entry);
        }
        self.write(record)
            .inspect_err(|_| drop(self.lock().remove(&record.id)))
    }

    /// Replaces a record that was claimed before by what is known now.
    pub(crate) fn complete(&self, record: &Record) -> Result<(), Error> {
        self.write(record)?;
        if let Some(entry) = self.lock().get_mut(&record.id) {
            entry.record = record.clone();
        }
        Ok(())
    }

    /// Marks a record as being undone and gives it.
    pub(crate) fn leave(&self, id: &str) -> Option<Record> {
        let mut entries = self.lock();
        let entry = entries.get_mut(id)?;
        entry.leaving = true;
        Some(entry.record.clone())
    }

    /// The record of the id.
    pub(crate) fn find(&self, id: &str) -> Option<Record> {
        self.lock().get(id).map(|entry| entry.record.clone())
    }

    /// Removes a record; gone already is no error.
    pub(crate) fn forget(&self, id: &str) -> Result<(), Error> {
        let path = path(&self.folder, id);
        remove_file(&path)?;
        self.lock().remove(id);
        Ok(())
    }

    /// The records of pods that have, or are about to get, their network.
    pub(crate) fn staying(&self) -> Vec<Record> {
        let entries = self.lock();
        entries
            .values()
            .filter(|entry| !entry.leaving)
            .map(|entry| entry.record.clone())
            .collect()
    }

    /// Ids of all records, those that are being undone too.
    pub(crate) fn ids(&self) -> Vec<String> {
        self.lock().keys().cloned().collect()
    }

    /// Ids of files that hold no record: torn by a power cut.
    pub(crate) fn unreadable(&self) -> Vec<String> {
        let known = self.ids();
        let found = ids(&self.folder).unwrap_or_default();
        found.into_iter().filter(|id| !known.contains(id)).collect()
    }

    fn write(&self, record: &Record) -> Result<(), Error> {
        std::fs::create_dir_all(&self.folder)
            .map_err(failed(format!("making folder {}", self.folder.display())))?;
        let bytes = serde_json::to_vec(record).expect("a record has string keys only");
        // Plugins keep what they gave on disk, so the way to give it back must survive a power cut.
        let durable = matches!(record.via, Via::Cni { .. });
        write_file(&path(&self.folder, &record.id), &bytes, durable)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Entry>> {
        // Every change is one insertion or removal: a panic elsewhere leaves the map whole.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes a file by rename beside itself.
pub(crate) fn write_file(path: &Path, bytes: &[u8], durable: bool) -> Result<(), Error> {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".new");
    let staging = path.with_file_name(name);
    let write = || {
        let mut file = File::create(&staging)?;
        file.write_all(bytes)?;
        if durable {
            file.sync_all()?;
        }
        std::fs::rename(&staging, path)
    };
    write().map_err(failed(format!("writing {}", path.display())))
}

/// Removes a file; gone already is no error.
pub(crate) fn remove_file(path: &Path) -> Result<(), Error> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(failed(format!("removing {}", path.display()))(error))
        }
        _ => Ok(()),
    }
}

fn path(folder: &Path, id: &str) -> PathBuf {
    folder.join(format!("{id}.{ENDING}"))
}

fn ids(folder: &Path) -> std::io::Result<Vec<String>> {
    let mut ids = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = PathBuf::from(entry?.file_name());
        let stem = path.file_stem().and_then(|stem| stem.to_str());
        if let (Some(id), true) = (stem, path.extension().is_some_and(|it| it == ENDING)) {
            ids.push(id.to_owned());
        }
    }
    Ok(ids)
}

fn read(folder: &Path, id: &str) -> Option<Record> {
    let record: Record = serde_json::from_slice(&std::fs::read(path(folder, id)).ok()?).ok()?;
    (record.id == id).then_some(record)
}

/// An id becomes a file's name, so it must be one.
pub(crate) fn check_id(id: &str) -> Result<(), Error> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if id.is_empty() || id.len() > LONGEST_ID || id.starts_with('.') || !id.chars().all(plain) {
        return Err(Error::Invalid(format!(
            "sandbox id {id:?} is no plain name"
        )));
    }
    Ok(())
}

fn check_ports<'a>(record: &Record, others: impl Iterator<Item = &'a Record>) -> Result<(), Error> {
    for other in others.filter(|other| other.id != record.id) {
        for port in &record.ports {
            if other.ports.iter().any(|taken| clash(taken, port)) {
                return Err(Error::Conflict(format!(
                    "host port {}/{} belongs to sandbox {}",
                    port.host, port.protocol, other.id
                )));
            }
        }
    }
    Ok(())
}

/// Whether a packet could mean both.
pub(crate) fn clash(one: &Port, other: &Port) -> bool {
    let all = |port: &Port| port.host_ip.is_none_or(|ip| ip.is_unspecified());
    one.protocol == other.protocol
        && one.host == other.host
        && (all(one) || all(other) || one.host_ip == other.host_ip)
}

/// The main IPv4 address of a record.
pub(crate) fn ipv4(record: &Record) -> Option<Ipv4Addr> {
    record.ips.iter().find_map(|ip| match ip {
        IpAddr::V4(ip) => Some(*ip),
        IpAddr::V6(_) => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(protocol: &str, host: u16, host_ip: Option<&str>) -> Port {
        let host_ip = host_ip.map(|ip| ip.parse().unwrap());
        Port {
            protocol: protocol.to_owned(),
            host,
            container: 80,
            host_ip,
        }
    }

    fn record(id: &str, ports: Vec<Port>) -> Record {
        Record {
            id: id.to_owned(),
            netns: "/run/netns/x".into(),
            interface: "eth0".to_owned(),
            ips: vec![],
            ports,
            via: Via::Builtin {
                link: "v1".to_owned(),
            },
        }
    }

    #[test]
    fn ports_clash_where_a_packet_could_mean_both() {
        let check = |one: &Port, other: &Port, expect: bool| {
            assert_eq!(clash(one, other), expect, "{one:?} {other:?}");
            assert_eq!(clash(other, one), expect, "{other:?} {one:?}");
        };
        check(&port("tcp", 80, None), &port("tcp", 80, None), true);
        check(&port("tcp", 80, None), &port("udp", 80, None), false);
        check(&port("tcp", 80, None), &port("tcp", 81, None), false);
        check(
            &port("tcp", 80, None),
            &port("tcp", 80, Some("10.0.0.1")),
            true,
        );
        check(
            &port("tcp", 80, Some("0.0.0.0")),
            &port("tcp", 80, Some("10.0.0.1")),
            true,
        );
        check(
            &port("tcp", 80, Some("10.0.0.2")),
            &port("tcp", 80, Some("10.0.0.1")),
            false,
        );
    }

    #[test]
    fn a_taken_port_names_its_owner_and_leaves_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let records = Records::open(folder.path().to_path_buf()).unwrap();
        records
            .claim(&record("one", vec![port("tcp", 80, None)]))
            .unwrap();
        let refused = records
            .claim(&record("two", vec![port("tcp", 80, None)]))
            .unwrap_err();
        assert!(
            matches!(&refused, Error::Conflict(why) if why.contains("one")),
            "{refused}"
        );
        assert!(!folder.path().join("two.json").exists());
        records.forget("one").unwrap();
        records
            .claim(&record("two", vec![port("tcp", 80, None)]))
            .unwrap();
    }

    #[test]
    fn records_survive_the_daemon_and_torn_ones_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let one = record("one", vec![port("udp", 53, None)]);
        Records::open(folder.path().to_path_buf())
            .unwrap()
            .claim(&one)
            .unwrap();
        std::fs::write(folder.path().join("torn.json"), b"{\"id\":").unwrap();
        let records = Records::open(folder.path().to_path_buf()).unwrap();
        assert_eq!(records.staying(), vec![one]);
        assert_eq!(records.unreadable(), vec!["torn".to_owned()]);
    }

    #[test]
    fn an_id_that_is_no_name_is_refused() {
        for id in ["", "..", ".x", "a/b", "a b", "a\n", &"x".repeat(300)] {
            assert!(check_id(id).is_err(), "{id:?}");
        }
        check_id("0a1b-c_d.e").unwrap();
    }
}
