//! The moments of pods' and containers' lives, each told to the plugins that want to hear of it.

use std::sync::Arc;

use nri_api::{
    Container, ContainerAdjustment, CreateContainerRequest, Event, LinuxResources, OwningPlugins,
    PluginInstance, PodSandbox, PostCreateContainerRequest, PostStartContainerRequest,
    PostUpdateContainerRequest, PostUpdatePodSandboxRequest, RemoveContainerRequest,
    RemovePodSandboxRequest, RunPodSandboxRequest, StartContainerRequest, StopContainerRequest,
    StopContainerResponse, StopPodSandboxRequest, UpdateContainerRequest, UpdatePodSandboxRequest,
    ValidateContainerAdjustmentRequest, ValidateContainerAdjustmentResponse,
};

use crate::Nri;
use crate::error::Error;
use crate::merge::{Change, Creation, Others, Unfit};
use crate::owners::Owners;
use crate::plugin::Plugin;

/// Name of the built-in validator.
const BUILT_IN: &str = "00-default-validator";

/// What plugins want of a container that is being made.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Created {
    /// All their adjustments.
    pub adjust: ContainerAdjustment,
    /// Who wanted which.
    pub owners: OwningPlugins,
}

fn unfit(plugin: &Plugin, error: Unfit) -> Error {
    match error {
        Unfit::Conflict(conflict) => Error::Conflict(conflict),
        Unfit::Own(_) => Error::Unfit {
            plugin: plugin.name(),
            reason: error.to_string(),
        },
    }
}

impl Nri {
    /// Tells a moment of a pod to all plugins in their order.
    ///
    /// # Errors
    ///
    /// A plugin's, at the first one; those after it are not told.
    async fn tell_pod(
        &self,
        event: Event,
        method: &'static str,
        pod: &PodSandbox,
        request: &impl prost::Message,
    ) -> Result<(), Error> {
        let plugins = self.inner.plugins.lock().await;
        for plugin in plugins.iter() {
            plugin.tell(event, method, request, (pod, None)).await?;
        }
        Ok(())
    }

    async fn tell_container(
        &self,
        event: Event,
        method: &'static str,
        about: (&PodSandbox, &Container),
        request: &impl prost::Message,
    ) -> Result<(), Error> {
        let plugins = self.inner.plugins.lock().await;
        let about = (about.0, Some(about.1));
        for plugin in plugins.iter() {
            plugin.tell(event, method, request, about).await?;
        }
        Ok(())
    }

    /// A pod has its namespaces and addresses and is about to be ready.
    ///
    /// # Errors
    ///
    /// A plugin's: the pod is not to be.
    pub async fn run_pod(&self, pod: PodSandbox) -> Result<(), Error> {
        let request = RunPodSandboxRequest {
            pod: Some(pod.clone()),
        };
        self.tell_pod(Event::RunPodSandbox, "RunPodSandbox", &pod, &request)
            .await
    }

    /// A client says what a pod may take, beside its containers and by them.
    ///
    /// # Errors
    ///
    /// A plugin's: it is not noted.
    pub async fn update_pod(
        &self,
        pod: PodSandbox,
        overhead: Option<LinuxResources>,
        resources: Option<LinuxResources>,
    ) -> Result<(), Error> {
        let request = UpdatePodSandboxRequest {
            pod: Some(pod.clone()),
            overhead_linux_resources: overhead,
            linux_resources: resources,
        };
        self.tell_pod(Event::UpdatePodSandbox, "UpdatePodSandbox", &pod, &request)
            .await
    }

    /// That was noted.
    ///
    /// # Errors
    ///
    /// A plugin's.
    pub async fn pod_updated(&self, pod: PodSandbox) -> Result<(), Error> {
        let request = PostUpdatePodSandboxRequest {
            pod: Some(pod.clone()),
        };
        let (event, method) = (Event::PostUpdatePodSandbox, "PostUpdatePodSandbox");
        self.tell_pod(event, method, &pod, &request).await
    }

    /// Everything of a pod has ended; its network still is.
    ///
    /// # Errors
    ///
    /// A plugin's.
    pub async fn stop_pod(&self, pod: PodSandbox) -> Result<(), Error> {
        let request = StopPodSandboxRequest {
            pod: Some(pod.clone()),
        };
        self.tell_pod(Event::StopPodSandbox, "StopPodSandbox", &pod, &request)
            .await
    }

    /// A pod is no more.
    ///
    /// # Errors
    ///
    /// A plugin's.
    pub async fn remove_pod(&self, pod: PodSandbox) -> Result<(), Error> {
        let request = RemovePodSandboxRequest {
            pod: Some(pod.clone()),
        };
        self.tell_pod(Event::RemovePodSandbox, "RemovePodSandbox", &pod, &request)
            .await
    }

    /// A container is about to be made. What plugins want of others has been done when this returns.
    ///
    /// # Errors
    ///
    /// A plugin's, two plugins', a validator's: it is not to be.
    pub async fn create_container(
        &self,
        pod: PodSandbox,
        container: Container,
    ) -> Result<Created, Error> {
        let mut creation = Creation::new(CreateContainerRequest {
            pod: Some(pod.clone()),
            container: Some(container.clone()),
        });
        let plugins = self.inner.plugins.lock().await;
        for plugin in plugins.iter() {
            let (event, request) = (Event::CreateContainer, &creation.request);
            if let Some(answer) = plugin.ask(event, "CreateContainer", request).await? {
                let taken = creation.take(answer, &plugin.name());
                taken.map_err(|error| unfit(plugin, error))?;
            }
        }
        let asked = plugins.iter().map(|plugin| PluginInstance {
            name: plugin.base.clone(),
            index: plugin.index.clone(),
        });
        let Creation {
            adjust,
            owners: Owners(owners),
            others,
            ..
        } = creation;
        let request = ValidateContainerAdjustmentRequest {
            pod: Some(pod),
            container: Some(container),
            adjust: Some(adjust.clone()),
            update: others.updates.clone(),
            owners: Some(owners.clone()),
            plugins: asked.collect(),
        };
        self.validate(&plugins, &request).await?;
        self.carry_out(others).await;
        Ok(Created { adjust, owners })
    }

    async fn validate(
        &self,
        plugins: &[Arc<Plugin>],
        request: &ValidateContainerAdjustmentRequest,
    ) -> Result<(), Error> {
        let own = &self.inner.config.validator;
        if own.enable {
            own.judge(request).map_err(|reason| Error::Rejected {
                validator: BUILT_IN.into(),
                reason,
            })?;
        }
        let (event, method) = (
            Event::ValidateContainerAdjustment,
            "ValidateContainerAdjustment",
        );
        for plugin in plugins {
            if !plugin.wants(event) {
                continue;
            }
            let validator = plugin.name();
            let answer: Option<ValidateContainerAdjustmentResponse> =
                plugin.ask(event, method, request).await?;
            // Whoever was to judge and did not has not permitted it.
            let reason = match answer {
                Some(answer) if !answer.reject => continue,
                Some(answer) => answer.reason,
                None => "it did not answer".to_owned(),
            };
            return Err(Error::Rejected { validator, reason });
        }
        Ok(())
    }

    async fn carry_out(&self, others: Others) {
        // Room is made before it is given away.
        self.evict(others.evictions);
        drop(self.apply(others.updates).await);
    }

    /// A container was made.
    ///
    /// # Errors
    ///
    /// A plugin's.
    pub async fn container_created(
        &self,
        pod: PodSandbox,
        container: Container,
    ) -> Result<(), Error> {
        let request = PostCreateContainerRequest {
            pod: Some(pod.clone()),
            container: Some(container.clone()),
        };
        let (event, method) = (Event::PostCreateContainer, "PostCreateContainer");
        self.tell_container(event, method, (&pod, &container), &request)
            .await
    }

    /// A container is about to be started.
    ///
    /// # Errors
    ///
    /// A plugin's: it is not to be.
    pub async fn start_container(
        &self,
        pod: PodSandbox,
        container: Container,
    ) -> Result<(), Error> {
        let request = StartContainerRequest {
            pod: Some(pod.clone()),
            container: Some(container.clone()),
        };
        let (event, method) = (Event::StartContainer, "StartContainer");
        self.tell_container(event, method, (&pod, &container), &request)
            .await
    }

    /// A container was started.
    ///
    /// # Errors
    ///
    /// A plugin's.
    pub async fn container_started(
        &self,
        pod: PodSandbox,
        container: Container,
    ) -> Result<(), Error> {
        let request = PostStartContainerRequest {
            pod: Some(pod.clone()),
            container: Some(container.clone()),
        };
        let (event, method) = (Event::PostStartContainer, "PostStartContainer");
        self.tell_container(event, method, (&pod, &container), &request)
            .await
    }

    /// A client wants other limits for a container; answers with those that it is to get.
    ///
    /// # Errors
    ///
    /// A plugin's, two plugins': nothing is to change.
    pub async fn update_container(
        &self,
        pod: PodSandbox,
        container: Container,
        wanted: LinuxResources,
    ) -> Result<LinuxResources, Error> {
        let mut change = Change::new(UpdateContainerRequest {
            pod: Some(pod),
            container: Some(container),
            linux_resources: Some(wanted),
        });
        let plugins = self.inner.plugins.lock().await;
        for plugin in plugins.iter() {
            let (event, request) = (Event::UpdateContainer, &change.request);
            if let Some(answer) = plugin.ask(event, "UpdateContainer", request).await? {
                let taken = change.take(answer, &plugin.name());
                taken.map_err(|error| unfit(plugin, error))?;
            }
        }
        self.carry_out(change.others).await;
        Ok(change.request.linux_resources.unwrap_or_default())
    }

    /// A container has other limits.
    ///
    /// # Errors
    ///
    /// A plugin's.
    pub async fn container_updated(
        &self,
        pod: PodSandbox,
        container: Container,
    ) -> Result<(), Error> {
        let request = PostUpdateContainerRequest {
            pod: Some(pod.clone()),
            container: Some(container.clone()),
        };
        let (event, method) = (Event::PostUpdateContainer, "PostUpdateContainer");
        self.tell_container(event, method, (&pod, &container), &request)
            .await
    }

    /// A container has ended, by itself or not. What plugins want of others has been done when this
    /// returns.
    ///
    /// # Errors
    ///
    /// A plugin's, two plugins'.
    pub async fn stop_container(&self, pod: PodSandbox, container: Container) -> Result<(), Error> {
        let request = StopContainerRequest {
            pod: Some(pod),
            container: Some(container),
        };
        let (mut owners, mut others) = (Owners::default(), Others::default());
        let plugins = self.inner.plugins.lock().await;
        for plugin in plugins.iter() {
            let answer: Option<StopContainerResponse> = plugin
                .ask(Event::StopContainer, "StopContainer", &request)
                .await?;
            for update in answer.iter().flat_map(|answer| &answer.update) {
                let taken = others.take(&mut owners, update, &plugin.name());
                taken.map_err(|error| unfit(plugin, error))?;
            }
        }
        self.carry_out(others).await;
        Ok(())
    }

    /// A container is no more.
    ///
    /// # Errors
    ///
    /// A plugin's.
    pub async fn remove_container(
        &self,
        pod: PodSandbox,
        container: Container,
    ) -> Result<(), Error> {
        let request = RemoveContainerRequest {
            pod: Some(pod.clone()),
            container: Some(container.clone()),
        };
        let (event, method) = (Event::RemoveContainer, "RemoveContainer");
        self.tell_container(event, method, (&pod, &container), &request)
            .await
    }
}
