//! Lists and events while the server is well.

use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use polproof_cluster::SourceKind;
use polproof_cluster::kubernetes::KubernetesConfig;
use polproof_policy::{IpOwner, Kind, Uid};
use polproof_tests::cluster::{ApiServer, Binaries, ControlPlane, Proxy};
use serde_json::json;

use crate::shared::{Watching, delete_pod, has_pod, named, namespace, pod, policy};

pub(crate) async fn every_kind(plane: &ControlPlane) -> Result<()> {
    let client = plane.client().await?;
    namespace(&client, "every").await?;
    let uid = pod(&client, "every", "a", Some("10.1.0.1")).await?;
    policy(&client, "every", "deny").await?;
    let nodes = Api::<Node>::all(client.clone());
    let node = json!({ "metadata": { "name": "node-1" }, "spec": { "podCIDRs": ["10.1.0.0/24"], "podCIDR": "10.1.0.0/24" } });
    nodes
        .create(&PostParams::default(), &serde_json::from_value(node)?)
        .await?;
    let status =
        json!({ "status": { "addresses": [{ "type": "InternalIP", "address": "192.0.2.1" }] } });
    nodes
        .patch_status("node-1", &PatchParams::default(), &Patch::Merge(&status))
        .await?;
    let services = Api::<Service>::namespaced(client.clone(), "every");
    let service = json!({ "metadata": { "name": "s" }, "spec": { "clusterIP": "10.96.7.7", "ports": [{ "port": 80 }] } });
    services
        .create(&PostParams::default(), &serde_json::from_value(service)?)
        .await?;
    let slices = Api::<EndpointSlice>::namespaced(client.clone(), "every");
    let slice = json!({
        "metadata": { "name": "s-1", "labels": { "kubernetes.io/service-name": "s" } },
        "addressType": "IPv4", "endpoints": [{ "addresses": ["10.1.0.1"] }], "ports": [{ "port": 8080 }],
    });
    slices
        .create(&PostParams::default(), &serde_json::from_value(slice)?)
        .await?;

    let mut watching = Watching::start(plane.admin_kubeconfig()?)?;
    let view = watching.ready().await?;
    ensure!(view.source == SourceKind::Kubernetes && view.refused.is_empty());
    let found = view
        .snapshot
        .pod(&Uid(uid.as_str().into()))
        .context("the pod")?;
    ensure!(found.id == named("every", "a") && found.node.as_deref() == Some("node-1"));
    ensure!(
        matches!(view.snapshot.owner("192.0.2.1".parse()?), IpOwner::Node(name) if &*name == "node-1")
    );
    ensure!(
        matches!(view.snapshot.owner("10.96.7.7".parse()?), IpOwner::Service(id) if id == named("every", "s"))
    );
    ensure!(
        matches!(view.snapshot.owner("10.1.0.1".parse()?), IpOwner::Pod(pod) if *pod.uid.0 == *uid)
    );
    ensure!(
        view.snapshot
            .policies()
            .any(|policy| policy.id == named("every", "deny") && policy.generation == 1)
    );
    ensure!(
        view.snapshot.count(Kind::EndpointSlice) >= 1 && view.snapshot.count(Kind::Namespace) >= 2
    );

    // Added, changed, deleted.
    pod(&client, "every", "b", Some("10.1.0.2")).await?;
    watching
        .until("pod b", |view| has_pod(view, "every", "b"))
        .await?;
    let label = json!({ "metadata": { "labels": { "app": "other" } } });
    Api::<Pod>::namespaced(client.clone(), "every")
        .patch("b", &PatchParams::default(), &Patch::Merge(&label))
        .await?;
    watching
        .until("the label", |view| {
            view.snapshot
                .pod_named(&named("every", "b"))
                .is_some_and(|pod| {
                    pod.labels
                        .get("app")
                        .is_some_and(|value| &**value == "other")
                })
        })
        .await?;
    delete_pod(&client, "every", "b").await?;
    services.delete("s", &Default::default()).await?;
    watching
        .until("pod and service gone", |view| {
            !has_pod(view, "every", "b")
                && !matches!(
                    view.snapshot.owner("10.96.7.7".parse().unwrap()),
                    IpOwner::Service(_)
                )
        })
        .await?;
    Ok(())
}

pub(crate) async fn a_burst_is_few_views(plane: &ControlPlane) -> Result<()> {
    let client = plane.client().await?;
    namespace(&client, "burst").await?;
    let mut watching = Watching::start(plane.admin_kubeconfig()?)?;
    watching.ready().await?;
    let mut views = watching.views.clone();
    let counting = tokio::spawn(async move {
        let mut seen = 0_u32;
        while views.changed().await.is_ok() {
            seen += 1;
            if has_pod(&views.borrow_and_update(), "burst", "p99") {
                break;
            }
        }
        seen
    });
    let started = tokio::time::Instant::now();
    for index in 0..100 {
        pod(&client, "burst", &format!("p{index}"), None).await?;
    }
    let took = started.elapsed();
    let seen = tokio::time::timeout(crate::shared::PATIENCE, counting).await??;
    // One view every 25 ms at most, others' changes of the shared server included.
    let most = took.as_millis() / 25 + 40;
    ensure!(u128::from(seen) <= most, "{seen} views in {took:?}");
    Ok(())
}

/// The watch is resumed from the server's memory: both events are delivered late.
pub(crate) async fn recreated_while_down(plane: &ControlPlane) -> Result<()> {
    let client = plane.client().await?;
    namespace(&client, "again").await?;
    let before = pod(&client, "again", "a", Some("10.2.0.1")).await?;
    let proxy = Proxy::start(plane.address()).await?;
    let kubeconfig = plane.kubeconfig("through-proxy", proxy.address(), &plane.admin_user())?;
    let mut watching = Watching::start(kubeconfig)?;
    watching.ready().await?;

    proxy.cut();
    let view = watching
        .until("a problem", |view| view.problem.is_some())
        .await?;
    let problem = view.problem.clone().context("a problem")?;
    ensure!(
        problem.contains("cannot be reached") && problem.contains(&proxy.address().to_string()),
        "{problem}"
    );
    ensure!(
        view.ready && has_pod(&view, "again", "a"),
        "the last view must stay"
    );
    delete_pod(&client, "again", "a").await?;
    let after = pod(&client, "again", "a", Some("10.2.0.2")).await?;
    ensure!(before != after);
    proxy.heal();

    let view = watching
        .until("the new pod, and well again", |view| {
            view.snapshot.pod(&Uid(after.as_str().into())).is_some() && view.problem.is_none()
        })
        .await?;
    ensure!(
        view.snapshot.pod(&Uid(before.as_str().into())).is_none(),
        "the old pod is still there"
    );
    ensure!(matches!(
        view.snapshot.owner("10.2.0.1".parse()?),
        IpOwner::Nobody | IpOwner::UnknownInPodCidr
    ));
    ensure!(matches!(
        view.snapshot.owner("10.2.0.2".parse()?),
        IpOwner::Pod(_)
    ));
    Ok(())
}

pub(crate) async fn paged(binaries: &Binaries) -> Result<()> {
    let options = ApiServer {
        flags: vec!["--feature-gates=WatchList=false".to_owned()],
    };
    let plane = ControlPlane::start(binaries, options).await?;
    let client = plane.client().await?;
    namespace(&client, "paged").await?;
    for index in 0..25 {
        pod(&client, "paged", &format!("p{index}"), None).await?;
    }
    let mut watching = Watching::with(KubernetesConfig {
        kubeconfig: Some(plane.admin_kubeconfig()?),
        page_size: 4,
        ..KubernetesConfig::default()
    })?;
    let started = tokio::time::Instant::now();
    let view = watching.ready().await?;
    ensure!(view.snapshot.count(Kind::Pod) == 25);
    ensure!(
        started.elapsed() < Duration::from_secs(15),
        "the refusal of streaming lists was not understood"
    );
    pod(&client, "paged", "late", None).await?;
    watching
        .until("the late pod", |view| has_pod(view, "paged", "late"))
        .await?;
    let stats = watching.config.stats.kind(Kind::Pod);
    ensure!(stats.lists.load(Ordering::Relaxed) == 1);
    Ok(())
}
