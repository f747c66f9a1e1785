//! A server whose admin policies are of a newer API than ours: what we do not know closes, and is never passed over as if the
//! rule were not there.

use anyhow::{Context, Result, ensure};
use kube::Client;
use kube::api::DeleteParams;
use polproof_cluster::View;
use polproof_policy::{Endpoint, Expectation, Kind, Protocol, Query, UnknownReason};
use polproof_tests::cluster::{ApiServer, Binaries, ControlPlane, crds};
use serde_json::{Value, json};

use crate::kinds::optional;
use crate::shared::{Watching, named, namespace, pod};
use crate::sources::{api_of, create};

fn of(kind: Kind, name: &str, priority: u16, rules: &Value) -> Value {
    let (group, version) = optional(kind).apis[0];
    json!({
        "apiVersion": format!("{group}/{version}"), "kind": kind.name(), "metadata": { "name": name },
        "spec": { "tier": "Admin", "priority": priority, "subject": { "namespaces": {} }, "ingress": rules },
    })
}

/// A rule for one port.
fn rule(kind: Kind, action: &str, peer: &Value, port: u16) -> Value {
    let mut rule = json!({ "action": action, "from": [peer] });
    match kind {
        Kind::ClusterNetworkPolicy => {
            rule["protocols"] = json!([{ "tcp": { "destinationPort": { "number": port } } }]);
        }
        _ => rule["ports"] = json!([{ "portNumber": { "protocol": "TCP", "port": port } }]),
    }
    rule
}

fn to_db(view: &View, port: u16) -> Option<Expectation> {
    let web = view.snapshot.pod_named(&named("newer", "web"))?;
    let db = view.snapshot.pod_named(&named("newer", "db"))?;
    let said = view.snapshot.evaluate(&Query {
        source: Endpoint::Pod(web),
        source_ip: *web.ips.first()?,
        destination: Endpoint::Pod(db),
        destination_ip: *db.ips.first()?,
        protocol: Protocol::Tcp,
        port,
    });
    Some(said.expectation())
}

async fn isolated(client: &Client) -> Result<()> {
    let only_1000 = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": { "namespace": "newer", "name": "db" },
        "spec": { "podSelector": { "matchLabels": { "app": "db" } }, "ingress": [{ "ports": [{ "port": 1000, "endPort": 2000 }] }] },
    });
    create(client, &only_1000).await
}

pub(crate) async fn fails_closed(binaries: &Binaries) -> Result<()> {
    let plane = ControlPlane::start(binaries, ApiServer::default()).await?;
    let client = plane.client().await?;
    namespace(&client, "newer").await?;
    pod(&client, "newer", "web", Some("10.9.4.1")).await?;
    pod(&client, "newer", "db", Some("10.9.4.2")).await?;
    isolated(&client).await?;
    let mut watching = Watching::start(plane.admin_kubeconfig()?)?;
    for kind in [Kind::AdminNetworkPolicy, Kind::ClusterNetworkPolicy] {
        let known = optional(kind);
        // Definitions of this shape keep every field, as those of a newer API keep theirs.
        crds::install(&client, &crds::any_shape(known, known.apis[0])).await?;
        let allow = match kind {
            Kind::ClusterNetworkPolicy => "Accept",
            _ => "Allow",
        };
        let new = json!({ "galaxies": { "matchLabels": { "a": "b" } } });
        let beside = json!({ "galaxies": {}, "namespaces": {} });
        let rules = json!([
            rule(kind, allow, &new, 81),
            rule(kind, "Deny", &new, 1001),
            rule(kind, "Pass", &new, 1002),
            rule(kind, allow, &beside, 82),
            rule(kind, "Deny", &beside, 1003),
        ]);
        create(&client, &of(kind, "rules", 1, &rules)).await?;
        let view = watching
            .until("the policy is known", |view| view.snapshot.count(kind) == 1)
            .await?;
        ensure!(view.refused.is_empty(), "{:?}", view.refused);
        for (port, expected) in [
            // A rule that allows matches nobody that it does not know, one that denies or passes on denies everybody.
            (81, Expectation::Deny),
            (1001, Expectation::Deny),
            (1002, Expectation::Deny),
            // Of a peer that we know the rest is passed over.
            (82, Expectation::Allow),
            (1003, Expectation::Deny),
            // Nothing else changes.
            (80, Expectation::Deny),
            (1000, Expectation::Allow),
        ] {
            let said = to_db(&view, port);
            ensure!(
                said == Some(expected),
                "{}, port {port}: {said:?}",
                kind.name()
            );
        }

        // A subject that we do not know: nobody knows whom it governs, so it is named, and accuses nobody.
        let mut whole = of(kind, "subject", 2, &json!([rule(kind, allow, &beside, 83)]));
        whole["spec"]["subject"] = json!({ "galaxies": {} });
        create(&client, &whole).await?;
        let view = watching
            .until("it is refused", |view| !view.refused.is_empty())
            .await?;
        let refused = view.refused.first().context("one")?;
        ensure!(
            refused.object.contains("subject") && refused.reason.contains("galaxies"),
            "{refused:?}"
        );
        let may_be = Expectation::Unknown(UnknownReason::RefusedPolicy);
        ensure!(to_db(&view, 83) == Some(may_be), "{:?}", to_db(&view, 83));
        api_of(&client, &whole)?
            .delete("subject", &DeleteParams::default())
            .await?;
        crds::remove(&client, known, known.apis[0]).await?;
        watching
            .until("nothing is left of it", |view| {
                view.refused.is_empty() && view.snapshot.count(kind) == 0 && view.problem.is_none()
            })
            .await?;
    }
    Ok(())
}
