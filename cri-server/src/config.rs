//! What the daemon is told: flags, one TOML file, defaults; in this order of weight.
//!
//! Everything that can be known to be wrong without touching the system is refused here, before a
//! socket is bound or a folder made. The keys are defined in [`file`].

mod file;
mod images;
mod limits;
mod signatures;

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use file::{File, NetworkFile, StreamingFile};
use tracing_subscriber::filter::Targets;

use crate::cli::Flags;
use crate::toml_section::KeyError;

/// The configuration file that need not exist.
const DEFAULT_FILE: &str = "/etc/wherry/config.toml";
/// The handler of the runtime that comes with the daemon.
const OWN_RUNTIME: &str = "wrun";
/// The shim program, beside the daemon.
const SHIM: &str = "wherry-shim";
/// Longest path of a socket, bytes (unix(7): `sun_path` is 108 with its end), less [`crate::socket::FRESH`].
const MAX_SOCKET_PATH: usize = 107 - crate::socket::FRESH.len();
/// Longest name of a network interface (`IFNAMSIZ` less its end).
const MAX_INTERFACE: usize = 15;

/// What the daemon needs to know, complete and checked.
#[derive(Debug)]
pub(crate) struct Settings {
    /// Path of the socket on which CRI is served.
    pub(crate) listen: PathBuf,
    /// Path of the socket on which cAdvisor's questions are answered, where there is one.
    pub(crate) containerd: Option<PathBuf>,
    /// What gets logged.
    pub(crate) log: Targets,
    /// Where exec, attach and port-forward are served.
    pub(crate) streaming: streaming::Config,
    /// Folder of archives whose images are there from the beginning.
    pub(crate) preload: Option<PathBuf>,
    /// The engine's part.
    pub(crate) engine: engine::Config,
}

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("reading the configuration {path:?}: {cause}")]
    Read {
        path: PathBuf,
        cause: std::io::Error,
    },
    #[error("the configuration {path:?} is not TOML: {cause}")]
    Syntax {
        path: PathBuf,
        cause: toml::de::Error,
    },
    #[error("the configuration {path:?}: {cause}")]
    Key { path: PathBuf, cause: KeyError },
    #[error("{what}: {reason}")]
    Value { what: String, reason: String },
}

/// A reason to refuse the value of `what`.
fn refuse(what: impl Into<String>, reason: impl Into<String>) -> Error {
    Error::Value {
        what: what.into(),
        reason: reason.into(),
    }
}

/// Reads the configuration that `flags` name; `programs` is the folder of the daemon's own program.
///
/// # Errors
///
/// [`Error`] names the file, flag or key.
pub(crate) fn load(flags: &Flags, programs: &Path) -> Result<Settings, Error> {
    let path = flags.config.clone().unwrap_or_else(|| DEFAULT_FILE.into());
    let text = read(&path, flags.config.is_some())?;
    let table = toml::from_str(&text).map_err(|cause| Error::Syntax {
        path: path.clone(),
        cause,
    })?;
    let file = File::parse(table).map_err(|cause| Error::Key { path, cause })?;
    settle(flags, file, programs)
}

/// The text of the file; nothing if it is missing and was not asked for.
fn read(path: &Path, asked_for: bool) -> Result<String, Error> {
    match std::fs::read_to_string(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !asked_for => {
            Ok(String::new())
        }
        Err(cause) => Err(Error::Read {
            path: path.into(),
            cause,
        }),
        Ok(text) => Ok(text),
    }
}

/// Puts flags, file and defaults together and checks the whole.
fn settle(flags: &Flags, file: File, programs: &Path) -> Result<Settings, Error> {
    let root = folder("root", flags.root.as_deref(), file.root, "/var/lib/wherry")?;
    let state = folder("state", flags.state.as_deref(), file.state, "/run/wherry")?;
    check_apart(&root, &state)?;
    check_socket_path("state", &state.join(control_api::SOCKET))?;
    let registry_config = folder(
        "registry_config",
        flags.registry_config.as_deref(),
        file.registry_config,
        "/etc/wherry/certs.d",
    )?;
    let boot_id = boot_id(&flags.boot_id_file)?;
    let default_runtime = file.default_runtime.unwrap_or_else(|| OWN_RUNTIME.into());
    let listen_on = flags.listen.clone().or(file.listen);
    let listen_on = listen_on.unwrap_or_else(|| "unix:///run/wherry/wherryd.sock".into());
    let listen_on = listen("listen", &listen_on)?;
    let containerd = file
        .containerd
        .map(|value| settle_containerd(&value, &listen_on));
    let containerd = containerd.transpose()?;
    Ok(Settings {
        listen: listen_on,
        preload: images::preload(&file.images)?,
        streaming: settle_streaming(file.streaming)?,
        log: log_targets(file.log_level.as_deref().unwrap_or("info"))?,
        engine: engine::Config {
            runtimes: settle_runtimes(&file.runtimes, &default_runtime, programs)?,
            default_runtime,
            shim: program("the shim", &programs.join(SHIM))?,
            cdi_spec_dirs: file
                .cdi_spec_dirs
                .unwrap_or_else(|| vec!["/etc/cdi".into(), "/var/run/cdi".into()])
                .iter()
                .map(|path| absolute("cdi_spec_dirs", path))
                .collect::<Result<_, _>>()?,
            image: image::Config {
                root: root.join("images"),
                registry_config,
                layer_form: layer_form(file.images.layer_form.as_deref())?,
                boot_id: boot_id.clone(),
                scrub: images::scrub(&file.images)?,
                signatures: signatures::settle(&file.signatures)?,
            },
            network: settle_network(file.network, &root, &state)?,
            boot_id,
            shim_open_files: None,
            systemd_cgroup: cgroup_driver(file.cgroup_driver.as_deref())?,
            pod_process: containerd.is_some(),
            limits: limits::settle(&file.limits)?,
            root,
            state,
        },
        containerd,
    })
}

/// What layers become on disk.
fn layer_form(name: Option<&str>) -> Result<image::LayerForm, Error> {
    match name {
        None | Some("auto") => Ok(image::LayerForm::Auto),
        Some("dir") => Ok(image::LayerForm::Dir),
        Some("erofs") => Ok(image::LayerForm::Erofs),
        Some(other) => Err(refuse(
            "images.layer_form",
            format!("{other:?} is none of auto, dir, erofs"),
        )),
    }
}

/// Who makes control groups; nothing if the node is to decide.
fn cgroup_driver(name: Option<&str>) -> Result<Option<bool>, Error> {
    match name {
        None | Some("auto") => Ok(None),
        Some("systemd") => Ok(Some(true)),
        Some("cgroupfs") => Ok(Some(false)),
        Some(other) => Err(refuse(
            "cgroup_driver",
            format!("{other:?} is none of auto, systemd, cgroupfs"),
        )),
    }
}

/// A folder from flag, file or default; relative ones only on the command line.
fn folder(
    key: &str,
    flag: Option<&Path>,
    file: Option<String>,
    default: &str,
) -> Result<PathBuf, Error> {
    match flag {
        Some(path) => std::path::absolute(path)
            .map_err(|error| refuse(format!("--{}", key.replace('_', "-")), error.to_string())),
        None => absolute(key, &file.unwrap_or_else(|| default.into())),
    }
}

fn absolute(key: &str, path: &str) -> Result<PathBuf, Error> {
    if Path::new(path).is_absolute() {
        return Ok(path.into());
    }
    Err(refuse(key, format!("{path:?} is not an absolute path")))
}

/// What survives a reboot and what does not cannot share a folder: a reset removes both, each in
/// its own way.
fn check_apart(root: &Path, state: &Path) -> Result<(), Error> {
    if root.starts_with(state) || state.starts_with(root) {
        return Err(refuse(
            "root and state",
            format!("{root:?} and {state:?} must lie apart"),
        ));
    }
    Ok(())
}

fn check_socket_path(key: &str, path: &Path) -> Result<(), Error> {
    let length = path.as_os_str().len();
    if length > MAX_SOCKET_PATH {
        let reason =
            format!("the socket path {path:?} has {length} bytes, at most {MAX_SOCKET_PATH} fit");
        return Err(refuse(key, reason));
    }
    Ok(())
}

/// The path in `unix:///path` (or a plain absolute path).
fn listen(key: &str, value: &str) -> Result<PathBuf, Error> {
    let path = value.strip_prefix("unix://").unwrap_or(value);
    if !path.starts_with('/') || path.ends_with('/') {
        return Err(refuse(
            key,
            format!("{value:?} is not of the form unix:///path"),
        ));
    }
    check_socket_path(key, Path::new(path))?;
    Ok(path.into())
}

/// The socket for cAdvisor: not that of CRI, which has other services.
fn settle_containerd(value: &str, cri: &Path) -> Result<PathBuf, Error> {
    let path = listen("containerd.listen", value)?;
    if path == cri {
        return Err(refuse(
            "containerd.listen",
            format!("{path:?} is the socket of CRI"),
        ));
    }
    Ok(path)
}

fn log_targets(level: &str) -> Result<Targets, Error> {
    let invalid = |cause: &dyn std::fmt::Display| {
        refuse(
            "log.level",
            format!("{level:?} is not a level such as info or info,image=debug: {cause}"),
        )
    };
    let targets: Targets = level.parse().map_err(|cause| invalid(&cause))?;
    // A lone word that is no level would be taken for the name of a target, and silence the rest.
    let known = ["off", "error", "warn", "info", "debug", "trace"];
    match level
        .split(',')
        .find(|part| !part.contains('=') && !known.contains(&part.trim()))
    {
        Some(part) => Err(invalid(&format!(
            "{part:?} is none of {}",
            known.join(", ")
        ))),
        None => Ok(targets),
    }
}

/// The handlers of the file, and the daemon's own runtime where it lies beside the daemon.
fn settle_runtimes(
    file: &BTreeMap<String, String>,
    default: &str,
    programs: &Path,
) -> Result<BTreeMap<String, engine::Runtime>, Error> {
    let mut runtimes = BTreeMap::new();
    for (name, path) in file {
        check_handler(name)?;
        let key = format!("runtimes.{name}.path");
        let path = program(&key, &absolute(&key, path)?)?;
        runtimes.insert(name.clone(), engine::Runtime { path });
    }
    if !runtimes.contains_key(OWN_RUNTIME) {
        match program("the runtime", &programs.join(OWN_RUNTIME)) {
            Ok(path) => drop(runtimes.insert(OWN_RUNTIME.into(), engine::Runtime { path })),
            Err(error) if default == OWN_RUNTIME => return Err(error),
            Err(_) => {}
        }
    }
    if runtimes.contains_key(default) {
        return Ok(runtimes);
    }
    let known: Vec<&str> = runtimes.keys().map(String::as_str).collect();
    Err(refuse(
        "default_runtime",
        format!("{default:?} is none of {}", known.join(", ")),
    ))
}

/// A handler's name is part of paths and of Kubernetes' objects.
fn check_handler(name: &str) -> Result<(), Error> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if name.is_empty() || name.starts_with('.') || !name.bytes().all(fits) {
        return Err(refuse(
            format!("runtimes.{name:?}"),
            "a handler's name has letters, digits, '-', '_' and '.' only",
        ));
    }
    Ok(())
}

/// The path, if a program lies there.
fn program(what: &str, path: &Path) -> Result<PathBuf, Error> {
    let metadata = std::fs::metadata(path)
        .map_err(|error| refuse(what, format!("looking at {path:?}: {error}")))?;
    if !metadata.is_file() || metadata.permissions().mode() & 0o111 == 0 {
        return Err(refuse(what, format!("{path:?} is not a program")));
    }
    Ok(path.into())
}

fn settle_network(file: NetworkFile, root: &Path, state: &Path) -> Result<network::Config, Error> {
    let bin_dirs = file
        .cni_bin_dirs
        .unwrap_or_else(|| vec!["/opt/cni/bin".into(), "/usr/lib/cni".into()]);
    let text = |value: Option<String>, default: &str| value.unwrap_or_else(|| default.into());
    Ok(network::Config {
        mode: mode(file.mode.as_deref())?,
        cni_conf_dir: absolute(
            "network.cni_conf_dir",
            &text(file.cni_conf_dir, "/etc/cni/net.d"),
        )?,
        cni_bin_dirs: bin_dirs
            .iter()
            .map(|path| absolute("network.cni_bin_dirs", path))
            .collect::<Result<_, _>>()?,
        cni_cache_dir: absolute(
            "network.cni_cache_dir",
            &text(file.cni_cache_dir, "/var/lib/cni/results"),
        )?,
        bridge: bridge(text(file.bridge, "wherry0"))?,
        subnet: subnet(text(file.subnet, "10.213.0.0/16"))?,
        routed: routed(file.routed.unwrap_or_default())?,
        root: root.join("network"),
        state: state.join("network"),
    })
}

/// Where exec, attach and port-forward are served: on loopback, unless told otherwise.
fn settle_streaming(file: StreamingFile) -> Result<streaming::Config, Error> {
    let mut config = streaming::Config::default();
    if let Some(address) = file.address {
        config.address = address.parse().map_err(|_unparsable| {
            refuse("streaming.address", "an address and a port are wanted")
        })?;
    }
    config.tls = match (file.certificate, file.key) {
        (None, None) => None,
        (Some(certificate), Some(key)) => Some(streaming::Tls {
            certificate: absolute("streaming.certificate", &certificate)?,
            key: absolute("streaming.key", &key)?,
        }),
        (Some(_), None) => return Err(refuse("streaming.key", "the certificate needs its key")),
        (None, Some(_)) => {
            return Err(refuse(
                "streaming.certificate",
                "the key needs its certificate",
            ));
        }
    };
    Ok(config)
}

fn mode(value: Option<&str>) -> Result<network::Mode, Error> {
    match value {
        None | Some("auto") => Ok(network::Mode::Auto),
        Some("cni") => Ok(network::Mode::Cni),
        Some("builtin") => Ok(network::Mode::Builtin),
        Some(other) => Err(refuse(
            "network.mode",
            format!("{other:?} is none of auto, cni, builtin"),
        )),
    }
}

fn bridge(name: String) -> Result<String, Error> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    if name.is_empty() || name.len() > MAX_INTERFACE || !name.bytes().all(fits) {
        let reason = format!(
            "{name:?} is no name for an interface: 1 to {MAX_INTERFACE} letters, digits, '-', '_'"
        );
        return Err(refuse("network.bridge", reason));
    }
    Ok(name)
}

/// A range with room for a gateway and a pod.
fn subnet(range: String) -> Result<String, Error> {
    match prefix_length(&range) {
        Some(8..=30) => Ok(range),
        _ => Err(refuse(
            "network.subnet",
            format!("{range:?} is no IPv4 range such as 10.213.0.0/16, with 8 to 30 bits fixed"),
        )),
    }
}

/// The number of fixed bits of an IPv4 range, if it is one.
fn prefix_length(range: &str) -> Option<u8> {
    let (address, length) = range.split_once('/')?;
    address.parse::<std::net::Ipv4Addr>().ok()?;
    length.parse().ok()
}

/// Ranges that need no masquerade.
fn routed(ranges: Vec<String>) -> Result<Vec<String>, Error> {
    let wrong = |range: &&String| !matches!(prefix_length(range), Some(0..=32));
    match ranges.iter().find(wrong) {
        None => Ok(ranges),
        Some(range) => Err(refuse(
            "network.routed",
            format!("{range:?} is no IPv4 range such as 10.213.0.0/16"),
        )),
    }
}

fn boot_id(path: &Path) -> Result<String, Error> {
    let refuse = |reason: String| refuse("--boot-id-file", format!("{path:?}: {reason}"));
    let text = std::fs::read_to_string(path).map_err(|error| refuse(error.to_string()))?;
    match text.trim() {
        "" => Err(refuse("it is empty".into())),
        id => Ok(id.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder with the programs that a daemon needs beside it.
    fn programs() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for name in [SHIM, OWN_RUNTIME, "runc"] {
            let path = folder.path().join(name);
            std::fs::write(&path, "").unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        }
        std::fs::write(folder.path().join("boot"), "one\n").unwrap();
        std::fs::write(folder.path().join("not-a-program"), "").unwrap();
        folder
    }

    /// Loads `text` with `@` standing for the folder of programs.
    fn load_text(text: &str, change: impl FnOnce(&mut Flags)) -> Result<Settings, String> {
        let folder = programs();
        let file = folder.path().join("config.toml");
        let here = folder.path().to_str().unwrap();
        std::fs::write(&file, text.replace('@', here)).unwrap();
        let mut flags = Flags {
            config: Some(file),
            boot_id_file: folder.path().join("boot"),
            ..Flags::default()
        };
        change(&mut flags);
        load(&flags, folder.path()).map_err(|error| error.to_string().replace(here, "@"))
    }

    fn refused(text: &str, expect: &str) {
        let error = load_text(text, |_| {}).expect_err(text);
        assert!(
            error.contains(expect),
            "{text}\n  gave: {error}\n  not:  {expect}"
        );
    }

    #[test]
    fn a_second_socket() {
        let none = load_text("", |_| {}).unwrap();
        assert_eq!((none.containerd, none.engine.pod_process), (None, false));
        let text = "[containerd]\nlisten = \"unix:///run/c.sock\"\n";
        let some = load_text(text, |_| {}).unwrap();
        assert_eq!(some.containerd.as_deref(), Some(Path::new("/run/c.sock")));
        assert!(some.engine.pod_process, "cAdvisor knows a pod by a process");
        refused(
            "[containerd]\nlisten = \"tcp://localhost\"\n",
            "containerd.listen: \"tcp://localhost\" is not of the form unix:///path",
        );
        refused(
            "listen = \"unix:///run/c.sock\"\n[containerd]\nlisten = \"/run/c.sock\"\n",
            "containerd.listen: \"/run/c.sock\" is the socket of CRI",
        );
    }

    #[test]
    fn defaults() {
        let settings = load_text("", |_| {}).unwrap();
        assert_eq!(settings.listen, Path::new("/run/wherry/wherryd.sock"));
        let engine = settings.engine;
        assert_eq!(engine.root, Path::new("/var/lib/wherry"));
        assert_eq!(engine.state, Path::new("/run/wherry"));
        assert_eq!(engine.default_runtime, "wrun");
        assert_eq!(engine.runtimes.keys().collect::<Vec<_>>(), ["wrun"]);
        assert_eq!(engine.boot_id, "one");
        assert_eq!(
            engine.image.registry_config,
            Path::new("/etc/wherry/certs.d")
        );
        assert_eq!(engine.network.mode, network::Mode::Auto);
        assert_eq!(engine.network.root, Path::new("/var/lib/wherry/network"));
    }

    #[test]
    fn every_key() {
        let settings = load_text(
            r#"
            listen = "unix:///a/b.sock"
            root = "/r"
            state = "/s"
            registry_config = "/c"
            default_runtime = "runc"
            [runtimes.runc]
            path = "@/runc"
            [images]
            layer_form = "erofs"
            [network]
            mode = "cni"
            bridge = "b0"
            subnet = "10.1.0.0/24"
            routed = ["10.1.0.0/16"]
            cni_conf_dir = "/x"
            cni_bin_dirs = ["/y", "/z"]
            cni_cache_dir = "/w"
            [log]
            level = "warn,engine=debug"
            "#,
            |_| {},
        )
        .unwrap();
        assert_eq!(settings.listen, Path::new("/a/b.sock"));
        let engine = settings.engine;
        assert_eq!((engine.root, engine.state), ("/r".into(), "/s".into()));
        assert_eq!(engine.default_runtime, "runc");
        assert_eq!(engine.runtimes.len(), 2);
        assert_eq!(engine.image.registry_config, Path::new("/c"));
        assert_eq!(engine.image.layer_form, image::LayerForm::Erofs);
        assert_eq!(engine.network.mode, network::Mode::Cni);
        assert_eq!(engine.network.bridge, "b0");
        assert_eq!(engine.network.routed, ["10.1.0.0/16"]);
        assert_eq!(engine.network.cni_bin_dirs.len(), 2);
        assert!(settings.log.would_enable("engine", &tracing::Level::DEBUG));
        assert!(!settings.log.would_enable("image", &tracing::Level::INFO));
    }

    #[test]
    fn flags_beat_the_file() {
        let settings = load_text(
            "root = \"/file\"\nlisten = \"unix:///file.sock\"",
            |flags| {
                flags.root = Some("/flag".into());
                flags.listen = Some("unix:///flag.sock".into());
            },
        )
        .unwrap();
        assert_eq!(settings.engine.root, Path::new("/flag"));
        assert_eq!(settings.listen, Path::new("/flag.sock"));
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_nearest() {
        refused(
            "lisen = \"x\"",
            "\"@/config.toml\": unknown key lisen; did you mean listen?",
        );
        refused(
            "[network]\nbridg = \"x\"",
            "unknown key network.bridg; did you mean network.bridge?",
        );
        refused("[netwrk]", "unknown key netwrk; did you mean network?");
        refused("[runtimes.a]\npth = \"/x\"", "unknown key runtimes.a.pth");
    }

    #[test]
    fn a_wrong_value_is_refused_by_name() {
        let cases = [
            ("root = 7", "root: a string is wanted, not an integer"),
            ("root =", "is not TOML"),
            (
                "[images]\nlayer_form = \"tar\"",
                "images.layer_form: \"tar\" is none of auto, dir, erofs",
            ),
            ("root = \"here\"", "root: \"here\" is not an absolute path"),
            ("root = \"/a\"\nstate = \"/a/b\"", "must lie apart"),
            (
                "listen = \"tcp://1.2.3.4:5\"",
                "listen: \"tcp://1.2.3.4:5\" is not of the form",
            ),
            ("listen = \"unix:///a/\"", "is not of the form"),
            (
                "cgroup_driver = \"moon\"",
                "cgroup_driver: \"moon\" is none of auto, systemd, cgroupfs",
            ),
            (
                "default_runtime = \"crun\"",
                "default_runtime: \"crun\" is none of wrun",
            ),
            ("runtimes = 1", "runtimes: a table is wanted"),
            ("[runtimes]\nrunc = 1", "runtimes.runc: a table is wanted"),
            ("[runtimes.runc]", "runtimes.runc.path is missing"),
            (
                "[runtimes.runc]\npath = \"runc\"",
                "is not an absolute path",
            ),
            (
                "[runtimes.runc]\npath = \"@/none\"",
                "runtimes.runc.path: looking at \"@/none\"",
            ),
            (
                "[runtimes.runc]\npath = \"@/not-a-program\"",
                "is not a program",
            ),
            ("[runtimes.\"../x\"]\npath = \"@/runc\"", "a handler's name"),
            (
                "[network]\nmode = \"bridge\"",
                "network.mode: \"bridge\" is none of",
            ),
            ("[network]\nsubnet = \"10.0.0.0\"", "network.subnet"),
            ("[network]\nrouted = [\"10.0.0.0\"]", "network.routed"),
            ("[network]\nsubnet = \"10.0.0.0/31\"", "network.subnet"),
            (
                "[network]\nbridge = \"much-too-long-name\"",
                "network.bridge",
            ),
            (
                "[streaming]\naddress = \"here\"",
                "streaming.address: an address and a port are wanted",
            ),
            (
                "[streaming]\ncertificate = \"/c.pem\"",
                "streaming.key: the certificate needs its key",
            ),
            (
                "[network]\ncni_bin_dirs = [1]",
                "network.cni_bin_dirs: a list of strings is wanted",
            ),
            (
                "[log]\nlevel = \"loud\"",
                "log.level: \"loud\" is not a level",
            ),
            ("[log]\nlevel = \"info,engine=loud\"", "log.level"),
        ];
        for (text, expect) in cases {
            refused(text, expect);
        }
        refused(
            &format!("listen = \"unix:///{}\"", "a".repeat(120)),
            "bytes, at most",
        );
    }

    #[test]
    fn a_file_asked_for_must_exist() {
        let error = load_text("", |flags| flags.config = Some("/no/such/file".into()));
        assert!(
            error
                .unwrap_err()
                .contains("reading the configuration \"/no/such/file\"")
        );
    }

    #[test]
    fn the_boot_must_have_a_name() {
        let error = load_text("", |flags| flags.boot_id_file = "/no/such/boot".into());
        assert!(error.unwrap_err().contains("--boot-id-file"));
    }
}
