//! The collector: takes what the agents found, stores each thing once, and answers questions about it.
//!
//! ```text
//! agents --gRPC, mTLS--> ingest --convert--> store (SQLite) --> query --gRPC, mTLS--> polproof
//!                           |   \-> witness (questions between agents)  |
//!                        agents (heartbeats, in memory) ----------------+---- the cluster's objects (explain)
//! ```
//!
//! It refuses to judge traffic: the agents do that, where the packets are. It refuses to receipt what is not on
//! the disk, to claim more than was proved, to talk to anybody without a certificate of its CA, and to
//! let such a certificate do more than its names say.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use polproof_proto::MAX_MESSAGE_BYTES;
use polproof_proto::v1::ingest_service_server::IngestServiceServer;
use polproof_proto::v1::query_service_server::QueryServiceServer;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Server;

pub mod accept;
pub mod cluster;
pub mod config;
pub mod convert;
pub mod finding;
pub mod identity;
pub mod ingest;
pub mod query;
pub mod store;
pub mod telemetry;
pub mod tls;
pub mod witness;

use config::Config;
use finding::Wall;
use ingest::Ingest;
use ingest::agents::Agents;
use query::Query;
use store::Store;
use store::sqlite::Sqlite;
use telemetry::Metrics;
use tls::Certificates;
use witness::Switchboard;

/// How often heartbeats are written to the store.
const SAVE_EVERY: Duration = Duration::from_secs(30);
/// How often old findings are looked for.
const PURGE_EVERY: Duration = Duration::from_secs(60);
/// How long clients may take to go when we end.
const DRAIN: Duration = Duration::from_secs(5);

/// Runs the collector until `shutdown`.
pub async fn run(config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
    let certificates = Arc::new(Certificates::load(config.tls.clone())?);
    let mut server = Server::builder()
        .http2_keepalive_interval(Some(Duration::from_secs(10)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)));
    let store: Arc<dyn Store> = Arc::new(Sqlite::open(&config.database).await?);
    let view = cluster::follow(&config.source, &shutdown)?;
    let agents = Arc::new(Agents::default());
    let metrics = Arc::new(Metrics::default());
    let (changes, _) = watch::channel(());
    let ingest = Ingest {
        store: store.clone(),
        agents: agents.clone(),
        changes: changes.clone(),
        metrics: metrics.clone(),
        witness: Arc::new(Switchboard::new(metrics.witness.clone(), view.clone())),
        shutdown: shutdown.clone(),
    };
    let query = Query {
        store: store.clone(),
        agents: agents.clone(),
        changes,
        metrics: metrics.clone(),
        recent_window: config.recent_window,
        view,
        shutdown: shutdown.clone(),
    };
    let grpc = bind("--listen", config.listen).await?;
    let http = bind("--listen-http", config.listen_http).await?;
    tracing::info!(
        grpc = %grpc.local_addr()?, http = %http.local_addr()?, database = %config.database.display(),
        version = env!("CARGO_PKG_VERSION"), "listening"
    );
    let pages = tokio::spawn(telemetry::serve(
        http,
        metrics.clone(),
        agents,
        store.clone(),
        shutdown.clone(),
    ));
    let upkeep = tokio::spawn(upkeep(ingest.clone(), config, shutdown.clone()));
    let watching = {
        let (witness, shutdown) = (ingest.witness.clone(), shutdown.clone());
        tokio::spawn(async move { witness.watch(shutdown).await })
    };
    let renewal = {
        let (certificates, metrics) = (certificates.clone(), metrics.clone());
        let shutdown = shutdown.clone();
        tokio::spawn(async move { certificates.follow(&metrics, &shutdown).await })
    };

    let serving = server
        .add_service(
            IngestServiceServer::new(ingest.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES),
        )
        .add_service(InterceptedService::new(
            QueryServiceServer::new(query).max_encoding_message_size(MAX_MESSAGE_BYTES),
            identity::reader,
        ))
        .serve_with_incoming_shutdown(
            accept::connections(grpc, certificates, metrics, shutdown.clone()),
            shutdown.clone().cancelled_owned(),
        );
    tokio::pin!(serving);
    let served = tokio::select! {
        served = &mut serving => served,
        () = async {
            shutdown.cancelled().await;
            tokio::time::sleep(DRAIN).await;
        } => {
            tracing::warn!("clients are still connected {} s after the end was asked for; ending without them", DRAIN.as_secs());
            Ok(())
        }
    };
    shutdown.cancel();
    ingest.save_heard(None).await;
    let _ = tokio::join!(pages, upkeep, watching, renewal);
    store.close().await;
    served.context("the gRPC service failed")?;
    tracing::info!("ended");
    Ok(())
}

async fn bind(flag: &str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| {
        format!("cannot listen on {address} ({flag}); is another collector running, or the address not of this host?")
    })
}

/// What must be done now and then.
async fn upkeep(ingest: Ingest, config: Config, shutdown: CancellationToken) {
    let mut save = tokio::time::interval(SAVE_EVERY);
    let mut purge = tokio::time::interval(PURGE_EVERY);
    loop {
        tokio::select! {
            _ = save.tick() => ingest.save_heard(None).await,
            _ = purge.tick() => {
                let before = Wall::now().minus(config.retention);
                match ingest.store.purge(before, config.max_findings).await {
                    Ok(0) => {}
                    Ok(count) => {
                        ingest.metrics.findings_forgotten.inc_by(count);
                        tracing::info!(count, "forgot old findings (--retention, --max-findings)");
                    }
                    Err(error) => {
                        ingest.metrics.store_errors.inc();
                        tracing::error!("{error}");
                    }
                }
            }
            () = shutdown.cancelled() => return,
        }
    }
}
