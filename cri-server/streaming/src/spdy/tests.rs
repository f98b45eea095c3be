//! The protocol as a client sees it, without a socket.

use bytes::Bytes;
use flate2::{Compress, Compression, FlushCompress};
use proptest::prelude::*;

use super::dictionary::dictionary;
use super::*;
use crate::wire::Headers;

/// Writes what a client would.
struct Client {
    zlib: Compress,
}

impl Client {
    fn new() -> Self {
        let mut zlib = Compress::new(Compression::default(), true);
        zlib.set_dictionary(&dictionary()).unwrap();
        Self { zlib }
    }

    fn syn(&mut self, stream: u32, flags: u8, pairs: &[(&str, &str)]) -> Vec<u8> {
        let mut plain = u32::try_from(pairs.len()).unwrap().to_be_bytes().to_vec();
        for text in pairs.iter().flat_map(|(name, value)| [name, value]) {
            plain.extend_from_slice(&u32::try_from(text.len()).unwrap().to_be_bytes());
            plain.extend_from_slice(text.as_bytes());
        }
        let mut block = Vec::with_capacity(plain.len() + 1024);
        self.zlib
            .compress_vec(&plain, &mut block, FlushCompress::Sync)
            .unwrap();
        control(
            1,
            flags,
            &[&stream.to_be_bytes()[..], &[0; 6], &block].concat(),
        )
    }
}

fn control(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let [_, length @ ..] = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&[0x80, 3, 0, kind, flags], &length[..], payload].concat()
}

fn data(stream: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let [_, length @ ..] = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&[0, 0, 0, stream, flags], &length[..], payload].concat()
}

/// Everything that `bytes` brings about, with data of one stream joined.
fn receive(spdy: &mut Spdy, bytes: &[u8]) -> (Vec<Event>, Vec<u8>) {
    let (mut out, mut events) = (Vec::new(), Vec::new());
    spdy.receive(bytes, &mut out, &mut events).unwrap();
    (events, out)
}

fn opened(stream: u32, pairs: &[(&str, &str)]) -> Event {
    let pairs = pairs
        .iter()
        .map(|(name, value)| (name.to_string(), value.to_string()));
    Event::Opened {
        stream,
        headers: Headers(pairs.collect()),
    }
}

#[test]
fn a_stream_opens_carries_data_and_closes_by_halves() {
    let (mut spdy, mut client) = (Spdy::default(), Client::new());
    let bytes = [
        client.syn(1, 0, &[("streamtype", "error")]),
        client.syn(3, 0, &[("streamtype", "stdin"), ("port", "80")]),
        data(3, 0, b"abc"),
        data(3, 1, b"d"),
    ];
    let expect = vec![
        opened(1, &[("streamtype", "error")]),
        opened(3, &[("streamtype", "stdin"), ("port", "80")]),
        Event::Data {
            stream: 3,
            bytes: Bytes::from_static(b"abc"),
        },
        Event::Data {
            stream: 3,
            bytes: Bytes::from_static(b"d"),
        },
        Event::Finished(3),
    ];
    assert_eq!(receive(&mut spdy, &bytes.concat()), (expect, Vec::new()));

    let mut out = Vec::new();
    spdy.data(3, b"xy", &mut out);
    spdy.finish(3, &mut out);
    spdy.finish(3, &mut out);
    spdy.data(3, b"late", &mut out);
    assert_eq!(out, [data(3, 0, b"xy"), data(3, 1, b"")].concat());
    assert!(spdy.is_writable(1));
}

#[test]
fn pings_of_the_client_are_echoed() {
    let mut spdy = Spdy::default();
    let check = |spdy: &mut Spdy, id: u8, expect: &[u8]| {
        assert_eq!(
            receive(spdy, &control(6, 0, &[0, 0, 0, id])),
            (vec![], expect.to_vec())
        );
    };
    check(&mut spdy, 5, &control(6, 0, &[0, 0, 0, 5]));
    check(&mut spdy, 6, &[]);
}

#[test]
fn bad_numbers_of_streams_are_reset_and_do_not_break_the_connection() {
    let (mut spdy, mut client) = (Spdy::default(), Client::new());
    receive(&mut spdy, &client.syn(5, 0, &[]));
    for bad in [2, 3, 5] {
        let expect = control(3, 0, &[0, 0, 0, bad, 0, 0, 0, 1]);
        assert_eq!(
            receive(&mut spdy, &client.syn(bad.into(), 0, &[])),
            (vec![], expect)
        );
    }
    assert_eq!(
        receive(&mut spdy, &client.syn(7, 0, &[])).0,
        [opened(7, &[])]
    );
}

#[test]
fn no_more_than_the_limit_of_streams_are_open() {
    let (mut spdy, mut client) = (Spdy::default(), Client::new());
    for number in 0..MAX_STREAMS {
        let stream = u32::try_from(2 * number + 1).unwrap();
        assert_eq!(receive(&mut spdy, &client.syn(stream, 0, &[])).0.len(), 1);
    }
    let over = client.syn(1001, 0, &[]);
    let refused = control(3, 0, &[0, 0, 3, 0xe9, 0, 0, 0, 3]);
    assert_eq!(receive(&mut spdy, &over), (vec![], refused));
    receive(&mut spdy, &control(3, 0, &[0, 0, 0, 1, 0, 0, 0, 5]));
    assert_eq!(receive(&mut spdy, &client.syn(1003, 0, &[])).0.len(), 1);
}

#[test]
fn what_cannot_be_followed_ends_the_connection() {
    let check = |bytes: &[u8], expect: WireError| {
        let result = Spdy::default().receive(bytes, &mut Vec::new(), &mut Vec::new());
        assert_eq!(result, Err(expect), "{bytes:?}");
    };
    check(
        &[0x80, 2, 0, 6, 0, 0, 0, 4],
        WireError::Protocol("not version 3"),
    );
    check(
        &[0x80, 3, 0, 4, 0, 1, 0, 0],
        WireError::Limit("a control frame's length"),
    );
    check(&data(0, 0, b"x"), WireError::Protocol("stream 0"));
    check(
        &control(1, 0, &[0, 0, 0, 1]),
        WireError::Protocol("a short SYN_STREAM"),
    );
    let block = [0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4];
    check(
        &control(1, 0, &block),
        WireError::Protocol("a header block that cannot be inflated"),
    );
}

#[test]
fn a_small_block_that_inflates_to_much_is_refused() {
    let long = "a".repeat(1 << 20);
    let mut plain = vec![0, 0, 0, 1, 0, 0, 0, 1, b'n'];
    plain.extend_from_slice(&u32::try_from(long.len()).unwrap().to_be_bytes());
    plain.extend_from_slice(long.as_bytes());
    let mut block = Vec::with_capacity(1 << 16);
    Client::new()
        .zlib
        .compress_vec(&plain, &mut block, FlushCompress::Sync)
        .unwrap();
    let syn = control(
        1,
        0,
        &[&[0, 0, 0, 1, 0, 0, 0, 0, 0, 0], &block[..]].concat(),
    );
    let result = Spdy::default().receive(&syn, &mut Vec::new(), &mut Vec::new());
    assert_eq!(result, Err(WireError::Limit("a header block's length")));
}

#[test]
fn after_its_goodbye_a_client_opens_nothing() {
    let (mut spdy, mut client) = (Spdy::default(), Client::new());
    receive(&mut spdy, &control(7, 0, &[0; 8]));
    assert_eq!(receive(&mut spdy, &client.syn(1, 0, &[])), (vec![], vec![]));
}

/// Joins neighbouring pieces of data, which depend on how bytes were cut.
fn joined(events: Vec<Event>) -> Vec<Event> {
    let mut result: Vec<Event> = Vec::new();
    for event in events {
        match (result.last_mut(), event) {
            (
                Some(Event::Data { stream, bytes }),
                Event::Data {
                    stream: next,
                    bytes: more,
                },
            ) if *stream == next => {
                *bytes = [&bytes[..], &more[..]].concat().into();
            }
            (_, event) => result.push(event),
        }
    }
    result
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes: Vec<u8>, cut in 1_usize..64) {
        let mut spdy = Spdy::default();
        for part in bytes.chunks(cut) {
            if spdy.receive(part, &mut Vec::new(), &mut Vec::new()).is_err() {
                break;
            }
        }
    }

    #[test]
    fn random_frames_never_panic(frames: Vec<(bool, u8, u8, u8, Vec<u8>)>) {
        let mut spdy = Spdy::default();
        for (is_data, kind, flags, id, payload) in frames {
            let frame = if is_data {
                data(id, flags, &payload)
            } else {
                control(kind % 10, flags, &[&[0, 0, 0, id], &payload[..]].concat())
            };
            if spdy.receive(&frame, &mut Vec::new(), &mut Vec::new()).is_err() {
                break;
            }
        }
    }

    #[test]
    fn how_bytes_are_cut_changes_nothing(
        payloads: Vec<(bool, Vec<u8>)>,
        cut in 1_usize..50,
    ) {
        let mut client = Client::new();
        let mut bytes = [client.syn(1, 0, &[("a", "b")]), client.syn(3, 0, &[])].concat();
        for (first, payload) in &payloads {
            bytes.extend(data(if *first { 1 } else { 3 }, 0, payload));
        }
        bytes.extend(data(1, 1, b""));
        let whole = receive(&mut Spdy::default(), &bytes);
        let mut spdy = Spdy::default();
        let parts = bytes.chunks(cut).flat_map(|part| receive(&mut spdy, part).0);
        prop_assert_eq!(joined(parts.collect()), joined(whole.0));
    }
}
