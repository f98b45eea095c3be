//! The decoders of clients' bytes, for fuzzing: whatever comes, they neither panic nor say
//! different things depending on how it was cut into packets. Nothing else uses this.

use crate::spdy::{MAX_STREAMS, Spdy};
use crate::websocket::channels::{Channels, Encoding};
use crate::websocket::tunnel::Tunnel;
use crate::wire::{Event, Wire, WireError};

/// SPDY/3.1 as a client sends it.
///
/// # Panics
///
/// If a rule of this module is broken: that is what the fuzzer looks for.
pub fn spdy(bytes: &[u8]) {
    let [whole, cut] = judge(Spdy::default, bytes);
    assert_eq!(whole, cut, "packets are not to be seen in answers");
}

/// Channels in a WebSocket; the first byte chooses among the encodings.
///
/// # Panics
///
/// As [`spdy`].
pub fn channels(bytes: &[u8]) {
    let Some((choice, bytes)) = bytes.split_first() else {
        return;
    };
    let encoding = match choice & 1 {
        0 => Encoding::Raw,
        _ => Encoding::Base64,
    };
    let [whole, cut] = judge(|| Channels::new(encoding, choice & 2 != 0), bytes);
    assert_eq!(whole, cut, "packets are not to be seen in answers");
}

/// SPDY in a WebSocket.
///
/// # Panics
///
/// As [`spdy`].
pub fn tunnel(bytes: &[u8]) {
    // How answers are cut into messages means nothing there: two may share one.
    let _answers = judge(Tunnel::default, bytes);
}

/// Gives the answers to bytes in one packet, and in as many as there are bytes.
fn judge<W: Wire>(new: impl Fn() -> W, bytes: &[u8]) -> [Vec<u8>; 2] {
    let (whole, answers, ended) = told(new(), [bytes].into_iter());
    let (cut, other_answers, other_end) = told(new(), bytes.chunks(1));
    assert_eq!(
        (whole, ended),
        (cut, other_end),
        "packets are not to be seen"
    );
    answered(new(), bytes);
    [answers, other_answers]
}

/// What a decoder makes of packets: events, its own answers, how it ended.
type Told = (Vec<Event>, Vec<u8>, Result<(), WireError>);

fn told<'a>(mut wire: impl Wire, packets: impl Iterator<Item = &'a [u8]>) -> Told {
    let (mut events, mut out) = (Vec::new(), Vec::new());
    let mut ended = Ok(());
    for packet in packets {
        ended = wire.receive(packet, &mut out, &mut events);
        if ended.is_err() {
            break;
        }
    }
    (joined(events), out, ended)
}

/// The events with data of one stream in one piece: how much comes at once says nothing.
fn joined(events: Vec<Event>) -> Vec<Event> {
    let mut all: Vec<Event> = Vec::new();
    for event in events {
        match (all.last_mut(), &event) {
            (
                Some(Event::Data { stream, bytes }),
                Event::Data {
                    stream: same,
                    bytes: more,
                },
            ) if stream == same => *bytes = [&bytes[..], more].concat().into(),
            _ => all.push(event),
        }
    }
    all
}

/// Does with every stream what a session may do, and checks that they stay within their limit.
fn answered(mut wire: impl Wire, bytes: &[u8]) {
    let (mut events, mut out) = (Vec::new(), Vec::new());
    let mut open = std::collections::BTreeSet::new();
    for packet in bytes.chunks(64) {
        let ended = wire.receive(packet, &mut out, &mut events);
        for event in events.drain(..) {
            match event {
                Event::Opened { stream, .. } => {
                    assert!(open.insert(stream), "{stream} was opened twice");
                    wire.accept(stream, &mut out);
                    wire.data(stream, b"hello", &mut out);
                }
                Event::Finished(stream) => wire.finish(stream, &mut out),
                Event::Reset(stream) => assert!(!wire.is_writable(stream), "{stream}"),
                Event::Data { stream, bytes } => {
                    assert!(!bytes.is_empty(), "{stream} got no bytes");
                    if bytes[0] == b'r' {
                        wire.reset(stream, false, &mut out);
                    }
                }
                Event::Left => {}
            }
        }
        open.retain(|stream| wire.is_writable(*stream));
        assert!(open.len() <= MAX_STREAMS, "{} streams", open.len());
        if ended.is_err() {
            wire.goodbye(false, &mut out);
            return;
        }
        out.clear();
    }
    wire.goodbye(true, &mut out);
}
