//! CRI messages turned into the pod's types: parsed once, here, into values that cannot be wrong.
//!
//! What a message alone can show to be wrong is refused here with the field named, as the client
//! spells it. What needs the node or the pod to decide (does the profile exist, is the namespace
//! there) is the plan's business.

mod container;
mod sandbox;
mod security;

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::time::Duration;

use cri_api as cri;
use pod::PlanError as Refused;
use pod::sandbox::{IdRange, NamespaceMode, UserNamespace};

pub(super) use container::{container, resources};
pub(super) use sandbox::sandbox;

/// Largest label or annotation, key and value together, bytes: what Kubernetes allows all
/// annotations of an object to have.
const MAX_PAIR: usize = 256 * 1024;
/// Longest time that is waited for anything a client gives in seconds. More is asked for (a pod
/// whose grace period means "for ever" has 2^63 - 1 seconds), but no clock can add it.
const MAX_WAIT: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Longest path, bytes (`PATH_MAX` without its NUL byte; path_resolution(7)).
const MAX_PATH: usize = 4095;
/// Longest part of one, bytes (`NAME_MAX`).
const MAX_NAME: usize = 255;

/// What can never be right.
fn invalid(field: &str, reason: impl Into<String>) -> Refused {
    Refused::Invalid {
        field: field.into(),
        reason: reason.into(),
    }
}

/// What is right, but is not done here.
fn unsupported(field: &str, reason: impl Into<String>) -> Refused {
    Refused::Unsupported {
        field: field.into(),
        reason: reason.into(),
    }
}

/// A field of another system.
pub(super) fn not_windows(field: &str) -> Refused {
    unsupported(field, "this is a Linux node")
}

/// A message that must be there.
fn required<T>(field: &str, value: Option<T>) -> Result<T, Refused> {
    value.ok_or_else(|| invalid(field, "is missing"))
}

/// A text that must not be empty.
fn filled(field: &str, text: String) -> Result<String, Refused> {
    if text.is_empty() {
        Err(invalid(field, "is empty"))
    } else {
        plain(field, text)
    }
}

/// A text without NUL, which no path, name or argument may have (execve(2)).
fn plain(field: &str, text: String) -> Result<String, Refused> {
    if text.contains('\0') {
        Err(invalid(field, "holds a NUL byte"))
    } else {
        Ok(text)
    }
}

/// Texts without NUL.
fn plains(field: &str, texts: Vec<String>) -> Result<Vec<String>, Refused> {
    texts
        .into_iter()
        .enumerate()
        .map(|(index, text)| plain(&format!("{field}[{index}]"), text))
        .collect()
}

/// A path that the kernel can be given.
fn path(field: &str, path: String) -> Result<String, Refused> {
    if path.len() > MAX_PATH {
        let reason = format!("has {} bytes, a path has at most {MAX_PATH}", path.len());
        return Err(invalid(field, reason));
    }
    if let Some(part) = path.split('/').find(|part| part.len() > MAX_NAME) {
        let reason = format!("{part:?} is longer than {MAX_NAME} bytes");
        return Err(invalid(field, reason));
    }
    plain(field, path)
}

/// An absolute path.
fn absolute(field: &str, text: String) -> Result<String, Refused> {
    if text.starts_with('/') {
        return path(field, text);
    }
    let path = text;
    Err(invalid(field, format!("{path:?} is not an absolute path")))
}

/// An absolute path, or nothing.
fn absolute_or_empty(field: &str, path: String) -> Result<String, Refused> {
    if path.is_empty() {
        Ok(path)
    } else {
        absolute(field, path)
    }
}

/// Labels or annotations.
fn pairs(field: &str, pairs: HashMap<String, String>) -> Result<BTreeMap<String, String>, Refused> {
    for (key, value) in &pairs {
        let size = key.len() + value.len();
        if size > MAX_PAIR {
            let key: String = key.chars().take(64).collect();
            let reason = format!("{key:?} has {size} bytes, at most {MAX_PAIR} are taken");
            return Err(invalid(field, reason));
        }
    }
    Ok(pairs.into_iter().collect())
}

/// Turns each item of a list, giving it its own field name.
fn each<A, B>(
    field: &str,
    items: Vec<A>,
    turn: impl Fn(&str, A) -> Result<B, Refused>,
) -> Result<Vec<B>, Refused> {
    items
        .into_iter()
        .enumerate()
        .map(|(index, item)| turn(&format!("{field}[{index}]"), item))
        .collect()
}

/// A value of an enumeration.
fn choice<T: TryFrom<i32>>(field: &str, value: i32) -> Result<T, Refused> {
    T::try_from(value).map_err(|_unknown| invalid(field, format!("{value} is not known")))
}

/// Refuses a value that an enumeration does not have: it would be taken for its first.
///
/// # Errors
///
/// Names the field.
pub(super) fn known<T: TryFrom<i32>>(field: &str, value: i32) -> Result<(), Refused> {
    choice::<T>(field, value).map(drop)
}

/// A number in a range.
fn within(field: &str, value: i64, range: std::ops::RangeInclusive<i64>) -> Result<i64, Refused> {
    if range.contains(&value) {
        return Ok(value);
    }
    let (low, high) = range.into_inner();
    Err(invalid(
        field,
        format!("{value} is not within {low} to {high}"),
    ))
}

/// A user or group id. The largest number means "none" to the kernel (chown(2)).
fn account(field: &str, id: i64) -> Result<i64, Refused> {
    within(field, id, 0..=i64::from(u32::MAX) - 1)
}

/// Seconds that a client gives.
///
/// # Errors
///
/// Negative ones are refused.
pub(super) fn seconds(field: &str, value: i64) -> Result<Duration, Refused> {
    let value = u64::try_from(value)
        .map_err(|_negative| invalid(field, format!("{value} seconds are negative")))?;
    Ok(Duration::from_secs(value).min(MAX_WAIT))
}

/// The command of an exec.
///
/// # Errors
///
/// An empty one, or one that holds a NUL byte, is refused.
pub(super) fn command(field: &str, command: Vec<String>) -> Result<Vec<String>, Refused> {
    if command.is_empty() {
        return Err(invalid(field, "is empty"));
    }
    plains(field, command)
}

/// The name in an image specification.
///
/// # Errors
///
/// A missing specification or an empty name is refused.
pub(super) fn image_name(field: &str, image: Option<cri::ImageSpec>) -> Result<String, Refused> {
    let image = required(field, image)?;
    filled(&format!("{field}.image"), image.image)
}

/// Networks with commas between, `10.1.0.0/16,fd00::/64`, or none.
///
/// # Errors
///
/// What is no network is refused.
pub(super) fn networks(field: &str, text: String) -> Result<String, Refused> {
    let network = |text: &str| {
        let (address, length) = text.split_once('/')?;
        let most = match address.parse().ok()? {
            IpAddr::V4(_) => 32,
            IpAddr::V6(_) => 128,
        };
        (length.parse::<u8>().ok()? <= most).then_some(())
    };
    match text.is_empty() || text.split(',').all(|one| network(one).is_some()) {
        true => Ok(text),
        false => Err(invalid(
            field,
            format!("{text:?} is not a list of networks"),
        )),
    }
}

/// Credentials for a registry.
pub(super) fn credentials(auth: cri::AuthConfig) -> image::Credentials {
    image::Credentials {
        username: auth.username,
        password: auth.password,
        auth: auth.auth,
        server_address: auth.server_address,
        identity_token: auth.identity_token,
        registry_token: auth.registry_token,
    }
}

/// Whether a namespace is the pod's or the node's.
fn namespace(field: &str, mode: i32) -> Result<NamespaceMode, Refused> {
    match choice::<cri::NamespaceMode>(field, mode)? {
        cri::NamespaceMode::Pod => Ok(NamespaceMode::Pod),
        cri::NamespaceMode::Node => Ok(NamespaceMode::Node),
        other => Err(invalid(
            field,
            format!("{} is not possible here", other.as_str_name()),
        )),
    }
}

/// The user namespace that is asked for; `None` is the node's.
fn user_namespace(
    field: &str,
    user: Option<&cri::UserNamespace>,
) -> Result<Option<UserNamespace>, Refused> {
    let Some(user) = user else { return Ok(None) };
    let field = format!("{field}.userns_options");
    match namespace(&format!("{field}.mode"), user.mode)? {
        NamespaceMode::Node if user.uids.is_empty() && user.gids.is_empty() => Ok(None),
        NamespaceMode::Node => Err(invalid(&field, "the node's user namespace has no mappings")),
        NamespaceMode::Pod => Ok(Some(UserNamespace {
            uids: id_range(&format!("{field}.uids"), &user.uids)?,
            gids: id_range(&format!("{field}.gids"), &user.gids)?,
        })),
    }
}

/// The one run of ids of a pod's user namespace, which begins with 0.
fn id_range(field: &str, mappings: &[cri::IdMapping]) -> Result<IdRange, Refused> {
    let [mapping] = mappings else {
        let reason = format!("has {} mappings; exactly one is possible", mappings.len());
        return Err(invalid(field, reason));
    };
    if mapping.container_id != 0 {
        return Err(invalid(field, "does not map id 0 of the container"));
    }
    check_mapping(field, *mapping)?;
    Ok(IdRange {
        host: mapping.host_id,
        length: mapping.length,
    })
}

/// Refuses what holds no id, or one that does not exist: the largest number means "none".
fn check_mapping(field: &str, mapping: cri::IdMapping) -> Result<(), Refused> {
    if mapping.length == 0 {
        return Err(invalid(field, "maps no id"));
    }
    let ends = |first: u32| first.checked_add(mapping.length).is_some();
    match ends(mapping.host_id) && ends(mapping.container_id) {
        true => Ok(()),
        false => Err(invalid(
            field,
            format!("maps ids that do not exist: the last is {}", u32::MAX - 1),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_have_a_floor_and_a_ceiling() {
        assert_eq!(seconds("timeout", 3).unwrap(), Duration::from_secs(3));
        assert_eq!(seconds("timeout", i64::MAX).unwrap(), MAX_WAIT);
        let error = seconds("timeout", -1).unwrap_err();
        assert_eq!(error.to_string(), "timeout: -1 seconds are negative");
    }

    #[test]
    fn commands() {
        assert_eq!(
            command("cmd", vec![]).unwrap_err().to_string(),
            "cmd: is empty"
        );
        let error = command("cmd", vec!["a".into(), "b\0".into()]).unwrap_err();
        assert_eq!(error.to_string(), "cmd[1]: holds a NUL byte");
    }

    #[test]
    fn lists_of_networks() {
        for right in ["", "10.1.0.0/16", "10.1.0.0/16,fd00::/64"] {
            assert!(networks("f", right.into()).is_ok(), "{right}");
        }
        for wrong in [
            "10.1.0.0",
            "10.1.0.0/33",
            "x/1",
            "fd00::/129",
            "10.0.0.0/8,",
        ] {
            assert!(networks("f", wrong.into()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn image_names() {
        let error = image_name("image", None).unwrap_err();
        assert_eq!(error.to_string(), "image: is missing");
        let error = image_name("image", Some(cri::ImageSpec::default())).unwrap_err();
        assert_eq!(error.to_string(), "image.image: is empty");
    }

    #[test]
    fn huge_labels_are_refused() {
        let huge = HashMap::from([("k".to_owned(), "v".repeat(1 << 20))]);
        let error = pairs("labels", huge).unwrap_err().to_string();
        assert_eq!(
            error,
            "labels: \"k\" has 1048577 bytes, at most 262144 are taken"
        );
    }
}
