//! Plugins of the node (NRI), asked at the moments of a pod's and a container's life.
//!
//! [`told`] says what there is in the plugins' words, [`wanted`] what they want in the engine's,
//! [`reach`] is how they reach the engine by themselves. What an adjustment does to a specification is
//! decided by `pod`; the order of plugins and their conflicts by `nri`. As long as nobody has to be
//! asked, each moment costs a look at one atomic value.

mod reach;
mod told;
mod wanted;

use std::future::Future;
use std::path::Path;
use std::sync::Arc;

use nri_api::{Container, Field, PodSandbox};
use pod::ContainerPlan;
use pod::container::Resources;
use pod::plan::BlockIoChange;
use tokio::net::UnixListener;
use tokio::sync::oneshot;

use crate::error::Error;
use crate::making::Place;
use crate::owned::{self, OwnedContainer, Pod};
use crate::pod_task::PodTask;
use crate::shim::News;
use crate::store::ContainerRecord;
use crate::view::{self, Budget};
use crate::{Engine, Inner, cdi, classes};

pub(crate) use wanted::cdi_devices;

impl From<nri::Error> for Error {
    fn from(error: nri::Error) -> Self {
        Self::Failed(error.to_string())
    }
}

impl Engine {
    /// Starts the plugins of the node, and takes those that connect to `listener` from then on.
    ///
    /// # Errors
    ///
    /// The folder of plugins cannot be read. A plugin that fails is no error.
    pub async fn start_plugins(&self, listener: Option<UnixListener>) -> Result<(), Error> {
        let reach = reach::Reach::new(&self.inner);
        let started = self.inner.plugins.start(Arc::new(reach), listener).await;
        started.map_err(|error| Error::Failed(error.to_string()))
    }

    /// Tells the plugins that the engine goes, and ends those that it has started.
    pub async fn stop_plugins(&self) {
        self.inner.plugins.stop().await;
    }

    /// What is known of plugins now, and what they are asked. Waits for nobody.
    #[must_use]
    pub fn plugin_figures(&self) -> nri::Figures {
        self.inner.plugins.figures()
    }

    /// Names of the plugins that take part, in their order.
    pub async fn plugins(&self) -> Vec<String> {
        self.inner.plugins.names().await
    }
}

/// Something that is being done.
type Pending<T> = std::pin::Pin<Box<dyn Future<Output = T> + Send>>;

/// A moment of a container's life of which plugins only hear.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Moment {
    Created,
    Started,
    Updated,
    Stopped,
}

/// A container with its pod, as plugins are told of them.
pub(crate) type About = Box<(PodSandbox, Container)>;

/// The plugins, if somebody has to be asked.
fn asked(engine: &Inner) -> Option<nri::Nri> {
    engine.plugins.is_active().then(|| engine.plugins.clone())
}

fn log(what: &str, id: &str, result: Result<(), nri::Error>) {
    if let Err(error) = result {
        tracing::warn!(id, %error, "{what}");
    }
}

/// Asks whether a sandbox may be that is about to be ready.
pub(crate) async fn run_pod(pod: &Pod) -> Result<(), Error> {
    match asked(&pod.engine) {
        Some(plugins) => Ok(plugins.run_pod(told::pod(&pod.picture())).await?),
        None => Ok(()),
    }
}

/// Tells of a sandbox that could not be made after all.
pub(crate) async fn undo_pod(pod: &Pod) {
    let Some(plugins) = asked(&pod.engine) else {
        return;
    };
    let (told, id) = (told::pod(&pod.picture()), &pod.record.id);
    log(
        "telling of a stopped sandbox",
        id,
        plugins.stop_pod(told.clone()).await,
    );
    log(
        "telling of a removed sandbox",
        id,
        plugins.remove_pod(told).await,
    );
}

/// The plugins, and what they are to be told of a container that is being made; `None` if nobody has
/// to be asked.
pub(crate) fn about(
    place: &Place,
    container: &OwnedContainer,
    plan: &ContainerPlan,
) -> Result<Option<(nri::Nri, About)>, Error> {
    let Some(plugins) = asked(&place.engine) else {
        return Ok(None);
    };
    let spec = serde_json::to_value(&plan.spec)
        .map_err(|error| Error::failed("writing the container's config", error))?;
    let sandbox = owned::sandbox_picture(&place.engine, &place.sandbox, None);
    let picture = owned::picture(&place.engine, &place.sandbox, container);
    let container = told::container(&picture, &container.record.spec.resources, &spec);
    Ok(Some((plugins, Box::new((told::pod(&sandbox), container)))))
}

/// Asks what plugins want of a container that is being made.
pub(crate) async fn create(plugins: &nri::Nri, about: &About) -> Result<nri::Created, Error> {
    let (plugins, (pod, container)) = (plugins.clone(), (**about).clone());
    let created = apart(Box::pin(async move {
        Box::pin(plugins.create_container(pod, container)).await
    }));
    Ok(created.await?)
}

/// Plugins are asked one at a time, and what is heard while they are may have to ask them too: so
/// that goes on by itself, whether or not somebody looks at it.
async fn apart<T: Send + 'static>(work: Pending<T>) -> T {
    #[expect(
        clippy::disallowed_methods,
        reason = "ends with the plugins' time limits"
    )]
    let task = tokio::spawn(work);
    match task.await {
        Ok(done) => done,
        Err(ended) => match ended.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Nobody cancels it but the end of the daemon, in which this ends as well.
            Err(_cancelled) => std::future::pending().await,
        },
    }
}

/// Makes what plugins want to a plan.
pub(crate) async fn adjust(
    place: &Place,
    record: &mut ContainerRecord,
    created: &nri::Created,
    plan: &mut ContainerPlan,
) -> Result<(), Error> {
    let engine = &place.engine;
    let id = &record.id;
    let (mut adjustment, resources) = wanted::adjustment(created, id)?;
    adjustment.block_io = block_io(engine, created, id, &resources).await?;
    let mut limits = record.spec.resources.changed(&resources);
    if let Some(score) = adjustment.oom_score_adj {
        limits.oom_score_adj = score;
    }
    let facts = engine.facts_of(&place.sandbox.spec.handler);
    let namespaces = &place.sandbox.spec.namespaces;
    pod::plan::adjust(plan, &adjustment, &limits, (id, namespaces), &facts)
        .map_err(|error| wanted::told_of(created, id, &error))?;
    record.tuned = (limits != record.spec.resources).then_some(limits);
    Ok(())
}

/// What the class of block I/O comes to that plugins name.
async fn block_io(
    engine: &Inner,
    created: &nri::Created,
    id: &str,
    resources: &Resources,
) -> Result<BlockIoChange, Error> {
    match resources.blockio_class.as_deref() {
        None => Ok(BlockIoChange::Keep),
        Some("") => Ok(BlockIoChange::Remove),
        Some(class) => {
            let found = classes::block_io(engine, class).await;
            let refused = |why: String| wanted::refused(created, id, Field::BlockioClass, &why);
            found.map(BlockIoChange::Set).map_err(refused)
        }
    }
}

/// Tells of a container that could not be made after all.
pub(crate) async fn undo_container(plugins: &nri::Nri, about: About) {
    let plugins = plugins.clone();
    let told = async move {
        let (pod, container) = *about;
        let id = container.id.clone();
        let stopped = plugins.stop_container(pod.clone(), container.clone()).await;
        log("telling of a stopped container", &id, stopped);
        let removed = plugins.remove_container(pod, container).await;
        log("telling of a removed container", &id, removed);
    };
    apart(Box::pin(told)).await;
}

/// What vendors add for the devices of a client and those of plugins together.
pub(crate) fn wanted_devices(spec: &pod::ContainerSpec, created: &nri::Created) -> Vec<String> {
    let mut names = cdi::wanted(spec);
    for name in cdi_devices(created) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

impl PodTask {
    /// Waits for plugins while news are heard.
    async fn ask<T: Send + 'static>(&mut self, work: Pending<T>) -> T {
        Box::pin(self.attend(apart(work))).await
    }

    /// A container as plugins are to be told of it, to be [finished](About) off the task.
    fn described(&self, id: &str) -> Option<(nri::Nri, Box<Described>)> {
        let plugins = asked(&self.pod.engine)?;
        let container = self.pod.containers.get(id)?;
        let picture = owned::picture(&self.pod.engine, &self.pod.record, container);
        let limits = container.record.tuned.as_ref();
        let described = Described {
            pod: told::pod(&self.pod.picture()),
            limits: limits.unwrap_or(&picture.spec.resources).clone(),
            picture,
        };
        Some((plugins, Box::new(described)))
    }

    /// Asks whether a container may start.
    pub(crate) async fn ask_start(&mut self, id: &str) -> Result<(), Error> {
        let Some((plugins, described)) = self.described(id) else {
            return Ok(());
        };
        let asked: Pending<_> = Box::pin(async move {
            let (pod, container) = *described.finish().await;
            plugins.start_container(pod, container).await
        });
        Ok(self.ask(asked).await?)
    }

    /// Tells a moment of a container. What a plugin says against it is only noted.
    pub(crate) async fn tell(&mut self, id: &str, moment: Moment) {
        let Some((plugins, described)) = self.described(id) else {
            return;
        };
        let told: Pending<_> = Box::pin(async move {
            let (pod, container) = *described.finish().await;
            match moment {
                Moment::Created => plugins.container_created(pod, container).await,
                Moment::Started => plugins.container_started(pod, container).await,
                Moment::Updated => plugins.container_updated(pod, container).await,
                Moment::Stopped => plugins.stop_container(pod, container).await,
            }
        });
        let result = self.ask(told).await;
        if let Err(error) = result {
            tracing::warn!(container = id, ?moment, %error, "telling NRI plugins");
        }
    }

    /// What plugins are to be told of a container, taken before its files go.
    pub(crate) async fn last_words(&mut self, id: &str) -> Option<(nri::Nri, About)> {
        let (plugins, described) = self.described(id)?;
        let about = self.ask(Box::pin(described.finish())).await;
        Some((plugins, about))
    }

    /// Tells that a container is no more.
    pub(crate) async fn tell_removed(&mut self, words: Option<(nri::Nri, About)>) {
        if let Some((plugins, about)) = words {
            let id = about.1.id.clone();
            let told: Pending<_> = Box::pin(async move {
                let (pod, container) = *about;
                plugins.remove_container(pod, container).await
            });
            log("telling of a removed container", &id, self.ask(told).await);
        }
    }

    /// Asks which limits a container is to get.
    pub(crate) async fn ask_update(
        &mut self,
        id: &str,
        wanted: &Resources,
    ) -> Result<Resources, Error> {
        let Some((plugins, described)) = self.described(id) else {
            return Ok(wanted.clone());
        };
        let limits = told::resources(wanted);
        let asked: Pending<_> = Box::pin(async move {
            let (pod, container) = *described.finish().await;
            plugins.update_container(pod, container, limits).await
        });
        let answer = self.ask(asked).await?;
        let mut limits = wanted::limits(&answer).map_err(Error::Unsupported)?;
        limits.oom_score_adj = wanted.oom_score_adj;
        Ok(limits)
    }

    /// Asks whether what a client says of the pod's resources may be noted.
    pub(crate) async fn ask_budget(&mut self, budget: &Budget) -> Result<(), Error> {
        let Some(plugins) = asked(&self.pod.engine) else {
            return Ok(());
        };
        let pod = told::pod(&self.pod.picture());
        let overhead = budget.overhead.as_ref().map(told::resources);
        let resources = budget.resources.as_ref().map(told::resources);
        let asked: Pending<_> =
            Box::pin(async move { plugins.update_pod(pod, overhead, resources).await });
        Ok(self.ask(asked).await?)
    }

    /// Tells a moment of the pod itself.
    pub(crate) async fn tell_pod(&mut self, moment: PodMoment) {
        let Some(plugins) = asked(&self.pod.engine) else {
            return;
        };
        let pod = told::pod(&self.pod.picture());
        let told: Pending<_> = Box::pin(async move {
            match moment {
                PodMoment::Updated => plugins.pod_updated(pod).await,
                PodMoment::Stopped => plugins.stop_pod(pod).await,
                PodMoment::Removed => plugins.remove_pod(pod).await,
            }
        });
        let result = self.ask(told).await;
        if let Err(error) = result {
            tracing::warn!(sandbox = self.pod.record.id, ?moment, %error, "telling NRI plugins");
        }
    }
}

/// A moment of a sandbox's life of which plugins only hear.
#[derive(Clone, Copy, Debug)]
pub(crate) enum PodMoment {
    Updated,
    Stopped,
    Removed,
}

/// A container whose specification is still to be read.
struct Described {
    pod: PodSandbox,
    picture: view::Container,
    limits: Resources,
}

impl Described {
    async fn finish(self: Box<Self>) -> About {
        let spec = read_spec(&self.picture.bundle).await;
        let container = told::container(&self.picture, &self.limits, &spec);
        Box::new((self.pod, container))
    }
}

/// The specification in a bundle; nothing where there is none (any more).
async fn read_spec(bundle: &Path) -> serde_json::Value {
    let config = bundle.join("config.json");
    crate::blocking(move || {
        let text = std::fs::read(config).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    })
    .await
}

/// A change that a plugin wants, on its way to the pod's task.
pub(crate) fn change(
    id: String,
    wanted: Resources,
) -> (News, oneshot::Receiver<Result<(), Error>>) {
    let (reply, answer) = oneshot::channel();
    let wanted = Box::new(wanted);
    (News::Change { id, wanted, reply }, answer)
}
