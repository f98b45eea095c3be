//! Certificates in folders named like hosts, in the form of Docker: authorities as `*.crt`, and
//! pairs of ours as `*.cert` and `*.key` (Docker's documentation, "Verify repository client with
//! certificates").
//!
//! They hold for the host of that name, mirrors too, wherever no file names others. Such a folder
//! says nothing about which hosts are asked: that is `hosts`' business.

use std::path::{Path, PathBuf};

use crate::Error;
use crate::error::During;
use crate::hosts::{Host, underscored};

/// Most files of a folder that are looked at.
const MAX_CERTIFICATES: usize = 100;

/// Gives the hosts whose certificates no file names those that lie in a folder of their name.
pub(crate) fn add(folder: &Path, hosts: &mut [Host]) -> Result<(), Error> {
    for host in hosts {
        let authority = host.authority();
        let link = &mut host.link;
        if host.api.scheme() != "https" || !link.ca.is_empty() || !link.client.is_empty() {
            continue;
        }
        for name in [underscored(&authority), authority] {
            let host = certificates(&folder.join(name))?;
            link.ca.extend(host.0);
            link.client.extend(host.1);
        }
    }
    Ok(())
}

type Certificates = (Vec<PathBuf>, Vec<(PathBuf, Option<PathBuf>)>);

/// Authorities and certificates of ours in a folder, in the form of Docker.
fn certificates(folder: &Path) -> Result<Certificates, Error> {
    use std::io::ErrorKind::{NotADirectory, NotFound};
    let doing = || format!("reading {}", folder.display());
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(cause) if matches!(cause.kind(), NotFound | NotADirectory) => {
            return Ok(Certificates::default());
        }
        Err(cause) => return Err(Error::io(doing(), &cause)),
    };
    let mut files = entries
        .take(MAX_CERTIFICATES)
        .map(|entry| Ok(entry?.path()))
        .collect::<std::io::Result<Vec<_>>>()
        .during(doing)?;
    files.sort();
    let ends = |path: &Path, end: &str| path.extension().is_some_and(|known| known == end);
    let pair =
        |certificate: &PathBuf| (certificate.clone(), Some(certificate.with_extension("key")));
    Ok((
        files.iter().filter(|f| ends(f, "crt")).cloned().collect(),
        files.iter().filter(|f| ends(f, "cert")).map(pair).collect(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hosts::{self, default_server};

    #[test]
    fn certificates_lie_in_folders_as_for_docker() {
        let temp = tempfile::tempdir().unwrap();
        for name in [
            "a.io/ca.crt",
            "a.io/us.cert",
            "a.io/us.key",
            "b.io_1_/ca.crt",
        ] {
            let path = temp.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        let of = |registry: &str| {
            let mut hosts = [default_server(registry).unwrap()];
            add(temp.path(), &mut hosts).unwrap();
            let [host] = hosts;
            (host.link.ca, host.link.client)
        };
        let at = |name: &str| temp.path().join(name);
        let pair = (at("a.io/us.cert"), Some(at("a.io/us.key")));
        assert_eq!(of("a.io"), (vec![at("a.io/ca.crt")], vec![pair]));
        assert_eq!(of("b.io:1"), (vec![at("b.io_1_/ca.crt")], vec![]));
        assert_eq!(of("c.io"), (vec![], vec![]));
        // What a file names is all that counts.
        let mut hosts = [default_server("a.io").unwrap()];
        hosts[0].link.ca.push("/etc/x/own.crt".into());
        add(temp.path(), &mut hosts).unwrap();
        assert_eq!(hosts[0].link.ca, [Path::new("/etc/x/own.crt")]);
        assert_eq!(hosts[0].link.client, []);
        // A folder without hosts.toml says nothing about hosts.
        assert_eq!(hosts::read(temp.path(), "a.io").unwrap(), None);
    }
}
