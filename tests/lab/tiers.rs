//! Policies of other kinds than NetworkPolicy, with real packets: who is named, and who is not.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use polproof_proto::v1::{DecidingPolicy, Direction, Finding, InconclusiveReason, ObjectRef};
use polproof_tests::lab::manifests::ObjectName;
use polproof_tests::lab::traffic::Outcome;
use polproof_tests::lab::{Lab, wait_for};

use crate::Scenario;
use crate::findings::{self, judged, lines, wait_for_exactly};
use crate::verdicts::{PATIENCE, UP};

pub(crate) fn scenarios() -> Vec<Scenario> {
    vec![Scenario::whole(
        "an admin rule that denies is named, one that allows silences a policy that denies, a foreign policy makes it inconclusive",
        tiers,
    )]
}

const TIERS: &str = include_str!("../fixtures/lab/tiers.yaml");

/// The destination, and the kind, name and rule of the policy that denies it.
const DENIED: [(&str, &str, &str, u32); 3] = [
    ("guarded", "AdminNetworkPolicy", "guard", 1),
    ("newer", "ClusterNetworkPolicy", "newer", 0),
    ("plain", "BaselineAdminNetworkPolicy", "default", 0),
];

fn tiers(lab: &mut Lab) -> Result<()> {
    lab.apply(TIERS)?;
    lab.start_all()?;
    lab.wait_ready(UP)?;
    for server in ["opened", "foreign", "guarded", "plain", "newer"] {
        let pod = lab.pod(&format!("t/{server}"))?;
        for to in [pod.v4(80), pod.v6(80)] {
            let attempt = lab.pod("t/client")?.resident().connect(to, PATIENCE)?;
            ensure!(
                attempt.outcome == Outcome::Connected,
                "{server}: {attempt:?}"
            );
        }
    }
    let found = wait_for_exactly(lab, 6, Duration::from_secs(30))?;
    for (server, kind, name, rule) in DENIED {
        let about: Vec<&Finding> = found.iter().filter(|one| is_about(one, server)).collect();
        ensure!(about.len() == 2, "{server}:{}", lines(&found));
        let uid = lab.manifests().uid(&ObjectName::new(kind, "", name))?;
        let expected = DecidingPolicy {
            policy_kind: kind.to_owned(),
            policy: Some(ObjectRef {
                namespace: String::new(),
                name: name.to_owned(),
                uid,
            }),
            generation: 1,
            direction: Direction::Ingress.into(),
            rules_without_match: Vec::new(),
            denying_rule: Some(rule),
        };
        for finding in about {
            let key = finding.key.as_ref().context("no key")?;
            ensure!(key.policies == [expected.clone()], "{:?}", key.policies);
        }
    }
    let foreign = InconclusiveReason::ForeignPolicy;
    wait_for(
        Duration::from_secs(30),
        "the others are allowed, or inconclusive",
        || {
            let (counts, reasons) = judged(lab)?;
            let done = counts.allowed_delivered == 2
                && counts.denied_delivered == 6
                && reasons.get(&foreign).is_some_and(|count| *count >= 2);
            Ok(done.then_some(()))
        },
    )
    .with_context(|| findings::summary(lab))?;
    let others = lab.questions()?.status()?;
    let view = others.snapshot.context("the collector's view")?;
    let counts: Vec<_> = view
        .other_policies
        .iter()
        .map(|of| (of.kind.as_str(), of.count, of.evaluated))
        .collect();
    ensure!(
        counts
            == [
                ("AdminNetworkPolicy", 2, true),
                ("BaselineAdminNetworkPolicy", 1, true),
                ("ClusterNetworkPolicy", 1, true),
                ("CiliumNetworkPolicy", 1, false),
            ],
        "{counts:?}"
    );
    Ok(())
}

/// Whether a finding is about this pod of the namespace as destination.
fn is_about(finding: &Finding, server: &str) -> bool {
    use polproof_proto::v1::endpoint::Kind;
    let end = finding
        .key
        .as_ref()
        .and_then(|key| key.destination.as_ref());
    matches!(end.and_then(|end| end.kind.as_ref()), Some(Kind::Pod(pod)) if pod.name == server)
}
