//! What the flags of `checkpoint` and `restore` ask for, judged. No effects.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use super::wire::{CgroupsMode, NetworkLock, Options, PageServer};
use crate::cli::Values;
use crate::failure::{Failure, Result};
use crate::plan::NamespaceKind;

/// Where images go and come from unless told, below the working directory; runc's.
const DEFAULT_IMAGES: &str = "checkpoint";

/// How much criu writes to its log: everything that helps to find errors.
const LOG_LEVEL: i32 = 4;

/// criu's configuration file for containers of this program, and that of runc, whose settings hold
/// where there is no own one.
pub(crate) const OWN_CONFIG: &str = "/etc/criu/wrun.conf";
const RUNC_CONFIG: &str = "/etc/criu/runc.conf";

/// The annotation that names another one, or none by being empty.
const CONFIG_ANNOTATION: &str = "org.criu.config";

/// Folders of one checkpoint.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct Folders {
    pub(crate) images: PathBuf,
    /// Logs and statistics; the images' unless told.
    pub(crate) work: Option<PathBuf>,
    /// An earlier checkpoint, from the images' folder.
    pub(crate) parent: Option<PathBuf>,
}

impl Folders {
    /// From the flags.
    pub(crate) fn of(values: &Values) -> Result<Folders> {
        let given = |name| values.text(name).filter(|path| !path.is_empty());
        let parent = given("parent-path").map(PathBuf::from);
        if parent.as_deref().is_some_and(Path::is_absolute) {
            return Err(Failure::new("--parent-path must be relative"));
        }
        Ok(Folders {
            images: PathBuf::from(given("image-path").unwrap_or(DEFAULT_IMAGES)),
            work: given("work-path").map(PathBuf::from),
            parent,
        })
    }
}

/// What the flags say to criu directly. A flag that a command does not have is not set.
pub(crate) fn options(values: &Values) -> Result<Options> {
    let text = |name| values.text(name).unwrap_or_default().to_owned();
    refuse_other_namespaces(values)?;
    Ok(Options {
        leave_running: values.is_set("leave-running"),
        ext_unix_sk: values.is_set("ext-unix-sk"),
        tcp_established: values.is_set("tcp-established"),
        tcp_skip_in_flight: values.is_set("tcp-skip-in-flight"),
        tcp_close: values.is_set("tcp-close"),
        shell_job: values.is_set("shell-job"),
        file_locks: values.is_set("file-locks"),
        link_remap: values.is_set("link-remap"),
        auto_dedup: values.is_set("auto-dedup"),
        lazy_pages: values.is_set("lazy-pages"),
        page_server: page_server(values)?,
        manage_cgroups: true,
        manage_cgroups_mode: Some(cgroups_mode(values)?.into()),
        network_lock: network_lock(values)?.into(),
        lsm_profile: text("lsm-profile"),
        lsm_mount_context: text("lsm-mount-context"),
        // Devices of a network namespace are the engine's to make, as they were at first.
        empty_namespaces: NamespaceKind::Network.flag().unsigned_abs(),
        orphan_pts_master: true,
        notify_scripts: true,
        log_level: LOG_LEVEL,
        ..Options::default()
    })
}

fn refuse_other_namespaces(values: &Values) -> Result<()> {
    match values.all("empty-ns").find(|name| *name != "network") {
        Some(name) => Err(Failure::new(format!("namespace {name:?} is not supported"))),
        None => Ok(()),
    }
}

fn cgroups_mode(values: &Values) -> Result<CgroupsMode> {
    match values.text("manage-cgroups-mode").unwrap_or_default() {
        "" => Ok(CgroupsMode::Default),
        "soft" => Ok(CgroupsMode::Soft),
        "full" => Ok(CgroupsMode::Full),
        "strict" => Ok(CgroupsMode::Strict),
        "ignore" => Ok(CgroupsMode::Ignore),
        other => Err(Failure::new(format!(
            "invalid manage-cgroups-mode value {other:?}"
        ))),
    }
}

fn network_lock(values: &Values) -> Result<NetworkLock> {
    match values.text("network-lock").unwrap_or_default() {
        "" => Ok(NetworkLock::Unset),
        "iptables" => Ok(NetworkLock::Iptables),
        "nftables" => Ok(NetworkLock::Nftables),
        "skip" => Ok(NetworkLock::Skip),
        other => Err(Failure::new(format!(
            "invalid --network-lock value {other:?}"
        ))),
    }
}

fn page_server(values: &Values) -> Result<Option<PageServer>> {
    let Some(text) = values.text("page-server").filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let wrong = || Failure::new("use --page-server ADDRESS:PORT to specify the page server");
    let (address, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let bare = address.strip_prefix('[').and_then(|a| a.strip_suffix(']'));
    let good = match bare {
        Some(bare) => bare.parse::<Ipv6Addr>().is_ok(),
        None => address.parse::<Ipv4Addr>().is_ok() || is_name(address),
    };
    if !good || port.is_empty() {
        return Err(wrong());
    }
    let port = port
        .parse::<u16>()
        .map_err(|_not_a_port| Failure::new(format!("invalid port number {port:?}")))?;
    Ok(Some(PageServer {
        address: bare.unwrap_or(address).to_owned(),
        port: port.into(),
    }))
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && !text.contains(':')
}

/// The configuration file that criu reads over what it is asked for; empty for none.
pub(crate) fn config_file(annotation: Option<&str>, own_exists: bool) -> &str {
    match annotation {
        Some(path) => path,
        None if own_exists => OWN_CONFIG,
        None => RUNC_CONFIG,
    }
}

/// The annotation for [`config_file`].
pub(crate) fn config_annotation<'a>(
    mut pairs: impl Iterator<Item = (&'a str, &'a str)>,
) -> Option<&'a str> {
    pairs
        .find(|(key, _)| *key == CONFIG_ANNOTATION)
        .map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{What, parse};

    fn values(line: &str) -> Values {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        match parse(&words).unwrap().what {
            What::Verb { values, .. } => values,
            other => panic!("{other:?}"),
        }
    }

    fn check(line: &str, expect: &str) {
        let got = match options(&values(line)) {
            Ok(options) => format!(
                "{:?} {}",
                options.page_server,
                options.manage_cgroups_mode()
            ),
            Err(failure) => failure.to_string(),
        };
        assert!(got.contains(expect), "{line}: {got} lacks {expect}");
    }

    impl std::fmt::Display for CgroupsMode {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            write!(f, "{self:?}")
        }
    }

    #[test]
    fn flags_are_judged() {
        check("checkpoint a", "None Default");
        check("checkpoint --manage-cgroups-mode strict a", "Strict");
        check(
            "checkpoint --manage-cgroups-mode moon a",
            "invalid manage-cgroups-mode",
        );
        check("checkpoint --page-server 10.0.0.1:80 a", "port: 80");
        check("checkpoint --page-server [::1]:80 a", "\"::1\"");
        check("checkpoint --page-server ::1:80 a", "ADDRESS:PORT");
        check("checkpoint --page-server host: a", "ADDRESS:PORT");
        check("checkpoint --page-server :80 a", "ADDRESS:PORT");
        check("checkpoint --page-server a:x a", "invalid port number");
        check("checkpoint --empty-ns network a", "None");
        check("checkpoint --empty-ns ipc a", "\"ipc\" is not supported");
        check("restore --network-lock moon a", "invalid --network-lock");
    }

    #[test]
    fn folders_have_defaults() {
        let folders = Folders::of(&values("restore a")).unwrap();
        assert_eq!(folders.images, Path::new("checkpoint"));
        assert_eq!((folders.work, folders.parent), (None, None));
        let absolute = values("checkpoint --parent-path /x a");
        assert!(Folders::of(&absolute).is_err());
    }

    #[test]
    fn the_annotation_goes_before_the_files() {
        assert_eq!(config_file(Some("/x"), true), "/x");
        assert_eq!(config_file(Some(""), true), "");
        assert_eq!(config_file(None, true), OWN_CONFIG);
        assert_eq!(config_file(None, false), RUNC_CONFIG);
        let pairs = [("a", "b"), ("org.criu.config", "/c")];
        assert_eq!(config_annotation(pairs.into_iter()), Some("/c"));
    }
}
