//! The way to the collector, and what to say when there is none.

use std::path::{Path, PathBuf};
use std::time::Duration;

use polproof_proto::MAX_MESSAGE_BYTES;
use polproof_proto::v1::query_service_client::QueryServiceClient;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use crate::args::Global;
use crate::failure::Failure;
use crate::printable::printable;

/// What one asks the collector with.
pub(crate) type Client = QueryServiceClient<Channel>;

/// Connects, or says why not.
pub(crate) async fn connect(global: &Global) -> Result<Client, Failure> {
    let url = global.collector.as_str();
    let wrong = |why: &str| {
        Failure::usage(format!(
            "--collector {url:?} {why}; for example https://polproof-collector.polproof-system.svc:8443"
        ))
    };
    if !url.starts_with("https://") {
        return Err(wrong("is no https URL (the collector only talks TLS)"));
    }
    let endpoint = Endpoint::from_shared(url.to_owned()).map_err(|_| wrong("is no URL"))?;
    if endpoint.uri().host().is_none_or(str::is_empty) {
        return Err(wrong("names no host"));
    }
    let ca = pem("--tls-ca", "POLPROOF_TLS_CA", global.tls_ca.as_ref())?;
    let cert = pem("--tls-cert", "POLPROOF_TLS_CERT", global.tls_cert.as_ref())?;
    let key = pem("--tls-key", "POLPROOF_TLS_KEY", global.tls_key.as_ref())?;
    let mut tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(ca))
        .identity(Identity::from_pem(cert, key));
    if let Some(name) = &global.tls_server_name {
        tls = tls.domain_name(name);
    }
    let channel = endpoint
        .tls_config(tls)
        .map_err(|error| {
            Failure::usage(format!(
                "the files of --tls-ca, --tls-cert and --tls-key cannot be used: {}; is the key that of the certificate?",
                chain(&error)
            ))
        })?
        .connect_timeout(Duration::from_secs(5))
        .http2_keep_alive_interval(Duration::from_secs(10))
        .keep_alive_timeout(Duration::from_secs(10))
        .connect()
        .await
        .map_err(|error| Failure::away(transport(url, &error)))?;
    Ok(QueryServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES))
}

fn pem(flag: &str, variable: &str, path: Option<&PathBuf>) -> Result<Vec<u8>, Failure> {
    let Some(path) = path else {
        return Err(Failure::usage(format!(
            "{flag} (or {variable}) is missing: the collector only talks to clients with a certificate of its CA"
        )));
    };
    let read = |path: &Path| -> std::io::Result<Vec<u8>> { std::fs::read(path) };
    let content = read(path).map_err(|error| {
        Failure::usage(format!("cannot read {} ({flag}): {error}", path.display()))
    })?;
    if !String::from_utf8_lossy(&content).contains("-----BEGIN ") {
        return Err(Failure::usage(format!(
            "{} ({flag}) is no PEM file: it has no line `-----BEGIN ...-----`",
            path.display()
        )));
    }
    Ok(content)
}

/// One line for an error on the way, with what to do about it.
pub(crate) fn transport(url: &str, error: &(dyn std::error::Error + 'static)) -> String {
    let text = chain(error);
    let has = |needle: &str| text.contains(needle);
    if has("UnknownIssuer") || has("BadSignature") {
        return format!(
            "the certificate of the collector at {url} is not of the CA given by --tls-ca; give the CA that the collector was set up with"
        );
    }
    if has("NotValidForName") || has("not valid for name") {
        return format!(
            "the certificate of the collector at {url} is for another name; give its name with --tls-server-name ({text})"
        );
    }
    if has("Expired") || has("expired") {
        return format!(
            "a certificate on the way to {url} has expired; renew it, or correct the clock ({text})"
        );
    }
    if has("alert") || has("CertificateRequired") {
        return format!(
            "the collector at {url} refuses our certificate; give one that its CA signed (--tls-cert, --tls-key) ({text})"
        );
    }
    // With TLS 1.3 the server judges our certificate after the handshake, and what we see is a closed connection.
    if has("connection closed")
        || has("operation was canceled")
        || has("reset by peer")
        || has("roken pipe")
    {
        return format!(
            "the collector at {url} closed the connection: it refuses our certificate (give one that its CA signed: \
             --tls-cert, --tls-key), or it has just ended; its log says which ({text})"
        );
    }
    if has("InvalidContentType") || has("corrupt message") {
        return format!(
            "what listens at {url} does not talk TLS; is it the collector's gRPC port (8443)?"
        );
    }
    format!(
        "cannot reach the collector at {url}: {text}; does it run, and is the address right (--collector)? From outside \
         a cluster: kubectl -n polproof-system port-forward svc/polproof-collector 8443"
    )
}

/// An error with its causes, each once.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = match error.downcast_ref::<tonic::Status>() {
        Some(status) => status.message().to_owned(),
        None => error.to_string(),
    };
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    printable(text.replace('\n', " "))
}
