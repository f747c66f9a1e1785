//! The programs under test, started and ended: which arguments they get in a lab.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result};

use super::certificates::Identity;
use super::collector::Questions;
use super::process::{self, Process};
use super::resident::Resident;
use super::{COLLECTOR_NAME, COLLECTOR_PORT, Kubeconfigs, Lab, Stop, wait_for, wiring};
use crate::netns::Netns;

impl Lab {
    /// A certificate of the lab's authority, for one DNS name: `NODE.polproof-agent`, `polproof-reader`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn identity(&self, name: &str, addresses: &[IpAddr]) -> Result<Identity> {
        self.authority.sign(name, addresses)
    }

    /// Where the collector listens.
    pub const fn collector_address() -> SocketAddr {
        SocketAddr::new(wiring::CONTROL[0], COLLECTOR_PORT)
    }

    /// Starts the collector in the control namespace and waits until it answers.
    ///
    /// # Errors
    /// When it does not answer in time, with its last lines.
    pub fn start_collector(&mut self) -> Result<()> {
        let dir = self.lease.dir();
        let identity = self.identity(COLLECTOR_NAME, &wiring::CONTROL)?;
        let mut command = self
            .control
            .command(process::binary("polproof-collector")?)?;
        command
            .args(["--listen", &Self::collector_address().to_string()])
            .args([
                "--listen-http",
                "127.0.0.1:9465",
                "--log-level",
                "info",
                "--database",
            ])
            .arg(format!("sqlite:{}", dir.join("collector.db").display()))
            .args(self.source(|kubeconfigs| &kubeconfigs.collector));
        with_identity(&mut command, &identity);
        self.collector = Some(Process::start(
            &self.lease,
            "polproof-collector",
            command,
            dir.join("collector.log"),
        )?);
        if self.questions.is_none() {
            let reader = self.identity("polproof-reader", &[])?;
            let resident = Resident::enter(self.control.path(), "questions")?;
            self.questions = Some(Questions::new(
                resident,
                Self::collector_address(),
                COLLECTOR_NAME,
                &reader,
            )?);
        }
        wait_for(Duration::from_secs(30), "the collector answers", || {
            if let Some(collector) = &mut self.collector {
                collector.check().map_err(Stop::from)?;
            }
            let answer = self.questions.as_ref().map(Questions::status);
            Ok(answer.and_then(Result::ok))
        })?;
        Ok(())
    }

    /// `kill -9` of the collector.
    ///
    /// # Errors
    /// When it is not running.
    pub fn kill_collector(&mut self) -> Result<()> {
        self.collector
            .take()
            .context("the collector is not running")?
            .kill()
    }

    /// The collector's process.
    pub const fn collector(&self) -> Option<&Process> {
        self.collector.as_ref()
    }

    /// What the collector knows.
    ///
    /// # Errors
    /// When no collector was ever started.
    pub fn questions(&self) -> Result<&Questions> {
        self.questions
            .as_ref()
            .context("no collector was started in this lab")
    }

    /// The command that starts the agent of a node, for scenarios that change something about it.
    ///
    /// # Errors
    /// When it was not built.
    pub fn agent_command(&self, node: usize, identity: &Identity) -> Result<Command> {
        self.agent_command_in(self.node(node)?.netns(), node, identity)
    }

    /// The same in another namespace than the node's: a pod's, as without hostNetwork.
    ///
    /// # Errors
    /// When it was not built.
    pub fn agent_command_in(
        &self,
        netns: &Netns,
        node: usize,
        identity: &Identity,
    ) -> Result<Command> {
        let node = self.node(node)?;
        let mut command = netns.command(process::binary("polproof-agent")?)?;
        command
            .args(["--node-name", node.name()])
            .args(self.source(|kubeconfigs| &kubeconfigs.agent))
            .arg("--netns-dir")
            .arg(node.dir().join("netns"))
            .arg("--bpf-dir")
            .arg(self.lease.pins().join(node.name()))
            .arg("--state-dir")
            .arg(node.dir().join("state"))
            .arg("--cni-conf-dir")
            .arg(node.dir().join("cni"))
            .arg("--collector")
            .arg(format!("https://{}", Self::collector_address()))
            .args(["--tls-server-name", COLLECTOR_NAME])
            .args(["--listen-http", "127.0.0.1:9464", "--log-level", "info"])
            .args(["--grace", &format!("{}ms", self.setup.grace.as_millis())])
            .args(["--settle", &format!("{}ms", self.setup.settle.as_millis())])
            .args(&self.setup.agent_arguments);
        with_identity(&mut command, identity);
        Ok(command)
    }

    /// The arguments that say where the cluster's objects come from.
    fn source(&self, whose: fn(&Kubeconfigs) -> &PathBuf) -> [&Path; 2] {
        match &self.setup.kubeconfigs {
            Some(kubeconfigs) => [Path::new("--kubeconfig"), whose(kubeconfigs)],
            None => [Path::new("--manifests"), self.manifests.dir()],
        }
    }

    /// Starts the agent of a node.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_agent(&mut self, node: usize) -> Result<()> {
        let name = self.node(node)?.name().to_owned();
        let identity = self.identity(&format!("{name}.polproof-agent"), &[])?;
        let command = self.agent_command(node, &identity)?;
        self.start_agent_as(node, command)
    }

    /// Starts the agent of a node by a command made from [`Lab::agent_command`].
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_agent_as(&mut self, node: usize, command: Command) -> Result<()> {
        let dir = self.node(node)?.dir().to_path_buf();
        let name = format!("polproof-agent of {}", self.node(node)?.name());
        let agent = Process::start(&self.lease, &name, command, dir.join("agent.log"))?;
        if let Some(node) = self.nodes.get_mut(node) {
            node.agent = Some(agent);
        }
        Ok(())
    }

    /// The agent's process of a node, out of the lab's hands.
    ///
    /// # Errors
    /// When it is not running.
    pub fn take_agent(&mut self, node: usize) -> Result<Process> {
        self.nodes
            .get_mut(node)
            .and_then(|node| node.agent.take())
            .with_context(|| format!("node {node} has no agent running"))
    }

    /// Runs the `polproof` command in the control namespace.
    ///
    /// # Errors
    /// When it was not built or cannot be started.
    pub fn polproof(&self, arguments: &[&str]) -> Result<Output> {
        let identity = self.identity("polproof-reader", &[])?;
        let mut command = self.control.command(process::binary("polproof")?)?;
        command
            .env_clear()
            .env(
                "POLPROOF_COLLECTOR",
                format!("https://{}", Self::collector_address()),
            )
            .env("POLPROOF_TLS_CA", &identity.ca)
            .env("POLPROOF_TLS_CERT", &identity.cert)
            .env("POLPROOF_TLS_KEY", &identity.key)
            .env("POLPROOF_TLS_SERVER_NAME", COLLECTOR_NAME)
            .args(arguments);
        command.output().context("run polproof")
    }
}

fn with_identity(command: &mut Command, identity: &Identity) {
    command
        .arg("--tls-ca")
        .arg(&identity.ca)
        .arg("--tls-cert")
        .arg(&identity.cert)
        .arg("--tls-key")
        .arg(&identity.key);
}
