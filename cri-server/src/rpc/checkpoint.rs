//! Verbs that write containers and pods to files, and make pods from them.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use cri_api as cri;
use engine::{Engine, Error};
use pod::container::Connections;

use super::request;

/// Open TCP connections are written, or go on; named as OCI runtimes name it.
const KEEP: (&str, Connections) = ("tcp-established", Connections::Keep);
/// They are found closed.
const CLOSE: (&str, Connections) = ("tcp-close", Connections::Close);

pub(super) async fn container(
    engine: &Engine,
    asked: cri::CheckpointContainerRequest,
) -> Result<cri::CheckpointContainerResponse, Error> {
    let limit = request::seconds("timeout", asked.timeout)?;
    let location = Path::new(&asked.location);
    engine
        .checkpoint_container(&asked.container_id, location, Some(limit))
        .await?;
    Ok(cri::CheckpointContainerResponse {})
}

pub(super) async fn pod(
    engine: &Engine,
    asked: cri::CheckpointPodRequest,
) -> Result<cri::CheckpointPodResponse, Error> {
    let connections = connections(&asked.options, &[KEEP])?;
    let folder = Path::new(&asked.output_path);
    let (id, containers) = (&asked.pod_sandbox_id, &asked.container_ids);
    engine
        .checkpoint_sandbox(id, containers, folder, connections)
        .await?;
    Ok(cri::CheckpointPodResponse {})
}

pub(super) async fn restore(
    engine: &Engine,
    asked: cri::RestorePodRequest,
) -> Result<cri::RestorePodResponse, Error> {
    let connections = connections(&asked.options, &[KEEP, CLOSE])?;
    let spec = request::sandbox(asked.config, asked.runtime_handler)?;
    let containers = asked.container_configs.into_iter();
    let containers = containers.map(|config| request::container(Some(config), spec.namespaces));
    let mut containers = containers.collect::<Result<Vec<_>, _>>()?;
    for container in &mut containers {
        container.connections = connections;
    }
    let folder = Path::new(&asked.checkpoint_path);
    let made = engine.restore_sandbox(folder, spec, containers).await?;
    let restored = |(name, container_id)| cri::RestoredContainer { name, container_id };
    Ok(cri::RestorePodResponse {
        pod_sandbox_id: made.id,
        restored_containers: made.containers.into_iter().map(restored).collect(),
    })
}

/// What the options of a request say of open TCP connections. An option that is not `known` is
/// refused: whoever sends one would believe in it.
fn connections(
    options: &HashMap<String, String>,
    known: &[(&str, Connections)],
) -> Result<Connections, Error> {
    let refused = |name: &str, why: &str| Err(Error::Invalid(format!("options: {name:?} {why}")));
    let mut chosen = Connections::Refuse;
    // In the order of names, so that the same mistake has the same answer.
    for (name, value) in options.iter().collect::<BTreeMap<_, _>>() {
        let Some((_, meaning)) = known.iter().find(|(one, _)| one == name) else {
            return refused(name, "is not known");
        };
        match value.as_str() {
            "false" => {}
            "true" if chosen == Connections::Refuse => chosen = *meaning,
            "true" => return refused(name, "contradicts another one"),
            _ => return refused(name, "is neither \"true\" nor \"false\""),
        }
    }
    Ok(chosen)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_known_or_refused_by_name() {
        let check = |given: &[(&str, &str)], expect: Result<Connections, &str>| {
            let own = |(name, value): &(&str, &str)| (name.to_string(), value.to_string());
            let found = connections(&given.iter().map(own).collect(), &[KEEP, CLOSE]);
            let found = found.map_err(|error| error.to_string());
            assert_eq!(found, expect.map_err(|text| format!("options: {text}")));
        };
        check(&[], Ok(Connections::Refuse));
        check(&[("tcp-established", "true")], Ok(Connections::Keep));
        check(
            &[("tcp-close", "true"), ("tcp-established", "false")],
            Ok(Connections::Close),
        );
        check(&[("b", ""), ("a", "1")], Err("\"a\" is not known"));
        check(
            &[("tcp-close", "true"), ("tcp-established", "true")],
            Err("\"tcp-established\" contradicts another one"),
        );
        check(
            &[("tcp-close", "yes")],
            Err("\"tcp-close\" is neither \"true\" nor \"false\""),
        );
        let close = HashMap::from([("tcp-close".to_owned(), "true".to_owned())]);
        assert!(connections(&close, &[KEEP]).is_err());
    }
}
