//! A real collector process, real certificates, a real client.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "shared by several test programs, each of which uses a part"
)]

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use polproof_proto::v1;
use polproof_proto::v1::ingest_service_client::IngestServiceClient;
use polproof_proto::v1::query_service_client::QueryServiceClient;
use polproof_proto::v1::stream_request::Message;
use polproof_proto::v1::stream_response::Message as Answer;
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Identity};
use tonic::{Status, Streaming};

/// How long anything may take on a busy machine.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// A CA and what it signed.
pub struct Pki {
    pub ca: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Pki {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let ca = params.self_signed(&key).unwrap().pem();
        Self {
            ca,
            issuer: Issuer::new(params, key),
        }
    }

    /// A certificate and its key.
    pub fn issue(&self, names: &[&str]) -> (String, String) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        (cert.pem(), key.serialize_pem())
    }

    /// Writes ca.pem, FILE.pem and FILE.key.
    pub fn write(&self, dir: &Path, file: &str, names: &[&str]) {
        let (cert, key) = self.issue(names);
        std::fs::write(dir.join("ca.pem"), &self.ca).unwrap();
        std::fs::write(dir.join(format!("{file}.pem")), cert).unwrap();
        std::fs::write(dir.join(format!("{file}.key")), key).unwrap();
    }

    /// The client's side, with a certificate of these names.
    pub fn client(&self, names: &[&str]) -> ClientTlsConfig {
        let (cert, key) = self.issue(names);
        ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(&self.ca))
            .identity(Identity::from_pem(cert, key))
            .domain_name("collector")
    }
}

/// A collector process. Dropped, it is killed.
pub struct Collector {
    child: Child,
    pub address: String,
    pub http: String,
    pub log: Arc<Mutex<String>>,
}

impl Drop for Collector {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Collector {
    /// Starts one and waits until it listens. `dir` gets the certificates; flags win over the defaults.
    pub fn start(dir: &Path, pki: &Pki, database: &Path, extra: &[&str]) -> Self {
        Self::start_at(dir, pki, database, "127.0.0.1:0", extra)
    }

    pub fn start_at(dir: &Path, pki: &Pki, database: &Path, listen: &str, extra: &[&str]) -> Self {
        let mut child = command(dir, pki, database, listen, extra).spawn().unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let (found, listening) = std::sync::mpsc::channel();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let copy = log.clone();
        std::thread::spawn(move || {
            for line in stderr.lines() {
                let Ok(line) = line else { break };
                if let Ok(event) = serde_json::from_str::<serde_json::Value>(&line)
                    && event["message"] == "listening"
                {
                    let text = |name: &str| event[name].as_str().unwrap().to_owned();
                    let _ = found.send((text("grpc"), text("http")));
                }
                let mut log = copy.lock().unwrap();
                log.push_str(&line);
                log.push('\n');
            }
        });
        let Ok((address, http)) = listening.recv_timeout(DEADLINE) else {
            let _ = child.kill();
            let _ = child.wait();
            panic!("the collector does not listen: {}", log.lock().unwrap());
        };
        Self {
            child,
            address,
            http,
            log,
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits for a line in its log.
    pub async fn says(&self, what: &str) -> String {
        let began = Instant::now();
        loop {
            let log = self.log.lock().unwrap().clone();
            if let Some(line) = log.lines().find(|line| line.contains(what)) {
                return line.to_owned();
            }
            assert!(began.elapsed() < DEADLINE, "{what}: {log}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> std::process::ExitStatus {
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(began.elapsed() < DEADLINE, "the collector does not end");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub async fn channel(&self, tls: ClientTlsConfig) -> Result<Channel, tonic::transport::Error> {
        Channel::from_shared(format!("https://{}", self.address))
            .unwrap()
            .tls_config(tls)
            .unwrap()
            .connect()
            .await
    }

    pub async fn query(&self, pki: &Pki) -> QueryServiceClient<Channel> {
        QueryServiceClient::new(
            self.channel(pki.client(&["polproof-reader"]))
                .await
                .unwrap(),
        )
    }
}

/// The command of a collector.
pub fn command(dir: &Path, pki: &Pki, database: &Path, listen: &str, extra: &[&str]) -> Command {
    if !dir.join("collector.pem").exists() {
        pki.write(dir, "collector", &["collector", "127.0.0.1"]);
    }
    let manifests = dir.join("manifests");
    std::fs::create_dir_all(&manifests).unwrap();
    let mut command = Command::new(binary());
    command
        .args([
            "--listen",
            listen,
            "--listen-http",
            "127.0.0.1:0",
            "--log-format",
            "json",
        ])
        .arg("--database")
        .arg(format!("sqlite:{}", database.display()))
        .arg("--tls-ca")
        .arg(dir.join("ca.pem"))
        .arg("--tls-cert")
        .arg(dir.join("collector.pem"))
        .arg("--tls-key")
        .arg(dir.join("collector.key"))
        .arg("--manifests")
        .arg(manifests)
        .args(extra)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    command
}

/// An agent's end of a stream.
pub struct Agent {
    requests: mpsc::Sender<v1::StreamRequest>,
    responses: Streaming<v1::StreamResponse>,
    pub welcome: u64,
}

impl Agent {
    pub async fn connect(
        collector: &Collector,
        pki: &Pki,
        node: &str,
        instance: &str,
    ) -> Result<Self, Status> {
        let channel = collector
            .channel(pki.client(&["polproof-agent"]))
            .await
            .map_err(|error| Status::unavailable(error.to_string()))?;
        Self::over(channel, node, instance).await
    }

    pub async fn over(channel: Channel, node: &str, instance: &str) -> Result<Self, Status> {
        let (requests, receiver) = mpsc::channel(64);
        requests
            .send(request(Message::Hello(v1::Hello {
                node: node.to_owned(),
                instance: instance.to_owned(),
                agent_version: "test".to_owned(),
                kernel_release: "6.1".to_owned(),
                first_sequence: 1,
            })))
            .await
            .unwrap();
        let mut responses = IngestServiceClient::new(channel)
            .stream(ReceiverStream::new(receiver))
            .await?
            .into_inner();
        let welcome = match tokio::time::timeout(DEADLINE, responses.message()).await {
            Err(_) => panic!("no Welcome"),
            Ok(message) => match message?.and_then(|response| response.message) {
                Some(Answer::Welcome(welcome)) => welcome.last_sequence,
                other => panic!("instead of Welcome: {other:?}"),
            },
        };
        Ok(Self {
            requests,
            responses,
            welcome,
        })
    }

    pub async fn send(&self, message: Message) -> bool {
        self.requests.send(request(message)).await.is_ok()
    }

    /// Sends a batch and waits for its receipt.
    pub async fn deliver(&mut self, batch: v1::Batch) -> Result<u64, Status> {
        self.send(Message::Batch(batch)).await;
        self.receipt().await
    }

    /// The next receipt, or the status that the stream ended with.
    pub async fn receipt(&mut self) -> Result<u64, Status> {
        match tokio::time::timeout(DEADLINE, self.responses.message()).await {
            Err(_) => panic!("no receipt and no end"),
            Ok(message) => match message?.and_then(|response| response.message) {
                Some(Answer::Receipt(receipt)) => Ok(receipt.sequence),
                None => Err(Status::cancelled("the stream ended")),
                other => panic!("instead of a receipt: {other:?}"),
            },
        }
    }
}

fn request(message: Message) -> v1::StreamRequest {
    v1::StreamRequest {
        message: Some(message),
    }
}

/// A time, seconds before now.
pub fn ago(seconds: i64) -> Option<prost_types::Timestamp> {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    Some(prost_types::Timestamp {
        seconds: i64::try_from(now.as_secs()).unwrap() - seconds,
        nanos: 0,
    })
}

pub fn pod(namespace: &str, name: &str, address: &str) -> Option<v1::Endpoint> {
    Some(v1::Endpoint {
        kind: Some(v1::endpoint::Kind::Pod(v1::ObjectRef {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            uid: format!("uid-{namespace}-{name}"),
        })),
        address: address.to_owned(),
    })
}

/// `observed` attempts from a pod of `from` to shop/db.
pub fn update(from: &str, port: u32, observed: u64) -> v1::FindingUpdate {
    v1::FindingUpdate {
        witnessed: 0,
        recovered: None,
        key: Some(v1::FindingKey {
            kind: v1::FindingKind::Unenforced.into(),
            source: pod(from, "client", "10.0.0.1"),
            destination: pod("shop", "db", "10.0.0.2"),
            protocol: v1::Protocol::Tcp.into(),
            destination_port: port,
            policies: vec![v1::DecidingPolicy {
                policy_kind: "NetworkPolicy".to_owned(),
                policy: Some(v1::ObjectRef {
                    namespace: "shop".to_owned(),
                    name: "db".to_owned(),
                    uid: "uid-policy".to_owned(),
                }),
                generation: 3,
                direction: v1::Direction::Ingress.into(),
                rules_without_match: vec![0, 1],
                denying_rule: None,
            }],
        }),
        observed,
        settled: 0,
        retracted: 0,
        first_seen: ago(2),
        last_seen: ago(1),
        evidence: v1::EvidenceLevel::OneWitness.into(),
        samples: vec![v1::AttemptSample {
            at: ago(1),
            source_address: "10.0.0.1".to_owned(),
            source_port: 40_000,
            destination_address: "10.0.0.2".to_owned(),
            destination_port: port,
            isn: 7,
            answer: v1::Answer::Accepted.into(),
        }],
    }
}

/// A batch of findings.
pub fn batch(sequence: u64, findings: Vec<v1::FindingUpdate>) -> v1::Batch {
    let denied = findings
        .iter()
        .fold(0, |sum: u64, finding| sum.saturating_add(finding.observed));
    v1::Batch {
        exposure: None,
        sequence,
        findings,
        inconclusive: vec![v1::InconclusiveCount {
            reason: v1::InconclusiveReason::WithinGrace.into(),
            count: 1,
        }],
        judged: Some(v1::JudgedCounts {
            allowed_delivered: 10,
            denied_delivered: denied,
            ..v1::JudgedCounts::default()
        }),
        made: ago(0),
    }
}

/// Every finding, over all pages of a size.
pub async fn all(
    query: &mut QueryServiceClient<Channel>,
    filter: v1::FindingFilter,
    page_size: u32,
) -> Vec<v1::Finding> {
    let mut findings = Vec::new();
    let mut page_token = String::new();
    loop {
        let page = query
            .list_findings(v1::ListFindingsRequest {
                filter: Some(filter.clone()),
                page_size,
                page_token,
            })
            .await
            .unwrap()
            .into_inner();
        findings.extend(page.findings);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return findings;
        }
    }
}

/// The status of one node.
pub async fn node(query: &mut QueryServiceClient<Channel>, node: &str) -> v1::NodeStatus {
    query
        .get_status(v1::GetStatusRequest {})
        .await
        .unwrap()
        .into_inner()
        .nodes
        .into_iter()
        .find(|status| status.node == node)
        .unwrap_or_else(|| panic!("no node {node}"))
}

/// A folder for one test.
pub fn folder() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let database = dir.path().join("polproof.db");
    (dir, database)
}

/// The collector's binary. In tests of other packages cargo does not say where it is: it is built beside theirs.
pub fn binary() -> PathBuf {
    static BUILT: std::sync::OnceLock<PathBuf> = std::sync::OnceLock::new();
    if let Some(path) = option_env!("CARGO_BIN_EXE_polproof-collector") {
        return PathBuf::from(path);
    }
    BUILT
        .get_or_init(|| {
            // target/PROFILE/deps/TEST
            let test = std::env::current_exe().unwrap();
            let folder = test.parent().unwrap().parent().unwrap();
            // `cargo xtask test` has just built everything, with the features of the whole workspace.
            let built = folder.join("polproof-collector");
            if std::env::var_os("POLPROOF_BUILT").is_some() && built.exists() {
                return built;
            }
            let profile = match folder.file_name().unwrap().to_str().unwrap() {
                "debug" => "dev",
                other => other,
            };
            let status = Command::new(env!("CARGO"))
                .args([
                    "build",
                    "--quiet",
                    "--package",
                    "polproof-collector",
                    "--profile",
                    profile,
                ])
                .arg("--target-dir")
                .arg(folder.parent().unwrap())
                .current_dir(env!("CARGO_MANIFEST_DIR"))
                .status()
                .unwrap();
            assert!(
                status.success(),
                "cargo build -p polproof-collector: {status}"
            );
            built
        })
        .clone()
}
