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
use polproof_proto::v1::stream_response;
use tokio::sync::{mpsc, watch};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status, Streaming};

use crate::convert;
use crate::finding::Wall;
use crate::identity::Identity;
use crate::store::{Store, StoreError};
use crate::telemetry::Metrics;

pub mod agents;

use agents::Agents;

/// How long a new stream may take to say Hello.
const HELLO_WITHIN: Duration = Duration::from_secs(10);
/// How long a stream may be silent: heartbeats come every 5 s.
const SILENT_FOR: Duration = Duration::from_secs(60);
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
    /// When to end.
    pub shutdown: CancellationToken,
}

type Responses = mpsc::Sender<Result<v1::StreamResponse, Status>>;

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
        let (responses, receiver) = mpsc::channel(RECEIPTS);
        let this = self.clone();
        tokio::spawn(async move {
            if let Err(status) = this
                .serve(request.into_inner(), &identity, &responses, &peer)
                .await
            {
                // Nobody may be there to read it any more.
                let _ = responses.send(Err(status)).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

impl Ingest {
    async fn serve(
        &self,
        mut requests: Streaming<v1::StreamRequest>,
        identity: &Identity,
        responses: &Responses,
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
        let outcome = self
            .session(&hello, &mut requests, responses, &replaced)
            .await;
        self.agents.closed(&hello.node, number);
        match &outcome {
            Ok(()) => tracing::info!(node = hello.node, peer, "agent disconnected"),
            Err(status) => {
                tracing::warn!(node = hello.node, peer, code = ?status.code(), "stream ended: {}", status.message());
            }
        }
        outcome
    }

    async fn session(
        &self,
        hello: &v1::Hello,
        requests: &mut Streaming<v1::StreamRequest>,
        responses: &Responses,
        replaced: &CancellationToken,
    ) -> Result<(), Status> {
        let mut last = self
            .store
            .last_sequence(&hello.node, &hello.instance)
            .await
            .map_err(|error| self.store_failed(&error))?;
        self.save_heard().await;
        let welcome = v1::Welcome {
            last_sequence: last,
            collector_version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let mut answer = stream_response::Message::Welcome(welcome);
        loop {
            let response = v1::StreamResponse {
                message: Some(answer),
            };
            if responses.send(Ok(response)).await.is_err() {
                return Ok(());
            }
            let batch = loop {
                let request = tokio::select! {
                    request = tokio::time::timeout(SILENT_FOR, requests.message()) => request,
                    () = replaced.cancelled() => {
                        return Err(Status::aborted(format!(
                            "another stream of node {} took over; if this repeats, two agents run under one node name",
                            hello.node
                        )));
                    }
                    () = self.shutdown.cancelled() => return Err(shutting_down()),
                };
                let message = match request {
                    Err(_) => {
                        return Err(Status::deadline_exceeded(
                            "nothing came for 60 s, not even a heartbeat",
                        ));
                    }
                    Ok(Err(status)) => return Err(self.unreadable(hello, last, status).await),
                    Ok(Ok(None)) => return Ok(()),
                    Ok(Ok(Some(request))) => request.message,
                };
                let now = Wall::now();
                match message {
                    Some(Message::Batch(batch)) => {
                        self.agents.heard(&hello.node, None, now);
                        break batch;
                    }
                    Some(Message::Heartbeat(heartbeat)) => {
                        let heartbeat = convert::heartbeat(heartbeat);
                        self.agents.heard(&hello.node, Some(heartbeat), now);
                    }
                    Some(Message::Hello(_)) => {
                        return Err(Status::failed_precondition("a second Hello on one stream"));
                    }
                    // A newer agent may say what we do not know.
                    Some(Message::Inquiry(_) | Message::Testimony(_)) | None => {
                        self.metrics.messages_unknown.inc();
                    }
                }
            };
            last = self.take(hello, batch).await?;
            answer = stream_response::Message::Receipt(v1::Receipt { sequence: last });
        }
    }

    /// Stores one batch; says up to which number all is stored.
    async fn take(&self, hello: &v1::Hello, batch: v1::Batch) -> Result<u64, Status> {
        let (delivery, refused) =
            convert::delivery(&hello.node, &hello.instance, batch, Wall::now());
        let applied = match self.store.apply(&delivery).await {
            Ok(applied) => applied,
            Err(error @ StoreError::Sequence { .. }) => {
                return Err(Status::invalid_argument(error.to_string()));
            }
            Err(error) => return Err(self.store_failed(&error)),
        };
        if !applied.fresh {
            self.metrics.batches_duplicate.inc();
            return Ok(applied.last_sequence);
        }
        self.metrics.batches_stored.inc();
        self.metrics.batches_missing.inc_by(applied.missing);
        self.metrics.findings_refused.inc_by(delivery.refused);
        if applied.missing > 0 {
            tracing::warn!(
                node = hello.node,
                missing = applied.missing,
                before = delivery.sequence,
                "batches never came: the agent's spool was full and dropped them; its figures are too low"
            );
        }
        if !refused.is_empty() {
            let shown: Vec<String> = refused.iter().take(5).map(ToString::to_string).collect();
            tracing::warn!(
                node = hello.node,
                version = hello.agent_version,
                batch = delivery.sequence,
                parts = refused.len(),
                "left out unusable parts of a batch, stored the rest: {}",
                shown.join("; ")
            );
        }
        if !delivery.updates.is_empty() {
            self.changes.send_replace(());
        }
        Ok(applied.last_sequence)
    }

    /// A message that could not be read. If it is always the same one, it is given up after some tries.
    async fn unreadable(&self, hello: &v1::Hello, last: u64, status: Status) -> Status {
        let undecodable = status.code() == Code::OutOfRange
            || (status.code() == Code::Internal && status.message().contains("decode"));
        if !undecodable {
            return status;
        }
        self.metrics.messages_unreadable.inc();
        let lost = last.saturating_add(1);
        if !self.agents.unreadable(&hello.node, &hello.instance, last) {
            return Status::invalid_argument(format!(
                "the message after batch {last} cannot be read: {}",
                status.message()
            ));
        }
        match self.store.skip(&hello.node, &hello.instance, lost).await {
            Ok(()) => {
                self.metrics.batches_missing.inc();
                tracing::error!(
                    node = hello.node,
                    batch = lost,
                    version = hello.agent_version,
                    "gave up a batch that could not be read three times, so that the agent can go on: {}",
                    status.message()
                );
                Status::invalid_argument(format!(
                    "batch {lost} cannot be read ({}) and is given up: it counts as missing",
                    status.message()
                ))
            }
            Err(error) => self.store_failed(&error),
        }
    }

    fn store_failed(&self, error: &StoreError) -> Status {
        self.metrics.store_errors.inc();
        tracing::error!("{error}");
        Status::unavailable(error.to_string())
    }

    /// Writes to the store what is known of the agents.
    pub async fn save_heard(&self) {
        let news = self.agents.unsaved();
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
