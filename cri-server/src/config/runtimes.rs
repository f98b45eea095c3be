//! The tables `[runtimes.<name>]`: the programs that make containers.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::values::Values;
use super::{Error, OWN_RUNTIME, refuse};

/// The handlers that are named, and the daemon's own runtime where it lies beside the daemon.
pub(super) fn settle(
    values: &Values,
    default: &str,
    programs: &Path,
) -> Result<BTreeMap<String, engine::Runtime>, Error> {
    check_complete(values)?;
    let mut runtimes = BTreeMap::new();
    for (name, path) in values.by_name("runtimes.*.path") {
        check_handler(&name)?;
        let path = program(&format!("runtimes.{name}.path"), Path::new(&path))?;
        runtimes.insert(name, engine::Runtime { path });
    }
    if !runtimes.contains_key(OWN_RUNTIME) {
        match program("the runtime", &programs.join(OWN_RUNTIME)) {
            Ok(path) => drop(runtimes.insert(OWN_RUNTIME.into(), engine::Runtime { path })),
            Err(error) if default == OWN_RUNTIME => return Err(error),
            Err(_) => {}
        }
    }
    if runtimes.contains_key(default) {
        return Ok(runtimes);
    }
    let known: Vec<&str> = runtimes.keys().map(String::as_str).collect();
    Err(refuse(
        "default_runtime",
        format!("{default:?} is none of {}", known.join(", ")),
    ))
}

/// A handler without a program is a mistake; its table may be spread over several files.
fn check_complete(values: &Values) -> Result<(), Error> {
    let missing = |(table, _): &(&String, _)| !values.is_set(&format!("{table}.path"));
    match values.named.iter().find(missing) {
        None => Ok(()),
        Some((table, origin)) => Err(refuse(
            format!("{table}.path"),
            format!("it is missing in the table at {origin}"),
        )),
    }
}

/// A handler's name is part of paths and of Kubernetes' objects.
fn check_handler(name: &str) -> Result<(), Error> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if name.is_empty() || name.starts_with('.') || !name.bytes().all(fits) {
        return Err(refuse(
            format!("runtimes.{name:?}"),
            "a handler's name has letters, digits, '-', '_' and '.' only",
        ));
    }
    Ok(())
}

/// The path, if a program lies there.
pub(super) fn program(what: &str, path: &Path) -> Result<PathBuf, Error> {
    let metadata = std::fs::metadata(path)
        .map_err(|error| refuse(what, format!("looking at {path:?}: {error}")))?;
    if !metadata.is_file() || metadata.permissions().mode() & 0o111 == 0 {
        return Err(refuse(what, format!("{path:?} is not a program")));
    }
    Ok(path.into())
}
