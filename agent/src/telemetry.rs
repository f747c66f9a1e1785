//! The agent's own log, metrics and health. Each module counts in its own `*Stats`; this file only reads them.

use std::fmt;
use std::future::Future;
use std::io::IsTerminal;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context;
use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeMetric, MetricEncoder, NoLabelSet, text,
};
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
    // What ails the API server is said once, in our words; these say it again with every attempt.
    let directives = format!("kube_client=off,kube_runtime=off,{directives}");
    let filter = EnvFilter::try_new(directives).context("--log-level")?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    let result = match format {
        LogFormat::Text => log.try_init(),
        LogFormat::Json => log.json().flatten_event(true).try_init(),
    };
    result.map_err(|error| anyhow::anyhow!("the log cannot be set up: {error}"))
}

type Read = Box<dyn Fn() -> u64 + Send + Sync>;
type ReadHistogram = Box<dyn Fn() -> Histogram + Send + Sync>;

/// Events by size, as they are counted elsewhere.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Histogram {
    /// Sum of all sizes.
    pub sum: f64,
    /// Upper bound and count of each bucket, not cumulative; the last bound is infinite.
    pub buckets: Vec<(f64, u64)>,
}

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
pub struct Metrics(
    Vec<Metric>,
    Vec<(&'static str, &'static str, ReadHistogram)>,
);

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

    /// Adds a histogram.
    pub fn histogram(
        &mut self,
        name: &'static str,
        help: &'static str,
        read: impl Fn() -> Histogram + Send + Sync + 'static,
    ) {
        self.1.push((name, help, Box::new(read)));
    }

    /// Adds a constant 1 that carries a text in a label.
    pub fn info(&mut self, name: &'static str, help: &'static str, label: (&'static str, &str)) {
        let label = Some((label.0, label.1.to_owned()));
        self.add(name, help, Kind::Gauge, label, Box::new(|| 1));
    }

    /// Adds a figure that goes up and down, one of several told apart by a label.
    pub fn labelled_gauge(
        &mut self,
        name: &'static str,
        help: &'static str,
        (label, value): (&'static str, impl Into<String>),
        read: impl Fn() -> u64 + Send + Sync + 'static,
    ) {
        let label = Some((label, value.into()));
        self.add(name, help, Kind::Gauge, label, Box::new(read));
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
                let value = read();
                let Some((name, text)) = label else {
                    encode(metric.kind, value, family)?;
                    // Without a label there is one figure.
                    break;
                };
                let labels = [(*name, text.as_str())];
                encode(metric.kind, value, family.encode_family(&labels)?)?;
            }
        }
        for (name, help, read) in &self.1 {
            let Histogram { sum, buckets } = read();
            let count = buckets.iter().map(|(_, count)| count).sum();
            encoder
                .encode_descriptor(name, help, None, MetricType::Histogram)?
                .encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
        }
        Ok(())
    }
}

fn encode(kind: Kind, value: u64, encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
    match kind {
        Kind::Counter => ConstCounter::new(value).encode(encoder),
        Kind::Gauge => ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX)).encode(encoder),
    }
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn figures_are_read_at_the_scrape() {
        let count = Arc::new(AtomicU64::new(1));
        let mut metrics = Metrics::default();
        metrics.counter("polproof_a", "A", atomic(&count, |c| c));
        metrics.gauge("polproof_b", "B", || 7);
        metrics.labelled("polproof_c", "C", ("reason", "x"), || 2);
        metrics.labelled("polproof_c", "C", ("reason", "y"), || 3);
        metrics.info("polproof_d", "D", ("version", "1"));
        metrics.histogram("polproof_e_seconds", "E", || Histogram {
            sum: 1.5,
            buckets: vec![(0.5, 2), (1.0, 1), (f64::INFINITY, 3)],
        });
        let mut registry = Registry::default();
        registry.register_collector(Box::new(metrics));
        count.store(5, Ordering::Relaxed);
        let mut body = String::new();
        text::encode(&mut body, &registry).unwrap();
        for line in [
            "polproof_a_total 5",
            "polproof_b 7",
            "polproof_c_total{reason=\"x\"} 2",
            "polproof_c_total{reason=\"y\"} 3",
            "polproof_d{version=\"1\"} 1",
            "# TYPE polproof_e_seconds histogram",
            "polproof_e_seconds_sum 1.5",
            "polproof_e_seconds_count 6",
            "polproof_e_seconds_bucket{le=\"0.5\"} 2",
            "polproof_e_seconds_bucket{le=\"1.0\"} 3",
            "polproof_e_seconds_bucket{le=\"+Inf\"} 6",
        ] {
            assert!(body.lines().any(|l| l == line), "{line} is not in {body}");
        }
    }
}
