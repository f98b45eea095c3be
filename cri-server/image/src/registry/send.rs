//! One question to one host: authorization, redirects, retries, deadlines.
//!
//! It knows HTTP, not what manifests or blobs are.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use reqwest::header::{
    ACCEPT, AUTHORIZATION, CONTENT_TYPE, LOCATION, RANGE, RETRY_AFTER, WWW_AUTHENTICATE,
};
use reqwest::{Certificate, Client, Method, RequestBuilder, Response, StatusCode, Url};
use tokio::time::timeout;

use super::auth::{Answer, Cache, Identity, Key, Token, TokenRequest, answer};
use super::challenge;
use super::hosts::{DIAL_TIMEOUT, Host, Link, is_loopback};
use crate::reference::Reference;

/// Most redirects that are followed.
const MAX_REDIRECTS: usize = 10;
/// Most of an error's body that is read, in bytes.
const MAX_ERROR_BODY: usize = 4096;
/// Most of a token server's answer that is read, in bytes.
const MAX_TOKEN_BODY: usize = 1 << 20;
/// Most token servers whose form of asking is remembered.
const MAX_REALMS: usize = 1000;
/// Most clients that are kept, one for each way of connecting.
const MAX_CLIENTS: usize = 64;

/// Times and counts that bound the talk with registries. Fields, so that tests need not wait.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    /// How long a host may take to begin its answer, or to send more of it.
    pub(crate) silence: Duration,
    /// How often one question is put to one host.
    pub(crate) attempts: u32,
    /// Pause before the second attempt; doubled for each one after.
    pub(crate) pause: Duration,
    /// Longest pause that a host may ask for.
    pub(crate) longest_pause: Duration,
    /// What a host has to send while it is waited for, in bytes a second; one that drips is left.
    pub(crate) slowest: u64,
    /// Over how much time of waiting that is looked at.
    pub(crate) slow_for: Duration,
    /// How long a pull goes on that nobody waits for any more: one who asks again joins it.
    pub(crate) grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            silence: Duration::from_secs(30),
            attempts: 5,
            pause: Duration::from_millis(200),
            longest_pause: Duration::from_secs(60),
            slowest: 1024,
            slow_for: Duration::from_secs(30),
            grace: Duration::from_secs(60),
        }
    }
}

/// A question.
#[derive(Clone, Debug)]
pub(crate) struct Ask<'a> {
    /// `GET` or `HEAD`.
    pub(crate) method: Method,
    /// Below the repository, such as `manifests/latest`.
    pub(crate) path: &'a str,
    /// What is understood.
    pub(crate) accept: Option<String>,
    /// First byte that is wanted.
    pub(crate) from: u64,
}

/// Why a host did not serve.
#[derive(Debug)]
pub(crate) enum Failure {
    /// It cannot be reached.
    Unreachable(String),
    /// It broke off.
    Broken(String),
    /// It does not have it.
    Missing,
    /// It does not give it to us.
    Denied(String),
    /// It answered with an error.
    Refused(String),
    /// What it sent is not what it should be.
    Wrong(String),
}

/// Sends questions; keeps connections and authorizations.
#[derive(Debug)]
pub(crate) struct Sender {
    limits: Limits,
    clients: Mutex<HashMap<String, Client>>,
    authorizations: Cache,
    /// Token servers that only know the older form of asking.
    older_realms: Mutex<HashSet<String>>,
}

/// What to do after an answer that was not a success.
enum Next {
    /// Ask again, with what was learnt.
    Now,
    /// Ask again after a pause.
    After(Option<Duration>, Failure),
    /// Give up.
    Never(Failure),
}

impl Sender {
    /// Without connections yet.
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            clients: Mutex::default(),
            authorizations: Cache::default(),
            older_realms: Mutex::default(),
        }
    }

    /// The limits in force.
    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Asks a host until it answers well, or for good.
    pub(crate) async fn send(
        &self,
        host: &Host,
        name: &Reference,
        identity: &Identity,
        ask: &Ask<'_>,
    ) -> Result<Response, Failure> {
        let key = (
            host.api.to_string(),
            host.repository(name).to_owned(),
            identity.fingerprint(),
        );
        let mut authorized = false;
        let mut attempt = 1;
        loop {
            let next = match self
                .once(host, name, ask, self.authorizations.get(&key))
                .await
            {
                Ok(response) if response.status().is_success() => return Ok(response),
                Ok(response) if response.status() == StatusCode::UNAUTHORIZED && !authorized => {
                    authorized = true;
                    self.authorize(host, name, identity, &key, &response)
                        .await?;
                    Next::Now
                }
                Ok(response) => judge(response, &host.api, &self.limits).await,
                Err(failure @ Failure::Broken(_)) => Next::After(None, failure),
                Err(failure) => Next::Never(failure),
            };
            match next {
                Next::Now => {}
                Next::Never(failure) => return Err(failure),
                Next::After(_, failure) if attempt >= self.limits.attempts => return Err(failure),
                Next::After(asked, failure) => {
                    let pause = self.pause(attempt, asked).ok_or(failure)?;
                    tokio::time::sleep(pause).await;
                    attempt += 1;
                }
            }
        }
    }

    /// How long to wait; nothing if the host asks for longer than we will.
    fn pause(&self, attempt: u32, asked: Option<Duration>) -> Option<Duration> {
        match asked {
            Some(asked) => (asked <= self.limits.longest_pause).then_some(asked),
            None => Some(backoff(self.limits.pause, attempt)),
        }
    }

    /// One question with its redirects. What belongs to the host stays with it: after a redirect
    /// to another place neither authorization nor configured headers are sent.
    async fn once(
        &self,
        host: &Host,
        name: &Reference,
        ask: &Ask<'_>,
        authorization: Option<String>,
    ) -> Result<Response, Failure> {
        let mut url = question(host, name, ask)?;
        let home = url.origin();
        for _ in 0..=MAX_REDIRECTS {
            let client = self.client(host, &url)?;
            let mut request = client.request(ask.method.clone(), url.clone());
            if let Some(accept) = &ask.accept {
                request = request.header(ACCEPT, accept);
            }
            if ask.from > 0 {
                request = request.header(RANGE, format!("bytes={}-", ask.from));
            }
            if url.origin() == home {
                request = host
                    .headers
                    .iter()
                    .fold(request, |request, (k, v)| request.header(k, v));
                request = authorization.iter().fold(request, |request, value| {
                    request.header(AUTHORIZATION, value)
                });
            }
            let response = self.dispatch(request).await?;
            match redirect(&response, &url)? {
                None => return Ok(response),
                Some(to)
                    if url.scheme() == "https"
                        && to.scheme() != "https"
                        && !host.link.skip_verify =>
                {
                    return Err(Failure::Refused(format!(
                        "{url} redirects to {to}, which is not encrypted"
                    )));
                }
                Some(to) => url = to,
            }
        }
        Err(Failure::Refused(format!(
            "{url}: more than {MAX_REDIRECTS} redirects"
        )))
    }

    async fn dispatch(&self, request: RequestBuilder) -> Result<Response, Failure> {
        match timeout(self.limits.silence, request.send()).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) if error.is_connect() => Err(Failure::Unreachable(first_cause(&error))),
            Ok(Err(error)) => Err(Failure::Broken(first_cause(&error))),
            Err(_) => Err(Failure::Unreachable(format!(
                "no answer within {:?}",
                self.limits.silence
            ))),
        }
    }

    /// Learns how to authorize from a refusal.
    async fn authorize(
        &self,
        host: &Host,
        name: &Reference,
        identity: &Identity,
        key: &Key,
        refusal: &Response,
    ) -> Result<(), Failure> {
        self.authorizations.forget(key);
        let headers = refusal.headers().get_all(WWW_AUTHENTICATE).iter();
        let challenges: Vec<_> = headers
            .filter_map(|value| value.to_str().ok())
            .flat_map(challenge::parse)
            .collect();
        let scope = format!("repository:{}:pull", host.repository(name));
        let plain = host.api.scheme() == "http";
        let (header, until) = match answer(&challenges, identity, &scope, plain) {
            Answer::Header(header) => (header, Instant::now() + Duration::from_secs(3600)),
            Answer::Fetch(request) => self.token_somehow(host, request).await?,
            Answer::Nothing => {
                return Err(Failure::Denied("the registry wants credentials".into()));
            }
        };
        self.authorizations.put(key.clone(), header, until);
        Ok(())
    }

    /// Asks for a token in the newer form, or in the older one where only that is understood.
    async fn token_somehow(
        &self,
        host: &Host,
        ask: TokenRequest,
    ) -> Result<(String, Instant), Failure> {
        let Some(older) = ask.older.clone() else {
            return self.token(host, ask).await;
        };
        let realm = ask.url.to_string();
        if !lock(&self.older_realms).contains(&realm) {
            match self.token(host, ask).await {
                Err(Failure::Denied(_) | Failure::Refused(_) | Failure::Missing) => {}
                other => return other,
            }
        }
        let answer = self.token(host, *older).await?;
        let mut realms = lock(&self.older_realms);
        if realms.len() >= MAX_REALMS {
            realms.clear();
        }
        realms.insert(realm);
        Ok(answer)
    }

    async fn token(&self, host: &Host, ask: TokenRequest) -> Result<(String, Instant), Failure> {
        let client = self.client(host, &ask.url)?;
        let mut request = match ask.form {
            Some(form) => client
                .post(ask.url.clone())
                .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
                .body(form),
            None => client.get(ask.url.clone()),
        };
        request = ask.authorization.iter().fold(request, |request, value| {
            request.header(AUTHORIZATION, value)
        });
        let response = self.dispatch(request).await?;
        let status = response.status();
        let body = some_of(response, MAX_TOKEN_BODY, &self.limits).await;
        if !status.is_success() {
            return Err(Failure::Denied(format!(
                "{}: {}",
                place(&ask.url),
                message(&body, status)
            )));
        }
        let token = serde_json::from_slice::<Token>(&body)
            .ok()
            .and_then(Token::header);
        token.ok_or_else(|| Failure::Refused(format!("{} sent no token", place(&ask.url))))
    }

    /// The client for a URL: the host's own way of connecting, also where it redirects to.
    fn client(&self, host: &Host, url: &Url) -> Result<Client, Failure> {
        let plain = url.scheme() == "http";
        let local = is_loopback(url.host_str().unwrap_or_default());
        let key = format!(
            "{plain} {local} {:?} {:?}",
            (!plain).then_some(&host.link),
            changed(&host.link)
        );
        let mut clients = lock(&self.clients);
        if let Some(client) = clients.get(&key) {
            return Ok(client.clone());
        }
        let client = connect(&host.link, plain, local).map_err(Failure::Refused)?;
        if clients.len() >= MAX_CLIENTS {
            clients.clear();
        }
        clients.insert(key, client.clone());
        Ok(client)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// When the files that a link names were written last: a renewed certificate needs no restart.
fn changed(link: &Link) -> Vec<Option<SystemTime>> {
    let files = link
        .client
        .iter()
        .flat_map(|(certificate, key)| [Some(certificate), key.as_ref()]);
    let files = link.ca.iter().map(Some).chain(files).flatten();
    files
        .map(|path| {
            std::fs::metadata(path)
                .and_then(|meta| meta.modified())
                .ok()
        })
        .collect()
}

fn connect(link: &Link, plain: bool, local: bool) -> Result<Client, String> {
    let read = |path: &Path| {
        std::fs::read(path).map_err(|cause| format!("reading {}: {cause}", path.display()))
    };
    let mut builder = Client::builder()
        .user_agent(concat!("wherry/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(if plain && local {
            DIAL_TIMEOUT.min(link.dial_timeout)
        } else {
            link.dial_timeout
        })
        .retry(reqwest::retry::never())
        // Several connections carry several layers faster than one that is shared.
        .http1_only();
    if local {
        builder = builder.no_proxy();
    }
    if plain {
        // Without the system's authorities, which a machine need not have for this.
        builder = builder.tls_certs_only([]);
    } else {
        for path in &link.ca {
            let certificates = Certificate::from_pem_bundle(&read(path)?);
            let certificates =
                certificates.map_err(|cause| format!("{}: {cause}", path.display()))?;
            builder = builder.tls_certs_merge(certificates);
        }
        for (certificate, key) in &link.client {
            let mut pem = read(certificate)?;
            pem.extend(key.as_deref().map(read).transpose()?.unwrap_or_default());
            let identity = reqwest::Identity::from_pem(&pem);
            builder = builder
                .identity(identity.map_err(|cause| format!("{}: {cause}", certificate.display()))?);
        }
        builder = builder.tls_danger_accept_invalid_certs(link.skip_verify);
    }
    builder
        .build()
        .map_err(|error| format!("preparing to connect: {}", first_cause(&error)))
}

fn question(host: &Host, name: &Reference, ask: &Ask<'_>) -> Result<Url, Failure> {
    let text = format!(
        "{}/{}/{}",
        host.api.as_str().trim_end_matches('/'),
        host.repository(name),
        ask.path
    );
    let mut url =
        Url::parse(&text).map_err(|cause| Failure::Refused(format!("{text}: {cause}")))?;
    if !host.upstream && host.repository.is_none() {
        // A mirror serves several registries and has to be told which one is meant.
        url.query_pairs_mut().append_pair("ns", name.domain());
    }
    Ok(url)
}

fn redirect(response: &Response, url: &Url) -> Result<Option<Url>, Failure> {
    if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return Ok(None);
    }
    let location = response
        .headers()
        .get(LOCATION)
        .and_then(|value| value.to_str().ok());
    let to = location.and_then(|location| url.join(location).ok());
    match to.filter(|to| matches!(to.scheme(), "http" | "https")) {
        Some(to) => Ok(Some(to)),
        None => Err(Failure::Refused(format!("{url} redirects to nowhere"))),
    }
}

async fn judge(response: Response, host: &Url, limits: &Limits) -> Next {
    let status = response.status();
    let asked = retry_after(&response);
    let body = some_of(response, MAX_ERROR_BODY, limits).await;
    let text = format!("{}: {}", place(host), message(&body, status));
    match status.as_u16() {
        404 => Next::Never(Failure::Missing),
        401 | 403 => Next::Never(Failure::Denied(text)),
        429 | 503 => Next::After(asked, Failure::Refused(text)),
        408 | 500 | 502 | 504 => Next::After(None, Failure::Refused(text)),
        _ => Next::Never(Failure::Refused(text)),
    }
}

/// A number of seconds, or a date (RFC 9110, 10.2.3).
fn retry_after(response: &Response) -> Option<Duration> {
    let value = response.headers().get(RETRY_AFTER)?.to_str().ok()?;
    patience(value.trim(), SystemTime::now())
}

fn patience(value: &str, now: SystemTime) -> Option<Duration> {
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let until = httpdate::parse_http_date(value).ok()?;
    Some(until.duration_since(now).unwrap_or_default())
}

/// The next part of a body; an error text if the host is silent or breaks off.
pub(crate) async fn chunk(
    response: &mut Response,
    limits: &Limits,
) -> Result<Option<Bytes>, String> {
    let host = place(response.url());
    match timeout(limits.silence, response.chunk()).await {
        Ok(Ok(chunk)) => Ok(chunk),
        Ok(Err(error)) => Err(format!("{host} broke off: {}", first_cause(&error))),
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
async fn some_of(mut response: Response, most: usize, limits: &Limits) -> Vec<u8> {
    let mut body = Vec::new();
    while let Ok(Some(chunk)) = chunk(&mut response, limits).await {
        body.extend_from_slice(&chunk);
        if body.len() >= most {
            body.truncate(most);
            break;
        }
    }
    body
}

/// What an error's body says (distribution-spec, "Error Codes"), or the status.
fn message(body: &[u8], status: StatusCode) -> String {
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

/// Scheme, host and port: enough to know who is meant, without tokens that a query may hold.
fn place(url: &Url) -> String {
    url.origin().ascii_serialization()
}

/// Where, and the innermost cause, which is the one that helps.
fn first_cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    match error.url() {
        Some(url) => format!("{}: {cause}", place(url)),
        None => cause.to_string(),
    }
}

/// Doubled for each attempt, half of it by chance, so that many who failed together come back apart.
pub(crate) fn backoff(pause: Duration, attempt: u32) -> Duration {
    let whole = pause * 2_u32.saturating_pow(attempt.saturating_sub(1).min(10));
    let nanos = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .subsec_nanos();
    whole / 2 + whole * (nanos % 1000) / 2000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_are_bounded() {
        let first = Duration::from_millis(200);
        for attempt in 1..=5 {
            let pause = backoff(first, attempt);
            let most = first * 2_u32.pow(attempt - 1);
            assert!(pause >= most / 2 && pause <= most, "{attempt}: {pause:?}");
        }
        let sender = Sender::new(Limits::default());
        assert_eq!(
            sender.pause(1, Some(Duration::from_secs(3))),
            Some(Duration::from_secs(3))
        );
        assert_eq!(sender.pause(1, Some(Duration::from_secs(3600))), None);
    }

    #[test]
    fn patience_is_asked_for_in_seconds_or_until_a_date() {
        let now = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        assert_eq!(patience("7", now), Some(Duration::from_secs(7)));
        assert_eq!(
            patience("Sun, 06 Nov 1994 08:50:07 GMT", now),
            Some(Duration::from_secs(30))
        );
        assert_eq!(
            patience("Sat, 05 Nov 1994 08:50:07 GMT", now),
            Some(Duration::ZERO)
        );
        assert_eq!(patience("soon", now), None);
    }

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
