//! A cluster that is read once, as commands do.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use polproof_cluster::ClusterError;
use polproof_cluster::kubernetes::{self, KubernetesConfig};
use polproof_tests::cluster::{ControlPlane, ServiceAccountToken};
use serde_json::{Value, json};

use crate::shared::{has_pod, namespace, pod, service_account};

/// What commands have; a wait that long would be a failure.
const PATIENCE: Duration = Duration::from_secs(120);

fn config(kubeconfig: std::path::PathBuf) -> KubernetesConfig {
    KubernetesConfig {
        kubeconfig: Some(kubeconfig),
        ..KubernetesConfig::default()
    }
}

/// The problem that ends a reading, and how long that took.
async fn ends(config: KubernetesConfig) -> Result<(String, Duration)> {
    let began = Instant::now();
    match kubernetes::load(config, PATIENCE).await {
        Ok(_) => anyhow::bail!("it was read"),
        Err(ClusterError::NotRead { problem }) => Ok((problem, began.elapsed())),
        Err(other) => Err(other.into()),
    }
}

pub(crate) async fn no_use_to_wait(plane: &ControlPlane) -> Result<()> {
    let user = json!({ "token": "of-another-cluster" });
    let refused = plane.kubeconfig("refused", plane.address(), &user)?;
    let (problem, took) = ends(config(refused)).await?;
    ensure!(
        problem.contains("refused the credentials (401)") && problem.contains("refused.kubeconfig"),
        "{problem}"
    );
    ensure!(took < Duration::from_secs(20), "401 took {took:?}");

    let client = plane.client().await?;
    namespace(&client, "once").await?;
    let nobody = ServiceAccountToken {
        namespace: "once".to_owned(),
        name: "nobody".to_owned(),
        uid: service_account(&client, "once", "nobody").await?,
    };
    let token = nobody.sign(&plane.pki().service_account_key, Duration::from_secs(600))?;
    let user = json!({ "token": token });
    let powerless = plane.kubeconfig("powerless", plane.address(), &user)?;
    let (problem, took) = ends(config(powerless)).await?;
    for kind in ["pods", "namespaces", "nodes", "services", "networkpolicies"] {
        ensure!(
            problem.contains(&format!("resources: [\"{kind}\"]")),
            "{kind} is not named: {problem}"
        );
    }
    ensure!(took < Duration::from_secs(20), "403 took {took:?}");

    // A port where nobody listens.
    let nobody = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let away = plane.kubeconfig("away", nobody, &plane.admin_user())?;
    let (problem, took) = ends(config(away)).await?;
    ensure!(problem.contains("cannot be reached"), "{problem}");
    ensure!(took < Duration::from_secs(40), "a dead port took {took:?}");
    Ok(())
}

pub(crate) async fn context(plane: &ControlPlane) -> Result<()> {
    let client = plane.client().await?;
    namespace(&client, "contexts").await?;
    pod(&client, "contexts", "a", None).await?;
    let file = plane.kubeconfig("contexts", plane.address(), &plane.admin_user())?;
    // The current context cannot work; the other one is the test's.
    let mut written: Value = serde_json::from_str(&std::fs::read_to_string(&file)?)?;
    let contexts = written["contexts"].as_array_mut().context("contexts")?;
    contexts
        .push(json!({ "name": "broken", "context": { "cluster": "testbed", "user": "broken" }}));
    let users = written["users"].as_array_mut().context("users")?;
    users.push(json!({ "name": "broken", "user": { "token": "none" }}));
    written["current-context"] = json!("broken");
    std::fs::write(&file, written.to_string())?;

    let (problem, _) = ends(config(file.clone())).await?;
    ensure!(problem.contains("401"), "{problem}");
    let named = KubernetesConfig {
        context: Some("testbed".to_owned()),
        ..config(file.clone())
    };
    let view = kubernetes::load(named, PATIENCE).await?;
    ensure!(view.ready && view.problem.is_none() && has_pod(&view, "contexts", "a"));

    let unknown = KubernetesConfig {
        context: Some("nowhere".to_owned()),
        ..config(file)
    };
    let error = kubernetes::load(unknown, PATIENCE).await.err();
    let error = error.context("an error")?.to_string();
    ensure!(error.contains("no context `nowhere`"), "{error}");
    Ok(())
}
