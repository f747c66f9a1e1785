//! Takes the agents' streams.
//!
//! A batch is receipted only after it is stored. Whatever goes wrong before that ends the stream with a status; the
//! agent keeps the batch and sends it again.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use polproof_proto::v1;
use polproof_proto::v1::ingest_service_server::IngestService;
use polproof_proto::v1::stream_request::Message;
use polproof_proto::v1::stream_response::Message as Down;
use tokio::sync::{mpsc, watch};
use tokio_stream::Stream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use crate::convert;
use crate::finding::Wall;
use crate::identity::Identity;
use crate::store::{Store, StoreError};
use crate::telemetry::Metrics;
use crate::witness::{DOWN, Switchboard};

pub mod agents;
mod responses;
mod session;

use agents::Agents;
use responses::Responses;
use session::Session;

/// How long a new stream may take to say Hello.
const HELLO_WITHIN: Duration = Duration::from_secs(10);
/// Receipts that may wait for a slow connection.
const RECEIPTS: usize = 16;

/// The service that the agents talk to.
#[derive(Clone, Debug)]
pub struct Ingest {
    /// Where it is kept.
    pub store: Arc<dyn Store>,
    /// Who is connected.
    pub agents: Arc<Agents>,
    /// Wakes those who watch.
    pub changes: watch::Sender<()>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Where agents ask each other.
    pub witness: Arc<Switchboard>,
    /// When to end.
    pub shutdown: CancellationToken,
}

type Receipts = mpsc::Sender<Result<v1::StreamResponse, Status>>;

#[tonic::async_trait]
impl IngestService for Ingest {
    type StreamStream = Pin<Box<dyn Stream<Item = Result<v1::StreamResponse, Status>> + Send>>;

    async fn stream(
        &self,
        request: Request<Streaming<v1::StreamRequest>>,
    ) -> Result<Response<Self::StreamStream>, Status> {
        let peer = request
            .remote_addr()
            .map_or_else(|| "unknown".to_owned(), |address| address.to_string());
        let identity = Identity::of(&request)
            .and_then(|identity| identity.may_report().map(|()| identity))
            .inspect_err(|refused| {
                tracing::warn!(peer, "a stream was refused: {}", refused.message());
            })?;
        let (receipts, receiver) = mpsc::channel(RECEIPTS);
        let (down, questions) = mpsc::channel(DOWN);
        let this = self.clone();
        tokio::spawn(async move {
            if let Err(status) = this
                .serve(request.into_inner(), &identity, &receipts, down, &peer)
                .await
            {
                // Nobody may be there to read it any more.
                let _ = receipts.send(Err(status)).await;
            }
        });
        Ok(Response::new(Box::pin(Responses::new(receiver, questions))))
    }
}

impl Ingest {
    async fn serve(
        &self,
        mut requests: Streaming<v1::StreamRequest>,
        identity: &Identity,
        receipts: &Receipts,
        down: mpsc::Sender<Down>,
        peer: &str,
    ) -> Result<(), Status> {
        let first = tokio::select! {
            first = tokio::time::timeout(HELLO_WITHIN, requests.message()) => first,
            () = self.shutdown.cancelled() => return Err(shutting_down()),
        };
        let hello = match first {
            Err(_) => return Err(Status::deadline_exceeded("no Hello within 10 s")),
            Ok(Err(status)) => return Err(status),
            Ok(Ok(None)) => return Ok(()),
            Ok(Ok(Some(v1::StreamRequest {
                message: Some(Message::Hello(hello)),
            }))) => hello,
            Ok(Ok(Some(_))) => {
                return Err(Status::failed_precondition(
                    "the first message of a stream must be Hello",
                ));
            }
        };
        convert::hello(&hello).map_err(|bad| Status::invalid_argument(format!("hello.{bad}")))?;
        identity.may_report_of(&hello.node).inspect_err(|refused| {
            tracing::warn!(peer, "a stream was refused: {}", refused.message());
        })?;

        let replaced = CancellationToken::new();
        let (number, replaces) = self.agents.opened(&hello, replaced.clone(), Wall::now());
        if replaces {
            tracing::warn!(
                node = hello.node,
                peer,
                "a second stream of this node replaces the first; if this repeats, two agents run under one node name"
            );
        }
        tracing::info!(
            node = hello.node,
            instance = hello.instance,
            version = hello.agent_version,
            peer,
            "agent connected"
        );
        let outcome = Session::new(self, &hello, number, receipts, replaced)
            .run(&mut requests, down)
            .await;
        self.witness.closed(number);
        self.agents.closed(&hello.node, number);
        match &outcome {
            Ok(()) => tracing::info!(node = hello.node, peer, "agent disconnected"),
            Err(status) => {
                tracing::warn!(node = hello.node, peer, code = ?status.code(), "stream ended: {}", status.message());
            }
        }
        outcome
    }

    fn store_failed(&self, error: &StoreError) -> Status {
        self.metrics.store_errors.inc();
        tracing::error!("{error}");
        Status::unavailable(error.to_string())
    }

    /// Writes to the store what is known of the agents, or of one.
    pub async fn save_heard(&self, of: Option<&str>) {
        let news = self.agents.unsaved(of);
        if news.is_empty() {
            return;
        }
        if let Err(error) = self.store.heard(&news).await {
            self.metrics.store_errors.inc();
            tracing::error!("{error}");
        }
    }
}

fn shutting_down() -> Status {
    Status::unavailable("the collector is shutting down; connect again in a moment")
}
