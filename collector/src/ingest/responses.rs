//! What goes down to an agent: receipts first, questions and answers of other agents as there is room. They never wait for each other.

use std::pin::Pin;
use std::task::{Context, Poll};

use polproof_proto::v1;
use polproof_proto::v1::stream_response::Message as Down;
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tonic::Status;

type Response = Result<v1::StreamResponse, Status>;

/// Ends with the receipts.
pub(super) struct Responses {
    receipts: mpsc::Receiver<Response>,
    questions: mpsc::Receiver<Down>,
}

impl Responses {
    pub(super) const fn new(
        receipts: mpsc::Receiver<Response>,
        questions: mpsc::Receiver<Down>,
    ) -> Self {
        Self {
            receipts,
            questions,
        }
    }
}

impl Stream for Responses {
    type Item = Response;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Response>> {
        if let Poll::Ready(receipt) = self.receipts.poll_recv(context) {
            return Poll::Ready(receipt);
        }
        match self.questions.poll_recv(context) {
            Poll::Ready(Some(message)) => Poll::Ready(Some(Ok(v1::StreamResponse {
                message: Some(message),
            }))),
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }
}
