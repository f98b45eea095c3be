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
    /// The systemd driver was asked for.
    #[error("the systemd cgroup driver is not supported; use cgroupfs")]
    Systemd,
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
