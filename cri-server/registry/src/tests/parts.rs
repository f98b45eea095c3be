//! Large layers over several connections.

use std::time::Duration;

use registry_double::{Pack, Reply, Request, Server, Shelf, Tar, TestImage};

use super::{Client, limits, temp};
use crate::{Digest, Error, Limits};

/// Length of the large layer's file, in bytes, and of the parts that it is fetched in.
const FILE: usize = 400 << 10;
const PART: u64 = 32 << 10;

/// Bytes without a pattern that a compressor or a reader could profit from.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..length).map(|_| next()).collect()
}

fn image() -> TestImage {
    let large = Tar::new().file("large", &noise(FILE)).end();
    let small = Tar::new().file("small", b"small").end();
    TestImage::new(&[(large, Pack::Gzip), (small, Pack::Gzip)])
}

fn wide() -> Limits {
    Limits {
        wide_from: 128 << 10,
        part: PART,
        starving: Duration::from_millis(40),
        ..limits()
    }
}

/// Pulls from a registry each of whose connections is slow; answers with the result, the ranges
/// of the large layer that were asked for, and how many answers there were at once.
async fn pull(
    change: impl Fn(&Request, Reply) -> Reply + Send + Sync + 'static,
) -> (Result<String, Error>, Vec<String>, usize) {
    let (temp, image) = (temp(), image());
    let shelf = Shelf::default().image("a", "1", &image);
    let large = Digest::of(&image.layers[0]);
    let hex = large.hex().to_owned();
    let server = Server::start(move |request| {
        let reply = shelf.serve(request);
        if !request.path().ends_with(&hex) {
            return reply;
        }
        let slow = Reply {
            drip: Some(Duration::from_millis(10)),
            gulp: 2 << 10,
            ..reply
        };
        change(request, slow)
    });
    let client = Client::with(temp.path(), wide());
    let pulled = client.pull(&format!("{}/a:1", server.name()), None).await;
    let requests = server.requests();
    let ranges = requests.iter().filter(|r| r.path().ends_with(large.hex()));
    let ranges = ranges.map(|r| r.header("range").to_owned()).collect();
    (pulled, ranges, server.most_at_once())
}

/// First and last byte of a header.
fn bounds(range: &str) -> (u64, u64) {
    let (first, last) = range
        .strip_prefix("bytes=")
        .unwrap()
        .split_once('-')
        .unwrap();
    (first.parse().unwrap(), last.parse().unwrap())
}

#[tokio::test]
async fn what_one_connection_brings_slowly_is_fetched_in_parts() {
    let (pulled, ranges, at_once) = pull(|_, reply| reply).await;
    assert_eq!(pulled.unwrap(), image().id());
    assert_eq!(ranges[0], "", "the first connection asks for all");
    let mut parts: Vec<_> = ranges[1..].iter().map(|range| bounds(range)).collect();
    parts.sort_unstable();
    assert!(parts.len() >= 4, "{ranges:?}");
    assert!(parts.iter().all(|(first, last)| last - first < PART));
    // Nothing is fetched twice, and nothing is left out.
    for pair in parts.windows(2) {
        assert_eq!(pair[0].1 + 1, pair[1].0, "{ranges:?}");
    }
    let length = image().layers[0].len() as u64;
    assert_eq!(parts.last().unwrap().1, length - 1);
    // Those that have ended may be counted for a moment, as may that of the small layer.
    assert!((2..=8).contains(&at_once), "{at_once}");
}

#[tokio::test]
async fn a_registry_that_sends_no_parts_is_not_asked_for_them() {
    let (pulled, ranges, _) = pull(|_, mut reply| {
        reply.headers.retain(|(name, _)| name != "accept-ranges");
        reply
    })
    .await;
    assert_eq!(pulled.unwrap(), image().id());
    assert_eq!(ranges, [""]);
}

#[tokio::test]
async fn a_registry_that_only_says_so_sends_all_again() {
    let image = image();
    let layer = image.layers[0].clone();
    let (pulled, ranges, _) = pull(move |_, reply| Reply {
        status: 200,
        body: layer.clone(),
        headers: vec![("accept-ranges".into(), "bytes".into())],
        gulp: 8 << 10,
        ..reply
    })
    .await;
    assert_eq!(pulled.unwrap(), image.id());
    assert!(
        ranges
            .iter()
            .any(|range| range.contains(|c: char| c.is_ascii_digit()))
    );
    // Found out once, it is not tried again.
    assert!(ranges.len() <= 4, "{ranges:?}");
}

#[tokio::test]
async fn a_part_that_breaks_off_is_taken_up_where_it_broke() {
    let (pulled, ranges, _) = pull(move |request, reply| {
        // What is asked for after that is shorter.
        let is_whole = reply.body.len() as u64 == PART && !request.header("range").is_empty();
        Reply {
            cut: is_whole.then_some(reply.body.len() / 2),
            drip: reply.drip.filter(|_| !is_whole),
            ..reply
        }
    })
    .await;
    assert_eq!(pulled.unwrap(), image().id());
    let lengths = ranges[1..].iter().map(|range| bounds(range));
    let halves = lengths.filter(|(first, last)| last - first + 1 == PART / 2);
    assert!(halves.count() >= 2, "{ranges:?}");
}

#[tokio::test]
async fn parts_that_never_come_end_the_pull() {
    let (pulled, _, _) = pull(|request, reply| match request.header("range") {
        "" => reply,
        _ => Reply {
            cut: Some(0),
            drip: None,
            ..reply
        },
    })
    .await;
    let error = pulled.unwrap_err();
    assert!(
        matches!(&error, Error::Unavailable(text) if text.contains("bytes received")),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_part_of_something_else_is_refused() {
    for (range, named) in [
        ("bytes 300000-300009/999", "has not"),
        ("bytes 399999-400000/*", "begins after"),
        ("nonsense", "does not say which"),
    ] {
        let (pulled, _, _) = pull(move |request, mut reply| {
            if !request.header("range").is_empty() {
                reply.headers.retain(|(name, _)| name != "content-range");
                reply = reply.with("content-range", range);
            }
            reply
        })
        .await;
        let error = pulled.unwrap_err();
        assert!(
            matches!(&error, Error::Corrupt(text) if text.contains(named)),
            "{error:?}"
        );
    }
}
