//! The command `polproof` on a live cluster: it says what it says of the same objects in a folder, and what `fix` writes is taken
//! by the server and does what it promises.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use kube::Client;
use polproof_tests::cluster::crds::Crds;
use polproof_tests::cluster::{ApiServer, Binaries, ControlPlane};
use polproof_tests::lab::process::binary;
use serde_json::{Value, json};

use crate::kinds::optional;
use crate::sources::{api_of, create};
use crate::tiers::KINDS;

const SHOP: &str = include_str!("../fixtures/cluster/shop.yaml");
const ADMIN: &str = include_str!("../fixtures/cluster/admin.yaml");

/// What is found of the form of a policy that a server does not keep: it fills `policyTypes` in and drops empty lists.
const ONLY_AS_WRITTEN: [&str; 2] = ["NP061 obs/implied", "NP062 obs/open-egress"];

pub(crate) fn polproof(arguments: &[&str]) -> Result<Output> {
    let mut command = Command::new(binary("polproof")?);
    command.env_clear().args(arguments);
    command.output().context("run polproof")
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A cluster and a folder with the same objects.
struct Both {
    plane: ControlPlane,
    client: Client,
    kubeconfig: PathBuf,
    folder: tempfile::TempDir,
}

impl Both {
    async fn create(binaries: &Binaries, definitions: Option<&Crds>) -> Result<Self> {
        let plane = ControlPlane::start(binaries, ApiServer::default()).await?;
        let client = plane.client().await?;
        let mut files = vec![("shop.yaml", SHOP)];
        if let Some(definitions) = definitions {
            for kind in KINDS {
                definitions.install(&client, optional(kind).plural).await?;
            }
            files.push(("admin.yaml", ADMIN));
        }
        let folder = tempfile::tempdir()?;
        for (name, manifests) in files {
            std::fs::write(folder.path().join(name), manifests)?;
            for object in serde_saphyr::from_multiple::<Value>(manifests)? {
                // The server has it from the start.
                if object["kind"] == "Namespace" && object["metadata"]["name"] == "kube-system" {
                    continue;
                }
                create(&client, &object)
                    .await
                    .with_context(|| object["metadata"].to_string())?;
            }
        }
        Ok(Self {
            kubeconfig: plane.admin_kubeconfig()?,
            plane,
            client,
            folder,
        })
    }

    /// The exit code and the JSON of a command on the cluster.
    fn live(&self, arguments: &[&str]) -> Result<(i32, Value)> {
        let file = self.kubeconfig.display().to_string();
        answer(&[arguments, &["--kubeconfig", &file, "-o", "json"]].concat())
    }

    /// The same on the folder, which some commands take as a flag.
    fn files(&self, flag: Option<&str>, arguments: &[&str]) -> Result<(i32, Value)> {
        let folder = self.folder.path().display().to_string();
        let path: Vec<&str> = flag.into_iter().chain([folder.as_str()]).collect();
        answer(&[arguments, &path, &["-o", "json"]].concat())
    }

    /// `lint subject` of what the audit finds in the cluster.
    fn found(&self) -> Result<BTreeSet<String>> {
        let (_, audit) = self.live(&["audit"])?;
        Ok(list(&audit, "findings")?.iter().map(subject).collect())
    }
}

fn answer(arguments: &[&str]) -> Result<(i32, Value)> {
    let output = polproof(arguments)?;
    let said = || format!("polproof {arguments:?}: {}", text(&output.stderr));
    let code = output.status.code().with_context(said)?;
    ensure!(code < 2, "{code}: {}", said());
    // One object, or one a line.
    let lines: Result<Vec<Value>, _> = serde_json::Deserializer::from_slice(&output.stdout)
        .into_iter()
        .collect();
    let mut lines = lines.with_context(said)?;
    Ok(match lines.len() {
        1 => (code, lines.remove(0)),
        _ => (code, Value::Array(lines)),
    })
}

fn list<'v>(value: &'v Value, key: &str) -> Result<&'v Vec<Value>> {
    value[key].as_array().with_context(|| key.to_owned())
}

fn subject(finding: &Value) -> String {
    let text = |key: &str| finding[key].as_str().unwrap_or_default();
    format!("{} {}", text("lint"), text("subject"))
}

/// Without what only one of the two can have: the name of what was read, identities that a server gives, places in files.
fn plain(mut answer: Value) -> Value {
    if let Some(fields) = answer.as_object_mut() {
        fields.retain(|key, _| !matches!(key.as_str(), "source" | "objects"));
    }
    strip(&mut answer);
    answer
}

fn strip(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|key, _| !matches!(key.as_str(), "uid" | "generation" | "location"));
            fields.values_mut().for_each(strip);
        }
        Value::Array(entries) => entries.iter_mut().for_each(strip),
        _ => {}
    }
}

fn equal(what: &str, live: &Value, files: &Value) -> Result<()> {
    ensure!(
        live == files,
        "{what}\n  of the cluster: {live}\n  of the folder:  {files}"
    );
    Ok(())
}

pub(crate) async fn same_answers(binaries: &Binaries) -> Result<()> {
    compare(&Both::create(binaries, None).await?)
}

pub(crate) async fn same_answers_with_admin_policies(
    binaries: &Binaries,
    definitions: &Crds,
) -> Result<()> {
    let both = Both::create(binaries, Some(definitions)).await?;
    compare(&both)?;
    let found = both.found()?;
    for lint in ["NP110", "NP111"] {
        ensure!(found.iter().any(|one| one.starts_with(lint)), "{found:?}");
    }
    Ok(())
}

fn compare(both: &Both) -> Result<()> {
    same_findings(both)?;
    let matrix = ["matrix", "--by", "pod"];
    for command in [&matrix[..1], &matrix] {
        let (_, live) = both.live(command)?;
        let (_, files) = both.files(None, command)?;
        equal("matrix", &plain(live), &plain(files))?;
    }
    let fixture = |name: &str| {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/cluster");
        folder.join(name).display().to_string()
    };
    let (questions, expected) = (fixture("questions.jsonl"), fixture("expected.yaml"));
    for command in [
        &["explain", "--queries", &questions][..],
        &["explain", "shop/web-7d9-1", "shop/db-0:5432"],
        &["explain", "obs/prometheus", "shop/svc/web:80"],
        &["check", &expected],
    ] {
        let (code, live) = both.live(command)?;
        let (same, files) = both.files(Some("--manifests"), command)?;
        ensure!(code == same, "{command:?}: {code} and {same}");
        equal(&command.join(" "), &plain(live), &plain(files))?;
    }
    Ok(())
}

fn same_findings(both: &Both) -> Result<()> {
    let (code, live) = both.live(&["audit"])?;
    let (same, files) = both.files(None, &["audit"])?;
    ensure!(code == 1 && same == 1, "{code} and {same}");
    ensure!(live["source"]["kind"] == "cluster" && files["source"]["kind"] == "manifests");
    equal("summary", &live["summary"], &files["summary"])?;
    for key in ["findings", "suppressed_findings"] {
        let of = |audit: &Value| -> Result<BTreeSet<String>> {
            let findings = list(audit, key)?.iter();
            let kept = findings.filter(|one| !ONLY_AS_WRITTEN.contains(&subject(one).as_str()));
            Ok(kept.map(|one| plain(one.clone()).to_string()).collect())
        };
        let (of_cluster, of_folder) = (of(&live)?, of(&files)?);
        let differing: Vec<_> = of_cluster.symmetric_difference(&of_folder).collect();
        ensure!(differing.is_empty(), "{key} differ: {differing:#?}");
        ensure!(!of_cluster.is_empty(), "no {key}: this shows nothing");
    }
    let as_written: Vec<String> = list(&files, "findings")?.iter().map(subject).collect();
    for one in ONLY_AS_WRITTEN {
        ensure!(
            as_written.iter().any(|found| found == one),
            "{one} is not found in files"
        );
    }
    let postures = |audit: &Value| -> Result<Vec<Value>> {
        let mut of = list(audit, "namespaces")?.clone();
        // Those that every server makes have no pods here.
        of.retain(|one| {
            let name = one["namespace"].as_str().unwrap_or_default();
            !["default", "kube-public", "kube-node-lease"].contains(&name)
        });
        Ok(of)
    };
    equal(
        "namespaces",
        &json!(postures(&live)?),
        &json!(postures(&files)?),
    )
}

pub(crate) async fn fixes(binaries: &Binaries) -> Result<()> {
    fix(&Both::create(binaries, None).await?).await
}

pub(crate) async fn fixes_with_admin_policies(
    binaries: &Binaries,
    definitions: &Crds,
) -> Result<()> {
    fix(&Both::create(binaries, Some(definitions)).await?).await
}

async fn fix(both: &Both) -> Result<()> {
    let before = both.found()?;
    let (_, fixes) = both.live(&["fix"])?;
    let (policies, patches) = (list(&fixes, "policies")?, list(&fixes, "patches")?);
    ensure!(policies.len() >= 3 && patches.len() >= 3, "{fixes}");
    as_text(both).await?;
    as_folder(both, policies.len(), patches.len()).await?;
    ensure!(both.found()? == before, "a dry run changed something");

    for patch in patches {
        let (namespace, name) = (&patch["namespace"], &patch["name"]);
        let (namespace, name) = (
            namespace.as_str().context("a namespace")?,
            name.as_str().context("a name")?,
        );
        patched(&both.client, namespace, name, &patch["operations"], false)
            .await
            .with_context(|| patch.to_string())?;
    }
    for policy in policies {
        created(&both.client, &policy["manifest"], false)
            .await
            .with_context(|| policy.to_string())?;
    }
    // What it promised to remedy is remedied, and what it said would be left is left: nothing more, nothing less. What was
    // accepted with a reason is neither.
    let after = both.found()?;
    let left: BTreeSet<String> = list(&fixes, "left")?.iter().map(subject).collect();
    let differing: Vec<_> = after.symmetric_difference(&left).collect();
    ensure!(differing.is_empty(), "not as promised: {differing:#?}");
    for entry in policies.iter().chain(patches) {
        for remedied in list(entry, "remedies")?.iter().filter_map(Value::as_str) {
            ensure!(!after.contains(remedied), "{remedied} is still found");
        }
    }
    let (_, again) = both.live(&["fix"])?;
    ensure!(
        again["policies"] == json!([]) && again["patches"] == json!([]),
        "it is not done after one round: {again}"
    );
    // The server ran to the end.
    ensure!(both.plane.folder().exists());
    Ok(())
}

/// `fix` for people: documents that the server takes, and commands in comments whose patches it takes.
async fn as_text(both: &Both) -> Result<()> {
    let file = both.kubeconfig.display().to_string();
    let output = polproof(&["fix", "--kubeconfig", &file])?;
    ensure!(output.status.success(), "{}", text(&output.stderr));
    let written = text(&output.stdout);
    let mut documents = 0;
    for object in serde_saphyr::from_multiple::<Value>(&written)? {
        if !object.is_null() {
            created(&both.client, &object, true)
                .await
                .with_context(|| object.to_string())?;
            documents += 1;
        }
    }
    let mut commands = 0;
    for line in written.lines() {
        let Some(command) = line.strip_prefix("# kubectl -n ") else {
            continue;
        };
        let (target, patch) = command.split_once(" --type=json -p '").context("a patch")?;
        let (namespace, name) = target
            .split_once(" patch networkpolicy ")
            .context("a name")?;
        let operations = serde_json::from_str(patch.trim_end_matches('\''))?;
        patched(&both.client, namespace, name, &operations, true)
            .await
            .with_context(|| command.to_owned())?;
        commands += 1;
    }
    ensure!(documents >= 3 && commands >= 3, "{written}");
    Ok(())
}

/// `fix --out`: every file is taken, too.
async fn as_folder(both: &Both, policies: usize, patches: usize) -> Result<()> {
    let file = both.kubeconfig.display().to_string();
    let folder = tempfile::tempdir()?;
    let out = folder.path().join("fixes");
    let out_text = out.display().to_string();
    let output = polproof(&["fix", "--kubeconfig", &file, "--out", &out_text])?;
    ensure!(output.status.success(), "{}", text(&output.stderr));
    let read = |name: &str| -> Result<Value> {
        let written = std::fs::read_to_string(out.join(name)).with_context(|| name.to_owned())?;
        Ok(serde_saphyr::from_str(&written)?)
    };
    let kustomization = read("kustomization.yaml")?;
    let resources = list(&kustomization, "resources")?;
    for name in resources.iter().filter_map(Value::as_str) {
        created(&both.client, &read(name)?, true)
            .await
            .with_context(|| name.to_owned())?;
    }
    let corrections = list(&kustomization, "patches")?;
    for patch in corrections {
        let of = |key: &str| patch["target"][key].as_str().context("a target");
        let name = patch["path"].as_str().context("a path")?;
        patched(
            &both.client,
            of("namespace")?,
            of("name")?,
            &read(name)?,
            true,
        )
        .await
        .with_context(|| name.to_owned())?;
    }
    ensure!(resources.len() == policies && corrections.len() == patches);
    Ok(())
}

fn query(dry: bool) -> &'static str {
    if dry {
        "?dryRun=All&fieldValidation=Strict"
    } else {
        "?fieldValidation=Strict"
    }
}

/// Creates an object as kubectl does: a field that the server does not know is an error.
async fn created(client: &Client, object: &Value, dry: bool) -> Result<()> {
    let url = api_of(client, object)?.resource_url().to_owned();
    let request = http::Request::post(format!("{url}{}", query(dry)))
        .header("content-type", "application/json")
        .body(serde_json::to_vec(object)?)?;
    client.request::<Value>(request).await?;
    Ok(())
}

/// Patches a stored NetworkPolicy with a JSON patch.
async fn patched(
    client: &Client,
    namespace: &str,
    name: &str,
    operations: &Value,
    dry: bool,
) -> Result<()> {
    let url = format!("/apis/networking.k8s.io/v1/namespaces/{namespace}/networkpolicies/{name}");
    let request = http::Request::patch(format!("{url}{}", query(dry)))
        .header("content-type", "application/json-patch+json")
        .body(serde_json::to_vec(operations)?)?;
    client.request::<Value>(request).await?;
    Ok(())
}
