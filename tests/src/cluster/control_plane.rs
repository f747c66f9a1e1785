//! etcd and kube-apiserver, started, stopped and started again.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::process::Process;
use super::token::ISSUER;
use super::{Binaries, Pki};

/// How long a server may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// The folder's name begins so; the process id follows.
const FOLDER: &str = "polproof-testbed-";

/// How the API server runs.
#[derive(Clone, Debug, Default)]
pub struct ApiServer {
    /// Further flags.
    pub flags: Vec<String>,
}

/// A control plane without controllers: objects stay as they are written.
#[derive(Debug)]
pub struct ControlPlane {
    // Declared first: the processes end before their folder goes.
    api: Option<Process>,
    etcd: Option<Process>,
    binaries: Binaries,
    options: ApiServer,
    pki: Pki,
    api_port: u16,
    etcd_port: u16,
    etcd_peer_port: u16,
    folder: TempDir,
}

impl ControlPlane {
    /// Starts both servers and waits until they are ready.
    pub async fn start(binaries: &Binaries, options: ApiServer) -> Result<Self> {
        sweep();
        // A port that was free may be taken by another program before the server has it.
        if let Ok(started) = Self::try_start(binaries, options.clone()).await {
            return Ok(started);
        }
        Self::try_start(binaries, options).await
    }

    async fn try_start(binaries: &Binaries, options: ApiServer) -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix(&format!("{FOLDER}{}-", std::process::id()))
            .tempdir()?;
        let pki = Pki::create(folder.path())?;
        let [api_port, etcd_port, etcd_peer_port] = free_ports()?;
        let mut this = Self {
            api: None,
            etcd: None,
            binaries: binaries.clone(),
            options,
            pki,
            api_port,
            etcd_port,
            etcd_peer_port,
            folder,
        };
        this.start_etcd()?;
        this.start_api()?;
        this.wait_ready().await?;
        Ok(this)
    }

    /// The certificates.
    pub fn pki(&self) -> &Pki {
        &self.pki
    }

    /// Where everything lies; gone with the control plane.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Where the API server listens.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.api_port))
    }

    /// Starts etcd with the data it had.
    pub fn start_etcd(&mut self) -> Result<()> {
        let client = format!("http://127.0.0.1:{}", self.etcd_port);
        let peer = format!("http://127.0.0.1:{}", self.etcd_peer_port);
        let mut command = Command::new(&self.binaries.etcd);
        command
            .arg(format!(
                "--data-dir={}",
                self.folder.path().join("etcd").display()
            ))
            .arg(format!("--listen-client-urls={client}"))
            .arg(format!("--advertise-client-urls={client}"))
            .arg(format!("--listen-peer-urls={peer}"))
            .arg(format!("--initial-advertise-peer-urls={peer}"))
            .arg(format!("--initial-cluster=default={peer}"))
            .args(["--unsafe-no-fsync", "--log-level=warn"]);
        self.etcd = Some(self.spawn(command, "etcd.log")?);
        Ok(())
    }

    /// Removes etcd's data: a restart begins a history of its own, as a restored backup does.
    pub fn forget(&mut self) -> Result<()> {
        ensure!(self.etcd.is_none(), "etcd still runs");
        Ok(std::fs::remove_dir_all(self.folder.path().join("etcd"))?)
    }

    /// Kills etcd.
    pub fn stop_etcd(&mut self) {
        self.etcd = None;
    }

    /// Starts the API server on the port it had.
    pub fn start_api(&mut self) -> Result<()> {
        let file = |name: &str| self.pki.file(name).display().to_string();
        let mut command = Command::new(&self.binaries.kube_apiserver);
        command
            .arg(format!(
                "--etcd-servers=http://127.0.0.1:{}",
                self.etcd_port
            ))
            .arg(format!("--secure-port={}", self.api_port))
            .args([
                "--bind-address=127.0.0.1",
                "--endpoint-reconciler-type=none",
            ])
            .arg("--service-cluster-ip-range=10.96.0.0/16")
            .arg("--authorization-mode=Node,RBAC")
            .arg(format!("--client-ca-file={}", file("ca.crt")))
            .arg(format!("--tls-cert-file={}", file("apiserver.crt")))
            .arg(format!("--tls-private-key-file={}", file("apiserver.key")))
            .arg(format!("--service-account-key-file={}", file("sa.pub")))
            .arg(format!(
                "--service-account-signing-key-file={}",
                file("sa.key")
            ))
            .arg(format!("--service-account-issuer={ISSUER}"))
            .arg("--allow-privileged=true")
            // There is no controller that would make the default accounts.
            .arg("--disable-admission-plugins=ServiceAccount")
            .args(&self.options.flags);
        self.api = Some(self.spawn(command, "kube-apiserver.log")?);
        Ok(())
    }

    /// Kills the API server.
    pub fn stop_api(&mut self) {
        self.api = None;
    }

    /// Freezes the API server: connections stay open and get no answer.
    pub fn freeze_api(&self) -> Result<()> {
        self.api
            .as_ref()
            .context("no API server")?
            .signal(Signal::SIGSTOP)
    }

    /// Lets it go on.
    pub fn thaw_api(&self) -> Result<()> {
        self.api
            .as_ref()
            .context("no API server")?
            .signal(Signal::SIGCONT)
    }

    fn spawn(&self, mut command: Command, log: &str) -> Result<Process> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.folder.path().join(log))?;
        command.stdout(log.try_clone()?).stderr(log);
        command.current_dir(self.folder.path());
        Process::spawn(command)
    }

    /// Waits until `/readyz` is good. Fails with the log's end if a server ends.
    pub async fn wait_ready(&mut self) -> Result<()> {
        let client = self.client().await?;
        let until = Instant::now() + PATIENCE;
        let mut last = String::new();
        while Instant::now() < until {
            for (process, log) in [
                (&mut self.etcd, "etcd.log"),
                (&mut self.api, "kube-apiserver.log"),
            ] {
                if let Some(end) = process.as_mut().and_then(Process::ended) {
                    let text =
                        std::fs::read_to_string(self.folder.path().join(log)).unwrap_or_default();
                    let tail: Vec<&str> = text.lines().rev().take(20).collect();
                    bail!(
                        "{log} ended ({end}):\n{}",
                        tail.into_iter().rev().collect::<Vec<_>>().join("\n")
                    );
                }
            }
            let request = kube::client::Body::empty();
            let request = http_get("/readyz", request)?;
            match tokio::time::timeout(Duration::from_secs(5), client.send(request)).await {
                Ok(Ok(response)) if response.status().is_success() => return Ok(()),
                Ok(Ok(response)) => last = response.status().to_string(),
                Ok(Err(error)) => last = error.to_string(),
                Err(_) => "no answer".clone_into(&mut last),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        bail!(
            "the API server is not ready after {} s: {last}",
            PATIENCE.as_secs()
        )
    }

    /// A client with all rights.
    pub async fn client(&self) -> Result<Client> {
        let kubeconfig = Kubeconfig::read_from(self.admin_kubeconfig()?)?;
        let mut config =
            kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        config.default_retry = false;
        Ok(Client::try_from(config)?)
    }

    /// A kubeconfig with all rights.
    pub fn admin_kubeconfig(&self) -> Result<PathBuf> {
        self.kubeconfig("admin", self.address(), &self.admin_user())
    }

    /// The administrator, as the `user` of a kubeconfig.
    pub fn admin_user(&self) -> Value {
        json!({
            "client-certificate": self.pki.file("admin.crt"),
            "client-key": self.pki.file("admin.key"),
        })
    }

    /// Writes a kubeconfig named `name` for a user (`{"tokenFile": ..}`, `{"token": ..}` ..) at an address.
    pub fn kubeconfig(&self, name: &str, server: SocketAddr, user: &Value) -> Result<PathBuf> {
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "testbed",
            "clusters": [{ "name": "testbed", "cluster": {
                "server": format!("https://{server}"),
                "certificate-authority": self.pki.file("ca.crt"),
            }}],
            "users": [{ "name": name, "user": user }],
            "contexts": [{ "name": "testbed", "context": { "cluster": "testbed", "user": name }}],
        });
        let file = self.folder.path().join(format!("{name}.kubeconfig"));
        // Replaced at once: a reader sees the old one or the new one.
        let mut new = tempfile::NamedTempFile::new_in(self.folder.path())?;
        new.write_all(config.to_string().as_bytes())?;
        new.persist(&file)?;
        Ok(file)
    }

    /// Discards etcd's history up to now: whoever wants to go on from before must list again.
    pub fn compact(&self) -> Result<()> {
        let status = self.etcd("/v3/maintenance/status", &json!({}))?;
        let revision = status
            .pointer("/header/revision")
            .and_then(Value::as_str)
            .context("etcd tells no revision")?;
        self.etcd(
            "/v3/kv/compaction",
            &json!({ "revision": revision, "physical": true }),
        )?;
        Ok(())
    }

    /// One request to etcd's JSON gateway.
    fn etcd(&self, path: &str, body: &Value) -> Result<Value> {
        let mut stream =
            TcpStream::connect((Ipv4Addr::LOCALHOST, self.etcd_port)).context("connect to etcd")?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        let body = body.to_string();
        write!(
            stream,
            "POST {path} HTTP/1.0\r\nHost: etcd\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").context("no answer of etcd")?;
        ensure!(head.contains(" 200 "), "etcd refused {path}: {answer}");
        Ok(serde_json::from_str(body)?)
    }
}

/// Removes the folders of earlier runs that were killed; their servers ended with them.
fn sweep() {
    for entry in std::fs::read_dir(std::env::temp_dir())
        .into_iter()
        .flatten()
        .flatten()
    {
        let name = entry.file_name();
        let pid = name
            .to_str()
            .and_then(|name| name.strip_prefix(FOLDER))
            .and_then(|rest| rest.split_once('-'))
            .and_then(|(pid, _)| pid.parse::<u32>().ok());
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists()) {
            // Another run may sweep at the same time.
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

fn http_get(path: &str, body: kube::client::Body) -> Result<http::Request<kube::client::Body>> {
    Ok(http::Request::get(path).body(body)?)
}

/// Ports that nobody has at the moment, all different.
fn free_ports<const N: usize>() -> Result<[u16; N]> {
    let mut held = Vec::new();
    let mut ports = [0; N];
    for port in &mut ports {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        *port = listener.local_addr()?.port();
        held.push(listener);
    }
    Ok(ports)
}
