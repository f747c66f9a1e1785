//! A small cluster on one machine: nodes, pods, agents and a collector, all of it real but the kubelet.
//!
//! ```text
//! Lab --wiring--> fabric, control, nodes, pods (network namespaces)
//!   |--manifests--> a folder that every agent and the collector watch
//!   |--enforcers--> what makes the policies true, or does not
//!   |--process----> polproof-agent on each node, polproof-collector and polproof in `control`
//!   '--resident---> servers and clients inside the pods
//! ```
//!
//! It refuses to decide what should happen: scenarios say that. Labs are bounded, have names of their own and
//! run side by side; dropped, interrupted or swept by a later run they leave nothing behind.

pub mod certificates;
pub mod collector;
pub mod enforcers;
pub mod lease;
pub mod manifests;
pub mod node;
pub mod prerequisites;
pub mod process;
pub mod readiness;
pub mod resident;
pub mod traffic;
pub mod wiring;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Value, json};

use self::certificates::{Authority, Identity};
use self::collector::Questions;
use self::enforcers::{Enforcer, World};
use self::lease::Lease;
use self::manifests::{Manifests, ObjectName};
use self::node::{Node, Pod, PodSpec};
use self::process::Process;
use self::resident::Resident;
use crate::netns::Netns;

/// Name in the collector's certificate.
pub const COLLECTOR_NAME: &str = "polproof-collector";
/// Where the collector listens.
pub const COLLECTOR_PORT: u16 = 8443;

/// How a lab is to be.
#[derive(Clone, Debug)]
pub struct Setup {
    /// How many nodes, at most [`wiring::MOST_NODES`].
    pub nodes: u8,
    /// Agents' `--grace`.
    pub grace: Duration,
    /// Agents' `--settle`.
    pub settle: Duration,
    /// More arguments for every agent.
    pub agent_arguments: Vec<String>,
    /// An API server that agents and collector watch instead of the lab's manifests.
    pub kubeconfigs: Option<Kubeconfigs>,
}

/// How agents and collector reach an API server from their namespaces.
#[derive(Clone, Debug)]
pub struct Kubeconfigs {
    /// The agents'.
    pub agent: PathBuf,
    /// The collector's.
    pub collector: PathBuf,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            nodes: 2,
            grace: Duration::from_secs(1),
            settle: Duration::from_secs(2),
            agent_arguments: Vec::new(),
            kubeconfigs: None,
        }
    }
}

/// A lab. Dropped, it is taken down.
#[derive(Debug)]
pub struct Lab {
    // Dropped in this order: processes, pods, nodes, then what is left in the folders.
    collector: Option<Process>,
    questions: Option<Questions>,
    pods: BTreeMap<String, Pod>,
    nodes: Vec<Node>,
    enforcer: Box<dyn Enforcer>,
    outside: Resident,
    control: Netns,
    fabric: Netns,
    manifests: Manifests,
    authority: Authority,
    setup: Setup,
    lease: Lease,
}

impl Lab {
    /// Makes the network and the Node objects; no process is started yet.
    ///
    /// # Errors
    /// When something of it cannot be made; what was made is taken down.
    pub fn create(setup: Setup) -> Result<Self> {
        if setup.nodes == 0 || setup.nodes > wiring::MOST_NODES {
            bail!(
                "a lab has 1 to {} nodes, not {}",
                wiring::MOST_NODES,
                setup.nodes
            );
        }
        let lease = Lease::take()?;
        let dir = lease.dir().to_path_buf();
        let fabric = Netns::create(&dir, "fabric")?;
        wiring::fabric(&fabric, setup.nodes)?;
        let control = Netns::create(&dir, "control")?;
        wiring::plug(&fabric, "ctl", &control, wiring::CONTROL)?;
        let manifests = Manifests::create(dir.join("manifests"))?;
        let nodes = (1..=setup.nodes)
            .map(|index| Node::create(&dir, index, setup.nodes, &fabric))
            .collect::<Result<Vec<_>>>()?;
        for node in &nodes {
            manifests.apply_object(node.manifest())?;
        }
        Ok(Self {
            collector: None,
            questions: None,
            pods: BTreeMap::new(),
            nodes,
            enforcer: Box::new(enforcers::None),
            outside: Resident::enter(fabric.path(), "outside")?,
            control,
            fabric,
            manifests,
            authority: Authority::create(&dir.join("tls"), "lab-ca")?,
            setup,
            lease,
        })
    }

    /// Starts the collector and every agent, and waits until all are connected.
    ///
    /// # Errors
    /// When one of them is not up in time: with the last lines of the logs.
    pub fn start_all(&mut self) -> Result<()> {
        self.start_collector()?;
        for node in 0..self.nodes.len() {
            self.start_agent(node)?;
        }
        Ok(())
    }

    /// The lab's id.
    pub fn id(&self) -> &str {
        self.lease.id()
    }

    /// The lab's folders.
    pub const fn lease(&self) -> &Lease {
        &self.lease
    }

    /// The cluster's objects.
    pub const fn manifests(&self) -> &Manifests {
        &self.manifests
    }

    /// What the agents were told.
    pub const fn setup(&self) -> &Setup {
        &self.setup
    }

    /// A node, from 0.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn node(&self, node: usize) -> Result<&Node> {
        self.nodes
            .get(node)
            .ok_or_else(|| anyhow!("the lab has no node {node}"))
    }

    /// All nodes.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// A pod by `namespace/name`.
    ///
    /// # Errors
    /// When there is no such pod.
    pub fn pod(&self, id: &str) -> Result<&Pod> {
        self.pods
            .get(id)
            .ok_or_else(|| anyhow!("the lab has no pod {id}"))
    }

    /// A thread outside of the cluster.
    pub const fn outside(&self) -> &Resident {
        &self.outside
    }

    /// The namespace of the fabric.
    pub const fn fabric(&self) -> &Netns {
        &self.fabric
    }

    /// The namespace of the collector and the CLI.
    pub const fn control(&self) -> &Netns {
        &self.control
    }

    /// Makes a Namespace object.
    ///
    /// # Errors
    /// When the manifests cannot be written.
    pub fn add_namespace(&self, name: &str, labels: &[(&str, &str)]) -> Result<()> {
        self.manifests.apply_object(json!({
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": name, "labels": manifests::labels(labels)},
        }))?;
        Ok(())
    }

    /// Makes a pod and its object.
    ///
    /// # Errors
    /// When the namespace or its links cannot be made.
    pub fn add_pod(&mut self, spec: &PodSpec) -> Result<()> {
        let (pod, manifest) = Pod::create(&mut self.nodes, spec)?;
        let id = spec.id();
        if let Some(old) = self.pods.remove(&id) {
            old.unplug(&self.nodes)?;
        }
        if let Some(manifest) = manifest {
            self.manifests.apply_object(manifest)?;
        }
        self.pods.insert(id, pod);
        self.enforce()
    }

    /// Ends a pod and deletes its object.
    ///
    /// # Errors
    /// When there is no such pod, or its links stay.
    pub fn delete_pod(&mut self, id: &str) -> Result<()> {
        let pod = self
            .pods
            .remove(id)
            .ok_or_else(|| anyhow!("the lab has no pod {id}"))?;
        let (namespace, name) = id.split_once('/').unwrap_or(("default", id));
        self.manifests
            .delete(&ObjectName::new("Pod", namespace, name))?;
        pod.unplug(&self.nodes)?;
        self.enforce()
    }

    /// `kubectl apply` of a YAML text. A Pod gets a network, and servers on its declared ports.
    ///
    /// # Errors
    /// When it is no list of objects, or the enforcer cannot follow.
    pub fn apply(&mut self, yaml: &str) -> Result<()> {
        for object in manifests::parse(yaml)? {
            if object.get("kind").and_then(Value::as_str) == Some("Pod") {
                self.add_pod(&PodSpec::from_manifest(&object)?)?;
            } else {
                self.manifests.apply_object(object)?;
            }
        }
        self.enforce()
    }

    /// `kubectl delete`.
    ///
    /// # Errors
    /// When there is no such object.
    pub fn delete(&mut self, kind: &str, namespace: &str, name: &str) -> Result<()> {
        if !self
            .manifests
            .delete(&ObjectName::new(kind, namespace, name))?
        {
            bail!("the lab has no {kind} {namespace}/{name}");
        }
        self.enforce()
    }

    /// Replaces the enforcer; the new one is in force when this returns.
    ///
    /// # Errors
    /// When the old rules stay or the new ones cannot be loaded.
    pub fn set_enforcer(&mut self, enforcer: Box<dyn Enforcer>) -> Result<()> {
        let world = world(&self.nodes, &self.manifests)?;
        self.enforcer.withdraw(&world)?;
        self.enforcer = enforcer;
        self.enforcer.enforce(&world)
    }

    /// The enforcer in force.
    pub fn enforcer(&self) -> &dyn Enforcer {
        self.enforcer.as_ref()
    }

    fn enforce(&mut self) -> Result<()> {
        let world = world(&self.nodes, &self.manifests)?;
        self.enforcer.enforce(&world)
    }

    /// A certificate of the lab's authority.
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
            let reader = self.identity("polproof-cli", &[])?;
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
        let identity = self.identity(&name, &[])?;
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
        let identity = self.identity("polproof-cli", &[])?;
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

    /// The last lines of every log, for a failure's report.
    pub fn logs(&self, lines: usize) -> String {
        let mut logs = vec![(
            "collector".to_owned(),
            self.lease.dir().join("collector.log"),
        )];
        logs.extend(self.nodes.iter().map(|node| {
            (
                format!("agent of {}", node.name()),
                node.dir().join("agent.log"),
            )
        }));
        logs.iter()
            .filter(|(_, path)| path.exists())
            .map(|(name, path)| format!("--- {name}\n{}\n", process::tail(path, lines)))
            .collect()
    }
}

fn world<'a>(nodes: &'a [Node], manifests: &Manifests) -> Result<World<'a>> {
    Ok(World {
        nodes: nodes
            .iter()
            .map(|node| (node.name(), node.netns()))
            .collect(),
        objects: manifests.objects()?,
        outside: wiring::OUTSIDE
            .into_iter()
            .chain([wiring::METADATA])
            .collect(),
    })
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

/// A reason to stop waiting before the time is up.
#[derive(Debug)]
pub struct Stop(anyhow::Error);

impl From<anyhow::Error> for Stop {
    fn from(error: anyhow::Error) -> Self {
        Self(error)
    }
}

/// Asks again and again until `condition` gives something.
///
/// # Errors
/// When it has given nothing after `limit`, or said to stop.
pub fn wait_for<T>(
    limit: Duration,
    what: &str,
    mut condition: impl FnMut() -> Result<Option<T>, Stop>,
) -> Result<T> {
    let began = Instant::now();
    loop {
        match condition() {
            Ok(Some(value)) => return Ok(value),
            Ok(None) => {}
            Err(Stop(error)) => return Err(error.context(format!("while waiting until {what}"))),
        }
        if began.elapsed() > limit {
            bail!("waited {limit:?} in vain until {what}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
