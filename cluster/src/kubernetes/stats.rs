//! What the watches count.

use std::sync::atomic::{AtomicU64, Ordering};

use polproof_policy::Kind;

/// Counters of the watch of one kind; all only grow.
#[derive(Debug, Default)]
pub struct KindStats {
    /// Complete lists received, the first included.
    pub lists: AtomicU64,
    /// Objects added, changed or deleted after a list.
    pub events: AtomicU64,
    /// Times the server said 410 Gone: its history no longer reached back far enough.
    pub gone: AtomicU64,
    /// Errors of any other kind.
    pub errors: AtomicU64,
    /// Times the client was made anew because the credentials were refused.
    pub reconnects: AtomicU64,
}

/// Counters of all watches.
#[derive(Debug, Default)]
pub struct WatchStats {
    pods: KindStats,
    namespaces: KindStats,
    nodes: KindStats,
    network_policies: KindStats,
    services: KindStats,
    endpoint_slices: KindStats,
    admin_network_policies: KindStats,
    baseline_admin_network_policies: KindStats,
    cluster_network_policies: KindStats,
    cilium_network_policies: KindStats,
    cilium_clusterwide_network_policies: KindStats,
    calico_network_policies: KindStats,
    calico_global_network_policies: KindStats,
}

impl WatchStats {
    /// The counters of one kind.
    pub const fn kind(&self, kind: Kind) -> &KindStats {
        match kind {
            Kind::Pod => &self.pods,
            Kind::Namespace => &self.namespaces,
            Kind::Node => &self.nodes,
            Kind::NetworkPolicy => &self.network_policies,
            Kind::Service => &self.services,
            Kind::EndpointSlice => &self.endpoint_slices,
            Kind::AdminNetworkPolicy => &self.admin_network_policies,
            Kind::BaselineAdminNetworkPolicy => &self.baseline_admin_network_policies,
            Kind::ClusterNetworkPolicy => &self.cluster_network_policies,
            Kind::CiliumNetworkPolicy => &self.cilium_network_policies,
            Kind::CiliumClusterwideNetworkPolicy => &self.cilium_clusterwide_network_policies,
            Kind::CalicoNetworkPolicy => &self.calico_network_policies,
            Kind::CalicoGlobalNetworkPolicy => &self.calico_global_network_policies,
        }
    }
}

impl WatchStats {
    /// Whether no list of any kind has come.
    pub(super) fn silent(&self) -> bool {
        let lists = |kind| self.kind(kind).lists.load(Ordering::Relaxed);
        Kind::ALL.into_iter().all(|kind| lists(kind) == 0)
    }
}

/// Adds one.
pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
