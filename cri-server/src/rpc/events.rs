//! GetContainerEvents: what changes, as it changes.

use cri_api as cri;
use engine::{Change, Engine, Event};
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic::codegen::BoxStream;

use super::reply;

/// Events from now on, for as long as the client takes them. The stream ends with an error where
/// some were lost, so that the client looks at everything anew.
pub(super) fn stream(engine: &Engine) -> BoxStream<cri::ContainerEventResponse> {
    let events = ReceiverStream::new(engine.events()).map(|event| Ok(message(&event)));
    let end = Status::data_loss("events ended: this client did not keep up, or the daemon stops");
    Box::pin(events.chain(tokio_stream::once(Err(end))))
}

fn message(event: &Event) -> cri::ContainerEventResponse {
    let kind = match event.change {
        Change::Created => cri::ContainerEventType::ContainerCreatedEvent,
        Change::Started => cri::ContainerEventType::ContainerStartedEvent,
        Change::Stopped => cri::ContainerEventType::ContainerStoppedEvent,
        Change::Deleted => cri::ContainerEventType::ContainerDeletedEvent,
    };
    let containers = event.containers.iter();
    cri::ContainerEventResponse {
        container_id: event.id.clone(),
        container_event_type: kind.into(),
        created_at: event.at,
        pod_sandbox_status: event
            .sandbox
            .as_ref()
            .map(|sandbox| reply::sandbox_status(sandbox)),
        containers_statuses: containers
            .map(|container| reply::container_status(container))
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::reply::samples;
    use super::*;

    #[test]
    fn an_event_shows_the_whole_pod() {
        let event = Event {
            id: "b2".repeat(32),
            change: Change::Stopped,
            at: 7,
            sandbox: Some(Arc::new(samples::sandbox())),
            containers: vec![Arc::new(samples::container())],
        };
        let message = message(&event);
        assert_eq!(message.container_id, event.id);
        assert_eq!(message.created_at, 7);
        assert_eq!(
            message.container_event_type(),
            cri::ContainerEventType::ContainerStoppedEvent
        );
        assert_eq!(message.pod_sandbox_status.unwrap().id, "a1".repeat(32));
        assert_eq!(message.containers_statuses[0].exit_code, 137);
    }
}
