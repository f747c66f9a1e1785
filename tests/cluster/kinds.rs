//! The kinds that only some clusters serve: absent, there from the start, installed later, removed, forbidden.
//!
//! The admin policies' definitions are their project's own. Cilium's and Calico's are ours, and take objects of any shape.

use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use kube::Client;
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use polproof_cluster::View;
use polproof_policy::compile::{OPTIONAL_KINDS, OptionalKind};
use polproof_policy::{Decision, Endpoint, Expectation, Kind, Protocol, Query};
use polproof_tests::cluster::crds::{self, Crds};
use polproof_tests::cluster::{ApiServer, Binaries, ControlPlane};
use serde_json::{Value, json};

use crate::deploy::{apply_rights, kubeconfig_of};
use crate::shared::{Watching, named, namespace, pod};
use crate::sources::{api_of, create};

pub(crate) fn optional(kind: Kind) -> &'static OptionalKind {
    let found = OPTIONAL_KINDS.iter().find(|one| one.kind == kind);
    found.expect("an optional kind")
}

fn keep_out(action: &str) -> Value {
    json!({
        "apiVersion": "policy.networking.k8s.io/v1alpha1", "kind": "AdminNetworkPolicy",
        "metadata": { "name": "keep-out" },
        "spec": {
            "priority": 5,
            "subject": { "pods": { "namespaceSelector": {}, "podSelector": { "matchLabels": { "app": "db" } } } },
            "ingress": [{ "action": action, "from": [{ "namespaces": {} }] }],
        },
    })
}

fn baseline() -> Value {
    json!({
        "apiVersion": "policy.networking.k8s.io/v1alpha1", "kind": "BaselineAdminNetworkPolicy",
        "metadata": { "name": "default" },
        "spec": {
            "subject": { "namespaces": {} },
            "ingress": [{ "action": "Deny", "from": [{ "namespaces": {} }] }],
        },
    })
}

fn cluster_policy() -> Value {
    json!({
        "apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy",
        "metadata": { "name": "audit" },
        "spec": {
            "tier": "Admin", "priority": 7, "subject": { "namespaces": {} },
            "egress": [{ "action": "Accept", "to": [{ "networks": ["10.0.0.0/8"] }] }],
        },
    })
}

fn cilium(namespace: &str, name: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy",
        "metadata": { "namespace": namespace, "name": name }, "spec": spec,
    })
}

/// What becomes of a connection of kinds/web to kinds/db, and the admin policy that says so.
fn verdict(view: &View) -> Option<(Expectation, Option<String>)> {
    let web = view.snapshot.pod_named(&named("kinds", "web"))?;
    let db = view.snapshot.pod_named(&named("kinds", "db"))?;
    let said = view.snapshot.evaluate(&Query {
        source: Endpoint::Pod(web),
        source_ip: *web.ips.first()?,
        destination: Endpoint::Pod(db),
        destination_ip: *db.ips.first()?,
        protocol: Protocol::Tcp,
        port: 5432,
    });
    let by = match said.ingress.decision {
        Decision::Admin(by) => Some(by.policy.name.to_string()),
        _ => None,
    };
    Some((said.expectation(), by))
}

fn says(view: &View, expected: Expectation, by: Option<&str>) -> bool {
    verdict(view) == Some((expected, by.map(str::to_owned)))
}

fn admits_to_db(view: &View) -> bool {
    let db = view.snapshot.pod_named(&named("kinds", "db"));
    db.is_some_and(|db| {
        let mut of = view.snapshot.foreign_policies_of(db);
        of.any(|policy| policy.ingress.may_admit)
    })
}

pub(crate) async fn come_and_go(binaries: &Binaries, definitions: &Crds) -> Result<()> {
    let plane = ControlPlane::start(binaries, ApiServer::default()).await?;
    let client = plane.client().await?;
    namespace(&client, "kinds").await?;
    pod(&client, "kinds", "web", Some("10.9.1.1")).await?;
    pod(&client, "kinds", "db", Some("10.9.1.2")).await?;

    // None of them is served: that is no problem, and they are empty.
    let mut watching = Watching::start(plane.admin_kubeconfig()?)?;
    let view = watching.ready().await?;
    ensure!(says(&view, Expectation::Allow, None));
    ensure!(view.other_policies().next().is_none());

    admin_policies(&mut watching, &client, definitions).await?;
    foreign_policies(&mut watching, &client).await?;
    changed_version(&mut watching, &client).await?;

    // A second reader finds what is there from the start.
    let mut late = Watching::start(plane.admin_kubeconfig()?)?;
    let view = late.ready().await?;
    ensure!(view.snapshot.count(Kind::BaselineAdminNetworkPolicy) == 1);
    ensure!(says(&view, Expectation::Deny, Some("default")));

    // And all goes, with its definition.
    for kind in [
        Kind::AdminNetworkPolicy,
        Kind::BaselineAdminNetworkPolicy,
        Kind::ClusterNetworkPolicy,
    ] {
        let kind = optional(kind);
        crds::remove(&client, kind, kind.apis[0]).await?;
    }
    for watching in [&mut watching, &mut late] {
        watching
            .until("no admin policies, and no problem", |view| {
                view.problem.is_none()
                    && view.snapshot.admin_policies().next().is_none()
                    && says(view, Expectation::Allow, None)
            })
            .await?;
    }
    // What was removed and comes again is followed again.
    definitions.install(&client, "adminnetworkpolicies").await?;
    create(&client, &keep_out("Deny")).await?;
    watching
        .until("the kind is back", |view| {
            says(view, Expectation::Deny, Some("keep-out"))
        })
        .await?;
    let stats = watching.config.stats.kind(Kind::AdminNetworkPolicy);
    ensure!(stats.lists.load(Ordering::Relaxed) >= 2 && stats.events.load(Ordering::Relaxed) >= 3);
    Ok(())
}

/// Applied, changed and deleted objects reach the verdict.
async fn admin_policies(
    watching: &mut Watching,
    client: &Client,
    definitions: &Crds,
) -> Result<()> {
    for plural in [
        "adminnetworkpolicies",
        "baselineadminnetworkpolicies",
        "clusternetworkpolicies",
    ] {
        definitions.install(client, plural).await?;
    }
    let deny = keep_out("Deny");
    create(client, &deny).await?;
    let view = watching
        .until("an admin policy that denies", |view| {
            says(view, Expectation::Deny, Some("keep-out"))
        })
        .await?;
    ensure!(view.ready && view.refused.is_empty(), "{:?}", view.refused);
    let policy = view.snapshot.admin_policies().next().context("a policy")?;
    ensure!(policy.generation == 1 && policy.priority == 5 && !policy.uid.0.is_empty());

    let patch = Patch::Merge(json!({ "spec": keep_out("Allow")["spec"] }));
    let api = api_of(client, &deny)?;
    api.patch("keep-out", &PatchParams::default(), &patch)
        .await?;
    watching
        .until("it allows now", |view| {
            says(view, Expectation::Allow, Some("keep-out"))
        })
        .await?;

    create(client, &baseline()).await?;
    create(client, &cluster_policy()).await?;
    watching
        .until("one of each", |view| {
            let counts: Vec<_> = view
                .other_policies()
                .map(|of| (of.kind, of.count, of.evaluated))
                .collect();
            counts
                == [
                    ("AdminNetworkPolicy", 1, true),
                    ("BaselineAdminNetworkPolicy", 1, true),
                    ("ClusterNetworkPolicy", 1, true),
                ]
        })
        .await?;
    api.delete("keep-out", &DeleteParams::default()).await?;
    watching
        .until("the baseline denies", |view| {
            says(view, Expectation::Deny, Some("default"))
        })
        .await?;
    Ok(())
}

async fn foreign_policies(watching: &mut Watching, client: &Client) -> Result<()> {
    let kind = optional(Kind::CiliumNetworkPolicy);
    crds::install(client, &crds::any_shape(kind, kind.apis[0])).await?;
    let others =
        json!({ "endpointSelector": { "matchLabels": { "app": "web" } }, "ingress": [{}] });
    create(client, &cilium("kinds", "others", &others)).await?;
    watching
        .until("a CiliumNetworkPolicy", |view| {
            view.snapshot.count(Kind::CiliumNetworkPolicy) == 1
        })
        .await?;
    ensure!(!admits_to_db(&watching.views.borrow()));
    let every = json!({ "endpointSelector": {}, "ingress": [{ "fromEntities": ["all"] }] });
    let every = cilium("kinds", "every", &every);
    create(client, &every).await?;
    watching
        .until("one that may admit to db", admits_to_db)
        .await?;
    api_of(client, &every)?
        .delete("every", &DeleteParams::default())
        .await?;
    watching.until("none", |view| !admits_to_db(view)).await?;
    crds::remove(client, kind, kind.apis[0]).await?;
    watching
        .until("the kind is gone", |view| {
            view.problem.is_none() && view.snapshot.count(Kind::CiliumNetworkPolicy) == 0
        })
        .await?;
    Ok(())
}

/// Of two groups that serve a kind the first in our order counts, and the other when that goes.
async fn changed_version(watching: &mut Watching, client: &Client) -> Result<()> {
    let kind = optional(Kind::CalicoGlobalNetworkPolicy);
    for (api, name) in kind.apis.iter().zip(["first", "second"]) {
        crds::install(client, &crds::any_shape(kind, *api)).await?;
        let (group, version) = api;
        let object = json!({
            "apiVersion": format!("{group}/{version}"), "kind": "GlobalNetworkPolicy",
            "metadata": { "name": name }, "spec": { "selector": "all()" },
        });
        create(client, &object).await?;
    }
    let only = |view: &View, name: &str| {
        let mut held = view.snapshot.foreign_policies();
        held.next().is_some_and(|one| &*one.id.name == name) && held.next().is_none()
    };
    watching
        .until("the first group's policy", |view| only(view, "first"))
        .await?;
    crds::remove(client, kind, kind.apis[0]).await?;
    watching
        .until("the second group's policy", |view| {
            only(view, "second") && view.problem.is_none()
        })
        .await?;
    crds::remove(client, kind, kind.apis[1]).await?;
    watching
        .until("none", |view| {
            view.snapshot.foreign_policies().next().is_none() && view.problem.is_none()
        })
        .await?;
    Ok(())
}

/// Rights that are older than the program: it says what is missing and judges nothing, whatever the other kinds say.
pub(crate) async fn right_is_missing(binaries: &Binaries, definitions: &Crds) -> Result<()> {
    let plane = ControlPlane::start(binaries, ApiServer::default()).await?;
    let client = plane.client().await?;
    definitions.install(&client, "adminnetworkpolicies").await?;
    apply_rights(&client).await?;
    let roles = Api::<ClusterRole>::all(client.clone());
    let full = serde_json::to_value(roles.get("polproof-reader").await?.rules)?;
    let mut older = full.clone();
    older.as_array_mut().context("rules")?.truncate(3);
    let set = async |rules: &Value| {
        let patch = Patch::Merge(json!({ "rules": rules }));
        let how = PatchParams::default();
        roles.patch("polproof-reader", &how, &patch).await
    };
    set(&older).await?;
    let kubeconfig = kubeconfig_of(&plane, &client, "polproof-agent").await?;
    let mut watching = Watching::start(kubeconfig.clone())?;
    let rule = "add {apiGroups: [\"policy.networking.k8s.io\"], resources: [\"adminnetworkpolicies\"], verbs: [\"list\", \"watch\"]} \
                to a ClusterRole that is bound to system:serviceaccount:polproof-system:polproof-agent";
    let view = watching
        .until("the missing rule is named", |view| {
            view.problem
                .as_deref()
                .is_some_and(|text| text.contains(rule))
        })
        .await?;
    // Longer than discovery and the next attempt take.
    tokio::time::sleep(Duration::from_secs(3)).await;
    ensure!(!view.ready && !watching.views.borrow().ready);
    set(&full).await?;
    watching.ready().await?;

    // Who may not even ask what is served does not know that nothing is.
    let bindings = Api::<ClusterRoleBinding>::all(client.clone());
    let discovery = bindings.get("system:discovery").await?;
    let nobody = Patch::Merge(json!({ "subjects": [] }));
    let how = PatchParams::default();
    bindings.patch("system:discovery", &how, &nobody).await?;
    let mut blind = Watching::start(kubeconfig)?;
    let view = blind
        .until("the missing role is named", |view| {
            view.problem.as_deref().is_some_and(|text| {
                text.contains("bind the ClusterRole system:discovery to system:serviceaccount:polproof-system:polproof-agent")
            })
        })
        .await?;
    ensure!(!view.ready);
    // Who knew it before goes on with what was known.
    let view = watching
        .until("the other says so, too", |view| view.problem.is_some())
        .await?;
    ensure!(view.ready);
    let again = Patch::Merge(json!({ "subjects": discovery.subjects }));
    bindings.patch("system:discovery", &how, &again).await?;
    blind.ready().await?;
    watching.ready().await?;
    Ok(())
}
