//! Which protocol a request gets: pure, from its headers.

use hyper::header::{
    ALLOW, CONNECTION, HeaderMap, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use hyper::{Method, StatusCode};
use tungstenite::handshake::derive_accept_key;

use crate::command::Version;
use crate::outcome::Form;
use crate::websocket::channels::Encoding;

/// The client's protocols in its order; ours of them in the answer.
const STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");
/// All of ours, when none fits.
const ACCEPTED_PROTOCOLS: HeaderName =
    HeaderName::from_static("x-accepted-stream-protocol-versions");
const SPDY: &str = "SPDY/3.1";
const WEBSOCKET: &str = "websocket";

/// What sort of session a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Streams of a process.
    Command,
    /// Ports of a pod.
    Forward,
}

/// How its streams travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    /// SPDY.
    Spdy,
    /// SPDY in a WebSocket.
    Tunnel,
    /// Channels of a WebSocket.
    Channels {
        /// How messages are written.
        encoding: Encoding,
        /// Whether a client can end a stream.
        close_signal: bool,
    },
}

/// What client and server agree on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Protocol {
    /// How streams travel.
    pub(crate) transport: Transport,
    /// What they mean; of no interest for port-forward.
    pub(crate) version: Version,
}

/// An answer, yes or no.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer<T> {
    /// What was decided.
    pub(crate) verdict: T,
    /// To be put into the response.
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
}

/// Why not.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// HTTP's word for it.
    pub(crate) status: StatusCode,
    /// A sentence.
    pub(crate) text: String,
}

/// The outcome of a negotiation.
pub(crate) type Negotiated = Result<Answer<Protocol>, Answer<Refusal>>;

const TEXT: Version = Version {
    form: Form::Text,
    resizes: false,
};
const TEXT_RESIZES: Version = Version {
    form: Form::Text,
    resizes: true,
};
const STATUS: Version = Version {
    form: Form::Status,
    resizes: true,
};

const SPDY_COMMAND: &[(&str, Protocol)] = &[
    ("v4.channel.k8s.io", spdy(STATUS)),
    ("v3.channel.k8s.io", spdy(TEXT_RESIZES)),
    ("v2.channel.k8s.io", spdy(TEXT)),
    ("channel.k8s.io", spdy(TEXT)),
];
const SPDY_FORWARD: &[(&str, Protocol)] = &[("portforward.k8s.io", spdy(TEXT))];
const WEBSOCKET_COMMAND: &[(&str, Protocol)] = &[
    ("v5.channel.k8s.io", channels(Encoding::Raw, true, STATUS)),
    ("v4.channel.k8s.io", channels(Encoding::Raw, false, STATUS)),
    (
        "v4.base64.channel.k8s.io",
        channels(Encoding::Base64, false, STATUS),
    ),
    (
        "channel.k8s.io",
        channels(Encoding::Raw, false, TEXT_RESIZES),
    ),
    (
        "base64.channel.k8s.io",
        channels(Encoding::Base64, false, TEXT_RESIZES),
    ),
    ("", channels(Encoding::Raw, false, TEXT_RESIZES)),
];
const WEBSOCKET_FORWARD: &[(&str, Protocol)] = &[
    (
        "SPDY/3.1+portforward.k8s.io",
        Protocol {
            transport: Transport::Tunnel,
            version: TEXT,
        },
    ),
    ("v4.channel.k8s.io", channels(Encoding::Raw, false, TEXT)),
    (
        "v4.base64.channel.k8s.io",
        channels(Encoding::Base64, false, TEXT),
    ),
    ("", channels(Encoding::Raw, false, TEXT)),
];

const fn spdy(version: Version) -> Protocol {
    Protocol {
        transport: Transport::Spdy,
        version,
    }
}

const fn channels(encoding: Encoding, close_signal: bool, version: Version) -> Protocol {
    Protocol {
        transport: Transport::Channels {
            encoding,
            close_signal,
        },
        version,
    }
}

/// Decides for a request.
pub(crate) fn negotiate(kind: Kind, method: &Method, headers: &HeaderMap) -> Negotiated {
    if method != Method::GET && method != Method::POST {
        return Err(Answer {
            headers: vec![(ALLOW, HeaderValue::from_static("GET, POST"))],
            ..refuse(
                StatusCode::METHOD_NOT_ALLOWED,
                "the method must be GET or POST",
            )
        });
    }
    if !has_word(headers, &CONNECTION, "upgrade") {
        return Err(refuse(
            StatusCode::BAD_REQUEST,
            "the connection must be upgraded",
        ));
    }
    if has_word(headers, &UPGRADE, WEBSOCKET) {
        websocket(kind, headers)
    } else if has_word(headers, &UPGRADE, SPDY) {
        spdy_31(kind, headers)
    } else {
        let text = "the connection can be upgraded to SPDY/3.1 or websocket only";
        Err(refuse(StatusCode::BAD_REQUEST, text))
    }
}

fn spdy_31(kind: Kind, headers: &HeaderMap) -> Negotiated {
    let ours = match kind {
        Kind::Command => SPDY_COMMAND,
        Kind::Forward => SPDY_FORWARD,
    };
    let theirs = words(headers, &STREAM_PROTOCOL);
    if theirs.is_empty() {
        let text = format!("the header {STREAM_PROTOCOL} is missing");
        return Err(refuse(StatusCode::BAD_REQUEST, &text));
    }
    match choose(&theirs, ours) {
        Some((name, protocol)) => Ok(agree(
            protocol,
            SPDY,
            vec![(STREAM_PROTOCOL, HeaderValue::from_static(name))],
        )),
        None => {
            let accepted = ours.iter().map(|(name, _)| HeaderValue::from_static(name));
            Err(Answer {
                headers: accepted.map(|name| (ACCEPTED_PROTOCOLS, name)).collect(),
                ..refuse(StatusCode::FORBIDDEN, &none_fits(&theirs, ours))
            })
        }
    }
}

/// RFC 6455, section 4.2.
fn websocket(kind: Kind, headers: &HeaderMap) -> Negotiated {
    if !has_word(headers, &SEC_WEBSOCKET_VERSION, "13") {
        return Err(Answer {
            headers: vec![(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"))],
            ..refuse(
                StatusCode::UPGRADE_REQUIRED,
                "the version of WebSocket must be 13",
            )
        });
    }
    let Some(key) = headers.get(SEC_WEBSOCKET_KEY) else {
        let text = format!("the header {SEC_WEBSOCKET_KEY} is missing");
        return Err(refuse(StatusCode::BAD_REQUEST, &text));
    };
    let ours = match kind {
        Kind::Command => WEBSOCKET_COMMAND,
        Kind::Forward => WEBSOCKET_FORWARD,
    };
    let mut theirs = words(headers, &SEC_WEBSOCKET_PROTOCOL);
    if theirs.is_empty() {
        theirs.push("");
    }
    let Some((name, protocol)) = choose(&theirs, ours) else {
        return Err(refuse(StatusCode::FORBIDDEN, &none_fits(&theirs, ours)));
    };
    let accept = HeaderValue::try_from(derive_accept_key(key.as_bytes()))
        .expect("base64 may stand in a header");
    let mut headers = vec![(SEC_WEBSOCKET_ACCEPT, accept)];
    if !name.is_empty() {
        headers.push((SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(name)));
    }
    Ok(agree(protocol, WEBSOCKET, headers))
}

/// The first of theirs that is among ours.
fn choose(theirs: &[&str], ours: &[(&'static str, Protocol)]) -> Option<(&'static str, Protocol)> {
    theirs
        .iter()
        .find_map(|name| ours.iter().find(|(known, _)| known == name))
        .copied()
}

fn none_fits(theirs: &[&str], ours: &[(&str, Protocol)]) -> String {
    let ours: Vec<&str> = ours.iter().map(|(name, _)| *name).collect();
    format!("no protocol fits: the client has {theirs:?}, the server {ours:?}")
}

fn agree(
    protocol: Protocol,
    upgrade: &'static str,
    mut headers: Vec<(HeaderName, HeaderValue)>,
) -> Answer<Protocol> {
    headers.push((CONNECTION, HeaderValue::from_static("Upgrade")));
    headers.push((UPGRADE, HeaderValue::from_static(upgrade)));
    Answer {
        verdict: protocol,
        headers,
    }
}

fn refuse(status: StatusCode, text: &str) -> Answer<Refusal> {
    Answer {
        verdict: Refusal {
            status,
            text: text.to_owned(),
        },
        headers: Vec::new(),
    }
}

/// The words of a header: given several times, separated by commas, or both.
fn words<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Vec<&'a str> {
    let values = headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok());
    values
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|word| !word.is_empty())
        .collect()
}

fn has_word(headers: &HeaderMap, name: &HeaderName, word: &str) -> bool {
    words(headers, name)
        .iter()
        .any(|known| known.eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    const WEBSOCKET_BASE: &[(&str, &str)] = &[
        ("connection", "keep-alive, Upgrade"),
        ("upgrade", "WebSocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    const SPDY_BASE: &[(&str, &str)] = &[("connection", "Upgrade"), ("upgrade", "SPDY/3.1")];

    fn ask(kind: Kind, base: &[(&'static str, &str)], more: &[(&'static str, &str)]) -> Negotiated {
        let mut headers = HeaderMap::new();
        for (name, value) in base.iter().chain(more) {
            headers.append(*name, value.parse().unwrap());
        }
        negotiate(kind, &Method::POST, &headers)
    }

    fn header<'a, T>(answer: &'a Answer<T>, name: &HeaderName) -> Vec<&'a str> {
        let found = answer.headers.iter().filter(|(known, _)| known == name);
        found.map(|(_, value)| value.to_str().unwrap()).collect()
    }

    #[test]
    fn the_clients_first_that_is_known_is_taken() {
        let check = |kind, theirs: &[&str], name: &str, protocol| {
            let more: Vec<_> = theirs
                .iter()
                .map(|name| ("x-stream-protocol-version", *name))
                .collect();
            let answer = ask(kind, SPDY_BASE, &more).unwrap();
            assert_eq!(answer.verdict, protocol);
            assert_eq!(header(&answer, &STREAM_PROTOCOL), [name]);
            assert_eq!(header(&answer, &UPGRADE), ["SPDY/3.1"]);
        };
        let v4 = "v4.channel.k8s.io";
        check(
            Kind::Command,
            &["v5.channel.k8s.io", v4, "v3.channel.k8s.io"],
            v4,
            spdy(STATUS),
        );
        check(Kind::Command, &["v9, v4.channel.k8s.io"], v4, spdy(STATUS));
        check(
            Kind::Command,
            &["v3.channel.k8s.io", v4],
            "v3.channel.k8s.io",
            spdy(TEXT_RESIZES),
        );
        check(
            Kind::Command,
            &["v2.channel.k8s.io"],
            "v2.channel.k8s.io",
            spdy(TEXT),
        );
        check(
            Kind::Command,
            &["channel.k8s.io"],
            "channel.k8s.io",
            spdy(TEXT),
        );
        check(
            Kind::Forward,
            &["portforward.k8s.io"],
            "portforward.k8s.io",
            spdy(TEXT),
        );
    }

    #[test]
    fn websocket_protocols() {
        let check = |kind, theirs: Option<&str>, protocol| {
            let more: Vec<_> = theirs
                .iter()
                .map(|theirs| ("sec-websocket-protocol", *theirs))
                .collect();
            let answer = ask(kind, WEBSOCKET_BASE, &more).unwrap();
            assert_eq!(answer.verdict, protocol);
            // The example of RFC 6455, section 1.3.
            assert_eq!(
                header(&answer, &SEC_WEBSOCKET_ACCEPT),
                ["s3pPLMBiTxaQ9kYGzzhZRbK+xOo="]
            );
            let theirs: Vec<&str> = theirs.into_iter().collect();
            assert_eq!(header(&answer, &SEC_WEBSOCKET_PROTOCOL), theirs);
        };
        let (raw, base64) = (Encoding::Raw, Encoding::Base64);
        check(Kind::Command, None, channels(raw, false, TEXT_RESIZES));
        check(
            Kind::Command,
            Some("v5.channel.k8s.io"),
            channels(raw, true, STATUS),
        );
        check(
            Kind::Command,
            Some("v4.channel.k8s.io"),
            channels(raw, false, STATUS),
        );
        check(
            Kind::Command,
            Some("v4.base64.channel.k8s.io"),
            channels(base64, false, STATUS),
        );
        check(
            Kind::Command,
            Some("base64.channel.k8s.io"),
            channels(base64, false, TEXT_RESIZES),
        );
        check(
            Kind::Forward,
            Some("v4.channel.k8s.io"),
            channels(raw, false, TEXT),
        );
        let tunnel = Protocol {
            transport: Transport::Tunnel,
            version: TEXT,
        };
        check(Kind::Forward, Some("SPDY/3.1+portforward.k8s.io"), tunnel);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let check = |answer: Negotiated, status, name: &HeaderName, expect: &[&str]| {
            let answer = answer.unwrap_err();
            assert_eq!(answer.verdict.status, status);
            assert_eq!(header(&answer, name), expect);
        };
        let all = [
            "v4.channel.k8s.io",
            "v3.channel.k8s.io",
            "v2.channel.k8s.io",
            "channel.k8s.io",
        ];
        let v9 = ask(
            Kind::Command,
            SPDY_BASE,
            &[("x-stream-protocol-version", "v9")],
        );
        check(v9, StatusCode::FORBIDDEN, &ACCEPTED_PROTOCOLS, &all);
        let none = ask(Kind::Command, SPDY_BASE, &[]);
        check(none, StatusCode::BAD_REQUEST, &ACCEPTED_PROTOCOLS, &[]);
        let plain = ask(Kind::Command, &[], &[]);
        check(plain, StatusCode::BAD_REQUEST, &ALLOW, &[]);
        let h2c = ask(
            Kind::Command,
            &[("connection", "upgrade"), ("upgrade", "h2c")],
            &[],
        );
        check(h2c, StatusCode::BAD_REQUEST, &ALLOW, &[]);
        let v9 = ask(
            Kind::Forward,
            WEBSOCKET_BASE,
            &[("sec-websocket-protocol", "v9")],
        );
        check(v9, StatusCode::FORBIDDEN, &ALLOW, &[]);
        let old = ask(
            Kind::Forward,
            &WEBSOCKET_BASE[..2],
            &[("sec-websocket-version", "8")],
        );
        check(
            old,
            StatusCode::UPGRADE_REQUIRED,
            &SEC_WEBSOCKET_VERSION,
            &["13"],
        );
        let put = negotiate(Kind::Command, &Method::PUT, &HeaderMap::new());
        check(put, StatusCode::METHOD_NOT_ALLOWED, &ALLOW, &["GET, POST"]);
    }
}
