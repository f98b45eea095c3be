//! What was attempted and why it did not work: the one error of everything that touches the kernel.
//!
//! Nobody branches on these; they cross from the child of clone to its parent as text, and end on
//! standard error and in the log. Errors that somebody branches on have types of their own.

use std::fmt;
use std::io;

/// A failed attempt.
#[derive(Debug)]
pub(crate) struct Failure {
    attempted: String,
    cause: Option<io::Error>,
}

/// Shorthand of most of this program.
pub(crate) type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    /// A failure that has no further cause.
    pub(crate) fn new(text: impl Into<String>) -> Failure {
        Failure {
            attempted: text.into(),
            cause: None,
        }
    }
}

impl Failure {
    /// The kernel's reason, if it was that.
    pub(crate) fn errno(&self) -> Option<rustix::io::Errno> {
        self.cause
            .as_ref()
            .and_then(rustix::io::Errno::from_io_error)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.cause {
            None => f.write_str(&self.attempted),
            Some(cause) => write!(f, "{}: {}", self.attempted, errno_text(cause)),
        }
    }
}

impl std::error::Error for Failure {}

/// Adds to a result what was being attempted.
pub(crate) trait Attempt<T> {
    /// On failure, `what` was being attempted.
    fn attempt(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<io::Error>> Attempt<T> for std::result::Result<T, E> {
    fn attempt(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| Failure {
            attempted: what(),
            cause: Some(error.into()),
        })
    }
}

/// Adds to a failure of a crate of ours what was being attempted.
pub(crate) fn because(what: &str, error: &dyn std::error::Error) -> Failure {
    let mut text = format!("{what}: {error}");
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = text_of(inner);
        // Some libraries repeat the cause in the outer text.
        if !text.contains(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        cause = inner.source();
    }
    Failure::new(text)
}

/// A cause; the kernel's as everywhere else.
fn text_of(cause: &(dyn std::error::Error + 'static)) -> String {
    if let Some(error) = cause.downcast_ref::<rustix::io::Errno>() {
        return errno_text(&io::Error::from(*error));
    }
    match cause.downcast_ref::<io::Error>() {
        Some(error) => errno_text(error),
        None => cause.to_string(),
    }
}

/// The kernel's reason in small letters, as engines look for it ("no such file or directory").
pub(crate) fn errno_text(error: &io::Error) -> String {
    let Some(number) = error.raw_os_error() else {
        return error.to_string();
    };
    let text = nix::errno::Errno::from_raw(number).desc();
    let mut letters = text.chars();
    match (letters.next(), letters.clone().next()) {
        // "RFS specific error" and "I/O error" keep their capitals.
        (Some(first), Some(second)) if second.is_ascii_lowercase() => {
            format!("{}{}", first.to_ascii_lowercase(), letters.as_str())
        }
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(number: i32, expect: &str) {
        assert_eq!(errno_text(&io::Error::from_raw_os_error(number)), expect);
    }

    #[test]
    fn reasons_are_in_small_letters() {
        check(2, "no such file or directory");
        check(1, "operation not permitted");
        check(13, "permission denied");
        check(21, "is a directory");
        check(3, "no such process");
    }

    #[test]
    fn the_kernels_reason_behind_another_error_is_the_same() {
        let error = cgroup::Error::Call {
            what: "make",
            path: "/x".into(),
            source: rustix::io::Errno::ACCESS,
        };
        let failure = because("apply", &error);
        assert_eq!(failure.to_string(), "apply: make /x: permission denied");
    }

    #[test]
    fn a_failure_names_attempt_and_reason() {
        let result: std::result::Result<(), _> = Err(io::Error::from_raw_os_error(2));
        let failure = result.attempt(|| "open \"/x\"".to_owned()).unwrap_err();
        assert_eq!(
            failure.to_string(),
            "open \"/x\": no such file or directory"
        );
    }
}
