//! What waits where, over a socket in memory: a step at a time, so that nothing depends on time.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::task::unconstrained;

use super::driver::End;
use super::*;
use crate::websocket::channels::{Channels, Encoding};

const SOCKET: usize = 64 * 1024;
const IDLE: Duration = Duration::from_secs(60);
/// A masked frame of 16 bytes, with a mask of zeros: channel 0, then 15 bytes.
const FRAME: [u8; 22] = *b"\x82\x90\0\0\0\0\x00123456789abcdef";

struct Bench {
    mux: Mux,
    driver: Driver<DuplexStream>,
    client: DuplexStream,
}

fn bench() -> Bench {
    let (socket, client) = duplex(SOCKET);
    let mux = Mux::new(Box::new(Channels::new(Encoding::Raw, true)));
    let driver = Driver::new(mux.clone(), socket, IDLE);
    Bench {
        mux,
        driver,
        client,
    }
}

/// One step, whatever tokio thinks of how many there were.
fn poll<F: Future>(future: F) -> Poll<F::Output> {
    pin!(unconstrained(future)).poll(&mut Context::from_waker(Waker::noop()))
}

/// Writes as much as goes, letting the driver do its part; how much that was.
fn stuff(bench: &mut Bench, bytes: &[u8]) -> usize {
    let mut sent = 0;
    loop {
        assert!(poll(&mut bench.driver).is_pending());
        match poll(bench.client.write(&bytes[sent..])) {
            Poll::Ready(written) if sent < bytes.len() => sent += written.unwrap(),
            _ => return sent,
        }
    }
}

/// Reads what is there.
fn drain(reader: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
    let mut all = Vec::new();
    let mut room = [0; 4096];
    while let Poll::Ready(Ok(count @ 1..)) = poll(reader.read(&mut room)) {
        all.extend(&room[..count]);
    }
    all
}

#[tokio::test]
async fn a_full_inbox_stops_the_client_and_a_read_lets_it_go_on() {
    let mut bench = bench();
    let (mut reader, _writer) = bench.mux.ends(0);
    let much = FRAME.repeat(100_000);
    let sent = stuff(&mut bench, &much);
    assert!(sent < 2 * INBOX + 2 * SOCKET, "{sent}");
    assert!(drain(&mut reader).len() >= INBOX);
    assert!(stuff(&mut bench, &much[sent..]) > INBOX);
}

#[tokio::test]
async fn a_stream_nobody_reads_stops_nothing() {
    let mut bench = bench();
    let (unread, _writer) = bench.mux.ends(0);
    let much = FRAME.repeat(100_000);
    stuff(&mut bench, &much);
    drop(unread);
    assert_eq!(stuff(&mut bench, &much), much.len());
}

#[tokio::test]
async fn a_full_outbox_stops_the_writer_and_pings_without_end_stop_the_client() {
    let mut bench = bench();
    let (_reader, mut writer) = bench.mux.ends(1);
    let mut written = 0;
    while let Poll::Ready(count) = poll(writer.write(&[0; 32 * 1024])) {
        written += count.unwrap();
        assert!(poll(&mut bench.driver).is_pending());
    }
    assert!(written < OUTBOX + SOCKET + 3 * 32 * 1024, "{written}");
    let pings = b"\x89\x84\0\0\0\0ping".repeat(100_000);
    let sent = stuff(&mut bench, &pings);
    assert!(sent < 4 * (ANSWERS + SOCKET), "{sent}");
    assert!(!drain(&mut bench.client).is_empty());
    assert!(stuff(&mut bench, &pings) > 0);
}

#[tokio::test]
async fn last_words_go_out_and_the_end_is_clean() {
    let Bench {
        mux,
        driver,
        mut client,
    } = bench();
    let (_reader, mut writer) = mux.ends(1);
    writer.write_all(b"bye").await.unwrap();
    mux.close(true);
    let mut heard = Vec::new();
    let listen = async {
        client.read_to_end(&mut heard).await.unwrap();
        drop(client);
    };
    let (end, ()) = tokio::join!(driver, listen);
    assert!(matches!(end, End::Closed), "{end}");
    assert_eq!(heard, b"\x82\x04\x01bye\x88\x02\x03\xe8");
    assert!(writer.write_all(b"more").await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_close_is_not_waited_for() {
    let Bench {
        mux,
        driver,
        client,
    } = bench();
    mux.close(true);
    assert!(matches!(driver.await, End::Closed));
    drop(client);
}

#[tokio::test(start_paused = true)]
async fn a_connection_on_which_nothing_moves_ends() {
    let Bench {
        mux,
        driver,
        client,
    } = bench();
    let (mut reader, _writer) = mux.ends(0);
    let read = async { reader.read_u8().await.unwrap_err().kind() };
    let (end, error) = tokio::join!(driver, read);
    assert!(matches!(end, End::Idle(IDLE)), "{end}");
    assert_eq!(error, std::io::ErrorKind::ConnectionAborted);
    drop(client);
}
