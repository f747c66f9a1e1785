//! The certificates: who may talk to the collector is whom the CA signed. What such a client may do is in
//! [`crate::identity`].
//!
//! The files are read again while we run: a renewed certificate needs no restart.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio_util::sync::CancellationToken;

use crate::telemetry::Metrics;

/// How often the files are looked at. They are small, and a mounted secret changes behind a symbolic link, where
/// watches are easily lost.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// The three files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// CA that signed the clients' certificates.
    pub ca: PathBuf,
    /// The collector's certificate chain.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// It could not be read.
    #[error("cannot read {path} ({flag}): {source}; give a PEM file that this user may read")]
    Read {
        /// The setting.
        flag: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It holds something else.
    #[error(
        "{path} ({flag}) holds no {expected}; give a PEM file with a line `-----BEGIN {marker}-----`"
    )]
    Content {
        /// The setting.
        flag: &'static str,
        /// The file.
        path: PathBuf,
        /// What should be in it.
        expected: &'static str,
        /// How that begins.
        marker: &'static str,
    },
    /// The three do not work together.
    #[error(
        "the certificate {cert} and the key {key} (or the CA {ca}) cannot be used: {problem}; is the key that of the \
         certificate, and are all files complete PEM?"
    )]
    Unusable {
        /// `--tls-cert`.
        cert: PathBuf,
        /// `--tls-key`.
        key: PathBuf,
        /// `--tls-ca`.
        ca: PathBuf,
        /// What the library said.
        problem: String,
    },
}

/// The bytes of the three files.
#[derive(Clone, PartialEq, Eq)]
struct Contents {
    ca: Vec<u8>,
    cert: Vec<u8>,
    key: Vec<u8>,
}

/// The files as they are now, for new connections.
pub struct Certificates {
    files: TlsFiles,
    /// What they held at the start.
    loaded: Contents,
    current: ArcSwap<ServerConfig>,
}

impl std::fmt::Debug for Certificates {
    // Not derived: it would print the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Certificates")
            .field("files", &self.files)
            .finish_non_exhaustive()
    }
}

impl Certificates {
    /// Reads the files; clients without a certificate of the CA will be refused.
    pub fn load(files: TlsFiles) -> Result<Self, TlsError> {
        let loaded = contents(&files)?;
        let config = config(&files, &loaded)?;
        Ok(Self {
            files,
            loaded,
            current: ArcSwap::from_pointee(config),
        })
    }

    /// What a new connection uses.
    pub fn current(&self) -> Arc<ServerConfig> {
        self.current.load_full()
    }

    /// Looks at the files now and then, until `shutdown`. Files that cannot be used change nothing; that is said once
    /// for every state of them, and only when two looks found the same: a copy may be under way at the first.
    pub async fn follow(&self, metrics: &Metrics, shutdown: &CancellationToken) {
        let mut used = Some(self.loaded.clone());
        let mut before: Option<Result<Contents, String>> = None;
        let mut said = None;
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = look.tick() => {}
                () = shutdown.cancelled() => return,
            }
            let now = contents(&self.files);
            let outcome = match &now {
                Ok(now) if used.as_ref() == Some(now) => {
                    (before, said) = (None, None);
                    continue;
                }
                Ok(now) => config(&self.files, now).map_err(|error| error.to_string()),
                Err(error) => Err(error.to_string()),
            };
            let now = now.map_err(|error| error.to_string());
            match outcome {
                Ok(config) => {
                    self.current.store(Arc::new(config));
                    used = now.ok();
                    (before, said) = (None, None);
                    metrics.certificates_read.inc();
                    tracing::info!(
                        cert = %self.files.cert.display(),
                        "the certificate files have changed; new connections use the new ones"
                    );
                }
                Err(problem) => {
                    let settled = before.as_ref() == Some(&now);
                    if settled && said.as_ref() != Some(&problem) {
                        metrics.certificates_unusable.inc();
                        tracing::error!(
                            "the certificate files have changed and cannot be used, so the earlier ones stay in use: {problem}"
                        );
                        said = Some(problem);
                    }
                    before = Some(now);
                }
            }
        }
    }
}

fn contents(files: &TlsFiles) -> Result<Contents, TlsError> {
    Ok(Contents {
        ca: read("--tls-ca", &files.ca, "certificate", "CERTIFICATE")?,
        cert: read("--tls-cert", &files.cert, "certificate", "CERTIFICATE")?,
        key: read("--tls-key", &files.key, "private key", "PRIVATE KEY")?,
    })
}

fn config(files: &TlsFiles, contents: &Contents) -> Result<ServerConfig, TlsError> {
    let unusable = |problem: String| TlsError::Unusable {
        cert: files.cert.clone(),
        key: files.key.clone(),
        ca: files.ca.clone(),
        problem,
    };
    let mut roots = RootCertStore::empty();
    let authorities = CertificateDer::pem_slice_iter(&contents.ca)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| unusable(format!("the CA: {error}")))?;
    // In a bundle there may be one that we cannot use; all is well while there is one that we can.
    let (added, _) = roots.add_parsable_certificates(authorities);
    if added == 0 {
        return Err(unusable(
            "the CA: none of its certificates can be read".to_owned(),
        ));
    }
    let chain = CertificateDer::pem_slice_iter(&contents.cert)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| unusable(format!("the certificate: {error}")))?;
    let key = PrivateKeyDer::from_pem_slice(&contents.key)
        .map_err(|error| unusable(format!("the key: {error}")))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .build()
            .map_err(|error| unusable(format!("the CA: {error}")))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| unusable(error.to_string()))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(|error| unusable(error.to_string()))?;
    config.alpn_protocols.push(b"h2".to_vec());
    Ok(config)
}

fn read(
    flag: &'static str,
    path: &Path,
    expected: &'static str,
    marker: &'static str,
) -> Result<Vec<u8>, TlsError> {
    let content = std::fs::read(path).map_err(|source| TlsError::Read {
        flag,
        path: path.to_owned(),
        source,
    })?;
    let text = String::from_utf8_lossy(&content);
    let found = text.lines().any(|line| {
        // "RSA PRIVATE KEY", "EC PRIVATE KEY" too.
        line.starts_with("-----BEGIN ") && line.trim_end().ends_with(&format!("{marker}-----"))
    });
    if !found {
        return Err(TlsError::Content {
            flag,
            path: path.to_owned(),
            expected,
            marker,
        });
    }
    Ok(content)
}
