//! What changes, told as it changes.

use cri_api as cri;
use cri_api::ContainerEventType::{
    ContainerCreatedEvent as Created, ContainerDeletedEvent as Deleted,
    ContainerStartedEvent as Started, ContainerStoppedEvent as Stopped,
};
use tests::node::{Node, Pod};
use tests::{Client, wait};
use tonic::{Code, Response, Status, Streaming};

type Events = Streaming<cri::ContainerEventResponse>;

fn listen(client: &Client) -> Events {
    let open = async |mut cri: cri::runtime_service_client::RuntimeServiceClient<_>| {
        cri.get_container_events(cri::GetEventsRequest {}).await
    };
    client.call(open).unwrap()
}

fn next(client: &Client, events: &mut Events) -> Result<cri::ContainerEventResponse, Status> {
    client.call(async |_| {
        let event = tokio::time::timeout(wait::LIMIT, events.message()).await;
        let event = event.map_err(|_elapsed| Status::deadline_exceeded("no event came"))??;
        event
            .map(Response::new)
            .ok_or_else(|| Status::aborted("the events are over"))
    })
}

fn whole_life(node: &Node) -> Pod {
    let pod = node.run("told", "exec sleep 1000").unwrap();
    node.crictl
        .ok(&["stop", "-t", "0", &pod.container])
        .unwrap();
    node.crictl.ok(&["rm", &pod.container]).unwrap();
    node.remove(&pod).unwrap();
    pod
}

#[test]
fn everybody_hears_of_a_pod_from_its_start_to_its_end() {
    let Some(node) = Node::start().unwrap() else {
        return;
    };
    let clients = [(); 2].map(|()| node.daemon.client().unwrap());
    let mut listeners = [listen(&clients[0]), listen(&clients[1])];
    let pod = whole_life(&node);
    let (sandbox, container) = (&pod.id, &pod.container);
    let expect = [
        (sandbox, Created),
        (sandbox, Started),
        (container, Created),
        (container, Started),
        (container, Stopped),
        (container, Deleted),
        (sandbox, Stopped),
        (sandbox, Deleted),
    ];
    for (client, events) in clients.iter().zip(&mut listeners) {
        let mut last = 0;
        for (id, kind) in expect {
            let event = next(client, events).unwrap();
            assert_eq!(
                (&event.container_id, event.container_event_type()),
                (id, kind)
            );
            assert!(event.created_at >= last);
            last = event.created_at;
            assert_eq!(event.pod_sandbox_status.unwrap().id, *sandbox);
            let statuses = event.containers_statuses;
            let there = id == container && kind != Deleted;
            assert_eq!(statuses.len(), usize::from(there), "{kind:?} {statuses:?}");
        }
    }
}

#[test]
fn a_stop_of_the_daemon_ends_the_events_at_once() {
    let Some(mut node) = Node::start().unwrap() else {
        return;
    };
    let client = node.daemon.client().unwrap();
    let mut events = listen(&client);
    let began = std::time::Instant::now();
    let (end, after) = std::thread::scope(|scope| {
        let end = scope.spawn(|| {
            let end = next(&client, &mut events).unwrap_err();
            (end, began.elapsed())
        });
        node.daemon.terminate().unwrap();
        end.join().unwrap()
    });
    assert_eq!(end.code(), Code::DataLoss, "{end:?}");
    // Requests that go on get ten seconds.
    assert!(after < std::time::Duration::from_secs(8), "{after:?}");
    node.daemon.start().unwrap();
}
