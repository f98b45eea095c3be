//! Port-forward, in all its protocols.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use streaming::{Boxed, Connection, Dialer, Forward};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::spdy::{Client, Heard};
use super::*;

/// Port 80 leads to `address`; others refuse.
struct Pod {
    address: SocketAddr,
}

impl Dialer for Pod {
    fn dial(&self, port: u16) -> Boxed<'_, io::Result<Box<dyn Connection>>> {
        Box::pin(async move {
            if port != 80 {
                return Err(io::Error::other("nobody listens"));
            }
            let connection: Box<dyn Connection> = Box::new(TcpStream::connect(self.address).await?);
            Ok(connection)
        })
    }
}

/// A pod whose port 80 sends back what it gets, then "bye" when that ends.
async fn echo(ports: &[u16]) -> (JoinSet<()>, Session) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dialer = Arc::new(Pod {
        address: listener.local_addr().unwrap(),
    });
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            let (mut reader, mut writer) = socket.split();
            tokio::io::copy(&mut reader, &mut writer).await.unwrap();
            writer.write_all(b"bye").await.unwrap();
        }
    });
    (
        tasks,
        Session::PortForward(Forward {
            ports: ports.to_vec(),
            dialer,
        }),
    )
}

async fn pair(client: &mut Client, port: &str, request: &str) {
    let rest = [("port", port), ("requestid", request)];
    client
        .open(&[("streamtype", "error"), rest[0], rest[1]])
        .await;
    client
        .open(&[("streamtype", "data"), rest[0], rest[1]])
        .await;
}

/// Both streams are over, in whatever way.
fn over(data: u32) -> impl Fn(&Heard) -> bool {
    move |heard: &Heard| {
        let is_over = |stream| heard.finished.contains(&stream) || heard.reset.contains(&stream);
        is_over(data) && is_over(data - 2)
    }
}

#[tokio::test]
async fn bytes_go_both_ways_and_each_way_ends_by_itself() {
    let server = server().await;
    let (_pod, session) = echo(&[]).await;
    let mut client = Client::new(&server.ticket(session).unwrap(), "portforward.k8s.io").await;
    for (request, data) in [("0", 3), ("1", 7)] {
        pair(&mut client, "80", request).await;
        client.data(data, false, b"hello ").await;
        client.data(data, true, b"there ").await;
        let heard = in_time(client.listen_until(over(data))).await;
        assert_eq!(
            (heard.text(data), heard.text(data - 2)),
            ("hello there bye", "")
        );
        assert!(heard.reset.is_empty());
    }
}

#[tokio::test]
async fn a_port_that_refuses_is_told_and_hurts_no_other() {
    let server = server().await;
    let (_pod, session) = echo(&[]).await;
    let mut client = Client::new(&server.ticket(session).unwrap(), "portforward.k8s.io").await;
    pair(&mut client, "81", "0").await;
    let heard = in_time(client.listen_until(over(3))).await;
    assert_eq!(heard.text(1), "error forwarding port 81: nobody listens");
    assert_eq!(heard.reset, [3]);
    pair(&mut client, "80", "1").await;
    client.data(7, true, b"").await;
    assert_eq!(in_time(client.listen_until(over(7))).await.text(7), "bye");
}

#[tokio::test]
async fn streams_without_a_good_port_are_refused() {
    let server = server().await;
    let (_pod, session) = echo(&[]).await;
    let mut client = Client::new(&server.ticket(session).unwrap(), "portforward.k8s.io").await;
    pair(&mut client, "0", "0").await;
    pair(&mut client, "65536", "1").await;
    let heard = in_time(client.listen_until(|heard| heard.reset.len() == 4)).await;
    assert!(heard.replied.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_stream_without_its_other_half_is_given_up() {
    let server = server().await;
    let (_pod, session) = echo(&[]).await;
    let mut client = Client::new(&server.ticket(session).unwrap(), "portforward.k8s.io").await;
    let alone = [("streamtype", "data"), ("port", "80"), ("requestid", "0")];
    client.open(&alone).await;
    client.open(&alone).await;
    let heard = client.listen_until(|heard| heard.reset.len() == 2).await;
    assert_eq!((heard.replied, heard.reset), (vec![1], vec![3, 1]));
}

#[tokio::test]
async fn clients_without_request_ids_pair_by_number() {
    let server = server().await;
    let (_pod, session) = echo(&[]).await;
    let mut client = Client::new(&server.ticket(session).unwrap(), "portforward.k8s.io").await;
    client
        .open(&[("streamtype", "error"), ("port", "80")])
        .await;
    client.open(&[("streamtype", "data"), ("port", "80")]).await;
    client.data(3, true, b"").await;
    assert_eq!(in_time(client.listen_until(over(3))).await.text(3), "bye");
}

#[tokio::test]
async fn the_older_websocket_protocol_has_two_channels_for_each_port() {
    let server = server().await;
    let (_pod, session) = echo(&[80, 81]).await;
    let url = server.ticket(session).unwrap();
    let mut client = super::websocket::Client::new(&url, "v4.channel.k8s.io").await;
    client.send(0x82, b"\0hello").await;
    let mut heard = [const { Vec::new() }; 4];
    while heard[0] != b"\x50\0hello" || heard[3].len() < 3 {
        let (_, payload) = in_time(client.frame()).await.unwrap();
        heard[usize::from(payload[0])].extend(&payload[1..]);
    }
    assert_eq!(
        (&heard[1][..], &heard[2][..]),
        (&b"\x50\0"[..], &b"\x51\0"[..])
    );
    assert_eq!(heard[3], b"\x51\0error forwarding port 81: nobody listens");
}

#[tokio::test]
async fn spdy_in_a_websocket() {
    let server = server().await;
    let (_pod, session) = echo(&[]).await;
    let url = server.ticket(session).unwrap();
    let mut client = super::websocket::Client::new(&url, "SPDY/3.1+portforward.k8s.io").await;
    let ping = [0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1];
    client.send(0x02, &ping[..3]).await;
    client.send(0x80, &ping[3..]).await;
    assert_eq!(in_time(client.frame()).await, Some((0x82, ping.to_vec())));
}
