//! A pull that tells how far it is: now and then what it has received, in the end the image's id.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use control_api::pull_image_update::Update;
use control_api::{Pull, PullImageUpdate, PulledLayer};
use engine::Error;
use image::{PullProgress, Store};
use tokio::time::{Interval, MissedTickBehavior};
use tokio_stream::Stream;
use tonic::Status;

use crate::rpc::status;

/// How often it is told: often enough for a bar to move.
const TELL_EVERY: Duration = Duration::from_millis(200);

type Pulled = Pin<Box<dyn Future<Output = Result<String, image::Error>> + Send>>;

/// The stream. Dropped, it does not wait for the pull any more.
pub(super) struct Pulling {
    store: Arc<Store>,
    reference: String,
    /// Nothing once it has ended.
    pulled: Option<Pulled>,
    ticks: Interval,
}

impl Pulling {
    /// Asks for an image; nothing happens until the stream is read.
    pub(super) fn begin(store: Arc<Store>, reference: String) -> Self {
        let pulled = {
            let (store, reference) = (Arc::clone(&store), reference.clone());
            async move { store.pull(&reference, None).await }
        };
        let mut ticks = tokio::time::interval(TELL_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            store,
            reference,
            pulled: Some(Box::pin(pulled)),
            ticks,
        }
    }

    fn now(&self) -> PullImageUpdate {
        let pull = self
            .store
            .pull_of(&self.reference)
            .map_or_else(Pull::default, shown);
        PullImageUpdate {
            update: Some(Update::Pull(pull)),
        }
    }
}

fn shown(pull: PullProgress) -> Pull {
    let layers = pull.layers.into_iter().map(|layer| PulledLayer {
        digest: layer.digest,
        total: layer.total,
        received: layer.received,
        verified: layer.verified,
    });
    Pull {
        layers: layers.collect(),
    }
}

impl Stream for Pulling {
    type Item = Result<PullImageUpdate, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(pulled) = &mut self.pulled else {
            return Poll::Ready(None);
        };
        if let Poll::Ready(result) = pulled.as_mut().poll(context) {
            self.pulled = None;
            let update = result.map_err(Error::from).map(|id| PullImageUpdate {
                update: Some(Update::Id(id)),
            });
            let answer = status::answer("pull an image", update);
            return Poll::Ready(Some(answer.map(tonic::Response::into_inner)));
        }
        if self.ticks.poll_tick(context).is_ready() {
            let now = self.now();
            return Poll::Ready(Some(Ok(now)));
        }
        Poll::Pending
    }
}
