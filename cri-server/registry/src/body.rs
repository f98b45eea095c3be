//! What a host sends after its headers, watched so that no host can keep us waiting for ever.
//!
//! It knows neither what is asked nor what the bytes mean, but for the texts of errors.

use std::time::{Duration, Instant};

use bytes::Bytes;
use reqwest::{Response, StatusCode};
use tokio::time::timeout;

use crate::limits::Limits;
use crate::link::innermost;
use crate::send::place;

/// The next part of a body; an error text if the host is silent or breaks off.
async fn chunk(response: &mut Response, limits: &Limits) -> Result<Option<Bytes>, String> {
    let host = place(response.url());
    match timeout(limits.silence, response.chunk()).await {
        Ok(Ok(chunk)) => Ok(chunk),
        Ok(Err(error)) => Err(format!("{host} broke off: {}", innermost(&error))),
        Err(_) => Err(format!("{host} sent nothing for {:?}", limits.silence)),
    }
}

/// Watches how fast a body comes in. Only time spent waiting for the host counts, not that in which
/// nobody takes what it sent.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    waited: Duration,
    bytes: u64,
}

impl Pace {
    /// The next part of a body, as [`chunk`]; a host that sends too little counts as broken.
    pub(crate) async fn chunk(
        &mut self,
        response: &mut Response,
        limits: &Limits,
    ) -> Result<Option<Bytes>, String> {
        let started = Instant::now();
        let got = chunk(response, limits).await?;
        self.waited += started.elapsed();
        self.bytes += got.as_ref().map_or(0, |bytes| bytes.len() as u64);
        if self.waited >= limits.slow_for {
            let least = limits.slowest * self.waited.as_secs().max(1);
            let Self { waited, bytes } = std::mem::take(self);
            if bytes < least && got.is_some() {
                let host = place(response.url());
                return Err(format!("{host} sent only {bytes} bytes in {waited:?}"));
            }
        }
        Ok(got)
    }
}

/// The start of a body, as much of it as can be had.
pub(crate) async fn some_of(mut response: Response, most: usize, limits: &Limits) -> Vec<u8> {
    let (mut body, mut pace) = (Vec::new(), Pace::default());
    while let Ok(Some(chunk)) = pace.chunk(&mut response, limits).await {
        body.extend_from_slice(&chunk);
        if body.len() >= most {
            body.truncate(most);
            break;
        }
    }
    body
}

/// What an error's body says (distribution-spec, "Error Codes"), or the status.
pub(crate) fn message(body: &[u8], status: StatusCode) -> String {
    #[derive(serde::Deserialize)]
    struct Errors {
        errors: Vec<One>,
    }
    #[derive(serde::Deserialize)]
    struct One {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let told = serde_json::from_slice::<Errors>(body)
        .ok()
        .and_then(|e| e.errors.into_iter().next());
    match told {
        Some(One { code, message }) => format!("{status}: {code}: {message}"),
        None => status.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_registry_says_is_told() {
        let body = br#"{"errors":[{"code":"TOOMANYREQUESTS","message":"slow down"}]}"#;
        let text = message(body, StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(text, "429 Too Many Requests: TOOMANYREQUESTS: slow down");
        assert_eq!(
            message(b"<html>", StatusCode::BAD_GATEWAY),
            "502 Bad Gateway"
        );
    }
}
