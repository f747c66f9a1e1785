//! The cluster's objects, for explanations. The collector stores and answers without them too.

use std::sync::Arc;

use polproof_cluster::kubernetes::KubernetesConfig;
use polproof_cluster::{ClusterError, View, kubernetes, manifests};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::config::Source;

/// Starts to follow the objects. `None` where no source is named and this is no pod of a cluster.
pub fn follow(
    source: &Source,
    shutdown: &CancellationToken,
) -> Result<Option<watch::Receiver<Arc<View>>>, ClusterError> {
    match source {
        Source::Manifests(dir) => manifests::watch(dir.clone(), shutdown.child_token()).map(Some),
        Source::Kubernetes(kubeconfig) => {
            let config = KubernetesConfig {
                kubeconfig: kubeconfig.clone(),
                ..KubernetesConfig::default()
            };
            match kubernetes::watch(config, shutdown.child_token()) {
                Ok(view) => Ok(Some(view)),
                Err(error @ ClusterError::NotInCluster(_)) if kubeconfig.is_none() => {
                    tracing::warn!("`polproof explain` will have no answer from here: {error}");
                    Ok(None)
                }
                Err(error) => Err(error),
            }
        }
    }
}
