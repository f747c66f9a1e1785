//! The certificates: who may talk to the collector is whom the CA signed.

use std::path::{Path, PathBuf};

use tonic::transport::{Certificate, Identity, ServerTlsConfig};

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

/// Reads the files; clients without a certificate of the CA will be refused.
pub fn server(files: &TlsFiles) -> Result<ServerTlsConfig, TlsError> {
    let ca = read("--tls-ca", &files.ca, "certificate", "CERTIFICATE")?;
    let cert = read("--tls-cert", &files.cert, "certificate", "CERTIFICATE")?;
    let key = read("--tls-key", &files.key, "private key", "PRIVATE KEY")?;
    Ok(ServerTlsConfig::new()
        .identity(Identity::from_pem(cert, key))
        .client_ca_root(Certificate::from_pem(ca))
        .timeout(std::time::Duration::from_secs(10)))
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
