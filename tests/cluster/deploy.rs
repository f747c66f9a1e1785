//! `deploy/base` against a real API server: accepted as it is, and its rights are enough and no more.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client};
use polproof_tests::cluster::{ControlPlane, ServiceAccountToken};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use crate::shared::{Watching, may, namespace};
use crate::sources::{api_of, create};

/// The objects of the kustomization, in its order.
fn objects() -> Result<Vec<(String, Value)>> {
    let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/base");
    let read = |name: &str| {
        std::fs::read_to_string(base.join(name)).with_context(|| format!("deploy/base/{name}"))
    };
    let kustomization: Value = serde_saphyr::from_str(&read("kustomization.yaml")?)?;
    let resources = kustomization["resources"].as_array().context("resources")?;
    // Nothing is in the folder that nobody applies.
    ensure!(
        std::fs::read_dir(&base)?.count() == resources.len() + 1,
        "a file of deploy/base is not in its kustomization"
    );
    let mut objects = Vec::new();
    for name in resources {
        let name = name.as_str().context("a file name")?;
        let documents: Vec<Value> =
            serde_saphyr::from_multiple(&read(name)?).with_context(|| name.to_owned())?;
        objects.extend(documents.into_iter().map(|object| {
            let of = |pointer| {
                object
                    .pointer(pointer)
                    .and_then(Value::as_str)
                    .unwrap_or_default()
            };
            (
                format!("{name}: {} {}", of("/kind"), of("/metadata/name")),
                object,
            )
        }));
    }
    Ok(objects)
}

/// Creates the namespace, the accounts and the rights, once for both tests.
async fn apply_rights(client: &Client) -> Result<()> {
    static APPLIED: OnceCell<()> = OnceCell::const_new();
    APPLIED
        .get_or_try_init(|| async {
            for (name, object) in objects()? {
                if name.starts_with("namespace.yaml") || name.starts_with("rbac.yaml") {
                    create(client, &object).await.with_context(|| name)?;
                }
            }
            anyhow::Ok(())
        })
        .await?;
    Ok(())
}

pub(crate) async fn accepted(plane: &ControlPlane) -> Result<()> {
    let client = plane.client().await?;
    apply_rights(&client).await?;
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
    apply_rights(&client).await?;
    namespace(&client, "deploy-watched").await?;
    for name in ["polproof-agent", "polproof-collector"] {
        let accounts = Api::<ServiceAccount>::namespaced(client.clone(), "polproof-system");
        let token = ServiceAccountToken {
            namespace: "polproof-system".to_owned(),
            name: name.to_owned(),
            uid: accounts.get(name).await?.metadata.uid.context("a UID")?,
        }
        .sign(&plane.pki().service_account_key, Duration::from_secs(600))?;
        let kubeconfig = plane.kubeconfig(name, plane.address(), &json!({ "token": token }))?;
        let mut watching = Watching::start(kubeconfig.clone())?;
        let view = watching.ready().await?;
        ensure!(view.problem.is_none());

        let config = Kubeconfig::read_from(kubeconfig)?;
        let config =
            kube::Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await?;
        let account = Client::try_from(config)?;
        for (group, resource) in [
            ("", "pods"),
            ("", "namespaces"),
            ("", "services"),
            ("", "nodes"),
            ("networking.k8s.io", "networkpolicies"),
            ("discovery.k8s.io", "endpointslices"),
        ] {
            for verb in ["get", "list", "watch"] {
                ensure!(
                    may(&account, verb, group, resource).await?,
                    "{name} may not {verb} {resource}"
                );
            }
            for verb in ["create", "update", "patch", "delete", "deletecollection"] {
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
