//! The part of a client that both protocols share: the upgrade.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

pub(crate) trait Socket: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Socket for T {}

/// A connection to the server that `url` names, and the path.
pub(crate) async fn connect(url: &str) -> (TcpStream, String) {
    let rest = url.split_once("://").unwrap().1;
    let (address, path) = rest.split_once('/').unwrap();
    (
        TcpStream::connect(address).await.unwrap(),
        format!("/{path}"),
    )
}

/// Sends a request; the head of the answer, up to its empty line.
pub(crate) async fn ask(socket: &mut dyn Socket, path: &str, headers: &[(&str, &str)]) -> String {
    let lines: String = headers
        .iter()
        .map(|(name, value)| format!("{name}: {value}\r\n"))
        .collect();
    let request = format!("POST {path} HTTP/1.1\r\nHost: x\r\n{lines}\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(socket.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

/// Status of a plain request for `url`.
pub(crate) async fn status(url: &str, headers: &[(&str, &str)]) -> String {
    let (mut socket, path) = connect(url).await;
    let head = ask(&mut socket, &path, headers).await;
    head.split(' ').nth(1).unwrap().to_owned()
}
