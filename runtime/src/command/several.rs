//! Commands on several containers at once (crun's `--regex`).

use regex_lite::Regex;

use super::list;
use crate::cli::Values;
use crate::context::Context;
use crate::failure::{Failure, Result};

/// Longest expression, bytes.
const MAX_PATTERN: usize = 1024;

/// Does `one` with container `pattern`, or with `--regex` with every one whose id it matches: all are
/// tried, and the first failure is that of the command.
pub(super) fn each(
    context: &Context,
    values: &Values,
    pattern: &str,
    mut one: impl FnMut(&str) -> Result<u8>,
) -> Result<u8> {
    if !values.is_set("regex") {
        return one(pattern);
    }
    if pattern.len() > MAX_PATTERN {
        return Err(Failure::new("the regular expression is too long"));
    }
    let pattern = Regex::new(pattern)
        .map_err(|error| Failure::new(format!("invalid regular expression: {error}")))?;
    let mut first = Ok(0);
    for container in list::all(context)? {
        let id = &container.state.id;
        if !pattern.is_match(id) {
            continue;
        }
        if let Err(failure) = one(id) {
            match &first {
                Ok(_) => first = Err(Failure::new(format!("{id}: {failure}"))),
                Err(_) => context.log.warning(&format!("{id}: {failure}")),
            }
        }
    }
    first
}
