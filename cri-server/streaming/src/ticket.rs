//! Tickets: what a client shows to get its session. Each is used once, and not for long.
//!
//! A ticket is the only thing that guards a session, so it cannot be guessed: 128 random bits.
//! It is looked up by a keyed hash, which tells nothing by its timing.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustix::rand::{GetRandomFlags, getrandom};
use tokio::time::Instant;

use crate::session::Session;

/// How long a ticket may wait for its client.
pub const TICKET_LIFE: Duration = Duration::from_secs(60);
/// Most tickets that wait at once.
pub const MAX_TICKETS: usize = 1000;

/// As many tickets wait as may; `ResourceExhausted` in CRI.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
#[error("maximum number of in-flight requests exceeded: {MAX_TICKETS} sessions wait for clients")]
pub struct TooMany;

/// All tickets that wait. Time comes in as an argument.
#[derive(Debug, Default)]
pub(crate) struct Tickets {
    waiting: HashMap<String, Session>,
    /// In the order in which they end, which is the order in which they were issued. Those of
    /// used tickets stay until they come to the front.
    ends: VecDeque<(Instant, String)>,
}

impl Tickets {
    /// A new ticket for `session`.
    pub(crate) fn issue(&mut self, session: Session, now: Instant) -> Result<String, TooMany> {
        self.expire(now);
        if self.waiting.len() >= MAX_TICKETS {
            return Err(TooMany);
        }
        let token = token();
        self.waiting.insert(token.clone(), session);
        self.ends.push_back((now + TICKET_LIFE, token.clone()));
        Ok(token)
    }

    /// The session that waits for `token`, which still waits.
    pub(crate) fn peek(&mut self, token: &str, now: Instant) -> Option<&Session> {
        self.expire(now);
        self.waiting.get(token)
    }

    /// The session that waits for `token`, which is used up.
    pub(crate) fn redeem(&mut self, token: &str, now: Instant) -> Option<Session> {
        self.expire(now);
        self.waiting.remove(token)
    }

    /// Drops the sessions whose time is over.
    pub(crate) fn expire(&mut self, now: Instant) {
        while let Some((end, token)) = self.ends.front() {
            if *end > now && self.waiting.contains_key(token) {
                break;
            }
            self.waiting.remove(token);
            self.ends.pop_front();
        }
    }

    /// When the next one ends.
    pub(crate) fn next_end(&self) -> Option<Instant> {
        self.ends.front().map(|(end, _)| *end)
    }
}

fn token() -> String {
    let mut bytes = [0; 16];
    let filled = getrandom(&mut bytes, GetRandomFlags::empty());
    assert_eq!(
        filled,
        Ok(bytes.len()),
        "the kernel gives up to 256 bytes at once"
    );
    URL_SAFE_NO_PAD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::{Command, Outcome, Streams, Wanted};

    fn session() -> Session {
        let target = Box::new(|_: Streams| async { Outcome::Exit(0) });
        Session::Exec(Command {
            wanted: Wanted::default(),
            target,
        })
    }

    #[test]
    fn is_used_once() {
        let (mut tickets, now) = (Tickets::default(), Instant::now());
        let (one, two) = (
            tickets.issue(session(), now).unwrap(),
            tickets.issue(session(), now).unwrap(),
        );
        assert_ne!(one, two);
        assert_eq!(one.len(), 22);
        assert!(tickets.peek(&one, now).is_some());
        assert!(tickets.redeem(&one, now).is_some());
        assert!(tickets.redeem(&one, now).is_none());
        assert!(tickets.peek(&one, now).is_none());
        assert!(tickets.redeem("", now).is_none());
        assert!(tickets.redeem(&two, now).is_some());
    }

    #[test]
    fn ends_after_its_life() {
        let (mut tickets, now) = (Tickets::default(), Instant::now());
        let token = tickets.issue(session(), now).unwrap();
        assert_eq!(tickets.next_end(), Some(now + TICKET_LIFE));
        assert!(
            tickets
                .peek(&token, now + TICKET_LIFE - Duration::from_millis(1))
                .is_some()
        );
        assert!(tickets.redeem(&token, now + TICKET_LIFE).is_none());
        assert_eq!(tickets.next_end(), None);
    }

    #[test]
    fn are_bounded() {
        let (mut tickets, now) = (Tickets::default(), Instant::now());
        let first = tickets.issue(session(), now).unwrap();
        for _ in 1..MAX_TICKETS {
            tickets.issue(session(), now).unwrap();
        }
        assert_eq!(tickets.issue(session(), now), Err(TooMany));
        assert!(tickets.redeem(&first, now).is_some());
        assert!(tickets.issue(session(), now).is_ok());
        assert!(tickets.issue(session(), now + TICKET_LIFE).is_ok());
    }
}
