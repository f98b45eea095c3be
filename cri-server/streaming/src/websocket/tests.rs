//! Messages as a client sends and reads them, without a socket.

use proptest::prelude::*;

use super::channels::{Channels, Encoding};
use super::tunnel::Tunnel;
use crate::wire::{Event, Wire, WireError};

/// A frame as a client sends it; `head` is the first byte: final bit and kind.
fn frame(head: u8, payload: &[u8]) -> Vec<u8> {
    let key = [1, 2, 3, 4];
    let mut bytes = vec![head];
    match u16::try_from(payload.len()).unwrap() {
        short @ 0..=125 => bytes.push(0x80 | u8::try_from(short).unwrap()),
        long => {
            bytes.push(0x80 | 126);
            bytes.extend(long.to_be_bytes());
        }
    }
    bytes.extend(key);
    bytes.extend(
        payload
            .iter()
            .zip(key.iter().cycle())
            .map(|(byte, key)| byte ^ key),
    );
    bytes
}

fn receive(wire: &mut dyn Wire, bytes: &[u8]) -> Result<(Vec<Event>, Vec<u8>), WireError> {
    let (mut out, mut events) = (Vec::new(), Vec::new());
    wire.receive(bytes, &mut out, &mut events)?;
    Ok((events, out))
}

fn data(stream: u32, bytes: &'static [u8]) -> Event {
    Event::Data {
        stream,
        bytes: bytes.into(),
    }
}

#[test]
fn the_first_byte_names_the_stream() {
    let check = |encoding, close_signal, frames: &[Vec<u8>], expect: &[Event]| {
        let mut channels = Channels::new(encoding, close_signal);
        let (events, out) = receive(&mut channels, &frames.concat()).unwrap();
        assert_eq!((&events[..], &out[..]), (expect, &[][..]));
    };
    let text = [data(0, b"foo\n")];
    check(Encoding::Raw, false, &[frame(0x82, b"\0foo\n")], &text);
    check(Encoding::Raw, false, &[frame(0x81, b"\0foo\n")], &text);
    check(Encoding::Base64, false, &[frame(0x81, b"0Zm9vCg==")], &text);
    check(
        Encoding::Base64,
        false,
        &[frame(0x01, b"0Zm9"), frame(0x80, b"vCg==")],
        &text,
    );
    check(
        Encoding::Base64,
        false,
        &[frame(0x81, b"0"), frame(0x81, b"")],
        &[],
    );
    check(
        Encoding::Raw,
        true,
        &[frame(0x82, b"\xff\0")],
        &[Event::Finished(0)],
    );
    check(
        Encoding::Raw,
        false,
        &[frame(0x82, b"\xff\0")],
        &[data(255, b"\0")],
    );
    let parts = [
        frame(0x02, b"\x04a"),
        frame(0x00, b"b"),
        frame(0x80, b"c"),
        frame(0x82, b"\0d"),
    ];
    let expect = [data(4, b"a"), data(4, b"b"), data(4, b"c"), data(0, b"d")];
    check(Encoding::Raw, true, &parts, &expect);
    check(
        Encoding::Raw,
        true,
        &[frame(0x88, b"\x03\xe8")],
        &[Event::Left],
    );
}

#[test]
fn pings_are_answered_even_within_a_message() {
    let frames = [frame(0x02, b"\0a"), frame(0x89, b"hi"), frame(0x80, b"b")].concat();
    let mut channels = Channels::new(Encoding::Raw, true);
    let expect = (vec![data(0, b"a"), data(0, b"b")], b"\x8a\x02hi".to_vec());
    assert_eq!(receive(&mut channels, &frames), Ok(expect));
}

#[test]
fn what_breaks_the_protocol_is_named() {
    let check = |bytes: &[u8], expect| {
        let mut channels = Channels::new(Encoding::Raw, true);
        assert_eq!(
            receive(&mut channels, bytes),
            Err(WireError::Protocol(expect))
        );
    };
    check(b"\x82\x01a", "a frame without mask");
    check(&frame(0xc2, b"a"), "an extension that was not agreed on");
    check(&frame(0x83, b"a"), "an unknown kind of frame");
    check(&frame(0x80, b"a"), "a fragment out of order");
    check(
        &[frame(0x02, b"a"), frame(0x02, b"a")].concat(),
        "a fragment out of order",
    );
    check(
        &frame(0x89, &[0; 126]),
        "a long or fragmented control frame",
    );
    check(&frame(0x09, b"a"), "a long or fragmented control frame");
    check(
        &frame(0x82, b"\xff\0\0"),
        "a close signal that is not two bytes",
    );
    let mut channels = Channels::new(Encoding::Base64, false);
    let error = receive(&mut channels, &frame(0x81, b"0???"));
    assert_eq!(
        error,
        Err(WireError::Protocol("a message that is not base64"))
    );
}

#[test]
fn answers_carry_their_channel() {
    let check = |encoding, expect: &[u8]| {
        let mut channels = Channels::new(encoding, true);
        let mut out = Vec::new();
        channels.data(1, b"foo\n", &mut out);
        channels.finish(1, &mut out);
        channels.data(1, b"late", &mut out);
        channels.goodbye(true, &mut out);
        channels.goodbye(true, &mut out);
        channels.data(2, b"later", &mut out);
        assert_eq!(out, expect);
    };
    check(Encoding::Raw, b"\x82\x05\x01foo\n\x88\x02\x03\xe8");
    check(Encoding::Base64, b"\x81\x091Zm9vCg==\x88\x02\x03\xe8");
}

#[test]
fn a_tunnel_carries_spdy_however_it_is_cut() {
    let ping = [0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1];
    let frames = [
        frame(0x82, &ping[..5]),
        frame(0x02, &ping[5..7]),
        frame(0x80, &ping[7..]),
    ];
    let expect = [&[0x82, 12], &ping[..]].concat();
    assert_eq!(
        receive(&mut Tunnel::default(), &frames.concat()),
        Ok((vec![], expect))
    );
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes: Vec<u8>, cut in 1_usize..64, kind in 0..3) {
        let mut wire: Box<dyn Wire> = match kind {
            0 => Box::new(Channels::new(Encoding::Raw, true)),
            1 => Box::new(Channels::new(Encoding::Base64, false)),
            _ => Box::new(Tunnel::default()),
        };
        for part in bytes.chunks(cut) {
            if receive(wire.as_mut(), part).is_err() {
                break;
            }
        }
    }

    #[test]
    fn random_frames_never_panic(frames: Vec<(u8, Vec<u8>)>, kind in 0..3, cut in 1_usize..64) {
        let mut wire: Box<dyn Wire> = match kind {
            0 => Box::new(Channels::new(Encoding::Raw, true)),
            1 => Box::new(Channels::new(Encoding::Base64, false)),
            _ => Box::new(Tunnel::default()),
        };
        let bytes: Vec<u8> =
            frames.iter().flat_map(|(head, payload)| frame(head & 0x8f, payload)).collect();
        for part in bytes.chunks(cut) {
            if receive(wire.as_mut(), part).is_err() {
                break;
            }
        }
    }
}
