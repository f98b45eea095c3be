//! A plugin: how it comes to be one, and how it is asked.
//!
//! It registers, is configured, and is then asked about what it wants to hear of. One that does not
//! answer in time, or not in words of the protocol, is disconnected, unless it wants to be kept.

use std::sync::Arc;
use std::time::Duration;

use nri_api::{
    ConfigureRequest, ConfigureResponse, Container, ContainerUpdate, Empty, Event, FailurePolicy,
    PodSandbox, RegisterPluginRequest, StateChangeEvent, SynchronizeRequest, SynchronizeResponse,
};
use prost::Message;
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::connection::{CallError, Connection, Incoming, code, status};
use crate::error::Error;
use crate::figures::{End, Tally};
use crate::launch::{check_base, check_index};
use crate::{Config, wire};

/// Every event that there is, one bit each.
const ALL_EVENTS: i32 = (1 << (Event::Last as i32 - 1)) - 1;

/// Room in a message for what is around its payload.
const AROUND: usize = 1024;

/// A plugin that has registered.
#[derive(Debug)]
pub(crate) struct Plugin {
    pub(crate) index: String,
    pub(crate) base: String,
    events: i32,
    policy: FailurePolicy,
    limit: Duration,
    pub(crate) connection: Arc<Connection>,
    /// When it came.
    pub(crate) since: std::time::Instant,
    tally: Arc<Tally>,
}

/// Where a plugin comes from.
#[derive(Debug)]
pub(crate) enum Origin {
    /// It has connected by itself, and says what it is called.
    External,
    /// It was started under this name.
    Launched {
        index: String,
        base: String,
        config: String,
    },
}

/// Takes a connection up to the point where its plugin can be synchronized; answers with its further
/// requests too. Where that fails, the connection has ended.
pub(crate) async fn admit(
    socket: UnixStream,
    origin: Origin,
    config: &Config,
    tally: &Arc<Tally>,
) -> Result<(Plugin, mpsc::Receiver<Incoming>), String> {
    let (connection, mut incoming) = Connection::start(socket);
    let result = async {
        let limit = config.registration_timeout;
        let registered = tokio::time::timeout(limit, register(&connection, &mut incoming));
        let registered = registered.await;
        let said =
            registered.map_err(|_elapsed| format!("it did not register within {limit:?}"))?;
        let said = said?;
        let (index, base, own_config) = match origin {
            Origin::External => (said.plugin_idx, said.plugin_name, String::new()),
            Origin::Launched {
                index,
                base,
                config,
            } => (index, base, config),
        };
        let request = ConfigureRequest {
            config: own_config,
            runtime_name: config.runtime_name.clone(),
            runtime_version: config.runtime_version.clone(),
            registration_timeout: milliseconds(config.registration_timeout),
            request_timeout: milliseconds(config.request_timeout),
            nri_version: nri_api::VERSION.into(),
        };
        let limit = config.request_timeout;
        let answer = connection
            .call("Configure", request.encode_to_vec(), limit)
            .await;
        let answer = answer.map_err(|error| format!("configuring {index}-{base}: {error}"))?;
        let answer = ConfigureResponse::decode(&*answer)
            .map_err(|error| format!("configuring {index}-{base}: {error}"))?;
        let unknown = answer.events & !ALL_EVENTS;
        if unknown != 0 {
            return Err(format!(
                "{index}-{base} wants events that do not exist: {unknown:#x}"
            ));
        }
        Ok(Plugin {
            index,
            base,
            events: if answer.events == 0 {
                ALL_EVENTS
            } else {
                answer.events
            },
            policy: answer.failure_policy.unwrap_or_default(),
            limit,
            connection: Arc::clone(&connection),
            since: std::time::Instant::now(),
            tally: Arc::clone(tally),
        })
    };
    match result.await {
        Ok(plugin) => Ok((plugin, incoming)),
        Err(reason) => {
            connection.close(End::Registration);
            tally.ended(connection.why());
            Err(reason)
        }
    }
}

fn milliseconds(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

/// Waits for the first request, which has to be the registration.
async fn register(
    connection: &Connection,
    incoming: &mut mpsc::Receiver<Incoming>,
) -> Result<RegisterPluginRequest, String> {
    let first = incoming.recv().await.ok_or("its connection has ended")?;
    let checked = checked(&first);
    let answer = match &checked {
        Ok(_) => Ok(Empty {}.encode_to_vec()),
        Err(reason) => Err(status(code::INVALID_ARGUMENT, reason)),
    };
    connection.answer(&first, answer);
    checked
}

fn checked(first: &Incoming) -> Result<RegisterPluginRequest, String> {
    let request = &first.request;
    if request.service != nri_api::RUNTIME_SERVICE || request.method != "RegisterPlugin" {
        return Err(format!(
            "its first call is {:?}, not RegisterPlugin",
            request.method
        ));
    }
    let said =
        RegisterPluginRequest::decode(&*request.payload).map_err(|error| error.to_string())?;
    check_index(&said.plugin_idx)?;
    check_base(&said.plugin_name)?;
    Ok(said)
}

impl Plugin {
    /// Index and name, as everybody calls it.
    pub(crate) fn name(&self) -> String {
        format!("{}-{}", self.index, self.base)
    }

    /// Whether it wants to hear of an event.
    pub(crate) fn wants(&self, event: Event) -> bool {
        self.events & (1 << (event as i32 - 1)) != 0 && !self.connection.is_closed()
    }

    /// Asks about an event. `None`: it has nothing to say, or it failed and the request goes on.
    ///
    /// # Errors
    ///
    /// It answered with an error, or failed and wants the request to fail then.
    pub(crate) async fn ask<A: Message + Default>(
        &self,
        event: Event,
        method: &'static str,
        request: &impl Message,
    ) -> Result<Option<A>, Error> {
        if !self.wants(event) {
            return Ok(None);
        }
        self.settle(method, self.exchange(method, request).await)
    }

    /// Tells an event; a plugin of an older library hears of it in its own way.
    ///
    /// # Errors
    ///
    /// As [`Self::ask`].
    pub(crate) async fn tell(
        &self,
        event: Event,
        method: &'static str,
        request: &impl Message,
        about: (&PodSandbox, Option<&Container>),
    ) -> Result<(), Error> {
        if !self.wants(event) {
            return Ok(());
        }
        let mut answer = self.exchange::<Empty>(method, request).await;
        if unimplemented(&answer) {
            let change = StateChangeEvent {
                event: event.into(),
                pod: Some(about.0.clone()),
                container: about.1.cloned(),
            };
            answer = self.exchange("StateChange", &change).await;
        }
        if unimplemented(&answer) {
            return Ok(());
        }
        self.settle(method, answer).map(drop)
    }

    async fn exchange<A: Message + Default>(
        &self,
        method: &'static str,
        request: &impl Message,
    ) -> Result<A, CallError> {
        let payload = request.encode_to_vec();
        let exchange = async {
            let answer = self.connection.call(method, payload, self.limit).await?;
            A::decode(&*answer).map_err(|error| CallError::Nonsense(error.to_string()))
        };
        self.tally.asked(self.name(), method, exchange).await
    }

    /// Decides what a failure means for the plugin and for the request.
    fn settle<A>(
        &self,
        method: &'static str,
        answer: Result<A, CallError>,
    ) -> Result<Option<A>, Error> {
        let plugin = self.name();
        let cause = match answer {
            Ok(answer) => return Ok(Some(answer)),
            Err(CallError::Refused(status)) => {
                let reason = status.message;
                return Err(Error::Refused {
                    plugin,
                    method,
                    reason,
                });
            }
            Err(cause) => cause,
        };
        let kept = matches!(cause, CallError::TimedOut(_)) && self.policy.keep_connected;
        tracing::warn!(plugin, method, %cause, kept, "an NRI plugin failed");
        if !kept {
            self.connection.close(match cause {
                CallError::TimedOut(_) => End::TimedOut,
                CallError::Closed => End::Left,
                _ => End::Nonsense,
            });
        }
        match self.policy.fail_request {
            true => Err(Error::Unanswered {
                plugin,
                method,
                reason: cause.to_string(),
            }),
            false => Ok(None),
        }
    }

    /// Tells it all that is there; answers with what it wants changed.
    pub(crate) async fn synchronize(
        &self,
        pods: Vec<PodSandbox>,
        containers: Vec<Container>,
    ) -> Result<Vec<ContainerUpdate>, String> {
        let until = Instant::now() + self.limit;
        let mut updates = Vec::new();
        for part in parts(pods, containers, wire::MAX_DATA - AROUND) {
            let left = until.saturating_duration_since(Instant::now());
            let method = "Synchronize";
            let call = self.connection.call(method, part.encode_to_vec(), left);
            let answer = self.tally.asked(self.name(), method, call).await;
            let answer = answer.map_err(|error| error.to_string())?;
            let answer =
                SynchronizeResponse::decode(&*answer).map_err(|error| error.to_string())?;
            if answer.more != part.more {
                return Err("it does not take a synchronization in parts".into());
            }
            updates.extend(answer.update);
        }
        Ok(updates)
    }

    /// Tells it that the engine goes.
    pub(crate) async fn shut_down(&self) {
        let call = self
            .connection
            .call("Shutdown", Empty {}.encode_to_vec(), self.limit);
        if let Err(error) = call.await {
            tracing::debug!(plugin = self.name(), %error, "shutting a plugin down");
        }
        self.connection.close(End::Shutdown);
    }
}

fn unimplemented<A>(answer: &Result<A, CallError>) -> bool {
    matches!(answer, Err(CallError::Refused(status)) if status.code == code::UNIMPLEMENTED)
}

/// Everything in messages of bounded length; at least one.
fn parts(
    pods: Vec<PodSandbox>,
    containers: Vec<Container>,
    limit: usize,
) -> Vec<SynchronizeRequest> {
    // Tag and length of an entry.
    const ENTRY: usize = 8;
    let mut parts = vec![SynchronizeRequest::default()];
    let mut length = 0;
    let mut place = |size: usize, parts: &mut Vec<SynchronizeRequest>| {
        let full = length > 0 && length + size + ENTRY > limit;
        if full {
            parts.last_mut().expect("there is at least one").more = true;
            parts.push(SynchronizeRequest::default());
            length = 0;
        }
        length += size + ENTRY;
    };
    for pod in pods {
        place(pod.encoded_len(), &mut parts);
        parts
            .last_mut()
            .expect("there is at least one")
            .pods
            .push(pod);
    }
    for container in containers {
        place(container.encoded_len(), &mut parts);
        let part = parts.last_mut().expect("there is at least one");
        part.containers.push(container);
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_bounded_and_whole() {
        let pod = |id: usize| PodSandbox {
            id: id.to_string(),
            name: "x".repeat(90),
            ..Default::default()
        };
        let container = |id: usize| Container {
            id: id.to_string(),
            ..Default::default()
        };
        let all = parts(
            (0..50).map(pod).collect(),
            (0..50).map(container).collect(),
            1000,
        );
        assert!(all.len() > 5, "{}", all.len());
        assert!(all.iter().all(|part| part.encoded_len() <= 1000));
        let (last, others) = all.split_last().unwrap();
        assert!(!last.more && others.iter().all(|part| part.more));
        let pods: Vec<_> = all
            .iter()
            .flat_map(|part| &part.pods)
            .map(|pod| &pod.id)
            .collect();
        assert_eq!(pods.len(), 50);
        let containers = all.iter().flat_map(|part| &part.containers);
        assert!(containers.map(|one| &one.id).eq(pods));
        assert_eq!(
            parts(Vec::new(), Vec::new(), 1000),
            [SynchronizeRequest::default()]
        );
    }
}
