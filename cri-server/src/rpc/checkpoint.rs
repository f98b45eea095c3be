//! Verbs that write containers and pods to files, and make pods from them.

use std::collections::HashMap;
use std::path::Path;

use cri_api as cri;
use engine::{Engine, Error};

use super::request;

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
    refuse_options(&asked.options)?;
    let folder = Path::new(&asked.output_path);
    engine
        .checkpoint_sandbox(&asked.pod_sandbox_id, &asked.container_ids, folder)
        .await?;
    Ok(cri::CheckpointPodResponse {})
}

pub(super) async fn restore(
    engine: &Engine,
    asked: cri::RestorePodRequest,
) -> Result<cri::RestorePodResponse, Error> {
    refuse_options(&asked.options)?;
    let spec = request::sandbox(asked.config, asked.runtime_handler)?;
    let containers = asked.container_configs.into_iter();
    let containers = containers.map(|config| request::container(Some(config), spec.namespaces));
    let containers = containers.collect::<Result<Vec<_>, _>>()?;
    let folder = Path::new(&asked.checkpoint_path);
    let made = engine.restore_sandbox(folder, spec, containers).await?;
    let restored = |(name, container_id)| cri::RestoredContainer { name, container_id };
    Ok(cri::RestorePodResponse {
        pod_sandbox_id: made.id,
        restored_containers: made.containers.into_iter().map(restored).collect(),
    })
}

/// No handler has settings for this: whoever sends one would believe in it.
fn refuse_options(options: &HashMap<String, String>) -> Result<(), Error> {
    match options.keys().min() {
        Some(name) => Err(Error::Invalid(format!("options: {name:?} is not known"))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_options_are_refused_by_name() {
        assert!(refuse_options(&HashMap::new()).is_ok());
        let options = HashMap::from([("b".into(), String::new()), ("a".into(), "1".into())]);
        let error = refuse_options(&options).unwrap_err();
        assert_eq!(error.to_string(), "options: \"a\" is not known");
    }
}
