//! What can go wrong with a control group.

use std::path::PathBuf;

use rustix::io::Errno;

/// Why an operation on a control group failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A kernel call on a file or directory of the group.
    #[error("{what} {}", path.display())]
    Call {
        /// What was attempted.
        what: &'static str,
        /// On which path.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: Errno,
    },
    /// A value that the kernel did not take.
    #[error("write {value:?} to {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What was to be written.
        value: String,
        /// The kernel's answer.
        #[source]
        source: Errno,
    },
    /// The group exists already and has processes in it.
    #[error("container's cgroup is not empty: {}", .0.display())]
    NotEmpty(PathBuf),
    /// The group exists already and is frozen.
    #[error("container's cgroup unexpectedly frozen: {}", .0.display())]
    Frozen(PathBuf),
    /// A path that does not name a group below the host's.
    #[error("bad cgroup path {0:?}: {1}")]
    BadPath(String, &'static str),
    /// Neither a v1 nor a v2 hierarchy is mounted.
    #[error("no cgroup hierarchy is mounted")]
    NoHierarchy,
    /// The systemd driver was asked for where systemd does not run.
    #[error("systemd not running on this host, cannot use systemd cgroups manager")]
    NoSystemd,
    /// An ordinary user asked for the systemd driver on a v1 host.
    #[error("the systemd of an ordinary user makes no cgroups on v1; use cgroupfs")]
    SystemdV1,
    /// A scope cannot be made before the process that it is for.
    #[error("make scope {0}: systemd makes it only with a process in it")]
    NeedsProcess(String),
    /// The connection to systemd.
    #[error("{what} {address}")]
    Bus {
        /// What was attempted.
        what: &'static str,
        /// The socket.
        address: String,
        /// What happened.
        #[source]
        source: std::io::Error,
    },
    /// systemd, or a bus on the way to it, refused a call.
    #[error("systemd refused: {message} ({name})")]
    Refused {
        /// The error's name on D-Bus.
        name: String,
        /// What it said.
        message: String,
    },
    /// systemd refused to make, change or end a unit.
    #[error("{what} unit {unit}: {message} ({name})")]
    Unit {
        /// What was attempted.
        what: &'static str,
        /// The unit.
        unit: String,
        /// The error's name on D-Bus.
        name: String,
        /// What it said.
        message: String,
    },
    /// systemd took a job on and did not finish it.
    #[error("systemd's job for unit {unit} ended as {result:?}")]
    Job {
        /// The unit.
        unit: String,
        /// As `JobRemoved` has it: `canceled`, `timeout`, `failed`, `dependency`, `skipped`.
        result: String,
    },
    /// A property of a unit, as an annotation gave it.
    #[error("systemd property {name}={text:?}: {reason}")]
    Property {
        /// Its name.
        name: String,
        /// The text of its value.
        text: String,
        /// What is wrong with either.
        reason: &'static str,
    },
    /// A limit that contradicts another one or the kernel's rules.
    #[error("{0}")]
    Limit(String),
    /// A limit whose controller the host does not offer.
    #[error("cannot set {file}: controller {controller} is not available")]
    NoController {
        /// The file that would have been written.
        file: String,
        /// The controller that has it.
        controller: String,
    },
    /// A device rule that cannot be carried out.
    #[error("device rule {rule}: {reason}")]
    Device {
        /// The rule, as the specification prints it.
        rule: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// The kernel refused the device filter.
    #[error("{what} the device filter of {}", path.display())]
    DeviceFilter {
        /// What was attempted.
        what: &'static str,
        /// The group.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: Errno,
    },
    /// Something did not happen in time.
    #[error("{what} {}: not within {seconds} s", path.display())]
    Late {
        /// What was waited for.
        what: &'static str,
        /// On which group.
        path: PathBuf,
        /// The limit.
        seconds: u64,
    },
    /// A file of the kernel holds what nobody expects there.
    #[error("understand {}: {reason}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
}

impl Error {
    /// Whether the group is there already and somebody else's: whoever wanted to make it has
    /// nothing to undo.
    pub fn is_in_use(&self) -> bool {
        match self {
            Self::NotEmpty(_) | Self::Frozen(_) => true,
            Self::Unit { name, .. } => name == crate::systemd::UNIT_EXISTS,
            _ => false,
        }
    }

    /// The kernel's answer behind this error, if a call failed.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Call { source, .. }
            | Self::Write { source, .. }
            | Self::DeviceFilter { source, .. } => Some(*source),
            _ => None,
        }
    }
}
