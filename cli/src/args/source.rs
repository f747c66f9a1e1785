//! Where the objects come from, for all commands that look at a cluster or at manifests.

use std::path::PathBuf;

/// A cluster, unless a path is given.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct Source {
    /// Read a cluster: this context of the kubeconfig (without it and without a path: the current one)
    #[arg(long, value_name = "NAME")]
    pub(crate) context: Option<String>,
    /// The kubeconfig (default: KUBECONFIG, else ~/.kube/config)
    #[arg(long, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
}
