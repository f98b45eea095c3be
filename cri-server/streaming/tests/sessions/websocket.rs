//! Exec over WebSocket.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::client::{Socket, ask, connect};
use super::*;

/// A client's end of a connection.
pub(crate) struct Client {
    pub(crate) socket: Box<dyn Socket>,
}

impl Client {
    /// Upgrades a connection to `url`; without a protocol if that is empty.
    pub(crate) async fn new(url: &str, protocol: &str) -> Self {
        let (mut socket, path) = connect(url).await;
        let mut headers = vec![
            ("Connection", "Upgrade"),
            ("Upgrade", "websocket"),
            ("Sec-WebSocket-Version", "13"),
            ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ];
        if !protocol.is_empty() {
            headers.push(("Sec-WebSocket-Protocol", protocol));
        }
        let head = ask(&mut socket, &path, &headers).await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        assert!(head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{head}");
        assert_eq!(
            head.contains(&format!(": {protocol}\r\n")),
            !protocol.is_empty(),
            "{head}"
        );
        Self {
            socket: Box::new(socket),
        }
    }

    /// One frame; `head` is its first byte.
    pub(crate) async fn send(&mut self, head: u8, payload: &[u8]) {
        let key = [9, 8, 7, 6];
        let mut bytes = vec![head, 0x80 | 126];
        bytes.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
        bytes.extend(key);
        bytes.extend(
            payload
                .iter()
                .zip(key.iter().cycle())
                .map(|(byte, key)| byte ^ key),
        );
        self.socket.write_all(&bytes).await.unwrap();
    }

    /// One frame: its first byte and payload; none when the server closed.
    pub(crate) async fn frame(&mut self) -> Option<(u8, Vec<u8>)> {
        let head = self.socket.read_u8().await.ok()?;
        let length = match self.socket.read_u8().await.ok()? {
            126 => u64::from(self.socket.read_u16().await.ok()?),
            127 => self.socket.read_u64().await.ok()?,
            short => short.into(),
        };
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        self.socket.read_exact(&mut payload).await.ok()?;
        Some((head, payload))
    }

    /// All data, by the first byte of its messages; and the last frame.
    pub(crate) async fn listen(&mut self) -> ([Vec<u8>; 256], (u8, Vec<u8>)) {
        let mut data = [const { Vec::new() }; 256];
        let mut last = None;
        while let Some((head, payload)) = in_time(self.frame()).await {
            if matches!(head, 0x81 | 0x82) {
                data[usize::from(payload[0])].extend(&payload[1..]);
            }
            last = Some((head, payload));
        }
        (data, last.expect("the server says something"))
    }
}

const NORMAL_CLOSE: (u8, &[u8]) = (0x88, &[3, 0xe8]);

#[tokio::test]
async fn outputs_and_exit_status_arrive_in_every_protocol() {
    let check = async |protocol: &str, out: u8, decode: fn(&[u8]) -> Vec<u8>, is_status: bool| {
        let server = server().await;
        let url = server.ticket(exec(OUTPUTS, complain)).unwrap();
        let mut client = Client::new(&url, protocol).await;
        let (data, (head, payload)) = client.listen().await;
        let of = |channel: u8| String::from_utf8(decode(&data[usize::from(channel)])).unwrap();
        assert_eq!(
            (of(out), of(out + 1)),
            ("out".to_owned(), "err".to_owned()),
            "{protocol}"
        );
        let text = of(out + 2);
        assert!(
            text.contains("non-zero exit code: exit status 3"),
            "{protocol}: {text}"
        );
        assert_eq!(text.starts_with('{'), is_status, "{protocol}: {text}");
        assert_eq!((head, &payload[..]), NORMAL_CLOSE);
    };
    let base64 = |text: &[u8]| {
        use base64::Engine as _;
        base64::engine::general_purpose::STANDARD
            .decode(text)
            .unwrap()
    };
    check("v5.channel.k8s.io", 1, <[u8]>::to_vec, true).await;
    check("v4.channel.k8s.io", 1, <[u8]>::to_vec, true).await;
    check("v4.base64.channel.k8s.io", b'1', base64, true).await;
    check("channel.k8s.io", 1, <[u8]>::to_vec, false).await;
    check("base64.channel.k8s.io", b'1', base64, false).await;
    check("", 1, <[u8]>::to_vec, false).await;
}

#[tokio::test]
async fn the_first_message_is_empty_and_says_that_it_is_connected() {
    let server = server().await;
    let url = server.ticket(exec(IN_OUT, cat)).unwrap();
    let mut client = Client::new(&url, "v4.channel.k8s.io").await;
    assert_eq!(in_time(client.frame()).await, Some((0x82, vec![1])));
}

#[tokio::test]
async fn a_client_of_version_5_ends_stdin() {
    let server = server().await;
    let url = server.ticket(exec(IN_OUT, cat)).unwrap();
    let mut client = Client::new(&url, "v5.channel.k8s.io").await;
    client.send(0x02, b"\0hello ").await;
    client.send(0x89, b"ping").await;
    client.send(0x80, b"world").await;
    client.send(0x82, b"\xff\0").await;
    let (data, _) = client.listen().await;
    assert_eq!(data[1], b"hello world");
    assert_eq!(data[3], br#"{"metadata":{},"status":"Success"}"#);
}

#[tokio::test]
async fn resizes_come_on_their_channel() {
    let wanted = Wanted {
        tty: true,
        ..IN_OUT
    };
    let server = server().await;
    let url = server.ticket(exec(wanted, async |streams: Streams| {
        let size = streams.resizes.unwrap().next().await.unwrap();
        let text = format!("{}x{}", size.width, size.height);
        streams
            .stdout
            .unwrap()
            .write_all(text.as_bytes())
            .await
            .unwrap();
        Outcome::Exit(0)
    }));
    let mut client = Client::new(&url.unwrap(), "v4.channel.k8s.io").await;
    client.send(0x82, b"\x04{\"Width\":80,\"Height\":24}").await;
    assert_eq!(client.listen().await.0[1], b"80x24");
}

#[tokio::test]
async fn a_client_that_breaks_the_protocol_is_told_so_and_left() {
    let server = server().await;
    let url = server.ticket(exec(IN_OUT, cat)).unwrap();
    let mut client = Client::new(&url, "v5.channel.k8s.io").await;
    client.send(0x80, b"no message began").await;
    let (_, last) = client.listen().await;
    assert_eq!(last, (0x88, vec![3, 0xea]));
}
