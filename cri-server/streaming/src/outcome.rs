//! How an [`Outcome`] is told on the error stream.

use serde_json::json;

use crate::session::Outcome;

/// Which of the two ways a protocol version uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// Up to version 3: a sentence when something went wrong, nothing otherwise.
    Text,
    /// From version 4 on: always one `metav1.Status` as JSON.
    Status,
}

impl Outcome {
    /// The bytes that the client reads; may be none.
    pub(crate) fn tell(&self, form: Form) -> Vec<u8> {
        match form {
            Form::Text => self.sentence().unwrap_or_default().into_bytes(),
            Form::Status => self.status().to_string().into_bytes(),
        }
    }

    /// What went wrong, if anything did.
    fn sentence(&self) -> Option<String> {
        match self {
            Self::Exit(0) => None,
            Self::Exit(code) => Some(format!(
                "command terminated with non-zero exit code: exit status {code}"
            )),
            Self::Error(text) => Some(format!("Internal error occurred: {text}")),
        }
    }

    fn status(&self) -> serde_json::Value {
        let message = self.sentence();
        match self {
            Self::Exit(0) => json!({"metadata": {}, "status": "Success"}),
            Self::Exit(code) => json!({
                "metadata": {},
                "status": "Failure",
                "message": message,
                "reason": "NonZeroExitCode",
                "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
            }),
            Self::Error(text) => json!({
                "metadata": {},
                "status": "Failure",
                "message": message,
                "reason": "InternalError",
                "details": {"causes": [{"message": text}]},
                "code": 500,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_of_each_kind_reads() {
        let check = |outcome: Outcome, text: &str, status: &str| {
            assert_eq!(String::from_utf8(outcome.tell(Form::Text)).unwrap(), text);
            let told: serde_json::Value =
                serde_json::from_slice(&outcome.tell(Form::Status)).unwrap();
            assert_eq!(
                told,
                serde_json::from_str::<serde_json::Value>(status).unwrap()
            );
        };
        check(
            Outcome::Exit(0),
            "",
            r#"{"metadata":{},"status":"Success"}"#,
        );
        check(
            Outcome::Exit(3),
            "command terminated with non-zero exit code: exit status 3",
            r#"{"metadata":{},"status":"Failure",
                "message":"command terminated with non-zero exit code: exit status 3",
                "reason":"NonZeroExitCode",
                "details":{"causes":[{"reason":"ExitCode","message":"3"}]}}"#,
        );
        check(
            Outcome::Error("no such container".to_owned()),
            "Internal error occurred: no such container",
            r#"{"metadata":{},"status":"Failure",
                "message":"Internal error occurred: no such container",
                "reason":"InternalError",
                "details":{"causes":[{"message":"no such container"}]},"code":500}"#,
        );
    }
}
