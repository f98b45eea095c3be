//! Lists that come in parts, for lists that would not fit into one message.

use cri_api::MAX_MESSAGE;
use prost::Message;
use tonic::{Response, Status};

/// The parts of a list.
pub(super) type Parts<T> = tokio_stream::Iter<std::vec::IntoIter<Result<T, Status>>>;

/// Most bytes of items in a part: far below what a client takes, so that the one item that exceeds
/// it still passes.
const PART: usize = MAX_MESSAGE / 16;

/// The parts of a list; none if it is empty. `whole` makes a message of some items.
pub(super) fn parts<T: Message, R>(
    items: Vec<T>,
    whole: impl Fn(Vec<T>) -> R,
) -> Response<Parts<R>> {
    let mut parts = Vec::new();
    let mut part = Vec::new();
    let mut size = 0;
    for item in items {
        let length = item.encoded_len();
        if size + length > PART && !part.is_empty() {
            parts.push(Ok(whole(std::mem::take(&mut part))));
            size = 0;
        }
        size += length;
        part.push(item);
    }
    if !part.is_empty() {
        parts.push(Ok(whole(part)));
    }
    Response::new(tokio_stream::iter(parts))
}

#[cfg(test)]
mod tests {
    use cri_api as cri;
    use tokio_stream::StreamExt as _;

    use super::*;

    async fn sizes(items: &[usize]) -> Vec<usize> {
        let image = |length: &usize| cri::Image {
            id: "x".repeat(*length),
            ..Default::default()
        };
        let response = parts(items.iter().map(image).collect(), |images| {
            cri::StreamImagesResponse { images }
        });
        let parts = response.into_inner();
        parts.map(|part| part.unwrap().images.len()).collect().await
    }

    #[tokio::test]
    async fn parts_are_bounded() {
        assert_eq!(sizes(&[]).await, [0; 0]);
        assert_eq!(sizes(&[1, 1, 1]).await, [3]);
        assert_eq!(sizes(&[PART, 1, 1]).await, [1, 2]);
        assert_eq!(sizes(&[1, 2 * PART, 1]).await, [1, 1, 1]);
        let half = PART / 2 - 10;
        assert_eq!(sizes(&[half; 5]).await, [2, 2, 1]);
    }
}
