//! Logs, `/metrics`, `/healthz`, `/readyz`.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use crate::config::LogFormat;
use crate::finding::Wall;
use crate::ingest::agents::Agents;
use crate::store::Store;
use crate::witness::Figures;

/// What the collector counts of itself, since its start.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Batches stored.
    pub batches_stored: Counter,
    /// Batches that came again and changed nothing.
    pub batches_duplicate: Counter,
    /// Batches that never came.
    pub batches_missing: Counter,
    /// Findings refused as unusable.
    pub findings_refused: Counter,
    /// Findings forgotten by age or number.
    pub findings_forgotten: Counter,
    /// Messages that could not be decoded or were too long.
    pub messages_unreadable: Counter,
    /// Messages of a kind that this version does not know.
    pub messages_unknown: Counter,
    /// Requests to the store that failed.
    pub store_errors: Counter,
    /// TLS handshakes that failed.
    pub handshakes_failed: Counter,
    /// Changed certificate files taken into use.
    pub certificates_read: Counter,
    /// Changed certificate files that could not be used.
    pub certificates_unusable: Counter,
    /// Questions between agents.
    pub witness: Arc<Figures>,
    agents_connected: Gauge,
}

impl Metrics {
    fn registry(&self) -> Registry {
        let mut registry = Registry::with_prefix("polproof_collector");
        let counters: [(&str, &str, &Counter); 11] = [
            ("batches_stored", "Batches stored", &self.batches_stored),
            (
                "batches_duplicate",
                "Batches that came again and were not counted again",
                &self.batches_duplicate,
            ),
            (
                "batches_missing",
                "Batches that agents dropped or that could not be read",
                &self.batches_missing,
            ),
            (
                "findings_refused",
                "Findings left out of batches as unusable",
                &self.findings_refused,
            ),
            (
                "findings_forgotten",
                "Findings deleted by the retention settings",
                &self.findings_forgotten,
            ),
            (
                "messages_unreadable",
                "Messages of agents that could not be decoded or were too long",
                &self.messages_unreadable,
            ),
            (
                "messages_unknown",
                "Messages of a kind that this version does not know",
                &self.messages_unknown,
            ),
            (
                "store_errors",
                "Requests to the database that failed",
                &self.store_errors,
            ),
            (
                "handshakes_failed",
                "TLS handshakes that failed, mostly for want of a certificate of the CA",
                &self.handshakes_failed,
            ),
            (
                "certificates_read",
                "Changed certificate files taken into use",
                &self.certificates_read,
            ),
            (
                "certificates_unusable",
                "Changed certificate files that could not be used; the earlier ones stay in use",
                &self.certificates_unusable,
            ),
        ];
        for (name, help, counter) in counters {
            registry.register(name, help, counter.clone());
        }
        registry.register(
            "agents_connected",
            "Agents with an open stream and a heartbeat within 15 s",
            self.agents_connected.clone(),
        );
        self.witness.register(&mut registry);
        registry
    }
}

#[derive(Clone)]
struct Shared {
    registry: Arc<Registry>,
    metrics: Arc<Metrics>,
    agents: Arc<Agents>,
    store: Arc<dyn Store>,
}

/// Serves the three pages until told to end.
pub async fn serve(
    listener: TcpListener,
    metrics: Arc<Metrics>,
    agents: Arc<Agents>,
    store: Arc<dyn Store>,
    shutdown: CancellationToken,
) -> std::io::Result<()> {
    let shared = Shared {
        registry: Arc::new(metrics.registry()),
        metrics,
        agents,
        store,
    };
    let router = Router::new()
        .route("/metrics", get(metrics_page))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .with_state(shared);
    axum::serve(listener, router)
        .with_graceful_shutdown(shutdown.cancelled_owned())
        .await
}

async fn metrics_page(State(shared): State<Shared>) -> Response {
    let connected = shared.agents.connected(Wall::now());
    shared
        .metrics
        .agents_connected
        .set(i64::try_from(connected).unwrap_or(i64::MAX));
    let mut text = String::new();
    if encode(&mut text, &shared.registry).is_err() {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    }
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}

async fn ready(State(shared): State<Shared>) -> Response {
    match shared.store.ping().await {
        Ok(()) => "ok\n".into_response(),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")).into_response(),
    }
}

/// Starts logging to stderr.
pub fn logs(format: LogFormat, level: &str) -> Result<(), anyhow::Error> {
    // What ails the API server is said once, in our words; these say it again with every attempt.
    let quiet = format!("kube_client=off,kube_runtime=off,{level}");
    let filter = EnvFilter::try_new(quiet).map_err(|error| {
        anyhow::anyhow!(
            "log-level {level:?} cannot be read ({error}); use error, warn, info, debug or trace, or `module=level,...`"
        )
    })?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    let started = match format {
        LogFormat::Text => builder.with_ansi(false).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    started.map_err(|error| anyhow::anyhow!("cannot start logging: {error}"))
}
