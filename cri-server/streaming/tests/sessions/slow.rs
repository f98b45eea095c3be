//! Clients that are slow, stuck or gone.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

use super::spdy::{Client, V4};
use super::*;

/// More than all buffers between a process and its client hold.
const MUCH: usize = 64 * 1024 * 1024;

#[tokio::test]
async fn a_client_that_reads_nothing_stops_its_own_session_only() {
    let server = server().await;
    let url = server.ticket(exec(OUTPUTS, async |streams: Streams| {
        streams
            .stdout
            .unwrap()
            .write_all(&vec![0; MUCH])
            .await
            .unwrap();
        Outcome::Exit(0)
    }));
    let mut stuck = Client::new(&url.unwrap(), V4).await;
    stuck.open_all(&["error", "stdout", "stderr"]).await;

    let url = server.ticket(exec(OUTPUTS, complain)).unwrap();
    let mut other = Client::new(&url, V4).await;
    other.open_all(&["error", "stdout", "stderr"]).await;
    assert_eq!(other.listen().await.text(3), "out");

    // Once it reads, it misses nothing.
    let heard = stuck.listen().await;
    assert_eq!(heard.data[&3].len(), MUCH);
    assert_eq!(heard.finished.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_opens_no_streams_is_not_waited_for() {
    let server = server().await;
    let url = server.ticket(exec(IN_OUT, cat)).unwrap();
    let mut client = Client::new(&url, V4).await;
    client.open_all(&["error", "stdin"]).await;
    let heard = client.listen_until(|_| false).await;
    assert!(
        heard
            .text(1)
            .contains("not all streams were opened within 30s"),
        "{heard:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_client_that_asks_nothing_is_not_waited_for() {
    let server = server().await;
    let mut socket = TcpStream::connect(server.address()).await.unwrap();
    socket.write_all(b"GET / HT").await.unwrap();
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).await.unwrap();
}

/// Tells when it is dropped.
struct Guard(Option<oneshot::Sender<()>>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.take().unwrap().send(()).unwrap();
    }
}

#[tokio::test]
async fn the_work_of_a_client_that_left_is_dropped() {
    let server = server().await;
    let (sender, dropped) = oneshot::channel();
    let guard = Guard(Some(sender));
    let url = server.ticket(exec(IN_OUT, async move |streams: Streams| {
        let _guard = guard;
        let _streams = streams;
        std::future::pending().await
    }));
    let mut client = Client::new(&url.unwrap(), V4).await;
    client.open_all(&["error", "stdin", "stdout"]).await;
    in_time(client.listen_until(|heard| heard.replied.len() == 3)).await;
    drop(client);
    in_time(dropped).await.unwrap();
}

#[tokio::test]
async fn the_server_takes_its_sessions_along() {
    let server = server().await;
    let (sender, dropped) = oneshot::channel();
    let guard = Guard(Some(sender));
    let url = server.ticket(exec(IN_OUT, async move |mut streams: Streams| {
        let _guard = guard;
        let read = streams.stdin.as_mut().unwrap().read_u8().await;
        panic!("nobody types: {read:?}");
    }));
    let mut client = Client::new(&url.unwrap(), V4).await;
    client.open_all(&["error", "stdin", "stdout"]).await;
    in_time(client.listen_until(|heard| heard.replied.len() == 3)).await;
    drop(server);
    in_time(dropped).await.unwrap();
}
