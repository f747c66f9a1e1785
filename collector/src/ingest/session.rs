//! One stream of an agent, from the Hello to its end.

use std::future::pending;
use std::pin::Pin;
use std::time::Duration;

use polproof_proto::v1;
use polproof_proto::v1::stream_request::Message;
use polproof_proto::v1::stream_response::Message as Down;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, Streaming};

use super::{Ingest, Receipts, shutting_down};
use crate::convert;
use crate::finding::Wall;
use crate::store::StoreError;

/// How long a stream may be silent: heartbeats come every 5 s.
const SILENT_FOR: Duration = Duration::from_secs(60);

/// A batch on its way to the disk.
type Storing<'a> = Pin<Box<dyn Future<Output = Result<u64, Status>> + Send + 'a>>;

/// See the module.
pub(super) struct Session<'a> {
    ingest: &'a Ingest,
    hello: &'a v1::Hello,
    /// The stream's number.
    number: u64,
    receipts: &'a Receipts,
    replaced: CancellationToken,
    /// Whether a message of other witnesses that cannot be read was logged.
    said: bool,
}

impl<'a> Session<'a> {
    pub(super) const fn new(
        ingest: &'a Ingest,
        hello: &'a v1::Hello,
        number: u64,
        receipts: &'a Receipts,
        replaced: CancellationToken,
    ) -> Self {
        Self {
            ingest,
            hello,
            number,
            receipts,
            replaced,
            said: false,
        }
    }

    /// Until somebody ends it.
    pub(super) async fn run(
        mut self,
        requests: &mut Streaming<v1::StreamRequest>,
        down: mpsc::Sender<Down>,
    ) -> Result<(), Status> {
        let (ingest, hello) = (self.ingest, self.hello);
        let mut last = ingest
            .store
            .last_sequence(&hello.node, &hello.instance)
            .await
            .map_err(|error| ingest.store_failed(&error))?;
        // Only of this one: after a restart a thousand agents come at once.
        ingest.save_heard(Some(&hello.node)).await;
        let welcome = v1::Welcome {
            last_sequence: last,
            collector_version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        if !self.send(Down::Welcome(welcome)).await {
            return Ok(());
        }
        // Not before: what the agent reads first must be the welcome.
        ingest.witness.opened(self.number, &hello.node, down);

        // While one batch is written, what agents ask each other goes on; a second one waits, and all behind it.
        let mut storing: Option<Storing<'_>> = None;
        let mut held: Option<v1::Batch> = None;
        let mut heard = Instant::now();
        let ended = loop {
            if storing.is_none()
                && let Some(batch) = held.take()
            {
                storing = Some(Box::pin(take(ingest, hello, batch)));
            }
            let idle = storing.is_none();
            let stored = async {
                match &mut storing {
                    Some(storing) => storing.await,
                    None => pending().await,
                }
            };
            let message = tokio::select! {
                stored = stored => {
                    storing = None;
                    last = stored?;
                    if !self.send(Down::Receipt(v1::Receipt { sequence: last })).await {
                        return Ok(());
                    }
                    // A disk that was slow is not an agent that was silent.
                    heard = Instant::now();
                    continue;
                }
                message = requests.message(), if held.is_none() => message,
                () = tokio::time::sleep_until(heard + SILENT_FOR), if idle => {
                    break Err(Status::deadline_exceeded(
                        "nothing came for 60 s, not even a heartbeat",
                    ));
                }
                () = self.replaced.cancelled() => {
                    break Err(Status::aborted(format!(
                        "another stream of node {} took over; if this repeats, two agents run under one node name",
                        hello.node
                    )));
                }
                () = ingest.shutdown.cancelled() => break Err(shutting_down()),
            };
            heard = Instant::now();
            match message {
                Ok(None) => break Ok(()),
                Err(status) => {
                    if let Some(storing) = storing.take() {
                        last = storing.await?;
                    }
                    return Err(unreadable(ingest, hello, last, status).await);
                }
                Ok(Some(request)) => match self.heard(request.message) {
                    Ok(Some(batch)) => held = Some(batch),
                    Ok(None) => {}
                    Err(status) => break Err(status),
                },
            }
        };
        // What is half-way to the disk gets there; the agent learns of it by the next welcome.
        if let Some(storing) = storing {
            storing.await?;
        }
        ended
    }

    async fn send(&self, message: Down) -> bool {
        let response = v1::StreamResponse {
            message: Some(message),
        };
        self.receipts.send(Ok(response)).await.is_ok()
    }

    /// What came, except a batch, which is handed back.
    fn heard(&mut self, message: Option<Message>) -> Result<Option<v1::Batch>, Status> {
        let (ingest, node) = (self.ingest, &self.hello.node);
        let now = Wall::now();
        match message {
            Some(Message::Batch(batch)) => {
                ingest.agents.heard(node, None, now);
                return Ok(Some(batch));
            }
            Some(Message::Heartbeat(heartbeat)) => {
                if let Ok(sent) = convert::moment("sent", heartbeat.sent) {
                    ingest.witness.heartbeat(self.number, sent, now);
                }
                let heartbeat = convert::heartbeat(heartbeat);
                ingest.agents.heard(node, Some(heartbeat), now);
            }
            Some(Message::Hello(_)) => {
                return Err(Status::failed_precondition("a second Hello on one stream"));
            }
            Some(Message::Inquiry(inquiry)) => {
                let id = inquiry.question.as_ref().map_or(0, |asked| asked.id);
                match convert::inquiry(inquiry) {
                    Ok(inquiry) => ingest.witness.inquire(self.number, inquiry),
                    Err(bad) => {
                        self.say(&bad);
                        ingest.witness.refuse(self.number, id);
                    }
                }
            }
            Some(Message::Testimony(testimony)) => {
                let word = convert::word(testimony.word).map_err(|bad| self.say(&bad));
                ingest.witness.testify(self.number, testimony.id, word.ok());
            }
            // A newer agent may say what we do not know.
            None => {
                ingest.metrics.messages_unknown.inc();
            }
        }
        Ok(None)
    }

    fn say(&mut self, bad: &convert::Bad) {
        if !std::mem::replace(&mut self.said, true) {
            tracing::warn!(
                node = self.hello.node,
                version = self.hello.agent_version,
                "refused what the agent asks or answers: {bad}; further ones of this stream are only counted (witness_ignored)"
            );
        }
    }
}

/// Stores one batch; says up to which number all is stored.
async fn take(ingest: &Ingest, hello: &v1::Hello, batch: v1::Batch) -> Result<u64, Status> {
    let (delivery, refused) = convert::delivery(&hello.node, &hello.instance, batch, Wall::now());
    let applied = match ingest.store.apply(&delivery).await {
        Ok(applied) => applied,
        Err(error @ StoreError::Sequence { .. }) => {
            return Err(Status::invalid_argument(error.to_string()));
        }
        Err(error) => return Err(ingest.store_failed(&error)),
    };
    if !applied.fresh {
        ingest.metrics.batches_duplicate.inc();
        return Ok(applied.last_sequence);
    }
    ingest.metrics.batches_stored.inc();
    ingest.metrics.batches_missing.inc_by(applied.missing);
    ingest.metrics.findings_refused.inc_by(delivery.refused);
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
        ingest.changes.send_replace(());
    }
    Ok(applied.last_sequence)
}

/// A message that could not be read. If it is always the same one, it is given up after some tries.
async fn unreadable(ingest: &Ingest, hello: &v1::Hello, last: u64, status: Status) -> Status {
    let undecodable = status.code() == Code::OutOfRange
        || (status.code() == Code::Internal && status.message().contains("decode"));
    if !undecodable {
        return status;
    }
    ingest.metrics.messages_unreadable.inc();
    let lost = last.saturating_add(1);
    if !ingest.agents.unreadable(&hello.node, &hello.instance, last) {
        return Status::invalid_argument(format!(
            "the message after batch {last} cannot be read: {}",
            status.message()
        ));
    }
    match ingest.store.skip(&hello.node, &hello.instance, lost).await {
        Ok(()) => {
            ingest.metrics.batches_missing.inc();
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
        Err(error) => ingest.store_failed(&error),
    }
}
