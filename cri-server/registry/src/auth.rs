//! Proving to a registry who is asking: basic authentication and tokens.
//!
//! Tokens are kept until shortly before they end, per host, repository and credentials. Credentials
//! go only to the registry that they are for, and never over plain HTTP to another place
//! (distribution's documentation, "Token Authentication Specification" and "OAuth2").

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::Url;
use serde::Deserialize;

use crate::challenge::Challenge;
use crate::digest::Digest;

/// How long a token counts that does not say (the token specification's default).
const DEFAULT_LIFE: Duration = Duration::from_secs(60);
/// What we call ourselves before token servers.
const CLIENT: &str = "wherry";
/// Most authorizations that are remembered.
const MAX_REMEMBERED: usize = 1000;

/// Credentials for a registry, as a client gave them. Empty strings are not given.
#[derive(Clone, Default)]
pub struct Credentials {
    /// User name.
    pub username: String,
    /// Password.
    pub password: String,
    /// `base64(user:password)`.
    pub auth: String,
    /// The registry that they are for; empty means the one asked.
    pub server_address: String,
    /// OAuth2 refresh token.
    pub identity_token: String,
    /// Bearer token.
    pub registry_token: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials")
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

/// Who is asking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Identity {
    /// Nobody in particular.
    Anonymous,
    /// A user with a password.
    Basic(String, String),
    /// A token that gets other tokens.
    Refresh(String),
    /// A token that is shown as it is.
    Token(String),
}

/// Tells who is asking apart, without keeping secrets.
pub fn fingerprint(credentials: Option<&Credentials>) -> String {
    let identity = Identity::of(credentials).unwrap_or(Identity::Anonymous);
    let server = credentials.map_or("", |c| c.server_address.as_str());
    format!("{}@{server}", identity.fingerprint())
}

impl Identity {
    /// What a client gave, the most specific form first. Says what is wrong with it.
    pub(crate) fn of(credentials: Option<&Credentials>) -> Result<Self, String> {
        let Some(given) = credentials else {
            return Ok(Self::Anonymous);
        };
        if !given.registry_token.is_empty() {
            return Ok(Self::Token(given.registry_token.clone()));
        }
        if !given.identity_token.is_empty() {
            return Ok(Self::Refresh(given.identity_token.clone()));
        }
        if !given.username.is_empty() || !given.password.is_empty() {
            return Ok(Self::pair(&given.username, &given.password));
        }
        if given.auth.is_empty() {
            return Ok(Self::Anonymous);
        }
        let decoded = STANDARD
            .decode(given.auth.trim())
            .ok()
            .and_then(|bytes| String::from_utf8(bytes).ok());
        match decoded
            .as_deref()
            .map(|text| text.trim_end_matches('\0'))
            .and_then(|text| text.split_once(':'))
        {
            Some((user, password)) => Ok(Self::pair(user, password)),
            None => Err("the credentials' auth is not base64 of user:password".into()),
        }
    }

    /// `<token>` as a user name marks a refresh token (Docker's credential helpers).
    fn pair(user: &str, password: &str) -> Self {
        if user == "<token>" {
            return Self::Refresh(password.to_owned());
        }
        Self::Basic(user.to_owned(), password.to_owned())
    }

    /// Tells identities apart without keeping secrets.
    pub(crate) fn fingerprint(&self) -> Digest {
        let text = match self {
            Self::Anonymous => String::new(),
            Self::Basic(user, password) => format!("b{}:{user}{password}", user.len()),
            Self::Refresh(token) => format!("r{token}"),
            Self::Token(token) => format!("t{token}"),
        };
        Digest::of(text.as_bytes())
    }
}

/// Whether credentials for `server_address` may go to a registry of that name.
pub(crate) fn is_meant_for(server_address: &str, registry: &str) -> bool {
    if server_address.is_empty() {
        return true;
    }
    let without_scheme = server_address
        .split_once("://")
        .map_or(server_address, |(_, rest)| rest);
    let host = without_scheme.split('/').next().unwrap_or_default();
    let docker = |name: &str| {
        matches!(
            name,
            "docker.io" | "index.docker.io" | "registry-1.docker.io"
        )
    };
    host == registry || (docker(host) && docker(registry))
}

/// What to do about a challenge.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Send this header.
    Header(String),
    /// Get a token from there first.
    Fetch(TokenRequest),
    /// Nothing: the registry does not take what we have.
    Nothing,
}

/// How a token is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TokenRequest {
    /// Where, with the query of the form by `GET`.
    pub(crate) url: Url,
    /// `Authorization` to send.
    pub(crate) authorization: Option<String>,
    /// The body of the form by `POST`.
    pub(crate) form: Option<String>,
    /// How to ask a server that does not understand this.
    pub(crate) older: Option<Box<TokenRequest>>,
}

/// Decides how to answer. `scope` is asked for if the registry names none.
pub(crate) fn answer(
    challenges: &[Challenge],
    identity: &Identity,
    scope: &str,
    plain: bool,
) -> Answer {
    if let Identity::Token(token) = identity {
        return Answer::Header(format!("Bearer {token}"));
    }
    let bearer = challenges.iter().filter(|c| c.scheme == "bearer");
    let mut requests = bearer.filter_map(|c| token_request(c, identity, scope, plain));
    if let Some(request) = requests.next() {
        return Answer::Fetch(request);
    }
    match identity {
        Identity::Basic(user, password) if challenges.iter().any(|c| c.scheme == "basic") => {
            Answer::Header(basic(user, password))
        }
        _ => Answer::Nothing,
    }
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

fn token_request(
    challenge: &Challenge,
    identity: &Identity,
    scope: &str,
    plain: bool,
) -> Option<TokenRequest> {
    let url = Url::parse(challenge.parameters.get("realm")?).ok()?;
    let secure = url.scheme() == "https" || plain;
    if !secure && *identity != Identity::Anonymous {
        return None;
    }
    let scope = challenge
        .parameters
        .get("scope")
        .map_or(scope, String::as_str);
    let service = challenge.parameters.get("service");
    let mut pairs: Vec<(&str, &str)> = vec![("scope", scope)];
    pairs.extend(service.map(|service| ("service", service.as_str())));
    Some(match identity {
        Identity::Refresh(token) => {
            pairs.extend([
                ("grant_type", "refresh_token"),
                ("client_id", CLIENT),
                ("refresh_token", token),
            ]);
            by_post(url, &pairs)
        }
        Identity::Basic(user, password) => {
            let mut older = by_get(url.clone(), &[&pairs[..], &[("account", user)]].concat());
            older.authorization = Some(basic(user, password));
            pairs.extend([
                ("grant_type", "password"),
                ("client_id", CLIENT),
                ("username", user),
                ("password", password),
            ]);
            TokenRequest {
                older: Some(Box::new(older)),
                ..by_post(url, &pairs)
            }
        }
        Identity::Anonymous | Identity::Token(_) => by_get(url, &pairs),
    })
}

/// The older form, which all servers know.
fn by_get(mut url: Url, pairs: &[(&str, &str)]) -> TokenRequest {
    url.query_pairs_mut().extend_pairs(pairs);
    TokenRequest {
        url,
        authorization: None,
        form: None,
        older: None,
    }
}

/// The form of OAuth2.
fn by_post(url: Url, pairs: &[(&str, &str)]) -> TokenRequest {
    TokenRequest {
        url,
        authorization: None,
        form: Some(encode(pairs)),
        older: None,
    }
}

fn encode(pairs: &[(&str, &str)]) -> String {
    let mut url = Url::parse("http://localhost").expect("a constant URL");
    url.query_pairs_mut().extend_pairs(pairs);
    url.query().unwrap_or_default().to_owned()
}

/// What a token server answers.
#[derive(Deserialize)]
pub(crate) struct Token {
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    access_token: Option<String>,
    #[serde(default)]
    expires_in: Option<u64>,
}

impl Token {
    /// The header to send, and until when.
    pub(crate) fn header(self) -> Option<(String, Instant)> {
        let token = self.token.or(self.access_token).filter(|t| !t.is_empty())?;
        let life = self
            .expires_in
            .map_or(DEFAULT_LIFE, Duration::from_secs)
            .max(DEFAULT_LIFE);
        // A tenth less, so that it does not end on its way.
        Some((
            format!("Bearer {token}"),
            Instant::now() + life.min(Duration::from_secs(86400)) * 9 / 10,
        ))
    }
}

/// For whom an authorization holds: host, repository, who is asking.
pub(crate) type Key = (String, String, Digest);

/// Authorizations that were good once.
#[derive(Default)]
pub(crate) struct Cache {
    known: Mutex<HashMap<Key, (String, Instant)>>,
    /// Who renews one; others wait for them.
    renewing: Mutex<HashMap<Key, Weak<Renewal>>>,
}

/// Held by the one who renews an authorization.
pub(crate) type Renewal = tokio::sync::Mutex<()>;

impl Cache {
    /// The header to send, if one is known.
    pub(crate) fn get(&self, key: &Key) -> Option<String> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known
            .get(key)
            .filter(|(_, until)| *until > Instant::now())
            .map(|(header, _)| header.clone())
    }

    /// Remembers a header.
    pub(crate) fn put(&self, key: Key, header: String, until: Instant) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        known.retain(|_, (_, until)| *until > now);
        if known.len() >= MAX_REMEMBERED {
            known.clear();
        }
        known.insert(key, (header, until));
    }

    /// What is to be held while the header of that key is renewed.
    pub(crate) fn renewal(&self, key: &Key) -> Arc<Renewal> {
        let mut renewing = self.renewing.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(renewal) = renewing.get(key).and_then(Weak::upgrade) {
            return renewal;
        }
        renewing.retain(|_, renewal| renewal.strong_count() > 0);
        let renewal = Arc::default();
        renewing.insert(key.clone(), Arc::downgrade(&renewal));
        renewal
    }
}

impl std::fmt::Debug for Cache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Cache")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::challenge;

    fn given(set: impl Fn(&mut Credentials)) -> Identity {
        let mut credentials = Credentials::default();
        set(&mut credentials);
        Identity::of(Some(&credentials)).unwrap()
    }

    #[test]
    fn all_forms_of_credentials_are_understood() {
        let basic = Identity::Basic("u".into(), "p:q".into());
        assert_eq!(Identity::of(None), Ok(Identity::Anonymous));
        assert_eq!(given(|_| ()), Identity::Anonymous);
        assert_eq!(
            given(|c| (c.username, c.password) = ("u".into(), "p:q".into())),
            basic
        );
        assert_eq!(given(|c| c.auth = STANDARD.encode("u:p:q")), basic);
        assert_eq!(
            given(|c| (c.identity_token, c.username) = ("i".into(), "u".into())),
            Identity::Refresh("i".into())
        );
        assert_eq!(
            given(|c| (c.registry_token, c.identity_token) = ("r".into(), "i".into())),
            Identity::Token("r".into())
        );
        assert_eq!(
            given(|c| (c.username, c.password) = ("<token>".into(), "i".into())),
            Identity::Refresh("i".into())
        );
        let bad = Credentials {
            auth: "%".into(),
            ..Credentials::default()
        };
        assert!(Identity::of(Some(&bad)).is_err());
    }

    #[test]
    fn credentials_stay_with_their_server() {
        assert!(is_meant_for("", "a.io"));
        assert!(is_meant_for("https://a.io/v2/", "a.io"));
        assert!(is_meant_for("https://index.docker.io/v1/", "docker.io"));
        assert!(is_meant_for("a.io:5000", "a.io:5000"));
        assert!(!is_meant_for("https://b.io", "a.io"));
        assert!(!is_meant_for("a.io.evil.io", "a.io"));
    }

    #[test]
    fn a_password_never_goes_in_plain_to_another_place() {
        let challenges = challenge::parse(r#"Bearer realm="http://elsewhere/t""#);
        let user = Identity::Basic("u".into(), "p".into());
        assert_eq!(answer(&challenges, &user, "s", false), Answer::Nothing);
        assert!(matches!(
            answer(&challenges, &Identity::Anonymous, "s", false),
            Answer::Fetch(_)
        ));
    }

    #[test]
    fn any_of_several_demands_that_can_be_met_is_met() {
        let header = r#"Bearer realm="nowhere", Basic realm="x", Bearer realm="https://t/""#;
        let user = Identity::Basic("u".into(), "p".into());
        let found = answer(&challenge::parse(header), &user, "s", false);
        assert!(matches!(found, Answer::Fetch(_)), "{found:?}");
        let header = r#"Negotiate, Bearer realm="nowhere", Basic realm="x""#;
        let found = answer(&challenge::parse(header), &user, "s", false);
        assert_eq!(found, Answer::Header(basic("u", "p")));
    }

    #[test]
    fn tokens_are_asked_for_in_the_form_that_fits() {
        let challenges = challenge::parse(r#"Bearer realm="https://t/x?a=b",service="s s""#);
        let Answer::Fetch(request) = answer(
            &challenges,
            &Identity::Anonymous,
            "repository:a:pull",
            false,
        ) else {
            panic!("no request");
        };
        assert_eq!(
            request.url.as_str(),
            "https://t/x?a=b&scope=repository%3Aa%3Apull&service=s+s"
        );
        let Answer::Fetch(request) =
            answer(&challenges, &Identity::Refresh("r&r".into()), "x", false)
        else {
            panic!("no request");
        };
        let form = request.form.unwrap();
        assert!(
            form.contains("grant_type=refresh_token") && form.contains("refresh_token=r%26r"),
            "{form}"
        );
        assert_eq!(request.url.as_str(), "https://t/x?a=b");
    }
}
