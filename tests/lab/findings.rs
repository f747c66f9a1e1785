//! What scenarios expect of the collector, said once.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use polproof_proto::v1::endpoint::Kind;
use polproof_proto::v1::{
    Answer, Direction, Endpoint, EvidenceLevel, Finding, FindingKind, InconclusiveReason,
    JudgedCounts, Protocol,
};
use polproof_tests::lab::manifests::ObjectName;
use polproof_tests::lab::{Lab, wait_for};

/// A violation that must be reported.
#[derive(Clone, Debug)]
pub(crate) struct Violation {
    /// `namespace/pod`, or `outside`.
    pub(crate) source: &'static str,
    /// `namespace/pod`.
    pub(crate) destination: &'static str,
    /// The address and port connected to.
    pub(crate) to: SocketAddr,
    /// How the pod answers.
    pub(crate) answer: Answer,
    /// Direction, `namespace/policy` and number of rules, sorted as on the wire.
    pub(crate) policies: &'static [(Direction, &'static str, u32)],
}

impl Violation {
    /// Whether the finding is about this connection.
    pub(crate) fn is(&self, finding: &Finding) -> bool {
        let Some(key) = &finding.key else {
            return false;
        };
        let at = |end: &Option<Endpoint>| end.as_ref().map(describe);
        at(&key.source).is_some_and(|(name, _)| name == self.source)
            && at(&key.destination) == Some((self.destination.to_owned(), Some(self.to.ip())))
            && key.destination_port == u32::from(self.to.port())
    }

    /// Checks every field of the finding against the lab.
    pub(crate) fn check(&self, lab: &Lab, finding: &Finding) -> Result<()> {
        let key = finding.key.as_ref().context("no key")?;
        ensure!(
            key.kind() == FindingKind::Unenforced,
            "kind {:?}",
            key.kind()
        );
        ensure!(
            key.protocol() == Protocol::Tcp,
            "protocol {:?}",
            key.protocol()
        );
        ensure!(
            finding.evidence() == EvidenceLevel::OneWitness,
            "{:?}",
            finding.evidence()
        );
        self.check_ends(lab, finding)?;
        let named: Vec<_> = key
            .policies
            .iter()
            .map(|policy| {
                let object = policy.policy.clone().unwrap_or_default();
                let rules: Vec<u32> = policy.rules_without_match.clone();
                (
                    policy.direction(),
                    format!("{}/{}", object.namespace, object.name),
                    rules,
                )
            })
            .collect();
        let expected: Vec<_> = self
            .policies
            .iter()
            .map(|(direction, name, rules)| {
                (
                    *direction,
                    (*name).to_owned(),
                    (0..*rules).collect::<Vec<_>>(),
                )
            })
            .collect();
        ensure!(named == expected, "policies {named:?}, not {expected:?}");
        for policy in &key.policies {
            let object = policy.policy.clone().unwrap_or_default();
            let name = ObjectName::new("NetworkPolicy", &object.namespace, &object.name);
            ensure!(policy.denying_rule.is_none(), "{policy:?}");
            ensure!(
                policy.policy_kind == "NetworkPolicy",
                "kind {}",
                policy.policy_kind
            );
            ensure!(
                object.uid == lab.manifests().uid(&name)?,
                "UID of {name:?}: {}",
                object.uid
            );
            ensure!(
                policy.generation == 1,
                "generation of {name:?}: {}",
                policy.generation
            );
        }
        let sample = finding.samples.first().context("no sample")?;
        ensure!(
            sample.answer() == self.answer,
            "answer {:?}",
            sample.answer()
        );
        ensure!(
            sample.destination_address == self.to.ip().to_string()
                && sample.destination_port == u32::from(self.to.port()),
            "sample {sample:?}"
        );
        Ok(())
    }

    fn check_ends(&self, lab: &Lab, finding: &Finding) -> Result<()> {
        let key = finding.key.as_ref().context("no key")?;
        for (id, end) in [
            (self.source, &key.source),
            (self.destination, &key.destination),
        ] {
            let end = end.as_ref().context("an end is missing")?;
            let Some((namespace, name)) = id.split_once('/') else {
                ensure!(matches!(end.kind, Some(Kind::External(_))), "{id}: {end:?}");
                continue;
            };
            let uid = lab
                .manifests()
                .uid(&ObjectName::new("Pod", namespace, name))?;
            let Some(Kind::Pod(pod)) = &end.kind else {
                bail!("{id} is no pod: {end:?}");
            };
            ensure!(pod.uid == uid, "UID of {id}: {}, not {uid}", pod.uid);
            let address: IpAddr = end.address.parse()?;
            ensure!(
                lab.pod(id)?.addresses().contains(&address),
                "address of {id}: {address}"
            );
        }
        let node = lab.node(lab.pod(self.destination)?.node())?.name();
        ensure!(
            finding.node == node,
            "witnessed by {}, not {node}",
            finding.node
        );
        Ok(())
    }
}

/// `namespace/pod`, `node/name` or `outside`, and the address.
fn describe(end: &Endpoint) -> (String, Option<IpAddr>) {
    let name = match &end.kind {
        Some(Kind::Pod(pod)) => format!("{}/{}", pod.namespace, pod.name),
        Some(Kind::Node(node)) => format!("node/{}", node.name),
        Some(Kind::External(_)) => "outside".to_owned(),
        None => "nobody".to_owned(),
    };
    (name, end.address.parse().ok())
}

/// A finding in one line.
pub(crate) fn line(finding: &Finding) -> String {
    let key = finding.key.clone().unwrap_or_default();
    let end = |end: &Option<Endpoint>| end.as_ref().map(|e| describe(e).0).unwrap_or_default();
    format!(
        "{} -> {} {}:{}: observed {}, settled {}, retracted {}",
        end(&key.source),
        end(&key.destination),
        key.destination
            .as_ref()
            .map(|e| e.address.clone())
            .unwrap_or_default(),
        key.destination_port,
        finding.observed,
        finding.settled,
        finding.retracted
    )
}

/// All findings, one line each.
pub(crate) fn lines(findings: &[Finding]) -> String {
    findings
        .iter()
        .map(|finding| format!("\n  {}", line(finding)))
        .collect()
}

/// Attempts in all findings: (observed, settled, retracted).
pub(crate) fn totals(findings: &[Finding]) -> (u64, u64, u64) {
    findings
        .iter()
        .fold((0, 0, 0), |(observed, settled, retracted), finding| {
            (
                observed + finding.observed,
                settled + finding.settled,
                retracted + finding.retracted,
            )
        })
}

/// Waits until `count` attempts are counted in findings and all of them are settled; more than that is an
/// error at once, and so is one that was taken back.
pub(crate) fn wait_for_exactly(lab: &Lab, count: u64, limit: Duration) -> Result<Vec<Finding>> {
    let mut seen = (0, 0, 0);
    let result = wait_for(
        limit,
        &format!("{count} attempts are counted and settled"),
        || {
            let Ok(findings) = lab.questions().and_then(|questions| questions.findings()) else {
                return Ok(None);
            };
            seen = totals(&findings);
            if seen.0 > count || seen.2 > 0 {
                return Err(anyhow::anyhow!("too much is counted:{}", lines(&findings)).into());
            }
            Ok((seen == (count, count, 0)).then_some(findings))
        },
    );
    result.with_context(|| {
        format!(
            "last seen: observed {}, settled {}, retracted {}; {}",
            seen.0,
            seen.1,
            seen.2,
            summary(lab)
        )
    })
}

/// Judged counts and inconclusive reasons, summed over all nodes.
pub(crate) fn judged(lab: &Lab) -> Result<(JudgedCounts, BTreeMap<InconclusiveReason, u64>)> {
    let status = lab.questions()?.status()?;
    let mut sum = JudgedCounts::default();
    let mut reasons = BTreeMap::new();
    for node in &status.nodes {
        let counts = node.judged.unwrap_or_default();
        sum.allowed_delivered += counts.allowed_delivered;
        sum.denied_delivered += counts.denied_delivered;
        sum.denied_unanswered += counts.denied_unanswered;
        sum.denied_answered += counts.denied_answered;
        sum.allowed_answered += counts.allowed_answered;
        sum.denied_stopped += counts.denied_stopped;
        sum.denied_in_grace += counts.denied_in_grace;
        for entry in &node.inconclusive {
            *reasons.entry(entry.reason()).or_insert(0) += entry.count;
        }
    }
    Ok((sum, reasons))
}

/// [`judged`] in one line, for errors.
pub(crate) fn summary(lab: &Lab) -> String {
    let mut summary = judged(lab).map_or_else(
        |error| format!("{error:#}"),
        |(counts, reasons)| format!("{counts:?} {reasons:?}"),
    );
    // What the agents told each other, where they did.
    for node in lab.nodes() {
        let Ok((_, metrics)) = node.http("/metrics") else {
            continue;
        };
        for line in metrics.lines() {
            if line.starts_with("polproof_witness_testimonies") && !line.ends_with(" 0") {
                summary += &format!("; {}: {line}", node.name());
            }
        }
    }
    summary
}

/// Waits until the findings satisfy `condition`; gives them and how long it took.
pub(crate) fn wait_for_findings(
    lab: &Lab,
    limit: Duration,
    what: &str,
    mut condition: impl FnMut(&[Finding]) -> bool,
) -> Result<(Vec<Finding>, Duration)> {
    let began = Instant::now();
    let mut last = Vec::new();
    let result = wait_for(limit, what, || {
        if let Ok(findings) = lab.questions()?.findings() {
            last = findings;
            return Ok(condition(&last).then(|| last.clone()));
        }
        Ok(None)
    });
    let found = result.with_context(|| format!("last seen:{}\n{}", lines(&last), summary(lab)))?;
    Ok((found, began.elapsed()))
}
