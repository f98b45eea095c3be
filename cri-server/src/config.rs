//! What the daemon is told: flags, files of TOML, defaults; in this order of weight.
//!
//! Everything that can be known to be wrong without touching the system is refused here, before a
//! socket is bound or a folder made. Every key is an entry of [`keys`]; here the [`Values`] of all of
//! them become [`Settings`].
//!
//! ```text
//! config.toml, config.d/*.toml -> file --+
//! flags ---------------------------------+-> values -> Settings
//! keys (defaults) -----------------------+       `--> show, reference
//! ```

mod collector;
mod file;
mod key;
mod keys;
mod listen;
mod metrics;
mod nearest;
mod network;
mod plugins;
mod pressure;
mod reference;
mod runtimes;
mod show;
#[cfg(test)]
mod tests;
mod values;

use std::path::{Path, PathBuf};
use std::time::Duration;

use image::{Scrub, Signatures};
use pod::plan::StorageLimits;
use tracing_subscriber::filter::Targets;

use crate::cli::{Flags, UNPACK_WORKER};
use crate::metrics::http;
use crate::operations;
use file::FileError;
pub(crate) use key::Applies;
pub(crate) use plugins::PluginSocket;
pub(crate) use reference::man as manual;
pub(crate) use show::print;
pub(crate) use values::Values;
use values::{Origin, Value};

/// The configuration file that need not exist.
pub(crate) const DEFAULT_FILE: &str = "/etc/wherry/config.toml";
/// The end of the name of the folder beside a configuration file, in the place of the file's own.
const DROP_INS: &str = "d";
/// The end of the names of the files in it that count.
const DROP_IN: &str = "toml";
/// The handler of the runtime that comes with the daemon.
pub(crate) const OWN_RUNTIME: &str = "wrun";
/// The shim program, beside the daemon.
pub(crate) const SHIM: &str = "wherry-shim";
/// Time from one look at all layers to the next. With the rate of the default an hour goes by for
/// each 14 GiB, at the lowest priority.
const SCRUB_EVERY: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// What the daemon needs to know, complete and checked.
#[derive(Debug)]
pub(crate) struct Settings {
    /// Path of the socket on which CRI is served.
    pub(crate) listen: PathBuf,
    /// Path of the socket on which cAdvisor's questions are answered, where there is one.
    pub(crate) containerd: Option<PathBuf>,
    /// Path of the socket to which plugins connect, where they may.
    pub(crate) plugins: Option<PluginSocket>,
    /// What gets logged.
    pub(crate) log: Targets,
    /// Where exec, attach and port-forward are served.
    pub(crate) streaming: streaming::Config,
    /// Folder of archives whose images are there from the beginning.
    pub(crate) preload: Option<PathBuf>,
    /// How its lines look.
    pub(crate) log_format: LogFormat,
    /// When it is warned of what runs short.
    pub(crate) thresholds: check::pressure::Thresholds,
    /// Where traces go, if they go anywhere.
    pub(crate) traces: Option<crate::traces::Config>,
    /// Where metrics are served, if they are.
    pub(crate) metrics: Option<http::Address>,
    /// The engine's part.
    pub(crate) engine: engine::Config,
    /// What all of it was put together from.
    pub(crate) values: Values,
}

/// How a line of the log looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum LogFormat {
    /// For a person.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("reading the configuration {path:?}: {cause}")]
    Read {
        path: PathBuf,
        cause: std::io::Error,
    },
    #[error("the configuration {path:?}, {cause}")]
    File { path: PathBuf, cause: FileError },
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
/// [`Error`] names the file and line, flag or key.
pub(crate) fn load(flags: &Flags, programs: &Path) -> Result<Settings, Error> {
    settle(gather(flags)?, flags, programs)
}

/// What files and flags set.
///
/// # Errors
///
/// [`Error`] names the file and line, or the flag.
pub(crate) fn gather(flags: &Flags) -> Result<Values, Error> {
    let mut values = Values::default();
    for path in files(flags)? {
        read(&path, &mut values)?;
    }
    set_flags(flags, &mut values)?;
    Ok(values)
}

/// Why a file with this text would be refused, if it would.
pub(crate) fn objection(text: &str) -> Option<String> {
    let read = file::read(text, Path::new(DEFAULT_FILE), &mut Values::default());
    read.err().map(|error| error.cause().to_string())
}

/// What one file sets, without flags and without what lies beside it.
fn gather_file(path: &Path) -> Result<Values, Error> {
    let mut values = Values::default();
    read(path, &mut values)?;
    Ok(values)
}

/// Sets what a file says.
fn read(path: &Path, values: &mut Values) -> Result<(), Error> {
    let unreadable = |cause| Error::Read {
        path: path.into(),
        cause,
    };
    let refused = |cause| Error::File {
        path: path.into(),
        cause,
    };
    let text = std::fs::read_to_string(path).map_err(unreadable)?;
    file::read(&text, path, values).map_err(refused)
}

/// The configuration files, the weakest first: the file itself, and those of the folder beside it in
/// the order of their names.
fn files(flags: &Flags) -> Result<Vec<PathBuf>, Error> {
    let path = flags.config.clone().unwrap_or_else(|| DEFAULT_FILE.into());
    let mut files = Vec::new();
    if flags.config.is_some() || path.exists() {
        files.push(path.clone());
    }
    // Another name stands for a file alone.
    if path.extension().is_some_and(|end| end == DROP_IN) {
        files.extend(drop_ins(&path.with_extension(DROP_INS))?);
    }
    Ok(files)
}

fn is_missing(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::NotFound
}

/// The files of the folder, which need not exist, in order.
fn drop_ins(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let unreadable = |cause| Error::Read {
        path: folder.into(),
        cause,
    };
    let entries = match std::fs::read_dir(folder) {
        Err(error) if is_missing(&error) => return Ok(Vec::new()),
        entries => entries.map_err(unreadable)?,
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(unreadable)?.path();
        // An editor's own files begin with a dot.
        let hidden = path
            .file_stem()
            .is_none_or(|stem| stem.as_encoded_bytes().starts_with(b"."));
        if !hidden && path.extension().is_some_and(|end| end == DROP_IN) {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// Flags are keys, too; a relative folder counts from where the flag was typed.
fn set_flags(flags: &Flags, values: &mut Values) -> Result<(), Error> {
    let folders = [
        ("root", "--root", &flags.root),
        ("state", "--state", &flags.state),
        (
            "registry_config",
            "--registry-config",
            &flags.registry_config,
        ),
    ];
    for (key, flag, folder) in folders {
        let Some(folder) = folder else { continue };
        let path = std::path::absolute(folder).map_err(|error| refuse(flag, error.to_string()))?;
        let path = path.into_os_string().into_string();
        let path = path.map_err(|path| refuse(flag, format!("{path:?} is not UTF-8")))?;
        values.set(key.into(), Value::Text(path), Origin::Flag(flag));
    }
    if let Some(socket) = &flags.listen {
        if let Some(objection) = key::Kind::Socket.objection(socket) {
            return Err(refuse("--listen", objection));
        }
        let value = Value::Text(socket.clone());
        values.set("listen".into(), value, Origin::Flag("--listen"));
    }
    Ok(())
}

/// Checks the whole, and puts it into the forms that the rest of the daemon has for it.
fn settle(values: Values, flags: &Flags, programs: &Path) -> Result<Settings, Error> {
    let (root, state) = (values.path("root"), values.path("state"));
    check_apart(&root, &state)?;
    listen::check_path("state", &state.join(control_api::SOCKET))?;
    let boot_id = boot_id(&flags.boot_id_file)?;
    let default_runtime = values.fixed("default_runtime");
    let listen = listen::socket("listen", &values.fixed("listen"))?;
    let containerd = listen::containerd(&values, &listen)?;
    Ok(Settings {
        plugins: plugins::socket(&values, &listen)?,
        listen,
        preload: values.optional_path("images.preload"),
        streaming: listen::streaming(&values)?,
        log: log_targets(&values.fixed("log.level"))?,
        log_format: match values.fixed("log.format").as_str() {
            "json" => LogFormat::Json,
            _ => LogFormat::Text,
        },
        thresholds: pressure::thresholds(&values)?,
        traces: collector::traces(&values)?,
        metrics: metrics::address(&values)?,
        engine: engine::Config {
            runtimes: runtimes::settle(&values, &default_runtime, programs)?,
            default_runtime,
            shim: runtimes::program("the shim", &programs.join(SHIM))?,
            cdi_spec_dirs: values.paths("cdi_spec_dirs"),
            image: image::Config {
                root: root.join("images"),
                registry_config: values.path("registry_config"),
                layer_form: layer_form(&values),
                boot_id: boot_id.clone(),
                scrub: scrub(&values),
                signatures: signatures(&values),
                worker: Some(image::Worker::this_program(&[UNPACK_WORKER])),
            },
            network: network::settle(&values, &root, &state)?,
            boot_id,
            shim_open_files: None,
            systemd_cgroup: cgroup_driver(&values),
            pod_process: containerd.is_some(),
            limits: limits(&values),
            classes: classes(&values),
            plugins: plugins::settle(&values)?,
            operation: operations::current,
            root,
            state,
        },
        containerd,
        values,
    })
}

/// What layers become on disk.
fn layer_form(values: &Values) -> image::LayerForm {
    match values.fixed("images.layer_form").as_str() {
        "dir" => image::LayerForm::Dir,
        "erofs" => image::LayerForm::Erofs,
        _ => image::LayerForm::Auto,
    }
}

/// How layers are looked at in the background; a rate of 0 says that they are not.
fn scrub(values: &Values) -> Option<Scrub> {
    let rate = values.size("images.scrub_rate").unwrap_or_default();
    let every = SCRUB_EVERY;
    (rate > 0).then_some(Scrub { rate, every })
}

/// Who decides whether an image may be used. The policy itself is read later.
fn signatures(values: &Values) -> Signatures {
    Signatures {
        policy: values.optional_path("signatures.policy"),
        programs: values.optional_path("signatures.verifiers"),
        program_time: values.time("signatures.verifier_time"),
    }
}

/// Who makes control groups; nothing if the node is to decide.
fn cgroup_driver(values: &Values) -> Option<bool> {
    match values.fixed("cgroup_driver").as_str() {
        "systemd" => Some(true),
        "cgroupfs" => Some(false),
        _ => None,
    }
}

/// How much any container may leave on disk.
pub(crate) fn limits(values: &Values) -> StorageLimits {
    StorageLimits {
        writable_layer: values.size("limits.writable_layer"),
        log: values.size("limits.log"),
    }
}

/// Which classes of service there are. Their file itself is read later.
fn classes(values: &Values) -> engine::ClassConfig {
    engine::ClassConfig {
        blockio: values.optional_path("blockio.config"),
        ignore_blockio: values.fixed("blockio.unavailable") == "ignore",
        ignore_rdt: values.fixed("rdt.unavailable") == "ignore",
    }
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
        // Operations are spans at the level of errors: their ids are in every line.
        None => Ok(targets.with_target(operations::ALL, tracing::Level::ERROR)),
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
