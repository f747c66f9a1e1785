//! A watch: what matches now, then every change. Nothing is buffered for a slow client: it reads on from where it
//! stands, and a finding that changed several times meanwhile comes once, with its newest figures.

use std::time::Duration;

use polproof_proto::v1;
use tokio::sync::{mpsc, watch};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::Query;
use crate::convert;
use crate::store::{Cursor, Filter};

/// Findings that may wait for a slow client.
const WAITING: usize = 64;
/// Findings read at a time.
const STEP: u32 = 200;
/// Time between two looks at the store: many agents make many changes, and people read slowly.
const PAUSE: Duration = Duration::from_millis(100);

type Findings = mpsc::Sender<Result<v1::Finding, Status>>;

impl Query {
    pub(super) fn watch(
        &self,
        filter: Filter,
    ) -> impl Stream<Item = Result<v1::Finding, Status>> + use<> {
        let (findings, receiver) = mpsc::channel(WAITING);
        let this = self.clone();
        // Before anything is read: no change may fall between the reading and the watching.
        let changes = self.changes.subscribe();
        tokio::spawn(async move {
            let ended = tokio::select! {
                ended = this.follow(&filter, changes, &findings) => ended,
                () = this.shutdown.cancelled() => Err(Status::unavailable("the collector is shutting down")),
                () = findings.closed() => return,
            };
            if let Err(status) = ended {
                let _ = findings.send(Err(status)).await;
            }
        });
        ReceiverStream::new(receiver)
    }

    async fn follow(
        &self,
        filter: &Filter,
        mut changes: watch::Receiver<()>,
        findings: &Findings,
    ) -> Result<(), Status> {
        // In order of change from the beginning of time is both "what matches now" and "every change": the same
        // walk goes on whenever there is news. A finding that changes twice between two looks comes once, newest.
        let mut cursor = Cursor::Changed {
            after: -1,
            id: String::new(),
            node: String::new(),
        };
        loop {
            loop {
                let page = self
                    .store
                    .list(filter, &cursor, STEP)
                    .await
                    .map_err(|error| self.failed(&error))?;
                if let Some(last) = page.findings.last() {
                    cursor = Cursor::Changed {
                        after: last.changed,
                        id: last.id.clone(),
                        node: last.node.clone(),
                    };
                }
                let more = page.next.is_some();
                for finding in page.findings {
                    if findings.send(Ok(convert::finding(finding))).await.is_err() {
                        return Ok(());
                    }
                }
                if !more {
                    break;
                }
            }
            if changes.changed().await.is_err() {
                return Ok(());
            }
            tokio::time::sleep(PAUSE).await;
            changes.mark_unchanged();
        }
    }
}
