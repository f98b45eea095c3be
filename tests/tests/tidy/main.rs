//! The house rules that a program can check: who may depend on whom, and what no file may hold.
//!
//! The table of `ARCHITECTURE.md` stands here a second time, as data, so that a change of it is a
//! change that somebody reads.

#![expect(clippy::unwrap_used, reason = "what the checks cannot read fails them")]

mod dependencies;
mod files;
