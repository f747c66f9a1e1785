//! The definitions of the policy kinds that only some clusters serve.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kube::api::{ApiResource, DeleteParams, DynamicObject, PostParams};
use kube::{Api, Client};
use polproof_policy::compile::OptionalKind;
use serde_json::{Value, json};

/// How long the API server may take to serve a new kind, or to forget one.
const PATIENCE: Duration = Duration::from_secs(60);

/// The definitions of sigs.k8s.io/network-policy-api, all fields included.
#[derive(Clone, Debug)]
pub struct Crds {
    folder: PathBuf,
}

impl Crds {
    /// Finds them in `$POLPROOF_TESTBED/crds`, else in the cache that `cargo xtask setup` fills. The error is what a person
    /// must do.
    ///
    /// # Errors
    /// They are not there.
    pub fn find() -> Result<Self, String> {
        let folder = match std::env::var_os("POLPROOF_TESTBED") {
            Some(folder) => PathBuf::from(folder).join("crds"),
            None => super::cached(
                "crds-",
                &["network-policy-api/v1alpha1", "network-policy-api/v1alpha2"],
            )?,
        };
        let this = Self { folder };
        for plural in [
            "adminnetworkpolicies",
            "baselineadminnetworkpolicies",
            "clusternetworkpolicies",
        ] {
            let file = this.file(plural);
            if !file.is_file() {
                return Err(format!(
                    "{} is missing: `cargo xtask setup` downloads it (needs Go 1.26)",
                    file.display()
                ));
            }
        }
        Ok(this)
    }

    fn file(&self, plural: &str) -> PathBuf {
        Path::new(&self.folder).join(format!("policy.networking.k8s.io_{plural}.yaml"))
    }

    /// Installs the definition of a kind and waits until it is served.
    ///
    /// # Errors
    /// The API server refuses it, or does not serve it in time.
    pub async fn install(&self, client: &Client, plural: &str) -> Result<()> {
        let text = std::fs::read_to_string(self.file(plural))?;
        install(client, &serde_saphyr::from_str(&text)?).await
    }
}

/// A definition that takes objects of any shape: Cilium's and Calico's own are not needed to see which policies there are.
pub fn any_shape(kind: &OptionalKind, (group, version): (&str, &str)) -> Value {
    let name = kind.kind.name();
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {
            "name": format!("{}.{group}", kind.plural),
            // Groups below k8s.io ask for a word on it.
            "annotations": { "api-approved.kubernetes.io": "unapproved, a definition of a test" },
        },
        "spec": {
            "group": group,
            "names": { "kind": name, "listKind": format!("{name}List"), "plural": kind.plural, "singular": name.to_lowercase() },
            "scope": if kind.namespaced { "Namespaced" } else { "Cluster" },
            "versions": [{ "name": version, "served": true, "storage": true, "schema": {
                "openAPIV3Schema": { "type": "object", "x-kubernetes-preserve-unknown-fields": true },
            }}],
        },
    })
}

fn definitions(client: &Client) -> Api<DynamicObject> {
    let resource = ApiResource {
        group: "apiextensions.k8s.io".to_owned(),
        version: "v1".to_owned(),
        api_version: "apiextensions.k8s.io/v1".to_owned(),
        kind: "CustomResourceDefinition".to_owned(),
        plural: "customresourcedefinitions".to_owned(),
    };
    Api::all_with(client.clone(), &resource)
}

/// Installs a definition and waits until its kind can be listed.
///
/// # Errors
/// The API server refuses it, or does not serve it in time.
pub async fn install(client: &Client, definition: &Value) -> Result<()> {
    let object: DynamicObject = serde_json::from_value(definition.clone())?;
    let text = |pointer: &str| {
        let found = definition.pointer(pointer).and_then(Value::as_str);
        found.map(str::to_owned).with_context(|| pointer.to_owned())
    };
    let path = format!(
        "/apis/{}/{}/{}",
        text("/spec/group")?,
        text("/spec/versions/0/name")?,
        text("/spec/names/plural")?
    );
    definitions(client)
        .create(&PostParams::default(), &object)
        .await?;
    wait_for_list(client, &path, true).await
}

/// Removes the definition of a kind, with its objects, and waits until it is gone.
///
/// # Errors
/// It is not there, or does not go in time.
pub async fn remove(
    client: &Client,
    kind: &OptionalKind,
    (group, version): (&str, &str),
) -> Result<()> {
    let name = format!("{}.{group}", kind.plural);
    definitions(client)
        .delete(&name, &DeleteParams::default())
        .await?;
    wait_for_list(
        client,
        &format!("/apis/{group}/{version}/{}", kind.plural),
        false,
    )
    .await
}

async fn wait_for_list(client: &Client, path: &str, served: bool) -> Result<()> {
    let until = tokio::time::Instant::now() + PATIENCE;
    loop {
        let request = http::Request::get(path).body(Vec::new())?;
        let now = client.request::<Value>(request).await;
        if now.is_ok() == served {
            return Ok(());
        }
        ensure!(
            tokio::time::Instant::now() < until,
            "{path} is {} after {} s: {now:?}",
            if served { "not served" } else { "still served" },
            PATIENCE.as_secs()
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
