//! `deploy/base` against a real API server: accepted as it is, and its rights are enough and no more.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client};
use polproof_policy::compile::OPTIONAL_KINDS;
use polproof_tests::cluster::{ControlPlane, ServiceAccountToken};
use polproof_tests::deployment::objects;
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use crate::shared::{Watching, may, namespace};
use crate::sources::{api_of, create};

/// Creates the namespace, the accounts and the rights.
pub(crate) async fn apply_rights(client: &Client) -> Result<()> {
    for (name, object) in objects()? {
        if name.starts_with("namespace.yaml") || name.starts_with("rbac.yaml") {
            create(client, &object).await.with_context(|| name)?;
        }
    }
    Ok(())
}

/// The same once, for the tests that share a control plane.
async fn apply_rights_once(client: &Client) -> Result<()> {
    static APPLIED: OnceCell<()> = OnceCell::const_new();
    APPLIED.get_or_try_init(|| apply_rights(client)).await?;
    Ok(())
}

/// A kubeconfig with a token of one of the deployed accounts.
pub(crate) async fn kubeconfig_of(
    plane: &ControlPlane,
    client: &Client,
    name: &str,
) -> Result<PathBuf> {
    let accounts = Api::<ServiceAccount>::namespaced(client.clone(), "polproof-system");
    let token = ServiceAccountToken {
        namespace: "polproof-system".to_owned(),
        name: name.to_owned(),
        uid: accounts.get(name).await?.metadata.uid.context("a UID")?,
    }
    .sign(
        &plane.pki().service_account_key,
        Duration::from_secs(24 * 3600),
    )?;
    plane.kubeconfig(name, plane.address(), &json!({ "token": token }))
}

pub(crate) async fn accepted(plane: &ControlPlane) -> Result<()> {
    let client = plane.client().await?;
    apply_rights_once(&client).await?;
    let mut kinds = Vec::new();
    for (name, object) in objects()? {
        let kind = object["kind"].as_str().unwrap_or_default().to_owned();
        if !name.starts_with("namespace.yaml") && !name.starts_with("rbac.yaml") {
            strictly(&client, &object)
                .await
                .with_context(|| name.clone())?;
        }
        kinds.push(kind);
    }
    for kind in [
        "DaemonSet",
        "Deployment",
        "Service",
        "ConfigMap",
        "NetworkPolicy",
        "PersistentVolumeClaim",
        "ClusterRole",
    ] {
        ensure!(
            kinds.iter().any(|found| found == kind),
            "no {kind} in deploy/base"
        );
    }
    for (name, object) in objects()? {
        if let Some(containers) = object
            .pointer("/spec/template/spec/containers")
            .and_then(Value::as_array)
        {
            // A pod made of the template passes admission, too, which a DaemonSet alone does not show.
            let template = &object["spec"]["template"];
            let pod = json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": { "name": "sample", "namespace": "polproof-system", "labels": template["metadata"]["labels"] },
                "spec": template["spec"],
            });
            strictly(&client, &pod)
                .await
                .with_context(|| format!("a pod of {name}"))?;
            for container in containers {
                let security = &container["securityContext"];
                ensure!(security["privileged"] != true, "{name} is privileged");
                ensure!(
                    security["readOnlyRootFilesystem"] == true
                        && security["allowPrivilegeEscalation"] == false
                );
                ensure!(security["capabilities"]["drop"] == json!(["ALL"]));
                let added = &security["capabilities"]["add"];
                let expected = json!(["BPF", "PERFMON", "NET_ADMIN", "SYS_ADMIN", "SYS_PTRACE"]);
                ensure!(
                    *added == Value::Null || *added == expected,
                    "{name} adds {added}"
                );
            }
        }
    }
    Ok(())
}

/// Server-side dry run that refuses unknown and duplicate fields, as kubectl asks for it.
async fn strictly(client: &Client, object: &Value) -> Result<()> {
    let url = api_of(client, object)?.resource_url().to_owned();
    let request = http::Request::post(format!("{url}?dryRun=All&fieldValidation=Strict"))
        .header("content-type", "application/json")
        .body(serde_json::to_vec(object)?)?;
    client.request::<Value>(request).await?;
    Ok(())
}

pub(crate) async fn rights_suffice(plane: &ControlPlane) -> Result<()> {
    let client = plane.client().await?;
    apply_rights_once(&client).await?;
    namespace(&client, "deploy-watched").await?;
    for name in ["polproof-agent", "polproof-collector"] {
        let kubeconfig = kubeconfig_of(plane, &client, name).await?;
        let mut watching = Watching::start(kubeconfig.clone())?;
        let view = watching.ready().await?;
        ensure!(view.problem.is_none());

        let config = Kubeconfig::read_from(kubeconfig)?;
        let config =
            kube::Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await?;
        let account = Client::try_from(config)?;
        let always = [
            ("", "pods"),
            ("", "namespaces"),
            ("", "services"),
            ("", "nodes"),
            ("networking.k8s.io", "networkpolicies"),
            ("discovery.k8s.io", "endpointslices"),
        ];
        let sometimes = OPTIONAL_KINDS
            .iter()
            .flat_map(|kind| kind.apis.iter().map(|(group, _)| (*group, kind.plural)));
        for (group, resource) in always.into_iter().chain(sometimes) {
            for verb in ["list", "watch"] {
                ensure!(
                    may(&account, verb, group, resource).await?,
                    "{name} may not {verb} {resource}"
                );
            }
            for verb in [
                "get",
                "create",
                "update",
                "patch",
                "delete",
                "deletecollection",
            ] {
                ensure!(
                    !may(&account, verb, group, resource).await?,
                    "{name} may {verb} {resource}"
                );
            }
        }
        for (group, resource) in [
            ("", "secrets"),
            ("", "configmaps"),
            ("", "pods/exec"),
            ("apps", "daemonsets"),
            ("*", "*"),
        ] {
            for verb in ["get", "list", "watch", "create"] {
                ensure!(
                    !may(&account, verb, group, resource).await?,
                    "{name} may {verb} {resource}"
                );
            }
        }
    }
    Ok(())
}
