//! What the tests share: one control plane for those that do not disturb it, and small verbs.

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::api::authorization::v1::SelfSubjectAccessReview;
use k8s_openapi::api::core::v1::{Namespace, Pod, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use libtest_mimic::Failed;
use polproof_cluster::View;
use polproof_cluster::kubernetes::{self, KubernetesConfig};
use polproof_policy::NamespacedName;
use polproof_tests::cluster::crds::Crds;
use polproof_tests::cluster::{ApiServer, Binaries, ControlPlane};
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Generous: the machine may build something else.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

type Work<'a> = Pin<Box<dyn Future<Output = Result<()>> + 'a>>;

/// What a test needs.
pub(crate) enum Test {
    /// The control plane that all share; it must find and leave it running.
    Shared(fn(&ControlPlane) -> Work<'_>),
    /// Control planes of its own.
    Own(fn(&Binaries) -> Work<'_>),
    /// Control planes of its own, and the definitions of the admin policies' kinds.
    Crds(for<'a> fn(&'a Binaries, &'a Crds) -> Work<'a>),
    /// A control plane of its own and a lab. Not a future: a lab waits.
    Lab(fn(&Binaries, &Runtime) -> Result<()>),
    /// Both.
    LabCrds(fn(&Binaries, &Crds, &Runtime) -> Result<()>),
}

static SHARED: Mutex<Option<Arc<ControlPlane>>> = Mutex::new(None);

impl Test {
    pub(crate) fn run(&self, binaries: &Binaries) -> Result<(), Failed> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?;
        let result = match self {
            Self::Shared(test) => runtime.block_on(async { test(&*shared(binaries).await?).await }),
            Self::Own(test) => runtime.block_on(test(binaries)),
            Self::Crds(test) => runtime.block_on(test(binaries, &Crds::find()?)),
            Self::Lab(test) => test(binaries, &runtime),
            Self::LabCrds(test) => test(binaries, &Crds::find()?, &runtime),
        };
        result.map_err(|error| Failed::from(format!("{error:#}")))
    }
}

async fn shared(binaries: &Binaries) -> Result<Arc<ControlPlane>> {
    let binaries = binaries.clone();
    // Held while it starts: the others wait for it.
    tokio::task::spawn_blocking(move || {
        let mut slot = SHARED
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        if slot.is_none() {
            let started = tokio::runtime::Handle::current()
                .block_on(ControlPlane::start(&binaries, ApiServer::default()))?;
            *slot = Some(Arc::new(started));
        }
        slot.clone().context("no control plane")
    })
    .await?
}

/// Ends the shared control plane: statics are not dropped.
pub(crate) fn end() {
    drop(
        SHARED
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
            .take(),
    );
}

/// A running watch; ends when dropped.
pub(crate) struct Watching {
    pub(crate) views: watch::Receiver<Arc<View>>,
    pub(crate) config: KubernetesConfig,
    cancel: CancellationToken,
}

impl Watching {
    pub(crate) fn start(kubeconfig: PathBuf) -> Result<Self> {
        Self::with(KubernetesConfig {
            kubeconfig: Some(kubeconfig),
            ..KubernetesConfig::default()
        })
    }

    pub(crate) fn with(config: KubernetesConfig) -> Result<Self> {
        let config = KubernetesConfig {
            heartbeat: Duration::from_secs(1),
            max_backoff: Duration::from_secs(2),
            discovery: Duration::from_secs(1),
            ..config
        };
        let cancel = CancellationToken::new();
        let views = kubernetes::watch(config.clone(), cancel.clone())?;
        Ok(Self {
            views,
            config,
            cancel,
        })
    }

    pub(crate) async fn until(
        &mut self,
        what: &str,
        wanted: impl Fn(&View) -> bool,
    ) -> Result<Arc<View>> {
        polproof_tests::cluster::wait_for_view(&mut self.views, what, PATIENCE, wanted).await
    }

    pub(crate) async fn ready(&mut self) -> Result<Arc<View>> {
        self.until("ready without a problem", |view| {
            view.ready && view.problem.is_none()
        })
        .await
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

pub(crate) fn named(namespace: &str, name: &str) -> NamespacedName {
    NamespacedName::new(namespace, name)
}

pub(crate) fn has_pod(view: &View, namespace: &str, name: &str) -> bool {
    view.snapshot.pod_named(&named(namespace, name)).is_some()
}

pub(crate) async fn namespace(client: &Client, name: &str) -> Result<()> {
    let object: Namespace = serde_json::from_value(
        json!({ "metadata": { "name": name, "labels": { "team": name } } }),
    )?;
    Api::<Namespace>::all(client.clone())
        .create(&PostParams::default(), &object)
        .await?;
    Ok(())
}

pub(crate) fn pod_json(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": name, "labels": { "app": name } },
        "spec": { "nodeName": "node-1", "containers": [
            { "name": "c", "image": "i", "ports": [{ "name": "web", "containerPort": 8080 }] },
        ] },
    })
}

/// Makes a pod; with an address if one is given. Returns its UID.
pub(crate) async fn pod(
    client: &Client,
    namespace: &str,
    name: &str,
    ip: Option<&str>,
) -> Result<String> {
    let api = Api::<Pod>::namespaced(client.clone(), namespace);
    let made = api
        .create(
            &PostParams::default(),
            &serde_json::from_value(pod_json(name))?,
        )
        .await?;
    if let Some(ip) = ip {
        let status =
            json!({ "status": { "phase": "Running", "podIP": ip, "podIPs": [{ "ip": ip }] } });
        api.patch_status(name, &PatchParams::default(), &Patch::Merge(&status))
            .await?;
    }
    made.metadata.uid.context("a UID")
}

pub(crate) async fn delete_pod(client: &Client, namespace: &str, name: &str) -> Result<()> {
    let now = DeleteParams::default().grace_period(0);
    Api::<Pod>::namespaced(client.clone(), namespace)
        .delete(name, &now)
        .await?;
    Ok(())
}

pub(crate) async fn policy(client: &Client, namespace: &str, name: &str) -> Result<()> {
    let object: NetworkPolicy = serde_json::from_value(
        json!({ "metadata": { "name": name }, "spec": { "podSelector": {} } }),
    )?;
    Api::<NetworkPolicy>::namespaced(client.clone(), namespace)
        .create(&PostParams::default(), &object)
        .await?;
    Ok(())
}

/// Makes a service account and returns its UID.
pub(crate) async fn service_account(
    client: &Client,
    namespace: &str,
    name: &str,
) -> Result<String> {
    let object: ServiceAccount = serde_json::from_value(json!({ "metadata": { "name": name } }))?;
    let made = Api::<ServiceAccount>::namespaced(client.clone(), namespace)
        .create(&PostParams::default(), &object)
        .await?;
    made.metadata.uid.context("a UID")
}

/// Whether the user of a client may do something everywhere.
pub(crate) async fn may(client: &Client, verb: &str, group: &str, resource: &str) -> Result<bool> {
    let review: SelfSubjectAccessReview = serde_json::from_value(json!({
        "metadata": {},
        "spec": { "resourceAttributes": { "verb": verb, "group": group, "resource": resource } },
    }))?;
    let said = Api::<SelfSubjectAccessReview>::all(client.clone())
        .create(&PostParams::default(), &review)
        .await?;
    Ok(said.status.is_some_and(|status| status.allowed))
}
