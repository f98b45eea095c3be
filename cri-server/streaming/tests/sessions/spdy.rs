//! Exec over SPDY.

use std::collections::BTreeMap;

use flate2::{Compress, Compression, FlushCompress};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::client::{Socket, ask, connect};
use super::dictionary::dictionary;
use super::*;

pub(crate) const V4: &str = "v4.channel.k8s.io";

/// A client's end of a connection.
pub(crate) struct Client {
    pub(crate) socket: Box<dyn Socket>,
    zlib: Compress,
    next: u32,
}

/// All that a server sent until it closed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Heard {
    pub(crate) data: BTreeMap<u32, Vec<u8>>,
    pub(crate) finished: Vec<u32>,
    pub(crate) replied: Vec<u32>,
    pub(crate) reset: Vec<u32>,
    pub(crate) pings: Vec<u32>,
    pub(crate) gone_away: bool,
}

impl Heard {
    pub(crate) fn text(&self, stream: u32) -> &str {
        self.data
            .get(&stream)
            .map_or("", |bytes| std::str::from_utf8(bytes).unwrap())
    }
}

impl Client {
    /// Upgrades a connection to `url`.
    pub(crate) async fn new(url: &str, protocol: &str) -> Self {
        let (socket, path) = connect(url).await;
        Self::over(Box::new(socket), &path, protocol).await
    }

    pub(crate) async fn over(mut socket: Box<dyn Socket>, path: &str, protocol: &str) -> Self {
        let headers = [
            ("Connection", "Upgrade"),
            ("Upgrade", "SPDY/3.1"),
            ("X-Stream-Protocol-Version", protocol),
        ];
        let head = ask(socket.as_mut(), path, &headers).await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        assert!(
            head.contains(&format!("X-Stream-Protocol-Version: {protocol}\r\n")),
            "{head}"
        );
        let mut zlib = Compress::new(Compression::default(), true);
        zlib.set_dictionary(&dictionary()).unwrap();
        Self {
            socket,
            zlib,
            next: 1,
        }
    }

    /// Opens a stream; its number.
    pub(crate) async fn open(&mut self, pairs: &[(&str, &str)]) -> u32 {
        let stream = self.next;
        self.next += 2;
        let mut plain = u32::try_from(pairs.len()).unwrap().to_be_bytes().to_vec();
        for text in pairs.iter().flat_map(|(name, value)| [name, value]) {
            plain.extend(u32::try_from(text.len()).unwrap().to_be_bytes());
            plain.extend(text.bytes());
        }
        let mut block = Vec::with_capacity(plain.len() + 1024);
        self.zlib
            .compress_vec(&plain, &mut block, FlushCompress::Sync)
            .unwrap();
        let payload = [&stream.to_be_bytes()[..], &[0; 6], &block].concat();
        self.send(0x8003_0001, 0, &payload).await;
        stream
    }

    pub(crate) async fn open_all(&mut self, types: &[&str]) {
        for kind in types {
            self.open(&[("streamtype", kind)]).await;
        }
    }

    pub(crate) async fn data(&mut self, stream: u32, last: bool, payload: &[u8]) {
        self.send(stream, u32::from(last), payload).await;
    }

    pub(crate) async fn ping(&mut self, id: u32) {
        self.send(0x8003_0006, 0, &id.to_be_bytes()).await;
    }

    async fn send(&mut self, first: u32, flags: u32, payload: &[u8]) {
        let length = u32::try_from(payload.len()).unwrap();
        let header = [first.to_be_bytes(), (flags << 24 | length).to_be_bytes()].concat();
        self.socket
            .write_all(&[&header, payload].concat())
            .await
            .unwrap();
    }

    /// One frame: its first word, flags and payload; none when the server closed.
    pub(crate) async fn frame(&mut self) -> Option<(u32, u8, Vec<u8>)> {
        let mut header = [0; 8];
        self.socket.read_exact(&mut header).await.ok()?;
        let [a, b, c, d, flags, length @ ..] = header;
        let length = u32::from_be_bytes([0, length[0], length[1], length[2]]);
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        self.socket.read_exact(&mut payload).await.ok()?;
        Some((u32::from_be_bytes([a, b, c, d]), flags, payload))
    }

    /// Everything up to the server's end, or until `enough`.
    pub(crate) async fn listen_until(&mut self, enough: impl Fn(&Heard) -> bool) -> Heard {
        let mut heard = Heard::default();
        while !enough(&heard) {
            let Some((first, flags, payload)) = self.frame().await else {
                break;
            };
            let id = || u32::from_be_bytes(*payload.first_chunk().unwrap());
            match first {
                0x8003_0002 => heard.replied.push(id()),
                0x8003_0003 => heard.reset.push(id()),
                0x8003_0006 => heard.pings.push(id()),
                0x8003_0007 => heard.gone_away = true,
                stream => {
                    assert!(stream < 0x8000_0000, "an unexpected frame {stream:x}");
                    heard.data.entry(stream).or_default().extend(&payload);
                    if flags == 1 {
                        heard.finished.push(stream);
                    }
                }
            }
        }
        heard
    }

    pub(crate) async fn listen(&mut self) -> Heard {
        in_time(self.listen_until(|_| false)).await
    }
}

#[tokio::test]
async fn outputs_and_exit_status_arrive_and_all_streams_end() {
    let server = server().await;
    let url = server.ticket(exec(OUTPUTS, complain)).unwrap();
    let mut client = Client::new(&url, V4).await;
    client.open_all(&["error", "stdout", "stderr"]).await;
    let mut heard = client.listen().await;
    heard.finished.sort_unstable();
    assert_eq!((heard.text(3), heard.text(5)), ("out", "err"));
    let status: serde_json::Value = serde_json::from_str(heard.text(1)).unwrap();
    assert_eq!(status["details"]["causes"][0]["message"], "3");
    assert_eq!(
        (heard.finished, heard.replied),
        (vec![1, 3, 5], vec![1, 3, 5])
    );
    assert!(heard.gone_away);
}

#[tokio::test]
async fn the_end_of_stdin_reaches_the_process() {
    let server = server().await;
    let url = server.ticket(exec(IN_OUT, cat)).unwrap();
    let mut client = Client::new(&url, V4).await;
    client.open_all(&["error", "stdin", "stdout"]).await;
    client.data(3, false, b"hello ").await;
    client.ping(7).await;
    client.data(3, true, b"world").await;
    let heard = client.listen().await;
    assert_eq!(heard.text(5), "hello world");
    assert_eq!(heard.text(1), r#"{"metadata":{},"status":"Success"}"#);
    assert_eq!(heard.pings, [7]);
    assert_eq!(heard.finished.len(), 3);
}

#[tokio::test]
async fn older_versions_read_a_sentence() {
    let check = async |protocol: &str| {
        let server = server().await;
        let url = server.ticket(exec(OUTPUTS, complain)).unwrap();
        let mut client = Client::new(&url, protocol).await;
        client.open_all(&["error", "stdout", "stderr"]).await;
        let text = "command terminated with non-zero exit code: exit status 3";
        assert_eq!(client.listen().await.text(1), text, "{protocol}");
    };
    check("v3.channel.k8s.io").await;
    check("v2.channel.k8s.io").await;
    check("channel.k8s.io").await;
}

#[tokio::test]
async fn the_terminals_size_comes_first_and_changes() {
    let wanted = Wanted {
        tty: true,
        ..IN_OUT
    };
    let server = server().await;
    let url = server.ticket(exec(wanted, async |streams: Streams| {
        let (mut resizes, mut stdout) = (streams.resizes.unwrap(), streams.stdout.unwrap());
        while let Some(size) = resizes.next().await {
            let text = format!("{}x{} ", size.width, size.height);
            stdout.write_all(text.as_bytes()).await.unwrap();
        }
        Outcome::Exit(0)
    }));
    let mut client = Client::new(&url.unwrap(), V4).await;
    client
        .open_all(&["error", "stdin", "stdout", "resize"])
        .await;
    client
        .data(7, false, b"{\"Width\":80,\"Height\":24}\n{\"Width\":100")
        .await;
    client.data(7, true, b",\"Height\":50}\n").await;
    assert_eq!(client.listen().await.text(5), "80x24 100x50 ");
}

#[tokio::test]
async fn streams_that_were_not_asked_for_are_refused() {
    let server = server().await;
    let url = server.ticket(exec(IN_OUT, cat)).unwrap();
    let mut client = Client::new(&url, V4).await;
    client
        .open_all(&["error", "stderr", "error", "nonsense", "stdin", "stdout"])
        .await;
    client.data(9, true, b"x").await;
    let heard = client.listen().await;
    assert_eq!(
        (heard.reset, heard.replied),
        (vec![3, 5, 7], vec![1, 9, 11])
    );
    assert_eq!(heard.data[&11], b"x");
}

#[tokio::test]
async fn a_client_that_breaks_the_protocol_is_told_so_and_left() {
    let server = server().await;
    let url = server.ticket(exec(IN_OUT, cat)).unwrap();
    let mut client = Client::new(&url, V4).await;
    client.open_all(&["error", "stdin", "stdout"]).await;
    client.send(0x8002_0001, 0, b"").await;
    assert!(client.listen().await.gone_away);
}
