//! A second look at a connection that ended without a reason.
//!
//! In TLS 1.3 a server refuses the client's certificate after the handshake, and the HTTP/2 layer then says only
//! "cancelled". This makes the handshake once more by hand and reads what comes: an alert names the reason.

use std::io::Read;
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use tonic::transport::Uri;

use super::connect::Pem;
use super::problem::StreamProblem;
use super::stream::StreamConfig;

const TIMEOUT: Duration = Duration::from_secs(3);

/// What TLS has against the connection; none if nothing. Blocks for at most some seconds.
pub(super) fn diagnose(config: &StreamConfig, pem: &Pem) -> Option<StreamProblem> {
    let uri: Uri = config.collector.parse().ok()?;
    let host = uri.host()?.trim_matches(['[', ']']).to_owned();
    let name = config.tls_server_name.clone().unwrap_or(host.clone());
    let address = (host, uri.port_u16().unwrap_or(443))
        .to_socket_addrs()
        .ok()?
        .next()?;

    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&pem.ca).flatten());
    let chain = CertificateDer::pem_slice_iter(&pem.cert)
        .flatten()
        .collect();
    let key = PrivateKeyDer::from_pem_slice(&pem.key).ok()?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .ok()?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .ok()?;
    client.alpn_protocols.push(b"h2".to_vec());
    let connection =
        ClientConnection::new(Arc::new(client), ServerName::try_from(name).ok()?).ok()?;

    let socket = TcpStream::connect_timeout(&address, TIMEOUT).ok()?;
    socket.set_read_timeout(Some(TIMEOUT)).ok()?;
    socket.set_write_timeout(Some(TIMEOUT)).ok()?;
    // A collector that accepts us begins with its HTTP/2 settings.
    let error = StreamOwned::new(connection, socket)
        .read(&mut [0; 1])
        .err()?;
    StreamProblem::from_chain(&error)
}
