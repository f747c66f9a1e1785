//! The API server as oracle of our validation of admin, baseline and cluster policies, with their project's own definitions.

use anyhow::{Result, bail};
use kube::Client;
use polproof_policy::compile;
use polproof_policy::model::{AdminPeer, AdminPolicy};
use polproof_policy::{Kind, Object};
use polproof_tests::cluster::crds::Crds;
use polproof_tests::cluster::{ApiServer, Binaries, ControlPlane};
use serde_json::Value;

use crate::kinds::optional;
use crate::tier_cases::cases;

/// What we refuse and the API server takes, since a schema cannot say it: part of our message, and why.
const STRICTER: [(&str, &str); 8] = [
    (
        "is no label key",
        "no label has such a key; implementations fail on it",
    ),
    ("is no label value", "no label has such a value"),
    (
        "has no values",
        "a selector's operator without what it compares with",
    ),
    (
        "takes no values",
        "a selector's operator with what it cannot compare",
    ),
    ("is no operator", "a selector's operator that nobody knows"),
    ("is no protocol", "a protocol that nobody knows"),
    (
        "is not greater than start",
        "v1alpha1 documents it, v1alpha2 checks it",
    ),
    (
        "stand in a rule that does not allow",
        "domain names in a rule that denies are documented as not supported",
    ),
];

/// For each policy: the API server and we both take it, and mean the same, or both refuse it.
pub(crate) async fn same_verdicts(binaries: &Binaries, definitions: &Crds) -> Result<()> {
    let plane = ControlPlane::start(binaries, ApiServer::default()).await?;
    let client = plane.client().await?;
    for kind in KINDS {
        definitions.install(&client, optional(kind).plural).await?;
    }
    let mut wrong = Vec::new();
    let (mut taken, mut refused) = (0, 0);
    let mut stricter = std::collections::BTreeSet::new();
    for (name, kind, object) in cases() {
        let server = dry_run(&client, kind, &object).await?;
        match (server, compile::optional(kind, &object)) {
            (Ok(stored), Ok(ours)) => {
                taken += 1;
                // What the server filled in and left out must not change what it means to us.
                match compile::optional(kind, &stored) {
                    Ok(again) if anonymous(again.clone()) == anonymous(ours.clone()) => {}
                    Ok(again) => wrong.push(format!(
                        "{name}: as the server keeps it, it means something else:\n  {again:?}\n  {ours:?}"
                    )),
                    Err(error) => wrong.push(format!("{name}: refused as the server keeps it: {error}")),
                }
            }
            (Err(_), Err(_)) => refused += 1,
            (Ok(_), Err(error))
                if let Some((part, _)) = STRICTER
                    .iter()
                    .find(|(part, _)| error.problem.contains(part)) =>
            {
                stricter.insert(*part);
            }
            (Ok(_), Err(error)) => {
                wrong.push(format!("{name}: the API server takes it; we: {error}"));
            }
            // A peer of which we know no field may be one of a newer API: it is kept, and fails closed.
            (Err(_), Ok(ours)) if has_unrecognised(&ours) => {}
            (Err(error), Ok(_)) => {
                wrong.push(format!("{name}: we take it; the API server: {error}"));
            }
        }
    }
    if !wrong.is_empty() {
        let all = taken + refused + wrong.len();
        bail!(
            "{} of {all} policies differ:\n{}",
            wrong.len(),
            wrong.join("\n")
        );
    }
    if stricter.len() != STRICTER.len() {
        bail!("only these of the known differences are there: {stricter:?}");
    }
    // The table must test both answers.
    if taken < 60 || refused < 120 {
        bail!("only {taken} taken and {refused} refused");
    }
    Ok(())
}

pub(crate) const KINDS: [Kind; 3] = [
    Kind::AdminNetworkPolicy,
    Kind::BaselineAdminNetworkPolicy,
    Kind::ClusterNetworkPolicy,
];

fn has_unrecognised(object: &Object) -> bool {
    let Object::AdminPolicy(policy) = object else {
        return false;
    };
    let mut rules = policy.ingress.iter().chain(&policy.egress);
    rules.any(|rule| rule.peers.contains(&AdminPeer::Unrecognised))
}

/// Without what the server gives.
fn anonymous(object: Object) -> Option<AdminPolicy> {
    match object {
        Object::AdminPolicy(policy) => {
            let mut policy = std::sync::Arc::unwrap_or_clone(policy);
            policy.uid = polproof_policy::Uid("".into());
            policy.generation = 0;
            Some(policy)
        }
        _ => None,
    }
}

async fn dry_run(client: &Client, kind: Kind, object: &Value) -> Result<Result<Value, String>> {
    let kind = optional(kind);
    let (group, version) = kind.apis[0];
    let request = http::Request::post(format!(
        "/apis/{group}/{version}/{}?dryRun=All",
        kind.plural
    ))
    .header("content-type", "application/json")
    .body(serde_json::to_vec(object)?)?;
    match client.request::<Value>(request).await {
        Ok(value) => Ok(Ok(value)),
        Err(kube::Error::Api(status)) if (400..500).contains(&status.code) => {
            Ok(Err(status.message.clone()))
        }
        Err(error) => Err(error.into()),
    }
}
