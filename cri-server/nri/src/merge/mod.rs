//! What several plugins want of containers, brought together: each sees what those before it have
//! changed, none may set what another has set.
//!
//! Pure: answers of plugins come in, in their order; one adjustment and a list of updates come out.

mod adjust;
mod resources;

use std::collections::BTreeMap;

use nri_api::{
    ContainerAdjustment, ContainerEviction, ContainerUpdate, CreateContainerRequest,
    CreateContainerResponse, LinuxContainerAdjustment, LinuxContainerUpdate, LinuxResources,
    UpdateContainerRequest, UpdateContainerResponse,
};

use crate::owners::{Conflict, Owners};

/// Why an answer cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unfit {
    #[error(transparent)]
    Conflict(#[from] Conflict),
    #[error("it updates container {0}, which is just being made")]
    Own(String),
}

/// Of a container that is being made.
#[derive(Debug)]
pub(crate) struct Creation {
    /// What the next plugin is told.
    pub(crate) request: CreateContainerRequest,
    /// What all so far want.
    pub(crate) adjust: ContainerAdjustment,
    pub(crate) owners: Owners,
    pub(crate) others: Others,
}

/// What plugins want of containers that are there.
#[derive(Debug, Default)]
pub(crate) struct Others {
    places: BTreeMap<String, usize>,
    /// In the order in which they were first named.
    pub(crate) updates: Vec<ContainerUpdate>,
    pub(crate) evictions: Vec<ContainerEviction>,
}

impl Creation {
    pub(crate) fn new(request: CreateContainerRequest) -> Self {
        Self {
            request,
            adjust: ContainerAdjustment {
                linux: Some(LinuxContainerAdjustment::default()),
                ..Default::default()
            },
            owners: Owners::default(),
            others: Others::default(),
        }
    }

    /// Takes a plugin's answer in.
    pub(crate) fn take(
        &mut self,
        answer: CreateContainerResponse,
        plugin: &str,
    ) -> Result<(), Unfit> {
        if let Some(wanted) = answer.adjust {
            self.adjust(wanted, plugin)?;
        }
        let own = &self.id();
        self.others.evictions.extend(answer.evict);
        for update in &answer.update {
            if update.container_id == *own {
                return Err(Unfit::Own(own.clone()));
            }
            self.others.take(&mut self.owners, update, plugin)?;
        }
        Ok(())
    }

    fn id(&self) -> String {
        let container = self.request.container.as_ref();
        container.map(|one| one.id.clone()).unwrap_or_default()
    }
}

impl Others {
    /// Takes an update in. One that says that its failure does not matter is passed over if another
    /// plugin is in its way.
    pub(crate) fn take(
        &mut self,
        owners: &mut Owners,
        update: &ContainerUpdate,
        plugin: &str,
    ) -> Result<(), Unfit> {
        let place = self.place(update);
        let known = &mut self.updates[place];
        known.ignore_failure &= update.ignore_failure;
        let resources = known
            .linux
            .get_or_insert_default()
            .resources
            .get_or_insert_default();
        change(owners, resources, update, plugin)
    }

    fn place(&mut self, update: &ContainerUpdate) -> usize {
        let (places, updates) = (&mut self.places, &mut self.updates);
        let id = &update.container_id;
        *places.entry(id.clone()).or_insert_with(|| {
            updates.push(ContainerUpdate {
                container_id: id.clone(),
                linux: Some(LinuxContainerUpdate::default()),
                ignore_failure: update.ignore_failure,
            });
            updates.len() - 1
        })
    }
}

/// Adds an update to what is known of a container.
fn change(
    owners: &mut Owners,
    known: &mut LinuxResources,
    update: &ContainerUpdate,
    plugin: &str,
) -> Result<(), Unfit> {
    let wanted = update.linux.as_ref();
    let Some(wanted) = wanted.and_then(|linux| linux.resources.as_ref()) else {
        return Ok(());
    };
    let id = &update.container_id;
    // On copies: what is passed over leaves nothing.
    let (mut after, mut claims) = (known.clone(), owners.clone());
    match resources::merge(&mut claims, &mut after, wanted, id, plugin) {
        Ok(()) => (*known, *owners) = (after, claims),
        Err(_conflict) if update.ignore_failure => {}
        Err(conflict) => return Err(conflict.into()),
    }
    Ok(())
}

/// Of a container whose limits change.
#[derive(Debug)]
pub(crate) struct Change {
    /// What the next plugin is told, with what is wanted so far.
    pub(crate) request: UpdateContainerRequest,
    pub(crate) owners: Owners,
    pub(crate) others: Others,
}

impl Change {
    pub(crate) fn new(request: UpdateContainerRequest) -> Self {
        Self {
            request,
            owners: Owners::default(),
            others: Others::default(),
        }
    }

    /// Takes a plugin's answer in.
    pub(crate) fn take(
        &mut self,
        answer: UpdateContainerResponse,
        plugin: &str,
    ) -> Result<(), Unfit> {
        let container = self.request.container.as_ref();
        let own = container.map(|one| one.id.clone()).unwrap_or_default();
        self.others.evictions.extend(answer.evict);
        for update in &answer.update {
            if update.container_id == own {
                let known = self.request.linux_resources.get_or_insert_default();
                change(&mut self.owners, known, update, plugin)?;
            } else {
                self.others.take(&mut self.owners, update, plugin)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nri_api::{Container, LinuxCpu, OptionalUInt64};

    fn shares(id: &str, shares: u64, ignore_failure: bool) -> ContainerUpdate {
        let cpu = LinuxCpu {
            shares: Some(OptionalUInt64 { value: shares }),
            ..Default::default()
        };
        let resources = LinuxResources {
            cpu: Some(cpu),
            ..Default::default()
        };
        ContainerUpdate {
            container_id: id.into(),
            linux: Some(LinuxContainerUpdate {
                resources: Some(resources),
            }),
            ignore_failure,
        }
    }

    fn cpus(id: &str, cpus: &str) -> ContainerUpdate {
        let mut update = shares(id, 0, false);
        let resources = update.linux.as_mut().unwrap().resources.as_mut().unwrap();
        resources.cpu = Some(LinuxCpu {
            cpus: cpus.into(),
            ..Default::default()
        });
        update
    }

    fn own(id: &str) -> Option<Container> {
        Some(Container {
            id: id.into(),
            ..Default::default()
        })
    }

    fn cpu(update: &ContainerUpdate) -> LinuxCpu {
        let linux = update.linux.clone().unwrap();
        linux.resources.unwrap().cpu.unwrap()
    }

    #[test]
    fn updates_of_one_container_come_together() {
        let mut creation = Creation::new(CreateContainerRequest {
            container: own("new"),
            ..Default::default()
        });
        let answer = |update| CreateContainerResponse {
            update,
            ..Default::default()
        };
        creation
            .take(answer(vec![shares("b", 7, false), cpus("a", "1")]), "10-x")
            .unwrap();
        creation.take(answer(vec![cpus("b", "0")]), "20-y").unwrap();
        // In the way of 10-x: passed over.
        creation
            .take(answer(vec![shares("b", 8, true)]), "30-z")
            .unwrap();
        let updates = &creation.others.updates;
        let ids: Vec<_> = updates.iter().map(|one| &one.container_id).collect();
        assert_eq!(ids, ["b", "a"]);
        let merged = cpu(&updates[0]);
        assert_eq!(
            (merged.shares.unwrap().value, merged.cpus.as_str()),
            (7, "0")
        );
        let conflict = creation.take(answer(vec![shares("b", 8, false)]), "30-z");
        let text = conflict.unwrap_err().to_string();
        assert!(text.contains("30-z") && text.contains("10-x"), "{text}");
        let own = creation.take(answer(vec![shares("new", 8, true)]), "30-z");
        assert_eq!(own, Err(Unfit::Own("new".into())));
    }

    #[test]
    fn what_a_client_wants_can_be_changed() {
        let mut change = Change::new(UpdateContainerRequest {
            container: own("c"),
            linux_resources: shares("c", 100, false).linux.unwrap().resources,
            ..Default::default()
        });
        let answer = |update| UpdateContainerResponse {
            update,
            ..Default::default()
        };
        let wanted = vec![shares("c", 200, false), shares("d", 5, false)];
        change.take(answer(wanted), "10-x").unwrap();
        change.take(answer(vec![cpus("c", "1")]), "20-y").unwrap();
        let cpu = change.request.linux_resources.clone().unwrap().cpu.unwrap();
        assert_eq!((cpu.shares.unwrap().value, cpu.cpus.as_str()), (200, "1"));
        assert_eq!(change.others.updates.len(), 1);
        assert!(
            change
                .take(answer(vec![shares("c", 1, false)]), "20-y")
                .is_err()
        );
    }
}
