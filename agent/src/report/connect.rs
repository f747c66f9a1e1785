//! One connection to the collector, with mutual TLS.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use super::problem::{StreamProblem, chain};
use super::stream::StreamConfig;

const TIMEOUT: Duration = Duration::from_secs(5);
/// A dead peer is noticed after at most twice this.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// The PEM texts of the three files.
pub(super) struct Pem {
    pub(super) ca: Vec<u8>,
    pub(super) cert: Vec<u8>,
    pub(super) key: Vec<u8>,
}

impl Pem {
    /// Reads the files; afresh for every connection, as certificates are renewed under a running agent.
    pub(super) async fn read(config: &StreamConfig) -> Result<Self, StreamProblem> {
        Ok(Self {
            ca: read("--tls-ca", &config.tls_ca).await?,
            cert: read("--tls-cert", &config.tls_cert).await?,
            key: read("--tls-key", &config.tls_key).await?,
        })
    }
}

pub(super) async fn connect(config: &StreamConfig, pem: &Pem) -> Result<Channel, StreamProblem> {
    let mut tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(&pem.ca))
        .identity(Identity::from_pem(&pem.cert, &pem.key));
    if let Some(name) = &config.tls_server_name {
        tls = tls.domain_name(name);
    }
    Endpoint::from_shared(config.collector.clone())
        .map_err(|e| StreamProblem::Unreachable(chain(&e)))?
        .connect_timeout(TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .keep_alive_while_idle(true)
        .tls_config(tls)
        .map_err(|e| StreamProblem::TlsFile {
            option: "--tls-ca/--tls-cert/--tls-key",
            path: PathBuf::from(&config.tls_cert),
            why: chain(&e),
        })?
        .connect()
        .await
        .map_err(|e| StreamProblem::from_connect(&e))
}

async fn read(option: &'static str, path: &Path) -> Result<Vec<u8>, StreamProblem> {
    let problem = |why: String| StreamProblem::TlsFile {
        option,
        path: path.to_owned(),
        why,
    };
    let bytes = tokio::fs::read(path)
        .await
        .map_err(|e| problem(format!("cannot be read: {e}")))?;
    if !bytes.windows(11).any(|w| w == b"-----BEGIN ") {
        return Err(problem("is not a PEM file".to_owned()));
    }
    Ok(bytes)
}
