//! Which plugin has set which field of which container: two may not set the same one.
//!
//! A plugin that first removes what another has set may set it anew; the field is then its own.

use nri_api::{CompoundFieldOwners, Field, FieldOwners, OwningPlugins, REMOVAL};

/// Two plugins want different things of one field.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("plugins {plugin:?} and {other:?} both set {field} of container {container}")]
pub struct Conflict {
    /// The one that came later.
    pub plugin: String,
    /// The one that has it.
    pub other: String,
    /// The field, with its entry where it has entries.
    pub field: String,
    /// The container.
    pub container: String,
}

/// Who owns what.
#[derive(Clone, Debug, Default)]
pub(crate) struct Owners(pub(crate) OwningPlugins);

impl Owners {
    /// Takes a field for a plugin.
    pub(crate) fn claim(&mut self, id: &str, field: Field, plugin: &str) -> Result<(), Conflict> {
        let place = &mut self.of(id).simple;
        let other = conflict(place.get(&(field as i32)), plugin);
        if let Some(other) = other {
            return Err(told(id, field, None, plugin, &other));
        }
        place.insert(field as i32, plugin.to_owned());
        Ok(())
    }

    /// Takes an entry of a field.
    pub(crate) fn claim_entry(
        &mut self,
        id: &str,
        field: Field,
        key: &str,
        plugin: &str,
    ) -> Result<(), Conflict> {
        let place = &mut self.entries(id, field).owners;
        if let Some(other) = conflict(place.get(key), plugin) {
            return Err(told(id, field, Some(key), plugin, &other));
        }
        place.insert(key.to_owned(), plugin.to_owned());
        Ok(())
    }

    /// Notes that a plugin has removed what a field held.
    pub(crate) fn clear(&mut self, id: &str, field: Field, plugin: &str) {
        let place = &mut self.of(id).simple;
        place.insert(field as i32, format!("{REMOVAL}{plugin}"));
    }

    /// Notes that a plugin has removed an entry.
    pub(crate) fn clear_entry(&mut self, id: &str, field: Field, key: &str, plugin: &str) {
        let place = &mut self.entries(id, field).owners;
        place.insert(key.to_owned(), format!("{REMOVAL}{plugin}"));
    }

    /// Adds a plugin to those of a field that many may add to.
    pub(crate) fn join(&mut self, id: &str, field: Field, plugin: &str) {
        let place = self.of(id).simple.entry(field as i32).or_default();
        if !place.is_empty() {
            place.push(',');
        }
        place.push_str(plugin);
    }

    fn of(&mut self, id: &str) -> &mut FieldOwners {
        self.0.owners.entry(id.to_owned()).or_default()
    }

    fn entries(&mut self, id: &str, field: Field) -> &mut CompoundFieldOwners {
        self.of(id).compound.entry(field as i32).or_default()
    }
}

/// Who else has it.
fn conflict(owner: Option<&String>, plugin: &str) -> Option<String> {
    let owner = owner?;
    match owner.strip_prefix(REMOVAL) {
        Some(remover) if remover == plugin => None,
        Some(remover) => Some(remover.to_owned()),
        None => Some(owner.clone()),
    }
}

fn told(id: &str, field: Field, key: Option<&str>, plugin: &str, other: &str) -> Conflict {
    let name = field.as_str_name();
    Conflict {
        plugin: plugin.to_owned(),
        other: other.to_owned(),
        field: key.map_or_else(|| name.to_owned(), |key| format!("{name} {key}")),
        container: id.to_owned(),
    }
}

/// Who has set a field of a container, in words; empty: nobody.
#[must_use]
pub fn owners_of(owners: &OwningPlugins, id: &str, field: Field) -> String {
    let Some(of) = owners.owners.get(id) else {
        return String::new();
    };
    if let Some(owner) = of.simple.get(&(field as i32)) {
        return owner.clone();
    }
    let entries = of.compound.get(&(field as i32));
    let mut names: Vec<&str> = entries
        .into_iter()
        .flat_map(|entries| entries.owners.values())
        .map(|owner| owner.trim_start_matches(REMOVAL))
        .collect();
    names.sort_unstable();
    names.dedup();
    names.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_has_one_owner() {
        let mut owners = Owners::default();
        owners.claim("c", Field::CpuShares, "10-a").unwrap();
        owners.claim("d", Field::CpuShares, "20-b").unwrap();
        let error = owners.claim("c", Field::CpuShares, "20-b").unwrap_err();
        assert_eq!(
            error.to_string(),
            "plugins \"20-b\" and \"10-a\" both set CPUShares of container c"
        );
        let field = Field::Annotations;
        owners.claim_entry("c", field, "x", "10-a").unwrap();
        owners.claim_entry("c", field, "y", "20-b").unwrap();
        let error = owners.claim_entry("c", field, "x", "20-b").unwrap_err();
        assert!(
            error.to_string().contains("both set Annotations x"),
            "{error}"
        );
        assert_eq!(owners_of(&owners.0, "c", field), "10-a,20-b");
    }

    #[test]
    fn who_removes_may_set_anew() {
        let mut owners = Owners::default();
        let field = Field::Mounts;
        owners.claim_entry("c", field, "/x", "10-a").unwrap();
        owners.clear_entry("c", field, "/x", "20-b");
        let error = owners.claim_entry("c", field, "/x", "30-c").unwrap_err();
        assert_eq!(error.other, "20-b");
        owners.claim_entry("c", field, "/x", "20-b").unwrap();
        owners.claim("c", Field::Args, "10-a").unwrap();
        owners.clear("c", Field::Args, "20-b");
        owners.claim("c", Field::Args, "20-b").unwrap();
    }

    #[test]
    fn hooks_are_everybodys() {
        let mut owners = Owners::default();
        owners.join("c", Field::OciHooks, "10-a");
        owners.join("c", Field::OciHooks, "20-b");
        assert_eq!(owners_of(&owners.0, "c", Field::OciHooks), "10-a,20-b");
        assert_eq!(owners_of(&owners.0, "c", Field::Env), "");
    }
}
