//! The real agent and collector with the accounts and rights of `deploy/base`: on a real API server, over mutual TLS, judging
//! real packets.
//!
//! The network is the lab's, the objects are the API server's: UIDs and generations are those that it gave.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::rbac::v1::ClusterRole;
use kube::Api;
use kube::api::{Patch, PatchParams};
use polproof_policy::compile::OptionalKind;
use polproof_tests::cluster::Binaries;
use polproof_tests::cluster::crds::Crds;
use polproof_tests::lab::traffic::Outcome;
use polproof_tests::lab::{lease, wait_for};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::deployed::{ACCOUNTS, SETTLE, World, of_generation};
use crate::kinds::optional;
use crate::shared::PATIENCE;
use crate::sources::create;
use crate::tiers::KINDS;

/// What every cluster serves of what the deployed role names; nothing else may be asked for.
const KINDS_OF_ALL: [&str; 6] = [
    "discovery.k8s.io/endpointslices",
    "networking.k8s.io/networkpolicies",
    "/namespaces",
    "/nodes",
    "/pods",
    "/services",
];

pub(crate) fn with_the_rights_of_deploy(binaries: &Binaries, runtime: &Runtime) -> Result<()> {
    run(World::create(binaries, None, runtime)?, |world| {
        let settled = denied_and_delivered(world)?;
        allowed_by_the_api(world, settled, |world| {
            ensure!(world.set_policy("web")? == 2);
            Ok(())
        })?;
        denied_again_then_without_api_server(world)?;
        nothing_else_was_asked_for(world, &[])?;
        a_right_is_taken_away(world)
    })
}

/// The same accounts and rights where admin policies are served, and one of them decides.
pub(crate) fn with_admin_policies(
    binaries: &Binaries,
    definitions: &Crds,
    runtime: &Runtime,
) -> Result<()> {
    run(
        World::create(binaries, Some(definitions), runtime)?,
        |world| {
            let settled = denied_and_delivered(world)?;
            allowed_by_the_api(world, settled, |world| {
                let admits = admits_web();
                world.runtime.block_on(create(&world.client, &admits))
            })?;
            nothing_else_was_asked_for(world, &KINDS.map(optional))
        },
    )
}

fn admits_web() -> Value {
    json!({
        "apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy",
        "metadata": { "name": "web" },
        "spec": {
            "tier": "Admin", "priority": 1,
            "subject": { "pods": { "podSelector": { "matchLabels": { "app": "db" } } } },
            "ingress": [{ "action": "Accept", "from": [{ "pods": { "podSelector": { "matchLabels": { "app": "web" } } } }] }],
        },
    })
}

fn run<'a>(
    mut world: World<'a>,
    scenario: impl FnOnce(&mut World<'a>) -> Result<()>,
) -> Result<()> {
    scenario(&mut world).map_err(|error| {
        lease::end_if_interrupted();
        error.context(world.lab.logs(60))
    })
}

/// A denied connection arrives: a finding with the API server's UIDs and generation. Gives its attempts.
fn denied_and_delivered(world: &mut World<'_>) -> Result<u64> {
    // A probe of kubelet comes from the bridge's address, which no object names. No policy forbids it.
    let db = world.lab.pod("shop/db")?.v4(5432);
    let kubelet = &world.lab.node(0)?.resident;
    ensure!(kubelet.connect(db, Duration::from_secs(5))?.outcome == Outcome::Connected);
    for _ in 0..3 {
        world.connect()?;
    }
    let finding = world.finding(
        "three denied connections are judged for good",
        1,
        |finding| finding["settled"] == 3 && finding["observed"] == 3,
    )?;
    ensure!(finding["state"] == "standing", "{finding}");
    let (web, db) = (world.pod_uid("web")?, world.pod_uid("db")?);
    let policy = world.policy()?.metadata;
    for (pointer, expected) in [
        ("/kind", json!("unenforced")),
        ("/node", json!("node-1")),
        ("/port", json!(5432)),
        ("/source/name", json!("web")),
        ("/source/uid", json!(web)),
        ("/destination/name", json!("db")),
        ("/destination/uid", json!(db)),
        ("/denied_by/0/direction", json!("ingress")),
        ("/denied_by/0/namespace", json!("shop")),
        ("/denied_by/0/name", json!("db")),
        ("/denied_by/0/uid", json!(policy.uid)),
        ("/denied_by/0/generation", json!(policy.generation)),
        ("/denied_by/0/rules_without_match", json!([0])),
        ("/samples/0/answer", json!("accepted")),
    ] {
        ensure!(
            finding.pointer(pointer) == Some(&expected),
            "{pointer} is not {expected}: {finding}"
        );
    }
    let status = world.status()?;
    ensure!(
        status["nodes"][0]["inconclusive"] == json!({}),
        "not every attempt was told: {status}"
    );
    Ok(3)
}

/// The policies are changed to allow it: when that is known and grace is over, nothing is accused.
fn allowed_by_the_api<'a>(
    world: &mut World<'a>,
    standing: u64,
    change: impl FnOnce(&World<'a>) -> Result<()>,
) -> Result<()> {
    let delivered = |status: &Value| {
        status["nodes"][0]["judged"]["allowed_delivered"]
            .as_u64()
            .unwrap_or(0)
    };
    let before = delivered(&world.status()?);
    change(world)?;
    wait_for(PATIENCE, "connections are judged as allowed", || {
        world.connect()?;
        std::thread::sleep(Duration::from_millis(200));
        let now = world.status().as_ref().map_or(0, delivered);
        Ok((now >= before + 3).then_some(()))
    })?;
    // Those made before the agent knew were shown; by now, or soon, they are taken back.
    let quiet = || {
        let found = world.violations()?;
        let sure = found["findings"].as_array().is_some_and(|findings| {
            findings.iter().all(|one| {
                let count = |key: &str| one[key].as_u64().unwrap_or(0);
                count("observed") == count("settled") + count("retracted")
            })
        });
        Ok(sure.then_some(found))
    };
    let found = wait_for(PATIENCE, "everything is judged for good", quiet)?;
    ensure!(found["violations"] == standing, "{found}");
    let before = delivered(&world.status()?);
    for _ in 0..5 {
        world.connect()?;
    }
    world.until("the five are judged as allowed", |status| {
        delivered(status) >= before + 5
    })?;
    let found = world.violations()?;
    ensure!(found["violations"] == standing, "{found}");
    Ok(())
}

/// The policy denies it again; then the API server is away: findings are shown but not settled until it is back.
fn denied_again_then_without_api_server(world: &mut World<'_>) -> Result<()> {
    let generation = world.set_policy("api")?;
    ensure!(generation == 3);
    wait_for(PATIENCE, "the new policy is known", || {
        world.connect()?;
        std::thread::sleep(Duration::from_millis(200));
        let found = world.violations()?;
        Ok(of_generation(&found, generation).filter(|finding| finding["settled"] != 0))
    })?;
    let all_settled = |finding: &Value| finding["settled"] == finding["observed"];
    let before = world.finding("all is settled", generation, all_settled)?;

    world.plane.stop_api();
    let status = world.until("the status tells that the API server is away", |status| {
        [&status["nodes"][0]["cluster"], &status["cluster"]]
            .iter()
            .all(|cluster| {
                cluster["problem"]
                    .as_str()
                    .is_some_and(|text| text.contains("cannot be reached"))
            })
    })?;
    ensure!(status["nodes"][0]["cluster"]["ready"] == true, "{status}");
    for _ in 0..2 {
        world.connect()?;
    }
    let count = |finding: &Value, key: &str| finding[key].as_u64().unwrap_or(0);
    let observed = count(&before, "observed") + 2;
    world.finding("they are shown", generation, |finding| {
        count(finding, "observed") == observed
    })?;
    // Longer than an attempt waits for its settlement while all is well.
    std::thread::sleep(SETTLE + Duration::from_secs(2));
    let found = world.violations()?;
    let now = of_generation(&found, generation).context("the finding is gone")?;
    ensure!(
        now["settled"] == before["settled"] && count(&now, "observed") == observed,
        "settled by a view that may be stale: {now}"
    );

    world.start_api()?;
    world.finding("they are settled", generation, |finding| {
        count(finding, "settled") == observed
    })?;
    world.until("the problem is over", |status| {
        [&status["nodes"][0]["cluster"], &status["cluster"]]
            .iter()
            .all(|cluster| cluster["problem"] == "")
    })?;
    Ok(())
}

/// The API server's audit of both accounts: the kinds that it serves were listed or watched, and the server was asked whether
/// it is well and which kinds those are. `served`: of the kinds that only some clusters serve.
fn nothing_else_was_asked_for(world: &World<'_>, served: &[&OptionalKind]) -> Result<()> {
    let mut expected: BTreeSet<String> = KINDS_OF_ALL.iter().map(|&kind| kind.to_owned()).collect();
    let mut discovery = BTreeSet::from(["get /apis".to_owned()]);
    for kind in served {
        let (group, version) = kind.apis[0];
        expected.insert(format!("{group}/{}", kind.plural));
        discovery.insert(format!("get /apis/{group}/{version}"));
    }
    let mut asked: BTreeMap<String, (BTreeSet<String>, BTreeSet<String>)> = BTreeMap::new();
    let mut others = BTreeSet::new();
    for line in std::fs::read_to_string(&world.audit)?.lines() {
        let event: Value = serde_json::from_str(line)?;
        let user = event["user"]["username"].as_str().context("a user")?;
        let verb = event["verb"].as_str().context("a verb")?.to_owned();
        let object = &event["objectRef"];
        if object["resource"].is_string() {
            let text = |key: &str| object[key].as_str().unwrap_or_default();
            let (verbs, kinds) = asked.entry(user.to_owned()).or_default();
            verbs.insert(verb);
            kinds.insert(format!("{}/{}", text("apiGroup"), text("resource")));
        } else {
            let uri = event["requestURI"].as_str().context("a URI")?;
            others.insert(format!("{verb} {uri}"));
        }
    }
    let users: BTreeSet<String> = ACCOUNTS
        .iter()
        .map(|name| format!("system:serviceaccount:polproof-system:{name}"))
        .collect();
    ensure!(asked.keys().cloned().collect::<BTreeSet<_>>() == users);
    for (user, (verbs, kinds)) in &asked {
        ensure!(
            verbs.contains("watch") && verbs.iter().all(|verb| verb == "list" || verb == "watch"),
            "{user} used {verbs:?}"
        );
        ensure!(*kinds == expected, "{user} asked for {kinds:?}");
    }
    // Asked every few seconds, which a short test need not see.
    others.remove("get /readyz");
    ensure!(others == discovery, "{others:?}");
    Ok(())
}

/// Without one verb on one kind both programs say which rule is missing, and go on when it is there.
fn a_right_is_taken_away(world: &mut World<'_>) -> Result<()> {
    let roles = Api::<ClusterRole>::all(world.client.clone());
    let full = world.runtime.block_on(roles.get("polproof-reader"))?;
    let rules = serde_json::to_value(&full.rules)?;
    let mut fewer = rules.clone();
    for rule in fewer.as_array_mut().context("rules")? {
        if let Some(kinds) = rule["resources"].as_array_mut() {
            kinds.retain(|kind| kind != "pods");
        }
    }
    let list_only = json!({ "apiGroups": [""], "resources": ["pods"], "verbs": ["list"] });
    fewer.as_array_mut().context("rules")?.push(list_only);
    let set = |world: &World<'_>, rules: &Value| -> Result<()> {
        let patch = Patch::Merge(json!({ "rules": rules }));
        let roles = Api::<ClusterRole>::all(world.client.clone());
        let how = PatchParams::default();
        world
            .runtime
            .block_on(roles.patch("polproof-reader", &how, &patch))?;
        Ok(())
    };
    set(world, &fewer)?;
    // A running watch keeps the rights that it began with.
    world.plane.stop_api();
    world.start_api()?;
    world.until("both say which right is missing", |status| {
        [&status["nodes"][0]["cluster"], &status["cluster"]]
            .iter()
            .zip(ACCOUNTS)
            .all(|(cluster, account)| {
                let rule = format!(
                    "not allowed to watch pods: add {{apiGroups: [\"\"], resources: [\"pods\"], verbs: [\"list\", \"watch\"]}} to a \
                     ClusterRole that is bound to system:serviceaccount:polproof-system:{account}"
                );
                cluster["problem"]
                    .as_str()
                    .is_some_and(|text| text.contains(&rule))
            })
    })?;
    set(world, &rules)?;
    world.until("all is well with the right", |status| {
        [&status["nodes"][0]["cluster"], &status["cluster"]]
            .iter()
            .all(|cluster| cluster["problem"] == "")
    })?;
    Ok(())
}
