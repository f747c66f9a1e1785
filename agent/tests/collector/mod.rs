//! The other end of the wire for the stream's tests: a real tonic server with real mutual TLS, which keeps batches in
//! memory by the rules of the protocol.

#![allow(dead_code, reason = "no test uses all of it")]

pub mod agent;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use polproof_proto::v1::ingest_service_server::{IngestService, IngestServiceServer};
use polproof_proto::v1::stream_request::Message as Up;
use polproof_proto::v1::stream_response::Message as Down;
use polproof_proto::v1::{
    Batch, Heartbeat, Hello, Inquiry, Receipt, StreamRequest, StreamResponse, Testimony, Welcome,
};
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, date_time_ymd,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status, Streaming};

/// A certificate authority.
pub struct Authority {
    certificate: Certificate,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, name);
        let certificate = params.self_signed(&key).unwrap();
        Self {
            certificate,
            issuer: Issuer::new(params, key),
        }
    }

    pub fn ca_pem(&self) -> String {
        self.certificate.pem()
    }

    fn issue(&self, name: &str, usage: ExtendedKeyUsagePurpose, expired: bool) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.extended_key_usages.push(usage);
        if expired {
            params.not_before = date_time_ymd(2020, 1, 1);
            params.not_after = date_time_ymd(2021, 1, 1);
        }
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    /// A server's certificate and key.
    pub fn server(&self, name: &str, expired: bool) -> (String, String) {
        self.issue(name, ExtendedKeyUsagePurpose::ServerAuth, expired)
    }

    /// Writes ca.pem, agent.pem and agent.key.
    pub fn write_agent(&self, dir: &Path) {
        let (cert, key) = self.issue("polproof-agent", ExtendedKeyUsagePurpose::ClientAuth, false);
        std::fs::write(dir.join("ca.pem"), self.ca_pem()).unwrap();
        std::fs::write(dir.join("agent.pem"), cert).unwrap();
        std::fs::write(dir.join("agent.key"), key).unwrap();
    }
}

/// What happens to streams.
#[derive(Clone, Copy, Default)]
pub enum Fate {
    #[default]
    Serve,
    /// Breaks after so many batches, which are stored; no receipt is sent.
    BreakAfter(usize),
}

#[derive(Default)]
pub struct Seen {
    pub fate: Fate,
    /// Largest message accepted, in bytes.
    pub limit: Option<usize>,
    pub hellos: Vec<Hello>,
    pub heartbeats: Vec<Heartbeat>,
    pub stored: Vec<Batch>,
    /// Batches that were stored already.
    pub duplicates: usize,
    /// Highest number by instance.
    pub last: HashMap<String, u64>,
    pub inquiries: Vec<Inquiry>,
    pub testimonies: Vec<Testimony>,
    /// The way down of the newest stream.
    pub down: Option<mpsc::Sender<Result<StreamResponse, Status>>>,
}

#[derive(Clone, Default)]
pub struct Collector(Arc<Mutex<Seen>>);

/// A running server. Dropped, it ends.
pub struct Serving {
    pub address: SocketAddr,
    cancel: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Serving {
    /// Ends it at once, streams included.
    pub async fn stop(self) {
        self.task.abort();
        self.cancel.cancel();
        tokio::task::yield_now().await;
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.cancel.cancel();
        self.task.abort();
    }
}

impl Collector {
    pub fn lock(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap()
    }

    pub fn stored(&self) -> Vec<Batch> {
        self.lock().stored.clone()
    }

    /// Sends something down the newest stream.
    pub async fn tell(&self, message: Down) {
        let down = self.lock().down.clone().unwrap();
        let response = StreamResponse {
            message: Some(message),
        };
        down.send(Ok(response)).await.unwrap();
    }

    pub async fn serve(&self, authority: &Authority, address: Option<SocketAddr>) -> Serving {
        let identity = authority.server("localhost", false);
        self.serve_with(authority, identity, address).await
    }

    pub async fn serve_with(
        &self,
        authority: &Authority,
        (cert, key): (String, String),
        address: Option<SocketAddr>,
    ) -> Serving {
        let address = address.unwrap_or_else(|| "127.0.0.1:0".parse().unwrap());
        let listener = listener(address).await;
        let address = listener.local_addr().unwrap();
        let tls = ServerTlsConfig::new()
            .identity(Identity::from_pem(cert, key))
            .client_ca_root(tonic::transport::Certificate::from_pem(authority.ca_pem()));
        let cancel = CancellationToken::new();
        let limit = self
            .lock()
            .limit
            .unwrap_or(polproof_proto::MAX_MESSAGE_BYTES);
        let service = IngestServiceServer::new(Ingest {
            collector: self.clone(),
            cancel: cancel.clone(),
        })
        .max_decoding_message_size(limit);
        let task = tokio::spawn(async move {
            Server::builder()
                .tls_config(tls)
                .unwrap()
                .add_service(service)
                .serve_with_incoming(TcpListenerStream::new(listener))
                .await
                .unwrap();
        });
        Serving {
            address,
            cancel,
            task,
        }
    }
}

struct Ingest {
    collector: Collector,
    cancel: CancellationToken,
}

#[tonic::async_trait]
impl IngestService for Ingest {
    type StreamStream = ReceiverStream<Result<StreamResponse, Status>>;

    async fn stream(
        &self,
        request: Request<Streaming<StreamRequest>>,
    ) -> Result<Response<Self::StreamStream>, Status> {
        let (responses, outbound) = mpsc::channel(64);
        let collector = self.collector.clone();
        let mut requests = request.into_inner();
        let cancel = self.cancel.clone();
        tokio::spawn(async move {
            let session = session(&collector, &mut requests, &responses);
            let outcome = tokio::select! {
                outcome = session => outcome,
                () = cancel.cancelled() => Err(Status::unavailable("stopped")),
            };
            if let Err(status) = outcome {
                let _ = responses.send(Err(status)).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(outbound)))
    }
}

async fn session(
    collector: &Collector,
    requests: &mut Streaming<StreamRequest>,
    responses: &mpsc::Sender<Result<StreamResponse, Status>>,
) -> Result<(), Status> {
    let mut instance = String::new();
    let mut count = 0;
    while let Some(StreamRequest {
        message: Some(message),
    }) = requests.message().await?
    {
        let answer = match message {
            Up::Hello(hello) => {
                let mut seen = collector.lock();
                instance = hello.instance.clone();
                let last_sequence = seen.last.get(&instance).copied().unwrap_or(0);
                seen.hellos.push(hello);
                seen.down = Some(responses.clone());
                Some(Down::Welcome(Welcome {
                    last_sequence,
                    collector_version: "test".to_owned(),
                }))
            }
            Up::Heartbeat(heartbeat) => {
                collector.lock().heartbeats.push(heartbeat);
                None
            }
            Up::Inquiry(inquiry) => {
                collector.lock().inquiries.push(inquiry);
                None
            }
            Up::Testimony(testimony) => {
                collector.lock().testimonies.push(testimony);
                None
            }
            Up::Batch(batch) => {
                let mut seen = collector.lock();
                let sequence = batch.sequence;
                let last = seen.last.entry(instance.clone()).or_default();
                if sequence <= *last {
                    seen.duplicates += 1;
                } else {
                    *last = sequence;
                    seen.stored.push(batch);
                }
                count += 1;
                match seen.fate {
                    Fate::Serve => Some(Down::Receipt(Receipt { sequence })),
                    Fate::BreakAfter(limit) if count >= limit => {
                        return Err(Status::unavailable("broken on purpose"));
                    }
                    Fate::BreakAfter(_) => None,
                }
            }
        };
        if let Some(message) = answer {
            let response = StreamResponse {
                message: Some(message),
            };
            if responses.send(Ok(response)).await.is_err() {
                break;
            }
        }
    }
    Ok(())
}

/// Listens. At an address that was listened at before, a connection to elsewhere may have the port meanwhile: not for long.
async fn listener(address: SocketAddr) -> tokio::net::TcpListener {
    let began = std::time::Instant::now();
    loop {
        match tokio::net::TcpListener::bind(address).await {
            Ok(listener) => return listener,
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
                assert!(
                    began.elapsed() < std::time::Duration::from_secs(60),
                    "{address} is in use by another: {error}"
                );
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
            Err(error) => panic!("listen at {address}: {error}"),
        }
    }
}
