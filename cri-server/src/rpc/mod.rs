//! CRI: what a kubelet, crictl or critest says, turned into calls of the engine.
//!
//! Nothing is decided or done here. [`request`] turns messages into the pod's types, [`reply`]
//! turns what comes back into messages, [`status`] gives errors their codes; one file a group of
//! verbs lies between. A handler only awaits the engine, whose operations are its own: when a
//! client gives up, the work goes on.

mod checkpoint;
mod container;
mod events;
mod exec;
mod filter;
mod image;
mod info;
pub mod judge;
mod listing;
mod metrics;
mod reply;
mod request;
mod runtime;
mod sandbox;
mod service;
mod stats;
pub(crate) mod status;
mod stream;
mod streaming;
mod usage;

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use ::streaming::Server;
use cri_api::MAX_MESSAGE;
use cri_api::image_service_server::ImageServiceServer;
use cri_api::runtime_service_server::RuntimeServiceServer;
use engine::{Engine, Error};
use tonic::service::Routes;

use crate::pressure::Pressure;

/// Both services, ready to be served.
pub(crate) fn routes(
    engine: &Arc<Engine>,
    streaming: &Arc<Server>,
    pressure: &Arc<Pressure>,
) -> Routes {
    let service = service::Cri::new(
        Arc::clone(engine),
        Arc::clone(streaming),
        Arc::clone(pressure),
    );
    let service = Arc::new(service);
    let runtime = RuntimeServiceServer::from_arc(Arc::clone(&service))
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE);
    let image = ImageServiceServer::from_arc(service)
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE);
    listing::add(Routes::new(runtime).add_service(image), engine)
}

/// Makes stopping and removing what is not there a success, as CRI wants it.
fn missing_is_fine(result: Result<(), Error>) -> Result<(), Error> {
    match result {
        Err(Error::NotFound { .. }) => Ok(()),
        other => other,
    }
}

/// Nanoseconds since the epoch.
pub(crate) fn now() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_missing_thing_is_fine() {
        let missing = Error::NotFound {
            kind: "sandbox",
            id: "a".into(),
        };
        assert!(missing_is_fine(Err(missing)).is_ok());
        assert!(missing_is_fine(Err(Error::Failed("x".into()))).is_err());
    }
}
