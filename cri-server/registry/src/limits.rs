//! What bounds the talk with registries, in one place.

use std::time::Duration;

/// Times and counts that bound the talk with registries. Fields, so that tests need not wait.
#[derive(Clone, Debug)]
pub struct Limits {
    /// How long a host may take to begin its answer, or to send more of it.
    pub silence: Duration,
    /// How often one question is put to one host.
    pub attempts: u32,
    /// Pause before the second attempt; doubled for each one after.
    pub pause: Duration,
    /// Longest pause that a host may ask for.
    pub longest_pause: Duration,
    /// What a host has to send while it is waited for, in bytes a second; one that drips is left.
    pub slowest: u64,
    /// Over how much time of waiting that is looked at.
    pub slow_for: Duration,
    /// How long a manifest or a configuration may take altogether.
    pub whole: Duration,
    /// Since when a registry must have been out of reach to be given up: it may be starting.
    pub patience: Duration,
    /// How long a host that could not be reached is asked after all others.
    pub away_for: Duration,
    /// How large a layer has to be for several connections to carry it, in bytes.
    pub wide_from: u64,
    /// What each of them carries at a time, in bytes.
    pub part: u64,
    /// Over how much time it is looked at whether a layer could be unpacked faster than it comes.
    pub starving: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            silence: Duration::from_secs(30),
            attempts: 5,
            pause: Duration::from_millis(200),
            longest_pause: Duration::from_secs(60),
            slowest: 1024,
            slow_for: Duration::from_secs(30),
            whole: Duration::from_secs(120),
            patience: Duration::from_secs(5),
            away_for: Duration::from_secs(30),
            wide_from: 32 << 20,
            part: 4 << 20,
            starving: Duration::from_secs(1),
        }
    }
}
