//! The one map from errors to gRPC codes, and the one place where a failed request is logged.

use engine::Error;
use tonic::{Code, Response, Status};

/// Beginnings of messages that a kubelet knows (cri-api, package `errors`). It finds them only if
/// the code is Unknown: any other it writes in front of the message.
const KUBELET_WORDS: [&str; 4] = [
    "RegistryUnavailable",
    "SignatureValidationFailed",
    "RROUnsupported",
    "ImageVolumeMountFailed",
];

/// Most of a refusal's text that goes out, bytes. It travels in a header, with up to three bytes for
/// one, and clients bound those (tonic at 16 KiB); what was wrong may be as long as a message.
const MAX_TEXT: usize = 4096;

/// The answer to a request, logged if it is a refusal.
///
/// # Errors
///
/// The engine's error, as a gRPC status.
pub(crate) fn answer<T>(verb: &str, result: Result<T, Error>) -> Result<Response<T>, Status> {
    match result {
        Ok(message) => {
            tracing::debug!(verb, "done");
            Ok(Response::new(message))
        }
        Err(error) => {
            let text = bounded(error.to_string());
            log(verb, &error, &text);
            Err(status(&error, text))
        }
    }
}

/// Clients ask for what is gone as a matter of course; only the rest is worth an operator's look.
fn log(verb: &str, error: &Error, text: &str) {
    match error {
        Error::NotFound { .. } => tracing::debug!(verb, error = text, "not found"),
        _ => tracing::warn!(verb, error = text, "refused or failed"),
    }
}

/// The text, cut behind [`MAX_TEXT`] bytes: what is wrong is named first.
fn bounded(mut text: String) -> String {
    if text.len() > MAX_TEXT {
        let whole = text.len();
        text.truncate(text.floor_char_boundary(MAX_TEXT));
        text.push_str(&format!(" ... ({whole} bytes)"));
    }
    text
}

fn status(error: &Error, text: String) -> Status {
    if KUBELET_WORDS.iter().any(|word| text.starts_with(word)) {
        return Status::unknown(text);
    }
    Status::new(code(error), text)
}

fn code(error: &Error) -> Code {
    match error {
        Error::NotFound { .. } => Code::NotFound,
        Error::Ambiguous { .. } | Error::Invalid(_) => Code::InvalidArgument,
        Error::Unsupported(_) => Code::Unimplemented,
        Error::Exists(_) => Code::AlreadyExists,
        Error::WrongState(_) => Code::FailedPrecondition,
        Error::DeadlineExceeded(_) => Code::DeadlineExceeded,
        Error::Unavailable(_) => Code::Unavailable,
        Error::Exhausted(_) => Code::ResourceExhausted,
        // Clients leave this code's name out of what they show.
        Error::Failed(_) => Code::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(error: &Error, code: Code, message: &str) {
        let status = status(error, bounded(error.to_string()));
        assert_eq!((status.code(), status.message()), (code, message));
    }

    #[test]
    fn codes() {
        let text = || "text".to_owned();
        let missing = Error::NotFound {
            kind: "sandbox",
            id: "a".into(),
        };
        check(&missing, Code::NotFound, "sandbox \"a\" not found");
        let ambiguous = Error::Ambiguous {
            kind: "sandbox",
            id: "a".into(),
            count: 2,
        };
        check(
            &ambiguous,
            Code::InvalidArgument,
            "sandbox id \"a\" is ambiguous: it fits 2",
        );
        check(&Error::Invalid(text()), Code::InvalidArgument, "text");
        check(&Error::Unsupported(text()), Code::Unimplemented, "text");
        check(&Error::Exists(text()), Code::AlreadyExists, "text");
        check(&Error::WrongState(text()), Code::FailedPrecondition, "text");
        check(
            &Error::DeadlineExceeded(text()),
            Code::DeadlineExceeded,
            "text",
        );
        check(&Error::Unavailable(text()), Code::Unavailable, "text");
        check(&Error::Exhausted(text()), Code::ResourceExhausted, "text");
        check(&Error::Failed(text()), Code::Unknown, "text");
    }

    #[test]
    fn words_for_the_kubelet_come_first() {
        let error = Error::from(image::Error::Unavailable("no route".into()));
        check(&error, Code::Unknown, "RegistryUnavailable: no route");
    }

    #[test]
    fn a_long_text_is_cut_between_letters() {
        let text = "\u{fc}".repeat(MAX_TEXT);
        let cut = bounded(format!("x{text}"));
        assert!(cut.len() < MAX_TEXT + 32, "{}", cut.len());
        assert!(cut.ends_with("\u{fc} ... (8193 bytes)"), "{cut}");
        assert_eq!(bounded("short".into()), "short");
    }
}
