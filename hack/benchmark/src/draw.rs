//! `bench-page DOCS`: draws the page and its chart anew of the figures that are kept.

use std::path::PathBuf;

use anyhow::Context as _;

fn main() -> anyhow::Result<()> {
    let docs = std::env::args_os()
        .nth(1)
        .context("usage: bench-page DOCS")?;
    bench::page::redraw(&PathBuf::from(docs))
}
