//! A lab whose objects are an API server's, with the agent and collector as `deploy/base` runs them.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use polproof_tests::cluster::crds::Crds;
use polproof_tests::cluster::{ApiServer, Binaries, ControlPlane, Proxy};
use polproof_tests::lab::traffic::Outcome;
use polproof_tests::lab::{Kubeconfigs, Lab, Setup, wait_for};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::deploy::{apply_rights, kubeconfig_of};
use crate::kinds::optional;
use crate::shared::PATIENCE;
use crate::sources::create;
use crate::tiers::KINDS;

pub(crate) const ACCOUNTS: [&str; 2] = ["polproof-agent", "polproof-collector"];

/// The agent's own pod, which has a network namespace of its own.
pub(crate) const AGENT: &str = "polproof-system/polproof-agent";

pub(crate) const SETTLE: Duration = Duration::from_secs(2);

pub(crate) const OBJECTS: &str = r#"
apiVersion: v1
kind: Namespace
metadata: { name: shop }
---
apiVersion: v1
kind: Pod
metadata: { namespace: polproof-system, name: polproof-agent }
spec: { nodeName: node-1, containers: [ { name: agent, image: polproof-agent } ] }
---
apiVersion: v1
kind: Pod
metadata: { namespace: shop, name: web, labels: { app: web } }
spec: { nodeName: node-1, containers: [ { name: main, image: web } ] }
---
apiVersion: v1
kind: Pod
metadata: { namespace: shop, name: db, labels: { app: db } }
spec:
  nodeName: node-1
  containers: [ { name: main, image: db, ports: [ { name: sql, containerPort: 5432 } ] } ]
"#;

pub(crate) fn policy(admitted: &str) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": { "namespace": "shop", "name": "db" },
        "spec": {
            "podSelector": { "matchLabels": { "app": "db" } },
            "ingress": [{
                "from": [{ "podSelector": { "matchLabels": { "app": admitted } } }],
                "ports": [{ "port": 5432 }],
            }],
        },
    })
}

pub(crate) struct World<'a> {
    // Dropped in this order: the programs first.
    pub(crate) lab: Lab,
    _relays: Vec<Proxy>,
    pub(crate) plane: ControlPlane,
    pub(crate) client: Client,
    pub(crate) audit: PathBuf,
    _folder: tempfile::TempDir,
    pub(crate) runtime: &'a Runtime,
}

pub(crate) fn of_generation(found: &Value, generation: i64) -> Option<Value> {
    found["findings"]
        .as_array()?
        .iter()
        .find(|finding| finding["denied_by"][0]["generation"] == generation)
        .cloned()
}

impl<'a> World<'a> {
    /// `definitions`: the kinds of admin policies are served.
    pub(crate) fn create(
        binaries: &Binaries,
        definitions: Option<&Crds>,
        runtime: &'a Runtime,
    ) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let rules = folder.path().join("audit-policy.json");
        let audit = folder.path().join("audit.log");
        let of_ours = json!({
            "apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"],
            "rules": [
                { "level": "Metadata", "userGroups": ["system:serviceaccounts:polproof-system"] },
                { "level": "None" },
            ],
        });
        std::fs::write(&rules, of_ours.to_string())?;
        let options = ApiServer {
            flags: vec![
                format!("--audit-policy-file={}", rules.display()),
                format!("--audit-log-path={}", audit.display()),
            ],
        };
        let plane = runtime.block_on(ControlPlane::start(binaries, options))?;
        let (client, [agent, collector]) = runtime.block_on(async {
            let client = plane.client().await?;
            if let Some(definitions) = definitions {
                for kind in KINDS {
                    definitions.install(&client, optional(kind).plural).await?;
                }
            }
            apply_rights(&client).await?;
            let agent = kubeconfig_of(&plane, &client, ACCOUNTS[0]).await?;
            let collector = kubeconfig_of(&plane, &client, ACCOUNTS[1]).await?;
            anyhow::Ok((client, [agent, collector]))
        })?;
        let mut lab = Lab::create(Setup {
            nodes: 1,
            settle: SETTLE,
            kubeconfigs: Some(Kubeconfigs { agent, collector }),
            ..Setup::default()
        })?;
        lab.apply(OBJECTS)?;
        let relays = {
            let _inside = runtime.enter();
            let api = plane.address();
            [lab.control(), lab.pod(AGENT)?.netns()]
                .into_iter()
                .map(|netns| Proxy::out_of(netns, api, api))
                .collect::<Result<_>>()?
        };
        let mut objects = lab.manifests().objects()?;
        objects.push(policy("api"));
        for mut object in objects {
            if let Some(metadata) = object["metadata"].as_object_mut() {
                metadata.remove("uid");
                metadata.remove("generation");
            }
            runtime
                .block_on(create(&client, &object))
                .with_context(|| object.to_string())?;
        }
        let mut this = Self {
            lab,
            _relays: relays,
            plane,
            client,
            audit,
            _folder: folder,
            runtime,
        };
        this.start()?;
        Ok(this)
    }

    pub(crate) fn start(&mut self) -> Result<()> {
        self.lab.start_collector()?;
        let identity = self.lab.identity("polproof-agent", &[])?;
        let mut agent = self
            .lab
            .agent_command_in(self.lab.pod(AGENT)?.netns(), 0, &identity)?;
        agent
            .arg("--host-netns")
            .arg(self.lab.node(0)?.netns().path());
        self.lab.start_agent_as(0, agent)?;
        self.until("both see the cluster and the pods are watched", |status| {
            let complete = |cluster: &Value| {
                cluster["ready"] == true
                    && cluster["source"] == "kubernetes"
                    && cluster["pods"] == 3
                    && cluster["policies"] == 1
                    && cluster["problem"] == ""
            };
            let node = &status["nodes"][0];
            complete(&status["cluster"]) && complete(&node["cluster"]) && node["pods_watched"] == 3
        })
        .map_err(|error| error.context(self.lab.logs(60)))?;
        // A policy of which nobody knows how old it is accuses nobody within its grace.
        std::thread::sleep(self.lab.setup().grace + Duration::from_millis(500));
        Ok(())
    }

    pub(crate) fn start_api(&mut self) -> Result<()> {
        self.plane.start_api()?;
        self.runtime.block_on(self.plane.wait_ready())
    }

    /// One connection from web to db, which nothing stops.
    pub(crate) fn connect(&self) -> Result<()> {
        let to = self.lab.pod("shop/db")?.v4(5432);
        let web = self.lab.pod("shop/web")?.resident();
        let attempt = web.connect(to, Duration::from_secs(5))?;
        ensure!(attempt.outcome == Outcome::Connected, "{attempt:?}");
        Ok(())
    }

    /// `polproof ... -o json`.
    pub(crate) fn ask(&self, command: &[&str]) -> Result<Value> {
        let mut line = vec!["-o", "json"];
        line.extend(command);
        let output = self.lab.polproof(&line)?;
        ensure!(
            matches!(output.status.code(), Some(0 | 1)),
            "polproof {line:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    pub(crate) fn status(&self) -> Result<Value> {
        self.ask(&["status"])
    }

    pub(crate) fn violations(&self) -> Result<Value> {
        self.ask(&["violations", "--all"])
    }

    pub(crate) fn until(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        let mut last = Value::Null;
        wait_for(PATIENCE, what, || {
            last = self.status()?;
            Ok(wanted(&last).then(|| last.clone()))
        })
        .with_context(|| last.to_string())
    }

    /// The finding by that generation of the policy, when it is as wanted.
    pub(crate) fn finding(
        &self,
        what: &str,
        generation: i64,
        wanted: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        let mut last = Value::Null;
        wait_for(PATIENCE, what, || {
            last = self.violations()?;
            Ok(of_generation(&last, generation).filter(&wanted))
        })
        .with_context(|| last.to_string())
    }

    pub(crate) fn pod_uid(&self, name: &str) -> Result<String> {
        let pods = Api::<Pod>::namespaced(self.client.clone(), "shop");
        let pod = self.runtime.block_on(pods.get(name))?;
        pod.metadata.uid.context("a UID")
    }

    pub(crate) fn policy(&self) -> Result<NetworkPolicy> {
        let policies = Api::<NetworkPolicy>::namespaced(self.client.clone(), "shop");
        Ok(self.runtime.block_on(policies.get("db"))?)
    }

    /// Changes whom the policy admits; gives its generation.
    pub(crate) fn set_policy(&self, admitted: &str) -> Result<i64> {
        let policies = Api::<NetworkPolicy>::namespaced(self.client.clone(), "shop");
        let patch = Patch::Merge(json!({ "spec": policy(admitted)["spec"] }));
        let how = PatchParams::default();
        let changed = self.runtime.block_on(policies.patch("db", &how, &patch))?;
        changed.metadata.generation.context("a generation")
    }
}
