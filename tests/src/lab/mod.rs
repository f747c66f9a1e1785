//! A small cluster on one machine: nodes, pods, agents and a collector, all of it real but the kubelet.
//!
//! ```text
//! Lab --wiring--> fabric, control, nodes, pods (network namespaces)
//!   |--manifests--> a folder that every agent and the collector watch
//!   |--services---> Services, and what kube-proxy makes of them
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
pub mod inside;
pub mod lease;
pub mod manifests;
pub mod node;
pub mod prerequisites;
pub mod process;
mod programs;
pub mod readiness;
pub mod resident;
pub mod services;
pub mod tap;
pub mod topology;
pub mod traffic;
pub mod wiring;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail};
use serde_json::{Value, json};

use self::certificates::Authority;
use self::collector::Questions;
use self::enforcers::{Enforcer, Event, Seat, World};
use self::lease::Lease;
use self::manifests::{Manifests, ObjectName};
use self::node::{Node, Pod, PodSpec};
use self::process::Process;
use self::resident::Resident;
use self::services::Services;
use self::topology::Topology;
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
    /// How they and their pods are wired.
    pub topology: Topology,
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
            topology: Topology::default(),
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
    services: Services,
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
            .map(|index| Node::create(&dir, index, &setup, &fabric))
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
            services: Services::default(),
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
        self.plug_pod(spec)?;
        self.enforce()
    }

    /// Makes a pod and its object, of which the enforcer learns with the next change only, or by [`Self::enforce`]: so are all pods
    /// for a while.
    ///
    /// # Errors
    /// When the namespace or its links cannot be made.
    pub fn plug_pod(&mut self, spec: &PodSpec) -> Result<()> {
        let (pod, manifest) = Pod::create(&mut self.nodes, spec)?;
        let id = spec.id();
        if let Some(old) = self.pods.remove(&id) {
            old.unplug(&self.nodes)?;
        }
        if let Some(manifest) = manifest {
            self.manifests.apply_object(manifest)?;
        }
        self.pods.insert(id, pod);
        self.refresh_services()
    }

    /// Gives a pod that is there other labels.
    ///
    /// # Errors
    /// When there is no such pod, or the enforcer cannot follow.
    pub fn label_pod(
        &mut self,
        namespace: &str,
        name: &str,
        labels: &[(&str, &str)],
    ) -> Result<()> {
        let object = ObjectName::new("Pod", namespace, name);
        let mut manifest = self
            .manifests
            .get(&object)?
            .ok_or_else(|| anyhow!("the lab has no pod {namespace}/{name}"))?;
        if let Some(metadata) = manifest.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.insert("labels".to_owned(), manifests::labels(labels));
        }
        self.manifests.apply_object(manifest)?;
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
        self.refresh_services()?;
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
        let world = world(&self.nodes, &self.pods, &self.manifests)?;
        self.enforcer.withdraw(&world)?;
        self.enforcer = enforcer;
        self.enforcer.enforce(&world)
    }

    /// Something befalls the enforcer in force.
    ///
    /// # Errors
    /// When what it does then fails.
    pub fn befall(&mut self, event: &Event) -> Result<()> {
        let world = world(&self.nodes, &self.pods, &self.manifests)?;
        self.enforcer.happen(event, &world)
    }

    /// The enforcer in force.
    pub fn enforcer(&self) -> &dyn Enforcer {
        self.enforcer.as_ref()
    }

    /// Lets the enforcer learn of all that there is.
    ///
    /// # Errors
    /// When it cannot follow.
    pub fn enforce(&mut self) -> Result<()> {
        let world = world(&self.nodes, &self.pods, &self.manifests)?;
        self.enforcer.enforce(&world)
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

fn world<'a>(
    nodes: &'a [Node],
    pods: &BTreeMap<String, Pod>,
    manifests: &Manifests,
) -> Result<World<'a>> {
    let seat = |pod: &Pod| {
        let node = nodes.get(pod.node())?;
        Some(Seat {
            node: node.name(),
            veth: pod.veth(),
            addresses: pod.addresses().to_vec(),
        })
    };
    Ok(World {
        seats: pods.values().filter_map(seat).collect(),
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
