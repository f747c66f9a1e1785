//! The cluster from an API server: one watch a kind, relists as diffs, honest about being behind.
//!
//! ```text
//! follow::<Pod> .. follow::<Node> --Update--> owner --View--> readers
//! heartbeat (/readyz) ------------Problem----^
//! ```

mod backoff;
mod connect;
mod follow;
mod heartbeat;
mod problem;
mod stats;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use polproof_policy::Kind;
use tokio::sync::{mpsc, watch as channel};
use tokio_util::sync::CancellationToken;

use crate::owner::{self, Owner, QUEUE};
use crate::{ClusterError, SourceKind, View};
use connect::Connector;
use follow::{Watch, follow};
pub use stats::{KindStats, WatchStats};

/// Which API server, and how it is watched.
#[derive(Clone, Debug)]
pub struct KubernetesConfig {
    /// A kubeconfig; `None` means the service account of the pod that this runs in.
    pub kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig; `None` means its current-context.
    pub context: Option<String>,
    /// How often the server is asked whether it is ready. A server that is away is noticed
    /// within about twice this time even if the watches are silent. Default 10 s.
    pub heartbeat: Duration,
    /// How long one watch request lasts before it is renewed (without a relist); a connection
    /// that died silently is noticed 5 s after that. Default 180 s; whole seconds count.
    pub watch_timeout: Duration,
    /// The longest wait between attempts while something fails. Default 15 s.
    pub max_backoff: Duration,
    /// Objects per page where lists are paged. Default 500.
    pub page_size: u32,
    /// Counters, to be shared with telemetry.
    pub stats: Arc<WatchStats>,
}

impl Default for KubernetesConfig {
    fn default() -> Self {
        Self {
            kubeconfig: None,
            context: None,
            heartbeat: Duration::from_secs(10),
            watch_timeout: Duration::from_secs(180),
            max_backoff: Duration::from_secs(15),
            page_size: 500,
            stats: Arc::default(),
        }
    }
}

/// Reads a cluster once.
///
/// # Errors
/// As [`watch`]; and [`ClusterError::NotListed`] if not everything is listed in time.
pub async fn load(config: KubernetesConfig, patience: Duration) -> Result<View, ClusterError> {
    let cancel = CancellationToken::new();
    let mut views = watch(config, cancel.clone())?;
    let listed = tokio::time::timeout(patience, views.wait_for(|view| view.ready)).await;
    let view = listed
        .ok()
        .and_then(Result::ok)
        .map(|view| View::clone(&view));
    cancel.cancel();
    view.ok_or_else(|| ClusterError::NotListed {
        patience,
        problem: views
            .borrow()
            .problem
            .clone()
            .unwrap_or_else(|| "it answers too slowly".to_owned()),
    })
}

/// Watches a cluster until cancelled or until the last receiver is dropped.
///
/// Must be called inside a tokio runtime. It fails only for what will not heal by itself: a
/// kubeconfig that cannot be read, or no service account. A server that is away, refuses or has
/// too old credentials is a [`View::problem`], and is tried again.
///
/// # Errors
/// [`ClusterError::Kubeconfig`], [`ClusterError::NotInCluster`].
#[expect(
    clippy::needless_pass_by_value,
    reason = "a token is handed on like a channel; the other source consumes it"
)]
pub fn watch(
    config: KubernetesConfig,
    cancel: CancellationToken,
) -> Result<channel::Receiver<Arc<View>>, ClusterError> {
    let connector = Arc::new(Connector::new(config.kubeconfig, config.context)?);
    let (updates, queue) = mpsc::channel(QUEUE);
    let (views, reader) = channel::channel(Arc::new(View::empty(SourceKind::Kubernetes)));
    let cancel = cancel.child_token();
    let watch = Watch {
        connector: Arc::clone(&connector),
        updates: updates.clone(),
        cancel: cancel.clone(),
        stats: config.stats,
        watch_timeout: config.watch_timeout,
        max_backoff: config.max_backoff,
        page_size: config.page_size,
    };
    tokio::spawn(follow::<Namespace>(watch.clone()));
    tokio::spawn(follow::<Node>(watch.clone()));
    tokio::spawn(follow::<NetworkPolicy>(watch.clone()));
    tokio::spawn(follow::<Pod>(watch.clone()));
    tokio::spawn(follow::<Service>(watch.clone()));
    tokio::spawn(follow::<EndpointSlice>(watch));
    let optional = updates.clone();
    tokio::spawn(async move {
        for kind in Kind::ALL.into_iter().skip(6) {
            let _ = optional.send(owner::Update::Reset(kind, Vec::new())).await;
        }
    });
    tokio::spawn(heartbeat::run(
        connector,
        config.heartbeat,
        updates,
        cancel.clone(),
    ));
    tokio::spawn(owner::run(
        Owner::new(SourceKind::Kubernetes),
        queue,
        views,
        cancel,
    ));
    Ok(reader)
}
