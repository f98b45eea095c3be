//! Texts that engines and test suites look for. Each says who does; nothing else may be changed
//! about them than in step with those.

/// CRI-O, containerd and runc's tests: there is no such container.
pub(crate) const DOES_NOT_EXIST: &str = "container does not exist";
/// CRI-O, containerd: a signal to, or an exec in, a container that has ended.
pub(crate) const NOT_RUNNING: &str = "container not running";
/// runc's and crun's tests.
pub(crate) const ALREADY_EXISTS: &str = "container with given ID already exists";
/// runc's tests.
pub(crate) const PAUSED: &str = "cannot exec in a paused container";
/// podman's exit status 127, Kubernetes' tests.
pub(crate) const NOT_IN_PATH: &str = "executable file not found in $PATH";
/// runc's tests of identifiers.
pub(crate) const INVALID_ID: &str = "invalid container id format";
/// runc's tests.
pub(crate) const TERMINAL_NEEDS_SOCKET: &str =
    "cannot allocate tty if runc will detach without setting console socket";
/// runc's tests.
pub(crate) const SOCKET_NEEDS_TERMINAL: &str =
    "cannot use console socket if runc will not detach or allocate tty";
