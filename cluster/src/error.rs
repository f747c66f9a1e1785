//! What can go wrong before there is a view, or in a reading of manifests.

use std::path::PathBuf;

/// Why there is no view. Every text says what, where, why and what to do.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// A kubeconfig that cannot be used.
    #[error(
        "kubeconfig {file}: {problem}; check the file given by --kubeconfig (it needs a cluster, a user and a current-context)"
    )]
    Kubeconfig {
        /// The file.
        file: PathBuf,
        /// What the parser or loader says.
        problem: String,
    },
    /// No credentials of a pod are there.
    #[error(
        "not inside a cluster: {0}; run as a pod with a service account, or give --kubeconfig FILE or --manifests DIR"
    )]
    NotInCluster(String),
    /// A client could not be made of the configuration.
    #[error(
        "the client for API server {url} cannot be made: {problem}; check the certificates and the user in the kubeconfig"
    )]
    Client {
        /// The API server.
        url: String,
        /// What the TLS or credential code says.
        problem: String,
    },
    /// A file or folder that cannot be read.
    #[error("{path}: {problem}; check that the path exists and that this user may read it")]
    Unreadable {
        /// The path.
        path: PathBuf,
        /// What the system says.
        problem: String,
    },
    /// A file whose content is not a manifest.
    #[error(
        "{file}:{line}: {problem}; correct the file (`kubectl apply --dry-run=server -f` names the same place)"
    )]
    Manifest {
        /// The file.
        file: PathBuf,
        /// The line, from 1.
        line: u64,
        /// What is wrong.
        problem: String,
    },
    /// More than a source of manifests may hold.
    #[error("{path}: {problem}; give a folder that holds only the manifests")]
    TooMuch {
        /// The path.
        path: PathBuf,
        /// Which bound was passed.
        problem: String,
    },
    /// Not every kind could be listed in time.
    #[error("the cluster could not be read within {patience:?}: {problem}")]
    NotListed {
        /// How long it was tried.
        patience: std::time::Duration,
        /// What is wrong with it, and what to do.
        problem: String,
    },
    /// It is of no use to wait: the credentials are refused, a right is missing, or nobody answers.
    #[error("the cluster cannot be read: {problem}")]
    NotRead {
        /// What is wrong, and what to do.
        problem: String,
    },
    /// Changes of a folder cannot be followed.
    #[error(
        "{path}: changes cannot be followed: {problem}; raise fs.inotify.max_user_watches or max_user_instances if they are used up"
    )]
    Follow {
        /// The path.
        path: PathBuf,
        /// What the system says.
        problem: String,
    },
}

/// An error with what caused it, innermost last, without repetition.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        let cause = error.to_string();
        if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
        next = error.source();
    }
    text
}
