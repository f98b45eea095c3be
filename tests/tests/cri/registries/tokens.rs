//! A token server: gives whoever knows a password a token for what he asks for, in the form that
//! docker's registry reads (distribution's `docs/spec/auth/jwt.md`).

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rcgen::{Certificate, CertificateParams, KeyPair, PKCS_RSA_SHA256, SigningKey as _};
use serde_json::{Value, json};

/// Who has made the tokens.
pub(super) const ISSUER: &str = "the tests";
/// How long a token is good, in seconds.
const LIFE: u64 = 300;

/// Bytes in base64.
pub(super) fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// What tokens are made with, and what was asked.
struct Desk {
    key: KeyPair,
    certificate: Certificate,
    /// The header of those who may have tokens.
    authorization: String,
    asked: Mutex<Vec<(String, String)>>,
    stopped: AtomicBool,
}

/// The server; it ends when dropped.
pub(super) struct Tokens {
    desk: Arc<Desk>,
    address: SocketAddr,
    serving: Option<JoinHandle<()>>,
}

impl Tokens {
    /// Starts one on loopback.
    pub(super) fn start(user: &str, password: &str) -> Tokens {
        let key = KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap();
        let params = CertificateParams::new(vec!["tokens.test".to_owned()]).unwrap();
        let desk = Arc::new(Desk {
            certificate: params.self_signed(&key).unwrap(),
            key,
            authorization: format!("Basic {}", base64(format!("{user}:{password}").as_bytes())),
            asked: Mutex::default(),
            stopped: AtomicBool::new(false),
        });
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let (address, serving) = (listener.local_addr().unwrap(), Arc::clone(&desk));
        let serving = std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if serving.stopped.load(Ordering::SeqCst) {
                    break;
                }
                // Whoever goes away has no answer.
                serving.answer(stream).ok();
            }
        });
        Tokens {
            desk,
            address,
            serving: Some(serving),
        }
    }

    /// Its address, for the registry to tell.
    pub(super) fn realm(&self) -> String {
        format!("http://{}/token", self.address)
    }

    /// What the registry has to trust, in PEM form.
    pub(super) fn certificate(&self) -> String {
        self.desk.certificate.pem()
    }

    /// The services and scopes for which tokens were given.
    pub(super) fn asked(&self) -> Vec<(String, String)> {
        self.desk.asked.lock().unwrap().clone()
    }
}

impl Drop for Tokens {
    fn drop(&mut self) {
        self.desk.stopped.store(true, Ordering::SeqCst);
        // It looks when somebody comes.
        drop(TcpStream::connect(self.address));
        if let Some(serving) = self.serving.take() {
            drop(serving.join());
        }
    }
}

impl Desk {
    fn answer(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let mut lines = BufReader::new(stream.try_clone()?).lines();
        let first = lines.next().transpose()?.unwrap_or_default();
        let mut authorization = String::new();
        for line in lines {
            let line = line?;
            if line.is_empty() {
                break;
            }
            if let Some((name, value)) = line.split_once(": ")
                && name.eq_ignore_ascii_case("authorization")
            {
                value.clone_into(&mut authorization);
            }
        }
        let path = first.split(' ').nth(1).unwrap_or_default();
        let (status, body) = if authorization == self.authorization {
            ("200 OK", self.token(path))
        } else {
            (
                "401 Unauthorized",
                json!({"errors": [{"code": "UNAUTHORIZED", "message": "who?"}]}),
            )
        };
        let body = body.to_string();
        write!(
            stream,
            "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
             connection: close\r\n\r\n{body}",
            body.len()
        )
    }

    /// A token for all that a path asks for.
    fn token(&self, path: &str) -> Value {
        let url = reqwest::Url::parse("http://tokens.test")
            .unwrap()
            .join(path)
            .unwrap();
        let value = |wanted: &str| {
            let mut pairs = url.query_pairs();
            let found = pairs.find(|(name, _)| name == wanted);
            found
                .map(|(_, value)| value.into_owned())
                .unwrap_or_default()
        };
        let (service, scope) = (value("service"), value("scope"));
        let parts: Vec<&str> = scope.splitn(3, ':').collect();
        let [kind, name, actions] = parts[..] else {
            return json!({"errors": [{"code": "DENIED", "message": scope}]});
        };
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap()
            .as_secs();
        let claims = json!({
            "iss": ISSUER, "sub": "puller", "aud": service, "jti": "one",
            "iat": now, "nbf": now - LIFE, "exp": now + LIFE,
            "access": [{"type": kind, "name": name, "actions": actions.split(',').collect::<Vec<_>>()}],
        });
        let header = json!({"typ": "JWT", "alg": "RS256", "x5c": [base64(self.certificate.der())]});
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(&header), part(&claims));
        let signature = URL_SAFE_NO_PAD.encode(self.key.sign(signed.as_bytes()).unwrap());
        self.asked.lock().unwrap().push((service, scope.clone()));
        json!({"token": format!("{signed}.{signature}"), "expires_in": LIFE})
    }
}
