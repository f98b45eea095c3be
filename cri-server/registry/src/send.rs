//! One question to one host: authorization, redirects, retries, deadlines.
//!
//! It knows HTTP, not what manifests or blobs are.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use reqwest::header::{
    ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_TYPE, LOCATION, RANGE, RETRY_AFTER, WARNING,
    WWW_AUTHENTICATE,
};
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode, Url};
use tokio::time::timeout;

use crate::auth::{Answer, Cache, Identity, Key, Token, TokenRequest, answer};
use crate::body::{message, some_of};
use crate::challenge;
use crate::failures::Failure;
use crate::hosts::Host;
use crate::limits::Limits;
use crate::link::{Clients, innermost};
use crate::reference::Reference;
use crate::span::Span;

/// Most redirects that are followed.
pub(crate) const MAX_REDIRECTS: usize = 10;
/// Most warnings of one answer that are told.
const MAX_WARNINGS: usize = 4;
/// Most of an error's body that is read, in bytes.
const MAX_ERROR_BODY: usize = 4096;
/// Most of a token server's answer that is read, in bytes.
const MAX_TOKEN_BODY: usize = 1 << 20;
/// Most token servers whose form of asking is remembered.
const MAX_REALMS: usize = 1000;
/// Most hosts that are remembered as not reachable.
const MAX_AWAY: usize = 1000;

/// A question.
#[derive(Clone, Debug)]
pub(crate) struct Ask<'a> {
    /// `GET` or `HEAD`.
    pub(crate) method: Method,
    /// Below the repository, such as `manifests/latest`.
    pub(crate) path: &'a str,
    /// What is understood.
    pub(crate) accept: Option<String>,
    /// The bytes that are wanted.
    pub(crate) span: Span,
    /// In the place of `path`: where the host said that an answer goes on.
    pub(crate) page: Option<Url>,
}

/// Sends questions; keeps connections and authorizations.
#[derive(Debug)]
pub(crate) struct Sender {
    limits: Limits,
    clients: Clients,
    authorizations: Cache,
    /// Token servers that only know the older form of asking.
    older_realms: Mutex<HashSet<String>>,
    /// Hosts that could not be reached, and until when they are asked last.
    away: Mutex<HashMap<String, Instant>>,
}

/// What to do after an answer that was not a success.
enum Next {
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
            clients: Clients::default(),
            authorizations: Cache::default(),
            older_realms: Mutex::default(),
            away: Mutex::default(),
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
        let answer = self.ask(host, name, identity, ask).await;
        if matches!(answer, Err(Failure::Unreachable(_))) {
            self.note_away(host);
        }
        answer
    }

    async fn ask(
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
        let started = Instant::now();
        let (mut authorized, mut attempt) = (false, 1);
        loop {
            let used = self.authorizations.get(&key);
            let next = match self.once(host, name, ask, used.as_deref()).await {
                Ok(response) if response.status().is_success() => {
                    warnings(&response, ask);
                    return Ok(response);
                }
                Ok(response) if response.status() == StatusCode::UNAUTHORIZED && !authorized => {
                    authorized = true;
                    self.authorize(host, name, identity, (&key, used), &response)
                        .await?;
                    continue;
                }
                Ok(response) => judge(response, &host.api, &self.limits).await,
                Err(failure @ Failure::Broken(_)) => Next::After(None, failure),
                // Others can be asked instead of a mirror.
                Err(failure @ Failure::Unreachable(_))
                    if host.upstream && started.elapsed() < self.limits.patience =>
                {
                    Next::After(None, failure)
                }
                Err(failure) => Next::Never(failure),
            };
            self.again(next, &mut attempt).await?;
        }
    }

    /// Waits before the next attempt; an error if there is to be none.
    async fn again(&self, next: Next, attempt: &mut u32) -> Result<(), Failure> {
        let (asked, failure) = match next {
            Next::Never(failure) => return Err(failure),
            Next::After(asked, failure) => (asked, failure),
        };
        if *attempt >= self.limits.attempts {
            return Err(failure);
        }
        let pause = self.pause(*attempt, asked).ok_or(failure)?;
        tokio::time::sleep(pause).await;
        *attempt += 1;
        Ok(())
    }

    /// Whether a host could not be reached a moment ago: each question would wait for it in vain.
    pub(crate) fn is_away(&self, host: &Host) -> bool {
        let away = lock(&self.away);
        let until = away.get(&place(&host.api));
        until.is_some_and(|until| *until > Instant::now())
    }

    fn note_away(&self, host: &Host) {
        let mut away = lock(&self.away);
        if away.len() >= MAX_AWAY {
            away.clear();
        }
        away.insert(place(&host.api), Instant::now() + self.limits.away_for);
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
        authorization: Option<&str>,
    ) -> Result<Response, Failure> {
        let home = host.api.origin();
        let mut url = match &ask.page {
            Some(page) if page.origin() == home => page.clone(),
            Some(page) => return Err(Failure::Refused(format!("{page} is another place"))),
            None => question(host, name, ask)?,
        };
        for _ in 0..=MAX_REDIRECTS {
            let client = self.client(host, &url)?;
            let mut request = client.request(ask.method.clone(), url.clone());
            request = ask.headers(request);
            if url.origin() == home {
                request = host
                    .headers
                    .iter()
                    .fold(request, |request, (k, v)| request.header(k, v));
                request = authorization.into_iter().fold(request, |request, value| {
                    request.header(AUTHORIZATION, value)
                });
            }
            let response = dispatch(request, &self.limits).await?;
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

    /// Learns how to authorize from a refusal of what was `used`. Of many who are refused at the
    /// same time, one does so.
    async fn authorize(
        &self,
        host: &Host,
        name: &Reference,
        identity: &Identity,
        (key, used): (&Key, Option<String>),
        refusal: &Response,
    ) -> Result<(), Failure> {
        let renewal = self.authorizations.renewal(key);
        let _held = renewal.lock().await;
        let known = self.authorizations.get(key);
        if known.is_some() && known != used {
            return Ok(());
        }
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
        let mut attempt = 1;
        loop {
            let next = match self.token_once(host, &ask).await {
                Ok(response) if response.status().is_success() => {
                    let body = some_of(response, MAX_TOKEN_BODY, &self.limits).await;
                    let token = serde_json::from_slice::<Token>(&body).ok();
                    return token.and_then(Token::header).ok_or_else(|| {
                        Failure::Refused(format!("{} sent no token", place(&ask.url)))
                    });
                }
                Ok(response) => judge(response, &ask.url, &self.limits).await,
                Err(failure @ Failure::Broken(_)) => Next::After(None, failure),
                Err(failure) => Next::Never(failure),
            };
            self.again(next, &mut attempt).await?;
        }
    }

    async fn token_once(&self, host: &Host, ask: &TokenRequest) -> Result<Response, Failure> {
        let client = self.client(host, &ask.url)?;
        let mut request = match &ask.form {
            Some(form) => client
                .post(ask.url.clone())
                .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
                .body(form.clone()),
            None => client.get(ask.url.clone()),
        };
        request = ask.authorization.iter().fold(request, |request, value| {
            request.header(AUTHORIZATION, value)
        });
        dispatch(request, &self.limits).await
    }

    /// The client for a URL: the host's own way of connecting, also where it redirects to.
    fn client(&self, host: &Host, url: &Url) -> Result<Client, Failure> {
        self.clients.get(&host.link, url).map_err(Failure::Refused)
    }
}

impl Ask<'_> {
    fn headers(&self, request: RequestBuilder) -> RequestBuilder {
        let request = match &self.accept {
            Some(accept) => request.header(ACCEPT, accept),
            // Digest and parts are those of what is stored.
            None => request.header(ACCEPT_ENCODING, "identity"),
        };
        match self.span.header() {
            Some(range) => request.header(RANGE, range),
            None => request,
        }
    }
}

/// Sends one request.
pub(crate) async fn dispatch(
    request: RequestBuilder,
    limits: &Limits,
) -> Result<Response, Failure> {
    match timeout(limits.silence, request.send()).await {
        Ok(Ok(response)) => Ok(response),
        Ok(Err(error)) if error.is_connect() => Err(Failure::Unreachable(first_cause(&error))),
        Ok(Err(error)) => Err(Failure::Broken(first_cause(&error))),
        Err(_) => Err(Failure::Unreachable(format!(
            "no answer within {:?}",
            limits.silence
        ))),
    }
}

/// What a registry wants its users to know (distribution-spec, "Warnings"), told once a document.
fn warnings(response: &Response, ask: &Ask<'_>) {
    let values = response.headers().get_all(WARNING).iter();
    for value in values.filter(|_| ask.accept.is_some()).take(MAX_WARNINGS) {
        let text = String::from_utf8_lossy(value.as_bytes());
        if let Some(text) = text.strip_prefix("299 ") {
            tracing::warn!(registry = %place(response.url()), text, "a registry warns");
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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

/// Where an answer sends us, if anywhere.
pub(crate) fn redirect(response: &Response, url: &Url) -> Result<Option<Url>, Failure> {
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
        416 => Next::Never(Failure::NoPart(text)),
        429 | 503 => Next::After(asked, Failure::Failing(text)),
        408 | 500 | 502 | 504 => Next::After(None, Failure::Failing(text)),
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

/// Scheme, host and port: enough to know who is meant, without tokens that a query may hold.
pub(crate) fn place(url: &Url) -> String {
    url.origin().ascii_serialization()
}

/// Where, and the cause that helps.
fn first_cause(error: &reqwest::Error) -> String {
    let cause = innermost(error);
    match error.url() {
        Some(url) => format!("{}: {cause}", place(url)),
        None => cause,
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
}
