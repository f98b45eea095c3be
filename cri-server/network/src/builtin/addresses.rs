//! Which pod has which address: one file each, whose name is the lock.
//!
//! `<root>/addresses/<address>` holds the sandbox id. A file is made with `O_EXCL`, so two pods
//! never get one address, whatever the daemon forgot. Addresses go round, so that one just freed
//! is not given to the next pod at once. Nothing here touches a link.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use ipnet::Ipv4Net;

use crate::records::remove_file;
use crate::{Error, failed};

/// The addresses of one range.
#[derive(Debug)]
pub(crate) struct Addresses {
    folder: PathBuf,
    range: Ipv4Net,
    /// How far from the start of the range the next search begins.
    next: AtomicU32,
}

impl Addresses {
    /// Uses the folder, which is made if it is missing. The search begins behind the address that
    /// was given last.
    pub(crate) fn open(folder: PathBuf, range: Ipv4Net) -> Result<Self, Error> {
        let what = format!("reading addresses in {}", folder.display());
        std::fs::create_dir_all(&folder).map_err(failed(&what))?;
        let addresses = Self {
            folder,
            range,
            next: AtomicU32::new(0),
        };
        let newest = addresses.newest().map_err(failed(&what))?;
        let next = newest.map_or(0, |ip| {
            u32::from(ip)
                .wrapping_sub(addresses.first())
                .wrapping_add(1)
        });
        addresses.next.store(next, Ordering::Relaxed);
        Ok(addresses)
    }

    /// The first address of the range is the gateway's.
    pub(crate) fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.range.network()) + 1)
    }

    /// Takes a free address for the sandbox.
    pub(crate) fn take(&self, id: &str) -> Result<Ipv4Addr, Error> {
        std::fs::create_dir_all(&self.folder)
            .map_err(failed(format!("making folder {}", self.folder.display())))?;
        let count = self.count();
        for _ in 0..count {
            let step = self.next.fetch_add(1, Ordering::Relaxed) % count;
            let ip = Ipv4Addr::from(self.first() + step);
            match self.create(ip, id) {
                Ok(()) => return Ok(ip),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(failed(format!("reserving address {ip}"))(error)),
            }
        }
        Err(Error::Other(format!(
            "no address is left in {}: all {count} are in use",
            self.range
        )))
    }

    /// Gives all addresses of the sandbox back; having none is no error.
    pub(crate) fn release(&self, id: &str) -> Result<(), Error> {
        self.release_where(|owner| owner == id)
    }

    /// Gives back the addresses of all sandboxes for which `dead` holds.
    pub(crate) fn release_where(&self, dead: impl Fn(&str) -> bool) -> Result<(), Error> {
        let what = || format!("reading addresses in {}", self.folder.display());
        let entries = match std::fs::read_dir(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other.map_err(failed(what()))?,
        };
        for entry in entries {
            let path = entry.map_err(failed(what()))?.path();
            match std::fs::read_to_string(&path) {
                Ok(owner) if dead(&owner) => remove_file(&path)?,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(failed(format!("reading {}", path.display()))(error)),
            }
        }
        Ok(())
    }

    fn create(&self, ip: Ipv4Addr, id: &str) -> io::Result<()> {
        let path = self.folder.join(ip.to_string());
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(path)?
            .write_all(id.as_bytes())
    }

    /// First address that a pod may have: the network's own and the gateway's come before.
    fn first(&self) -> u32 {
        u32::from(self.range.network()) + 2
    }

    /// How many addresses pods may have: not the network's, the gateway's and the broadcast's.
    fn count(&self) -> u32 {
        u32::from(self.range.broadcast()) - self.first()
    }

    fn newest(&self) -> io::Result<Option<Ipv4Addr>> {
        let mut newest = None;
        for entry in std::fs::read_dir(&self.folder)? {
            let entry = entry?;
            let ip: Option<Ipv4Addr> = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse().ok());
            if let Some(ip) = ip.filter(|ip| self.range.contains(ip)) {
                newest = newest.max(Some((entry.metadata()?.modified()?, ip)));
            }
        }
        Ok(newest.map(|(_, ip)| ip))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(folder: &tempfile::TempDir, range: &str) -> Addresses {
        Addresses::open(folder.path().to_path_buf(), range.parse().unwrap()).unwrap()
    }

    #[test]
    fn a_range_gives_each_address_once_and_says_when_it_is_empty() {
        let folder = tempfile::tempdir().unwrap();
        let addresses = open(&folder, "10.9.8.0/29");
        assert_eq!(addresses.gateway().to_string(), "10.9.8.1");
        let given: Vec<_> = (0..5)
            .map(|n| addresses.take(&format!("p{n}")).unwrap().to_string())
            .collect();
        assert_eq!(
            given,
            ["10.9.8.2", "10.9.8.3", "10.9.8.4", "10.9.8.5", "10.9.8.6"]
        );
        let refused = addresses.take("more").unwrap_err().to_string();
        assert_eq!(
            refused,
            "no address is left in 10.9.8.0/29: all 5 are in use"
        );
    }

    #[test]
    fn a_freed_address_is_given_last_also_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let addresses = open(&folder, "10.9.8.0/28");
        addresses.take("a").unwrap();
        addresses.release("a").unwrap();
        assert_eq!(addresses.take("b").unwrap().to_string(), "10.9.8.3");
        assert_eq!(
            open(&folder, "10.9.8.0/28").take("c").unwrap().to_string(),
            "10.9.8.4"
        );
    }

    #[test]
    fn releasing_touches_the_addresses_of_the_dead_only() {
        let folder = tempfile::tempdir().unwrap();
        let addresses = open(&folder, "10.9.8.0/28");
        addresses.take("dead").unwrap();
        addresses.take("live").unwrap();
        addresses.release_where(|id| id != "live").unwrap();
        addresses.release("never had one").unwrap();
        let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
        assert_eq!(left.len(), 1);
    }
}
