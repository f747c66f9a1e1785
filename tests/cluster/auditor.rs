//! `polproof` on a cluster with the rights of `deploy/examples/auditor.yaml`, with fewer, and on one that is away.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::rbac::v1::ClusterRole;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use polproof_tests::cluster::crds::Crds;
use polproof_tests::cluster::{ApiServer, Binaries, ControlPlane};
use polproof_tests::deployment::{folder, objects};
use serde_json::{Value, json};

use crate::commands::{polproof, text};
use crate::kinds::optional;
use crate::shared::{namespace, pod};
use crate::sources::create;
use crate::tiers::KINDS;

const NAME: &str = "polproof-auditor";
/// Whom the example binds.
const GROUP: &str = "network-auditors";

/// Longer than that nobody waits for an error.
const SOON: Duration = Duration::from_secs(30);

/// A kubeconfig of somebody in the group, made as `kubectl --as --as-group` does.
fn of_group(plane: &ControlPlane, group: &str) -> Result<PathBuf> {
    let mut user = plane.admin_user();
    user["as"] = json!("jane");
    user["as-groups"] = json!([group]);
    plane.kubeconfig(group, plane.address(), &user)
}

/// The exit code, what is written for people, and how long it took.
fn run(arguments: &[&str], kubeconfig: &Path) -> Result<(i32, String, Duration)> {
    let file = kubeconfig.display().to_string();
    let began = Instant::now();
    let output = polproof(&[arguments, &["--kubeconfig", &file]].concat())?;
    let code = output.status.code().context("killed")?;
    Ok((code, text(&output.stderr), began.elapsed()))
}

fn example() -> Result<Vec<Value>> {
    let file = folder().join("examples/auditor.yaml");
    Ok(serde_saphyr::from_multiple(&std::fs::read_to_string(
        file,
    )?)?)
}

async fn set(client: &Client, rules: &Value) -> Result<()> {
    let patch = Patch::Merge(json!({ "rules": rules }));
    let roles = Api::<ClusterRole>::all(client.clone());
    roles.patch(NAME, &PatchParams::default(), &patch).await?;
    Ok(())
}

/// The rules without one kind.
fn without(rules: &Value, kind: &str) -> Value {
    let mut fewer = rules.as_array().cloned().unwrap_or_default();
    for rule in &mut fewer {
        if let Some(kinds) = rule["resources"].as_array_mut() {
            kinds.retain(|one| one != kind);
        }
    }
    // The server takes no rule without a kind.
    fewer.retain(|rule| rule["resources"] != json!([]));
    json!(fewer)
}

const COMMANDS: [&[&str]; 4] = [
    &["audit", "--fail-on", "never"],
    &["matrix"],
    &["fix"],
    &["explain", "ask/a", "ask/b:8080"],
];

pub(crate) async fn rights(binaries: &Binaries, definitions: &Crds) -> Result<()> {
    let plane = ControlPlane::start(binaries, ApiServer::default()).await?;
    let client = plane.client().await?;
    namespace(&client, "ask").await?;
    pod(&client, "ask", "a", Some("10.9.2.1")).await?;
    pod(&client, "ask", "b", Some("10.9.2.2")).await?;
    let [role, binding] = <[Value; 2]>::try_from(example()?)
        .ok()
        .context("two objects")?;
    create(&client, &role).await?;
    create(&client, &binding).await?;
    let jane = of_group(&plane, GROUP)?;

    // They suffice where the other kinds are not served, and where they are.
    for served in [false, true] {
        if served {
            for kind in KINDS {
                definitions.install(&client, optional(kind).plural).await?;
            }
        }
        for command in COMMANDS {
            let (code, said, _) = run(&[command, &["--context", "testbed"]].concat(), &jane)?;
            ensure!(code == 0, "{command:?}, served {served}: {code}: {said}");
        }
    }

    // And each of them is needed: without it the command says which one.
    let kinds = role["rules"].as_array().into_iter().flatten();
    let kinds = kinds.flat_map(|rule| rule["resources"].as_array().into_iter().flatten());
    let kinds: Vec<&str> = kinds.filter_map(Value::as_str).collect();
    let served: Vec<&str> = KINDS.map(|kind| optional(kind).plural).to_vec();
    for kind in kinds {
        let elsewhere = kind.starts_with("cilium") || kind == "globalnetworkpolicies";
        if elsewhere {
            continue;
        }
        set(&client, &without(&role["rules"], kind)).await?;
        let (code, said, took) = run(COMMANDS[0], &jane)?;
        ensure!(
            code == 3 && took < SOON,
            "{kind}: {code} after {took:?}: {said}"
        );
        ensure!(
            said.contains(&format!("not allowed to watch {kind}"))
                && said.contains(&format!("resources: [\"{kind}\"]"))
                && said.contains("bound to jane"),
            "{kind}: {said}"
        );
    }
    ensure!(served.len() == 3);
    only_pods(&client, &jane, &served).await
}

/// Who may do nothing but list pods is told everything that is missing, at once.
async fn only_pods(client: &Client, jane: &Path, served: &[&str]) -> Result<()> {
    let rule = json!([{ "apiGroups": [""], "resources": ["pods"], "verbs": ["list"] }]);
    set(client, &rule).await?;
    for command in COMMANDS {
        let (code, said, took) = run(command, jane)?;
        ensure!(
            code == 3 && took < SOON,
            "{command:?}: {code} after {took:?}: {said}"
        );
        let always = [
            "pods",
            "namespaces",
            "nodes",
            "services",
            "networkpolicies",
            "endpointslices",
        ];
        for kind in always.iter().chain(served) {
            ensure!(
                said.contains(&format!("resources: [\"{kind}\"]")),
                "{command:?} does not name {kind}: {said}"
            );
        }
    }
    Ok(())
}

/// The example gives what the deployed programs have, and nothing more.
pub(crate) async fn same_rules(_plane: &ControlPlane) -> Result<()> {
    let of_role = |objects: Vec<Value>| {
        let mut roles = objects
            .into_iter()
            .filter(|one| one["kind"] == "ClusterRole");
        roles
            .next()
            .map(|role| role["rules"].clone())
            .context("a ClusterRole")
    };
    let deployed = of_role(objects()?.into_iter().map(|(_, object)| object).collect())?;
    ensure!(of_role(example()?)? == deployed);
    Ok(())
}

pub(crate) async fn away(plane: &ControlPlane) -> Result<()> {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let closed = plane.kubeconfig("closed", nobody, &plane.admin_user())?;
    // It takes connections and says nothing.
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    let silent = plane.kubeconfig("silent", listener.local_addr()?, &plane.admin_user())?;
    let expected = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/cluster/expected.yaml");
    let expected = expected.display().to_string();
    let check = ["check", expected.as_str()];
    for command in COMMANDS.into_iter().chain([&check[..]]) {
        let (code, said, took) = run(command, &closed)?;
        ensure!(
            code == 3 && took < SOON,
            "{command:?}: {code} after {took:?}: {said}"
        );
        ensure!(
            said.contains("cannot be reached") && said.contains(&nobody.to_string()),
            "{command:?}: {said}"
        );
        ensure!(said.lines().count() == 1, "{command:?}: {said}");
    }
    let (code, said, took) = run(COMMANDS[0], &silent)?;
    ensure!(
        code == 3 && took < 2 * SOON,
        "{code} after {took:?}: {said}"
    );
    ensure!(said.contains(&listener.local_addr()?.to_string()), "{said}");

    let (code, said, _) = run(&["audit", "--context", "nowhere"], &closed)?;
    ensure!(
        code == 2 && said.contains("no context `nowhere`"),
        "{code}: {said}"
    );
    let stranger = plane.kubeconfig("stranger", plane.address(), &json!({ "token": "none" }))?;
    let (code, said, took) = run(COMMANDS[0], &stranger)?;
    ensure!(
        code == 3 && said.contains("401") && took < SOON,
        "{code} after {took:?}: {said}"
    );
    Ok(())
}
