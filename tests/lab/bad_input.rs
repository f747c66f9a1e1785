//! Bad input: a clear message each, no crash, and the last good state goes on.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use polproof_proto::v1::InconclusiveReason;
use polproof_tests::lab::certificates::Authority;
use polproof_tests::lab::process::binary;
use polproof_tests::lab::{Lab, wait_for};

use crate::Scenario;
use crate::findings::{judged, summary, wait_for_exactly};
use crate::verdicts::{PATIENCE, UP, start};

pub(crate) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::whole(
            "a broken manifest: the last good view goes on, and the status says so",
            broken_manifest,
        ),
        Scenario::whole(
            "a wrong certificate: nothing is accepted, and the agent says why",
            wrong_certificate,
        ),
        Scenario::whole(
            "an unknown flag and a bad value are refused by name",
            bad_flags,
        ),
    ]
}

const SPELLED_WRONG: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: m, name: typo}
spec:
  podSelector: {}
  ingress:
    - ports: [{port: 99999}]
";

fn broken_manifest(lab: &mut Lab) -> Result<()> {
    start(lab)?;
    lab.manifests()
        .write("half.yaml", "apiVersion: v1\nkind: Pod\nmetadata: {name: [")?;
    wait_for_mention(lab, "half.yaml")?;
    // The last good view goes on.
    denied(lab)?;
    wait_for_exactly(lab, 2, Duration::from_secs(30))?;
    lab.manifests().remove("half.yaml")?;

    // A policy that cannot be read may have let anybody in: nobody is accused.
    lab.manifests().write("typo.yaml", SPELLED_WRONG)?;
    wait_for_mention(lab, "m/typo")?;
    denied(lab)?;
    let unknown = InconclusiveReason::ExpectationUnknown;
    wait_for(
        Duration::from_secs(30),
        "the denials beside a refused policy are left open",
        || {
            let (_, inconclusive) = judged(lab)?;
            Ok((inconclusive.get(&unknown) == Some(&2)).then_some(()))
        },
    )
    .with_context(|| summary(lab))?;
    wait_for_exactly(lab, 2, Duration::from_secs(30))?;

    lab.manifests().remove("typo.yaml")?;
    wait_for(Duration::from_secs(30), "the status is clean again", || {
        let Ok(status) = lab.questions()?.status() else {
            return Ok(None);
        };
        let clean = status
            .nodes
            .iter()
            .filter_map(|node| node.snapshot.as_ref())
            .all(|view| view.problem.is_empty() && view.refused.is_empty());
        Ok(clean.then_some(()))
    })?;
    Ok(())
}

/// One connection over each family that the policies deny and nothing stops.
fn denied(lab: &Lab) -> Result<()> {
    let server = lab.pod("m/server-1")?;
    for to in [server.v4(80), server.v6(80)] {
        lab.pod("m/no-2")?.resident().connect(to, PATIENCE)?;
    }
    Ok(())
}

fn wait_for_mention(lab: &Lab, mention: &str) -> Result<()> {
    let mut last = String::new();
    wait_for(
        Duration::from_secs(30),
        "every node's status names the broken manifest",
        || {
            let Ok(status) = lab.questions()?.status() else {
                return Ok(None);
            };
            let views: Vec<String> = status
                .nodes
                .iter()
                .filter_map(|node| node.snapshot.as_ref())
                .map(|view| format!("{} {}", view.problem, view.refused.join(" ")))
                .collect();
            last = views.join("\n");
            Ok((views.len() == 2 && views.iter().all(|view| view.contains(mention))).then_some(()))
        },
    )
    .with_context(|| format!("{mention} in: {last}"))
}

fn wrong_certificate(lab: &mut Lab) -> Result<()> {
    lab.start_collector()?;
    // Of another authority, that calls itself the same.
    let impostor = Authority::create(&lab.node(0)?.dir().join("impostor"), "lab-ca")?;
    let theirs = impostor.sign("node-1.polproof-agent", &[])?;
    let ours = lab.identity("node-1.polproof-agent", &[])?;
    let mut untrusted = theirs.clone();
    untrusted.ca.clone_from(&ours.ca);
    let mut distrusting = ours.clone();
    distrusting.ca.clone_from(&theirs.ca);
    for (what, identity) in [
        ("a certificate that the collector does not trust", untrusted),
        (
            "an authority that did not sign the collector's certificate",
            distrusting,
        ),
        (
            "the certificate of another node's agent",
            lab.identity("node-2.polproof-agent", &[])?,
        ),
        (
            "a certificate that may only read",
            lab.identity("polproof-reader", &[])?,
        ),
    ] {
        let command = lab.agent_command(0, &identity)?;
        lab.start_agent_as(0, command)?;
        let mut output = String::new();
        wait_for(
            Duration::from_secs(30),
            "the agent says what is wrong with the certificate",
            || {
                let node = lab.node(0)?;
                output = node
                    .agent
                    .as_ref()
                    .map(polproof_tests::lab::process::Process::output)
                    .unwrap_or_default();
                let says = output.to_lowercase();
                Ok((says.contains("certificate") && says.contains("collector")).then_some(()))
            },
        )
        .with_context(|| what.to_owned())?;
        let status = lab.questions()?.status()?;
        ensure!(
            status.nodes.is_empty(),
            "{what}, and the collector took it: {status:?}"
        );
        let mut agent = lab.take_agent(0)?;
        agent
            .check()
            .with_context(|| format!("{what}: it must go on observing"))?;
        let log = lab.node(0)?.dir().join("agent.log");
        agent.kill()?;
        std::fs::remove_file(log)?;
    }
    // The right one, afterwards: nothing of the above stands in its way.
    lab.start_agent(0)?;
    lab.start_agent(1)?;
    lab.wait_ready(UP)
}

fn bad_flags(_: &mut Lab) -> Result<()> {
    for (program, arguments, mention) in [
        ("polproof-agent", &["--no-such-flag"][..], "--no-such-flag"),
        (
            "polproof-agent",
            &["--node-name", "n", "--grace", "soon"],
            "--grace",
        ),
        (
            "polproof-agent",
            &["--config", "/nonexistent.toml"],
            "/nonexistent.toml",
        ),
        ("polproof-collector", &["--no-such-flag"], "--no-such-flag"),
        (
            "polproof-collector",
            &["--listen", "everywhere"],
            "--listen",
        ),
        ("polproof", &["--no-such-flag"], "--no-such-flag"),
        ("polproof", &["violations", "-o", "poem"], "poem"),
    ] {
        let output = Command::new(binary(program)?).args(arguments).output()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let line = format!("{program} {}", arguments.join(" "));
        match output.status.code() {
            Some(0) | None => bail!("{line}: {}", output.status),
            Some(_) => {}
        }
        ensure!(
            said.contains(mention),
            "{line} does not mention {mention}: {said}"
        );
        ensure!(!said.contains("panicked"), "{line}: {said}");
    }
    Ok(())
}
