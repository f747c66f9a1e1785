//! The agent's own log, metrics and health. Each module counts in its own `*Stats`; this file only reads them.

use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context;
use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use crate::config::LogFormat;

/// Sends the log to standard error.
///
/// # Errors
/// The directives cannot be read, or the process has a log already.
pub fn init_log(format: LogFormat, directives: &str) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(directives).context("--log-level")?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    let result = match format {
        LogFormat::Text => log.try_init(),
        LogFormat::Json => log.json().flatten_event(true).try_init(),
    };
    result.map_err(|error| anyhow::anyhow!("the log cannot be set up: {error}"))
}

type Read = Box<dyn Fn() -> u64 + Send + Sync>;

#[derive(Clone, Copy)]
enum Kind {
    Counter,
    Gauge,
}

struct Metric {
    name: &'static str,
    help: &'static str,
    kind: Kind,
    /// Name and value of a label, and how to read the figure.
    samples: Vec<(Option<(&'static str, String)>, Read)>,
}

/// The metrics of a process: figures read from wherever they are counted, at every scrape.
#[derive(Default)]
pub struct Metrics(Vec<Metric>);

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.0.iter().map(|m| m.name))
            .finish()
    }
}

impl Metrics {
    /// Adds a figure that only grows; `_total` is appended to the name.
    pub fn counter(
        &mut self,
        name: &'static str,
        help: &'static str,
        read: impl Fn() -> u64 + Send + Sync + 'static,
    ) {
        self.add(name, help, Kind::Counter, None, Box::new(read));
    }

    /// Adds a figure that says what is now.
    pub fn gauge(
        &mut self,
        name: &'static str,
        help: &'static str,
        read: impl Fn() -> u64 + Send + Sync + 'static,
    ) {
        self.add(name, help, Kind::Gauge, None, Box::new(read));
    }

    /// Adds a figure that only grows, one of several told apart by a label.
    pub fn labelled(
        &mut self,
        name: &'static str,
        help: &'static str,
        (label, value): (&'static str, impl Into<String>),
        read: impl Fn() -> u64 + Send + Sync + 'static,
    ) {
        let label = Some((label, value.into()));
        self.add(name, help, Kind::Counter, label, Box::new(read));
    }

    fn add(
        &mut self,
        name: &'static str,
        help: &'static str,
        kind: Kind,
        label: Option<(&'static str, String)>,
        read: Read,
    ) {
        match self.0.iter_mut().find(|m| m.name == name) {
            Some(metric) => metric.samples.push((label, read)),
            None => self.0.push(Metric {
                name,
                help,
                kind,
                samples: vec![(label, read)],
            }),
        }
    }
}

impl Collector for Metrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        for metric in &self.0 {
            let kind = match metric.kind {
                Kind::Counter => MetricType::Counter,
                Kind::Gauge => MetricType::Gauge,
            };
            let mut family = encoder.encode_descriptor(metric.name, metric.help, None, kind)?;
            for (label, read) in &metric.samples {
                let labels: Vec<(&str, &str)> =
                    label.iter().map(|(n, v)| (*n, v.as_str())).collect();
                let value = read();
                let sample = if labels.is_empty() {
                    None
                } else {
                    Some(family.encode_family(&labels)?)
                };
                match (sample, metric.kind) {
                    (Some(sample), Kind::Counter) => ConstCounter::new(value).encode(sample)?,
                    (Some(sample), Kind::Gauge) => gauge(value).encode(sample)?,
                    (None, Kind::Counter) => {
                        ConstCounter::new(value).encode(family.encode_family(&NO_LABELS)?)?;
                    }
                    (None, Kind::Gauge) => {
                        gauge(value).encode(family.encode_family(&NO_LABELS)?)?
                    }
                }
            }
        }
        Ok(())
    }
}

const NO_LABELS: [(&str, &str); 0] = [];

fn gauge(value: u64) -> ConstGauge<i64> {
    ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX))
}

/// Reads an atomic of something shared: `atomic(&stats, |s| &s.batches)`.
pub fn atomic<T: Send + Sync + 'static>(
    stats: &Arc<T>,
    field: impl Fn(&T) -> &AtomicU64 + Send + Sync + 'static,
) -> impl Fn() -> u64 + Send + Sync + 'static {
    let stats = Arc::clone(stats);
    move || field(&stats).load(Ordering::Relaxed)
}

/// Says what is missing for being ready; empty: ready.
pub type Readiness = Arc<dyn Fn() -> Vec<String> + Send + Sync>;

/// Binds the address and returns the task that serves `/metrics`, `/healthz` and `/readyz` until cancelled.
///
/// # Errors
/// The address cannot be bound.
pub async fn serve(
    address: SocketAddr,
    metrics: Metrics,
    readiness: Readiness,
    cancel: CancellationToken,
) -> anyhow::Result<impl Future<Output = anyhow::Result<()>>> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(metrics));
    let registry = Arc::new(registry);
    let router = Router::new()
        .route("/metrics", get(move || scrape(Arc::clone(&registry))))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(move || ready(Arc::clone(&readiness))));
    let listener = tokio::net::TcpListener::bind(address)
        .await
        .with_context(|| {
            format!("--listen-http {address} cannot be bound; is another agent running? Give another address, or \"off\"")
        })?;
    tracing::info!(%address, "serving /metrics, /healthz and /readyz");
    Ok(async move {
        axum::serve(listener, router)
            .with_graceful_shutdown(cancel.cancelled_owned())
            .await
            .context("serving /metrics")
    })
}

async fn scrape(registry: Arc<Registry>) -> axum::response::Response {
    let mut body = String::new();
    match text::encode(&mut body, &registry) {
        Ok(()) => (
            [(
                header::CONTENT_TYPE,
                "application/openmetrics-text; version=1.0.0; charset=utf-8",
            )],
            body,
        )
            .into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn ready(readiness: Readiness) -> (StatusCode, String) {
    let missing = readiness();
    if missing.is_empty() {
        (StatusCode::OK, "ready\n".to_owned())
    } else {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            format!("not ready: {}\n", missing.join("; ")),
        )
    }
}
