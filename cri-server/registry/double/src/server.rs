//! An HTTP server on loopback that answers what a test says, truthfully or not.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// What was asked.
#[derive(Clone, Debug)]
pub struct Request {
    /// `GET`, ...
    pub method: String,
    /// With the query.
    pub target: String,
    /// Names in lower case.
    pub headers: HashMap<String, String>,
    /// What came with it.
    pub body: Vec<u8>,
}

impl Request {
    /// A header; empty if there is none. The name is in lower case.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// Without the query.
    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap()
    }
}

/// What is answered.
#[derive(Clone, Debug, Default)]
pub struct Reply {
    /// The code.
    pub status: u16,
    /// Names and values.
    pub headers: Vec<(String, String)>,
    /// All that there is to send.
    pub body: Vec<u8>,
    /// After how many bytes of the body the connection is closed.
    pub cut: Option<usize>,
    /// After how many bytes of the body nothing more comes.
    pub stall: Option<usize>,
    /// Sends a little at a time, with this pause in between.
    pub drip: Option<Duration>,
    /// How much that is, if more than one byte.
    pub gulp: usize,
}

impl Reply {
    /// A code and a body.
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status,
            body: body.into(),
            ..Self::default()
        }
    }

    /// Has one more header.
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }
}

type Handler = dyn Fn(&Request) -> Reply + Send + Sync;

struct Shared {
    handler: Box<Handler>,
    requests: Mutex<Vec<Request>>,
    stopped: AtomicBool,
    /// How many bodies are on their way, and how many there were at most.
    sending: AtomicUsize,
    most: AtomicUsize,
    stalled: (Mutex<()>, Condvar),
}

/// The server; stops when dropped.
pub struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

impl Server {
    /// Serves on a free port of loopback.
    pub fn start(handler: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap(), handler)
    }

    /// Serves there.
    pub fn start_at(
        address: SocketAddr,
        handler: impl Fn(&Request) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            handler: Box::new(handler),
            requests: Mutex::default(),
            stopped: AtomicBool::new(false),
            sending: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
            stalled: (Mutex::default(), Condvar::new()),
        });
        let serving = Arc::clone(&shared);
        let accepting = std::thread::spawn(move || {
            let mut connections = Vec::new();
            for stream in listener.incoming() {
                if serving.stopped.load(Ordering::SeqCst) {
                    break;
                }
                let (Ok(stream), shared) = (stream, Arc::clone(&serving)) else {
                    continue;
                };
                // What a client does with its end is its business.
                connections.push(std::thread::spawn(move || drop(serve(&stream, &shared))));
            }
            for connection in connections {
                connection.join().unwrap();
            }
        });
        Self {
            address,
            shared,
            accepting: Some(accepting),
        }
    }

    /// `127.0.0.1:port`.
    pub fn name(&self) -> String {
        self.address.to_string()
    }

    /// All that was asked so far: method and path.
    pub fn asked(&self) -> Vec<String> {
        let requests = self.shared.requests.lock().unwrap();
        requests
            .iter()
            .map(|r| format!("{} {}", r.method, r.path()))
            .collect()
    }

    /// All that was asked so far.
    pub fn requests(&self) -> Vec<Request> {
        self.shared.requests.lock().unwrap().clone()
    }

    /// How many answers were sent at the same time, at most.
    pub fn most_at_once(&self) -> usize {
        self.shared.most.load(Ordering::SeqCst)
    }

    /// As if nothing had been asked.
    pub fn forget(&self) {
        self.shared.requests.lock().unwrap().clear();
    }
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Server({})", self.address)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        drop(self.shared.stalled.0.lock());
        self.shared.stalled.1.notify_all();
        drop(TcpStream::connect(self.address));
        if let Some(accepting) = self.accepting.take() {
            drop(accepting.join());
        }
    }
}

/// One question a connection.
fn serve(stream: &TcpStream, shared: &Shared) -> std::io::Result<()> {
    let request = read_request(stream)?;
    let reply = (shared.handler)(&request);
    let is_head = request.method == "HEAD";
    shared.requests.lock().unwrap().push(request);
    let mut head = format!("HTTP/1.1 {} X\r\nconnection: close\r\n", reply.status);
    if !reply
        .headers
        .iter()
        .any(|(name, _)| name == "content-length")
    {
        head += &format!("content-length: {}\r\n", reply.body.len());
    }
    for (name, value) in &reply.headers {
        head += &format!("{name}: {value}\r\n");
    }
    let mut stream = stream;
    stream.write_all(format!("{head}\r\n").as_bytes())?;
    if is_head {
        return Ok(());
    }
    let sending = Sending::begin(shared);
    let sent = send(stream, &reply, shared);
    drop(sending);
    sent
}

/// Counts a body that is on its way.
struct Sending<'a>(&'a Shared);

impl<'a> Sending<'a> {
    fn begin(shared: &'a Shared) -> Self {
        let now = shared.sending.fetch_add(1, Ordering::SeqCst) + 1;
        shared.most.fetch_max(now, Ordering::SeqCst);
        Self(shared)
    }
}

impl Drop for Sending<'_> {
    fn drop(&mut self) {
        self.0.sending.fetch_sub(1, Ordering::SeqCst);
    }
}

fn send(mut stream: &TcpStream, reply: &Reply, shared: &Shared) -> std::io::Result<()> {
    if let Some(pause) = reply.drip {
        return drip(stream, reply.body.chunks(reply.gulp.max(1)), pause, shared);
    }
    let end = reply
        .cut
        .or(reply.stall)
        .unwrap_or(reply.body.len())
        .min(reply.body.len());
    stream.write_all(&reply.body[..end])?;
    if reply.stall.is_some() {
        let guard = shared.stalled.0.lock().unwrap();
        drop(
            shared
                .stalled
                .1
                .wait_while(guard, |()| !shared.stopped.load(Ordering::SeqCst)),
        );
    }
    Ok(())
}

/// Ends with the server, or when the client has had enough.
fn drip<'a>(
    mut stream: &TcpStream,
    body: impl Iterator<Item = &'a [u8]>,
    pause: Duration,
    shared: &Shared,
) -> std::io::Result<()> {
    for (count, gulp) in body.enumerate() {
        if count > 0 {
            let guard = shared.stalled.0.lock().unwrap();
            drop(shared.stalled.1.wait_timeout(guard, pause));
        }
        if shared.stopped.load(Ordering::SeqCst) {
            break;
        }
        stream.write_all(gulp)?;
    }
    Ok(())
}

fn read_request(stream: &TcpStream) -> std::io::Result<Request> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split_whitespace().map(str::to_owned);
    let (method, target) = (
        words.next().unwrap_or_default(),
        words.next().unwrap_or_default(),
    );
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else {
            break;
        };
        headers.insert(name.to_lowercase(), value.trim().to_owned());
    }
    let length = headers
        .get("content-length")
        .and_then(|l| l.parse().ok())
        .unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok(Request {
        method,
        target,
        headers,
        body,
    })
}
