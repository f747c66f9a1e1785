//! Credentials: too few rights, expired, unusable.

use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use kube::api::PostParams;
use kube::{Api, Client};
use polproof_cluster::kubernetes::KubernetesConfig;
use polproof_policy::Kind;
use polproof_tests::cluster::{ControlPlane, ServiceAccountToken};
use serde_json::json;

use crate::shared::{Watching, has_pod, namespace, pod, service_account};

async fn grant(client: &Client, name: &str, namespace: &str) -> Result<()> {
    let role: ClusterRole = serde_json::from_value(
        json!({ "metadata": { "name": name }, "rules": [
            { "apiGroups": [""], "resources": ["pods", "namespaces", "nodes", "services"], "verbs": ["list", "watch"] },
            { "apiGroups": ["networking.k8s.io"], "resources": ["networkpolicies"], "verbs": ["list", "watch"] },
            { "apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"] },
        ]}),
    )?;
    Api::<ClusterRole>::all(client.clone())
        .create(&PostParams::default(), &role)
        .await?;
    let binding: ClusterRoleBinding = serde_json::from_value(json!({
        "metadata": { "name": name },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name },
        "subjects": [{ "kind": "ServiceAccount", "name": "reader", "namespace": namespace }],
    }))?;
    Api::<ClusterRoleBinding>::all(client.clone())
        .create(&PostParams::default(), &binding)
        .await?;
    Ok(())
}

async fn account(client: &Client, namespace: &str) -> Result<ServiceAccountToken> {
    Ok(ServiceAccountToken {
        namespace: namespace.to_owned(),
        name: "reader".to_owned(),
        uid: service_account(client, namespace, "reader").await?,
    })
}

pub(crate) async fn missing_then_granted(plane: &ControlPlane) -> Result<()> {
    let client = plane.client().await?;
    namespace(&client, "rbac").await?;
    let reader = account(&client, "rbac").await?;
    let token = reader.sign(&plane.pki().service_account_key, Duration::from_secs(600))?;
    let kubeconfig = plane.kubeconfig("rbac", plane.address(), &json!({ "token": token }))?;
    let mut watching = Watching::start(kubeconfig)?;
    let all = [
        "pods",
        "namespaces",
        "nodes",
        "services",
        "networkpolicies",
        "endpointslices",
    ];
    let view = watching
        .until("six refusals", |view| {
            view.problem.as_deref().is_some_and(|text| {
                all.iter()
                    .all(|kind| text.contains(&format!("not allowed to watch {kind}")))
            })
        })
        .await?;
    let problem = view.problem.clone().context("a problem")?;
    ensure!(!view.ready);
    ensure!(
        problem.contains(
            "add {apiGroups: [\"networking.k8s.io\"], resources: [\"networkpolicies\"], verbs: [\"list\", \"watch\"]} \
             to a ClusterRole that is bound to system:serviceaccount:rbac:reader"
        ),
        "{problem}"
    );
    grant(&client, "rbac-test", "rbac").await?;
    watching.ready().await?;
    Ok(())
}

pub(crate) async fn token_expires(plane: &ControlPlane) -> Result<()> {
    let client = plane.client().await?;
    namespace(&client, "token").await?;
    grant(&client, "token-test", "token").await?;
    let reader = account(&client, "token").await?;
    let key = &plane.pki().service_account_key;
    let file = plane.folder().join("token");
    let write = |life| -> Result<()> {
        let new = file.with_extension("new");
        std::fs::write(&new, reader.sign(key, Duration::from_secs(life))?)?;
        Ok(std::fs::rename(&new, &file)?)
    };
    write(8)?;
    let kubeconfig = plane.kubeconfig("token", plane.address(), &json!({ "tokenFile": file }))?;
    let mut watching = Watching::with(KubernetesConfig {
        kubeconfig: Some(kubeconfig),
        // A running watch is not cut when its token ends; the next one is refused.
        watch_timeout: Duration::from_secs(2),
        ..KubernetesConfig::default()
    })?;
    watching.ready().await?;

    let view = watching
        .until("refused credentials", |view| view.problem.is_some())
        .await?;
    let problem = view.problem.clone().context("a problem")?;
    ensure!(
        problem.contains("401")
            && problem.contains("expired")
            && problem.contains("token.kubeconfig"),
        "{problem}"
    );
    ensure!(view.ready, "the last view must stay");

    write(600)?;
    watching.ready().await?;
    ensure!(
        watching
            .config
            .stats
            .kind(Kind::Pod)
            .reconnects
            .load(Ordering::Relaxed)
            >= 1
    );
    pod(&client, "token", "a", None).await?;
    watching
        .until("changes with the new token", |view| {
            has_pod(view, "token", "a")
        })
        .await?;
    Ok(())
}

pub(crate) async fn bad_kubeconfig(plane: &ControlPlane) -> Result<()> {
    let missing = plane.folder().join("no-such.kubeconfig");
    let error = Watching::start(missing)
        .err()
        .context("an error")?
        .to_string();
    ensure!(
        error.contains("no-such.kubeconfig") && error.contains("--kubeconfig"),
        "{error}"
    );

    let broken = plane.folder().join("broken.kubeconfig");
    std::fs::write(&broken, "clusters: [")?;
    let error = Watching::start(broken)
        .err()
        .context("an error")?
        .to_string();
    ensure!(error.contains("broken.kubeconfig"), "{error}");

    let empty = plane.folder().join("empty.kubeconfig");
    std::fs::write(
        &empty,
        "apiVersion: v1\nkind: Config\ncurrent-context: nowhere\n",
    )?;
    let error = Watching::start(empty)
        .err()
        .context("an error")?
        .to_string();
    ensure!(error.contains("no context `nowhere`"), "{error}");

    // A wrong authority: the server must not be believed, and the reason must be readable.
    let other = tempfile::tempdir()?;
    polproof_tests::cluster::Pki::create(other.path())?;
    let kubeconfig = plane.kubeconfig("wrong-ca", plane.address(), &plane.admin_user())?;
    let text = std::fs::read_to_string(&kubeconfig)?;
    let right = plane.pki().file("ca.crt").display().to_string();
    let wrong = other.path().join("ca.crt").display().to_string();
    std::fs::write(&kubeconfig, text.replace(&right, &wrong))?;
    let mut watching = Watching::start(kubeconfig)?;
    let view = watching
        .until("a problem", |view| view.problem.is_some())
        .await?;
    let problem = view.problem.clone().context("a problem")?;
    ensure!(problem.to_lowercase().contains("certificate"), "{problem}");
    ensure!(!view.ready);
    Ok(())
}
