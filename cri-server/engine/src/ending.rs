//! How things end in a pod: by themselves, by a stop, by removal, by losing their shim.
//!
//! A container has ended when its shim has written an exit record, or when it has neither record
//! nor shim and all that was left of it has been killed. Nothing else makes it so: an error of a
//! call says nothing about the process.

use std::sync::Arc;
use std::time::Duration;

use pod::lifecycle::{self, SandboxPhase, Stop};
use pod::sandbox::PidMode;
use shim_api::ExitRecord;
use tokio::time::Instant;

use crate::error::Error;
use crate::owned::{Answer, OwnedContainer};
use crate::plugins::{Moment, PodMoment};
use crate::pod_task::PodTask;
use crate::shim::{self, News};
use crate::store::ContainerRecord;
use crate::teardown::{self, KILL_PATIENCE};
use crate::{Inner, LOCK, making};

/// Between two tries to reach a shim that is there but cannot be connected to.
const RECONNECT_PAUSE: Duration = Duration::from_secs(1);

impl PodTask {
    /// Asks a container to stop; the answer goes out when it has ended.
    pub(crate) fn stop_container(&mut self, id: &str, grace: Duration, reply: Answer<()>) {
        let now = self.clock();
        let Some(container) = self.pod.containers.get_mut(id) else {
            return drop(reply.send(Err(Error::container_not_found(id))));
        };
        let under_way = container.stopping.as_ref().and_then(|stop| stop.kill_at);
        let (kill_at, ask) = match lifecycle::stop(container.phase(), now, grace, under_way) {
            Stop::Done => return drop(reply.send(Ok(()))),
            Stop::Kill => (now, false),
            Stop::Ask { kill_at } => (kill_at, container.stopping.is_none()),
            Stop::Wait { kill_at } => (kill_at, false),
        };
        let stopping = container.stopping.get_or_insert_default();
        stopping.waiters.push(reply);
        if !stopping.killed {
            stopping.kill_at = Some(kill_at);
        }
        if ask {
            container.process.signal(container.record.stop_signal);
        }
        self.on_deadline();
    }

    /// Sends the SIGKILLs that are due, and gives up on those who do not end.
    pub(crate) fn on_deadline(&mut self) {
        let now = self.clock();
        for container in self.pod.containers.values_mut() {
            let Some(stopping) = &mut container.stopping else {
                continue;
            };
            if stopping.kill_at.is_none_or(|moment| moment > now) {
                continue;
            }
            if stopping.killed {
                give_up(container);
            } else {
                stopping.killed = true;
                stopping.kill_at = Some(now + KILL_PATIENCE);
                container.process.kill();
                thaw(&self.pod.engine, &container.record);
            }
        }
    }

    /// Ends a container that has left more on disk than it may; the reason first goes on record.
    pub(crate) async fn end_overuse(&mut self, id: &str, why: String) {
        let Some(container) = self.pod.containers.get_mut(id) else {
            return;
        };
        if container.record.exit.is_some() || container.record.overuse.is_some() {
            return;
        }
        container.record.overuse = Some(why);
        self.keep_container(id).await;
        if let Some(container) = self.pod.containers.get(id) {
            container.process.kill();
        }
    }

    pub(crate) async fn remove_container(&mut self, id: &str) -> Result<(), Error> {
        self.end(&[id.to_owned()]).await?;
        let words = self.last_words(id).await;
        let container = self.pod.containers.get(id);
        let container = container.ok_or_else(|| Error::container_not_found(id))?;
        let engine = &self.pod.engine;
        teardown::container(engine, &container.record, &container.process.launch).await?;
        engine.view.drop_container(id);
        engine.rates.forget(id);
        self.pod.containers.remove(id);
        self.tell_removed(words).await;
        Ok(())
    }

    /// Ends all containers, frees the network and the namespaces.
    pub(crate) async fn stop(&mut self) -> Result<(), Error> {
        let all: Vec<String> = self.pod.containers.keys().cloned().collect();
        self.end(&all).await?;
        if self.pod.record.phase != SandboxPhase::NotReady {
            self.tell_pod(PodMoment::Stopped).await;
            self.pod.record.phase = SandboxPhase::NotReady;
            self.pod.record.ips.clear();
            self.keep().await?;
        }
        self.end_init().await?;
        teardown::release(&self.pod.engine, &self.pod.record.id).await
    }

    pub(crate) async fn remove(&mut self) -> Result<(), Error> {
        self.stop().await?;
        for id in self.pod.containers.keys().cloned().collect::<Vec<_>>() {
            self.remove_container(&id).await?;
        }
        self.undo().await?;
        self.tell_pod(PodMoment::Removed).await;
        let (engine, id) = (&self.pod.engine, &self.pod.record.id);
        // In this order: who finds no picture of it must not find its task either.
        engine.pods.lock().expect(LOCK).remove(id);
        engine.view.drop_sandbox(id);
        Ok(())
    }

    /// Takes down a sandbox that has no containers, however far it got.
    pub(crate) async fn undo(&mut self) -> Result<(), Error> {
        self.end_init().await?;
        let init = self.pod.init.as_ref().map(|init| init.launch.clone());
        teardown::sandbox(&self.pod.engine, &self.pod.record.id, init).await
    }

    /// Ends containers, and waits until nothing of them is left but files. First through their
    /// shims; where that has no effect, past them.
    pub(crate) async fn end(&mut self, ids: &[String]) -> Result<(), Error> {
        self.alive(ids).for_each(|c| c.process.kill());
        if step!("kill", self.wait_for_end(ids)).await {
            return Ok(());
        }
        let stuck: Vec<_> = self
            .alive(ids)
            .map(|c| (c.record.cgroup.clone(), c.process.launch.clone()))
            .collect();
        for (cgroup, launch) in stuck {
            let engine = std::sync::Arc::clone(&self.pod.engine);
            self.attend(teardown::force(&engine, &cgroup, &launch))
                .await;
        }
        if self.wait_for_end(ids).await {
            return Ok(());
        }
        let why = self.alive(ids).map(why_alive).next();
        why.map_or(Ok(()), |why| Err(Error::Failed(why)))
    }

    fn alive<'a>(&'a self, ids: &'a [String]) -> impl Iterator<Item = &'a OwnedContainer> {
        let containers = ids.iter().filter_map(|id| self.pod.containers.get(id));
        containers.filter(|container| container.is_alive())
    }

    /// Whether they have ended when the patience is over.
    async fn wait_for_end(&mut self, ids: &[String]) -> bool {
        let until = Instant::now() + KILL_PATIENCE;
        while self.alive(ids).next().is_some() {
            if !self.hear_until(until).await {
                return false;
            }
        }
        true
    }

    /// Ends the built-in init and waits until it has gone.
    async fn end_init(&mut self) -> Result<(), Error> {
        let Some(init) = &self.pod.init else {
            return Ok(());
        };
        init.kill();
        let until = Instant::now() + KILL_PATIENCE;
        while self.pod.init.as_ref().is_some_and(|i| i.shim.is_some()) {
            if !self.hear_until(until).await {
                return Err(Error::Failed(format!(
                    "the init of sandbox {} did not end within {KILL_PATIENCE:?}",
                    self.pod.record.id
                )));
            }
        }
        Ok(())
    }

    /// Hears one piece of news; false if none has come by then.
    async fn hear_until(&mut self, until: Instant) -> bool {
        let Ok(news) = tokio::time::timeout_at(until, self.news.recv()).await else {
            return false;
        };
        let news = news.expect("this task holds a sender itself");
        // Boxed: hearing may end something, which may hear again.
        Box::pin(self.hear(news)).await;
        true
    }

    pub(crate) async fn hear(&mut self, news: News) {
        match news {
            News::Gone(id) if id == self.pod.record.id => self.init_gone().await,
            News::Exited(id, ended) => self.exited(&id, Some(ended)).await,
            News::Gone(id) => self.gone(&id).await,
            News::Change { id, wanted, reply } => {
                drop(reply.send(Box::pin(self.change(&id, &wanted)).await));
            }
        }
    }

    /// Takes over how a container has ended: from its record on disk, else as its shim told.
    async fn exited(&mut self, id: &str, told: Option<ExitRecord>) {
        let Some(container) = self.pod.containers.get_mut(id) else {
            return;
        };
        if container.record.exit.is_none() {
            let on_disk = shim::exit_record(&container.process.launch.bundle);
            if let Err(error) = &on_disk {
                tracing::error!(container = id, %error, "reading an exit record");
            }
            match on_disk.ok().flatten().or(told) {
                Some(ended) => container.settle(&ended),
                None => return,
            }
        }
        self.tell_end(id).await;
    }

    /// Keeps and publishes the end of a container, then answers those who wait for it.
    async fn tell_end(&mut self, id: &str) {
        self.keep_container(id).await;
        let container = self.pod.containers.get_mut(id);
        let untold = container.filter(|container| !container.end_told);
        if let Some(container) = untold {
            container.end_told = true;
            Box::pin(self.tell(id, Moment::Stopped)).await;
        }
        let container = self.pod.containers.get_mut(id);
        let stopping = container.and_then(|container| container.stopping.take());
        for waiter in stopping.unwrap_or_default().waiters {
            drop(waiter.send(Ok(())));
        }
    }

    /// The connection to a shim has ended.
    async fn gone(&mut self, id: &str) {
        self.pod.engine.shims.lock().expect(LOCK).remove(id);
        self.exited(id, None).await;
        let Some(container) = self.pod.containers.get_mut(id) else {
            return;
        };
        container.process.shim = None;
        if container.record.exit.is_none() {
            self.without_shim(id).await;
        }
    }

    /// A container has no connection and no exit record: its shim is reached anew, or was lost.
    async fn without_shim(&mut self, id: &str) {
        let Some(container) = self.pod.containers.get_mut(id) else {
            return;
        };
        let launch = container.process.launch.clone();
        match making::reconnect(&launch, &self.pod.teller) {
            Ok(Some(shim)) => {
                container.process.shim = Some(shim);
                let OwnedContainer {
                    record, process, ..
                } = container;
                making::ask_state(&self.pod.engine, record, process).await;
                self.keep_container(id).await;
            }
            Ok(None) => self.lost(id).await,
            Err(error) => {
                tracing::warn!(container = id, %error, "its shim cannot be reached; trying again");
                self.try_again(id);
            }
        }
    }

    fn try_again(&self, id: &str) {
        let (teller, id) = (self.pod.teller.clone(), id.to_owned());
        #[expect(clippy::disallowed_methods, reason = "ends with one message")]
        drop(tokio::spawn(async move {
            tokio::time::sleep(RECONNECT_PAUSE).await;
            drop(teller.send(News::Gone(id)));
        }));
    }

    /// A container without a shim: nobody holds its streams, nobody would see its end. It is ended.
    async fn lost(&mut self, id: &str) {
        let Some(container) = self.pod.containers.get_mut(id) else {
            return;
        };
        let (cgroup, launch) = (
            container.record.cgroup.clone(),
            container.process.launch.clone(),
        );
        if let Err(error) = teardown::lost(&self.pod.engine, &cgroup, &launch).await {
            tracing::error!(container = id, %error, "ending a container without its shim");
        }
        container.settle_unknown("its shim was lost");
        self.tell_end(id).await;
    }

    /// The built-in init has gone, and with it every process of the namespace, if that is shared.
    async fn init_gone(&mut self) {
        if let Some(init) = &mut self.pod.init {
            (init.shim, init.pid) = (None, None);
        }
        if self.pod.record.spec.namespaces.pid != PidMode::Pod {
            return self.pod.publish();
        }
        if self.pod.record.phase == SandboxPhase::Ready {
            tracing::warn!(
                sandbox = self.pod.record.id,
                "the pod's init has ended; the pod is not ready"
            );
            self.pod.record.phase = SandboxPhase::NotReady;
            self.pod.record.ips.clear();
            self.keep_or_log().await;
        }
    }
}

/// Lets a container go on that somebody has frozen: on v1 not even SIGKILL reaches it till then.
fn thaw(engine: &Arc<Inner>, record: &ContainerRecord) {
    let engine = Arc::clone(engine);
    let (id, cgroup) = (record.id.clone(), record.cgroup.clone());
    // Nothing waits for it: the container's end tells whether it has worked.
    drop(tokio::task::spawn_blocking(move || {
        let group = engine.group(&cgroup);
        let thawed = group.and_then(|group| match group.is_frozen()? {
            true => group.thaw(),
            false => Ok(()),
        });
        if let Err(error) = thawed {
            tracing::debug!(container = id, %error, "thawing");
        }
    }));
}

/// Answers those who wait for a container that does not end.
fn give_up(container: &mut OwnedContainer) {
    let error = Error::Failed(why_alive(container));
    for waiter in container.stopping.take().unwrap_or_default().waiters {
        drop(waiter.send(Err(error.clone())));
    }
}

fn why_alive(container: &OwnedContainer) -> String {
    let state = container.process.pid.map(process_state).unwrap_or_default();
    let id = &container.record.id;
    format!("container {id} did not end within {KILL_PATIENCE:?} of SIGKILL{state}")
}

/// What a process does instead of ending, from proc(5).
fn process_state(pid: i32) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let after_name = status.rsplit(") ").next();
    let state = after_name.and_then(|rest| rest.chars().next());
    let wait = std::fs::read_to_string(format!("/proc/{pid}/wchan")).unwrap_or_default();
    format!(
        ": process {pid} is in state {} in {wait:?}",
        state.unwrap_or('?')
    )
}
