//! A real control plane for tests: etcd and kube-apiserver on loopback, started in seconds, gone with the test.
//!
//! ```text
//! ControlPlane = Binaries + Pki + etcd + kube-apiserver     Proxy (can be cut) -> kube-apiserver
//! ```

mod control_plane;
pub mod crds;
mod pki;
mod process;
mod proxy;
mod token;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use polproof_cluster::View;
use sha2::{Digest, Sha256};
use tokio::sync::watch;

pub use control_plane::{ApiServer, ControlPlane};
pub use pki::Pki;
pub use proxy::Proxy;
pub use token::ServiceAccountToken;

/// The programs of a control plane.
#[derive(Clone, Debug)]
pub struct Binaries {
    /// etcd 3.6.
    pub etcd: PathBuf,
    /// kube-apiserver 1.36.
    pub kube_apiserver: PathBuf,
}

impl Binaries {
    /// Finds them in `$POLPROOF_TESTBED`, else in the cache that `cargo xtask setup` fills. The
    /// error is what a person must do.
    pub fn find() -> Result<Self, String> {
        let folder = match std::env::var_os("POLPROOF_TESTBED") {
            Some(folder) => PathBuf::from(folder),
            None => default_folder()?,
        };
        let this = Self {
            etcd: folder.join("etcd"),
            kube_apiserver: folder.join("kube-apiserver"),
        };
        for program in [&this.etcd, &this.kube_apiserver] {
            if !program.is_file() {
                return Err(format!(
                    "{} is missing: `cargo xtask setup` builds it (needs Go 1.26), or POLPROOF_TESTBED names a folder with etcd and kube-apiserver",
                    program.display()
                ));
            }
        }
        Ok(this)
    }
}

/// The cache folder that belongs to the versions that `tests/testbed` asks for.
fn default_folder() -> Result<PathBuf, String> {
    cached("", &["kubernetes", "etcd"])
}

/// The cache folder for what is made of these modules of `tests/testbed`.
fn cached(prefix: &str, modules: &[&str]) -> Result<PathBuf, String> {
    let cache = match (std::env::var_os("POLPROOF_CACHE"), std::env::var_os("HOME")) {
        (Some(cache), _) => PathBuf::from(cache),
        (None, Some(home)) => Path::new(&home).join(".cache/polproof"),
        (None, None) => return Err("neither POLPROOF_CACHE nor HOME is set".to_owned()),
    };
    let testbed = Path::new(env!("CARGO_MANIFEST_DIR")).join("testbed");
    let mut hash = Sha256::new();
    for module in modules {
        let sums = testbed.join(module).join("go.sum");
        hash.update(std::fs::read(&sums).map_err(|e| format!("{}: {e}", sums.display()))?);
    }
    let hex: String = hash
        .finalize()
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    Ok(cache.join("testbed").join(format!("{prefix}{hex}")))
}

/// Waits until a view is as wanted. The error shows what the last view was like.
pub async fn wait_for_view(
    views: &mut watch::Receiver<Arc<View>>,
    what: &str,
    patience: Duration,
    wanted: impl Fn(&View) -> bool,
) -> Result<Arc<View>> {
    let waiting = async {
        loop {
            let view = Arc::clone(&views.borrow_and_update());
            if wanted(&view) {
                return Ok(view);
            }
            views.changed().await.context("the source ended")?;
        }
    };
    match tokio::time::timeout(patience, waiting).await {
        Ok(found) => found,
        Err(_) => {
            let last = views.borrow();
            anyhow::bail!(
                "not within {} s: {what}; last view: ready {}, {} pods, {} policies, refused {:?}, problem {:?}",
                patience.as_secs(),
                last.ready,
                last.snapshot.pods().count(),
                last.snapshot.policies().count(),
                last.refused,
                last.problem,
            )
        }
    }
}
