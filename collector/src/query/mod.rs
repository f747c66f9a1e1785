//! Answers people and programs.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use polproof_cluster::View;
use polproof_proto::v1;
use polproof_proto::v1::query_service_server::QueryService;
use tokio::sync::watch as signal;
use tokio_stream::Stream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::convert;
use crate::ingest::agents::Agents;
use crate::store::{Store, StoreError};
use crate::telemetry::Metrics;

mod enforcement;
mod explain;
mod page;
mod status;
mod watch;

/// Findings on a page, where the question does not say.
const PAGE: u32 = 100;
/// The most findings on a page.
const LARGEST_PAGE: u32 = 1_000;

/// The service that the command talks to.
#[derive(Clone, Debug)]
pub struct Query {
    /// What is stored.
    pub store: Arc<dyn Store>,
    /// Who is connected.
    pub agents: Arc<Agents>,
    /// Signals that the store has changed.
    pub changes: signal::Sender<()>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// How young a violation is "recent".
    pub recent_window: Duration,
    /// The cluster's objects, if there is a source of them.
    pub view: Option<signal::Receiver<Arc<View>>>,
    /// When to end.
    pub shutdown: CancellationToken,
}

fn refused(bad: &convert::Bad) -> Status {
    Status::invalid_argument(bad.to_string())
}

#[tonic::async_trait]
impl QueryService for Query {
    async fn get_status(
        &self,
        _: Request<v1::GetStatusRequest>,
    ) -> Result<Response<v1::GetStatusResponse>, Status> {
        self.status().await.map(Response::new)
    }

    async fn list_findings(
        &self,
        request: Request<v1::ListFindingsRequest>,
    ) -> Result<Response<v1::ListFindingsResponse>, Status> {
        let request = request.into_inner();
        let filter = convert::filter(request.filter).map_err(|bad| refused(&bad))?;
        let size = match request.page_size {
            0 => PAGE,
            size if size <= LARGEST_PAGE => size,
            size => {
                return Err(Status::invalid_argument(format!(
                    "page_size: {size}, at most {LARGEST_PAGE}"
                )));
            }
        };
        let cursor = if request.page_token.is_empty() {
            self.store
                .begin()
                .await
                .map_err(|error| self.failed(&error))?
        } else {
            page::read(&request.page_token, &filter).ok_or_else(|| {
                Status::invalid_argument(
                    "page_token: not one of ours, or of another filter; begin again without it",
                )
            })?
        };
        let page = self
            .store
            .list(&filter, &cursor, size)
            .await
            .map_err(|error| self.failed(&error))?;
        let total = self
            .store
            .count(&filter)
            .await
            .map_err(|error| self.failed(&error))?;
        Ok(Response::new(v1::ListFindingsResponse {
            findings: page.findings.into_iter().map(convert::finding).collect(),
            next_page_token: page
                .next
                .map(|cursor| page::write(&cursor, &filter))
                .unwrap_or_default(),
            total,
        }))
    }

    type WatchFindingsStream = Pin<Box<dyn Stream<Item = Result<v1::Finding, Status>> + Send>>;

    async fn watch_findings(
        &self,
        request: Request<v1::WatchFindingsRequest>,
    ) -> Result<Response<Self::WatchFindingsStream>, Status> {
        let filter = convert::filter(request.into_inner().filter).map_err(|bad| refused(&bad))?;
        Ok(Response::new(Box::pin(self.watch(filter))))
    }

    async fn explain(
        &self,
        request: Request<v1::ExplainRequest>,
    ) -> Result<Response<v1::ExplainResponse>, Status> {
        self.explanation(request.get_ref()).map(Response::new)
    }
}

impl Query {
    fn failed(&self, error: &StoreError) -> Status {
        self.metrics.store_errors.inc();
        tracing::error!("{error}");
        Status::unavailable(error.to_string())
    }
}
