//! The cluster from an API server: one watch a kind, relists as diffs, honest about being behind.
//!
//! ```text
//! follow(Pod) .. follow(Node) -----------Update--> owner --View--> readers
//! discover --starts, ends--> follow(..) --Update----^   ^
//! heartbeat (/readyz) -------------------Problem--------'
//! ```

mod backoff;
mod connect;
mod discover;
mod follow;
mod heartbeat;
mod optional;
mod problem;
mod served;
mod stats;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use tokio::sync::{Notify, mpsc, watch as channel};
use tokio_util::sync::CancellationToken;

use crate::owner::{self, Owner, QUEUE};
use crate::{ClusterError, SourceKind, View};
use connect::Connector;
use follow::{Typed, Watch, follow};
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
    /// How often it is looked which of the kinds that only some clusters have are served. A CRD that is installed is seen
    /// within this time. Default 30 s.
    pub discovery: Duration,
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
            discovery: Duration::from_secs(30),
            page_size: 500,
            stats: Arc::default(),
        }
    }
}

/// How long a server that has answered nothing at all is waited for by somebody who wants to read it once.
const AWAY: Duration = Duration::from_secs(10);

/// What else may be wrong is waited for that long when the server has refused something, so that all of it is told at once.
const GATHER: Duration = Duration::from_secs(1);

/// Reads a cluster once. It ends early if the server refuses the credentials or a right is missing, and if no server
/// answers: what a watch would wait for, a person corrects.
///
/// # Errors
/// As [`watch`]; [`ClusterError::NotRead`] if it is of no use to wait; [`ClusterError::NotListed`] if not everything is
/// listed in time.
pub async fn load(config: KubernetesConfig, patience: Duration) -> Result<View, ClusterError> {
    let cancel = CancellationToken::new();
    let _ends_with_this = cancel.clone().drop_guard();
    let stats = Arc::clone(&config.stats);
    let (mut views, mut refused) = start(config, &cancel)?;
    let mut problems = views.clone();
    let hopeless = async {
        let away = async {
            tokio::time::sleep(AWAY).await;
            if stats.silent() {
                // A server that is only slow has no problem to tell.
                let _ = problems.wait_for(|view| view.problem.is_some()).await;
            } else {
                std::future::pending().await
            }
        };
        tokio::select! {
            Ok(_) = refused.wait_for(|refused| *refused) => {}
            () = away => {}
        }
        tokio::time::sleep(GATHER).await;
    };
    let hopeless = tokio::select! {
        biased;
        Ok(view) = views.wait_for(|view| view.ready) => return Ok(View::clone(&view)),
        () = hopeless => true,
        () = tokio::time::sleep(patience) => false,
    };
    let problem = problem_of(&views.borrow());
    Err(if hopeless {
        ClusterError::NotRead { problem }
    } else {
        ClusterError::NotListed { patience, problem }
    })
}

fn problem_of(view: &View) -> String {
    view.problem
        .clone()
        .unwrap_or_else(|| "it answers too slowly".to_owned())
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
    start(config, &cancel).map(|(views, _)| views)
}

/// The views, and whether the server has refused something.
type Started = (channel::Receiver<Arc<View>>, channel::Receiver<bool>);

fn start(config: KubernetesConfig, cancel: &CancellationToken) -> Result<Started, ClusterError> {
    let connector = Arc::new(Connector::new(config.kubeconfig, config.context)?);
    let (updates, queue) = mpsc::channel(QUEUE);
    let (views, reader) = channel::channel(Arc::new(View::empty(SourceKind::Kubernetes)));
    let (refused, refusals) = channel::channel(false);
    let cancel = cancel.child_token();
    let watch = Watch {
        connector: Arc::clone(&connector),
        updates: updates.clone(),
        cancel: cancel.clone(),
        stats: config.stats,
        watch_timeout: config.watch_timeout,
        max_backoff: config.max_backoff,
        page_size: config.page_size,
        refused: Arc::new(refused),
        unserved: Arc::new(Notify::new()),
    };
    tokio::spawn(follow(Typed::<Namespace>::new(), watch.clone()));
    tokio::spawn(follow(Typed::<Node>::new(), watch.clone()));
    tokio::spawn(follow(Typed::<NetworkPolicy>::new(), watch.clone()));
    tokio::spawn(follow(Typed::<Pod>::new(), watch.clone()));
    tokio::spawn(follow(Typed::<Service>::new(), watch.clone()));
    tokio::spawn(follow(Typed::<EndpointSlice>::new(), watch.clone()));
    tokio::spawn(discover::run(watch, config.discovery));
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
    Ok((reader, refusals))
}
