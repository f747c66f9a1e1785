//! Two witnesses: what both ends say together, and what is withheld where one of them cannot tell.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use polproof_proto::v1::endpoint::Kind;
use polproof_proto::v1::{EvidenceLevel, Finding, FindingKind, InconclusiveReason, RecoveryCause};
use polproof_tests::foreign::{self, ATTACH_TCX_INGRESS};
use polproof_tests::lab::enforcers::{self, IptablesDrop};
use polproof_tests::lab::traffic::Outcome;
use polproof_tests::lab::wiring::feed;
use polproof_tests::lab::{Lab, Setup, wait_for};

use crate::Scenario;
use crate::findings::{self, judged, lines, wait_for_findings};
use crate::verdicts::{PATIENCE, start};

pub(crate) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::whole(
            "both ends saw a violation: two witnesses within 15 s, on one node and across",
            both_ends,
        ),
        Scenario::whole(
            "the other node's agent is away: one witness for what was seen, no word on what was not",
            one_end,
        ),
        Scenario::whole(
            "allowed and dropped on the way, beside what got through: over-blocked, until it gets through",
            over_blocked,
        ),
        Scenario::whole(
            "the acceptance is dropped on its way back: a lost reply",
            reply_lost,
        ),
        Scenario::whole(
            "masqueraded on the way: the finding names the pod all the same",
            masqueraded,
        ),
        Scenario::whole(
            "a denied connection that dies is proof of enforcement, and the end of a violation",
            stopped,
        ),
        Scenario::whole(
            "somebody else on eth0: what was not seen is not said",
            shared_hook,
        ),
        Scenario::whole(
            "a ring that overflows: what was not seen is not said",
            overflow,
        )
        .with(|| Setup {
            agent_arguments: vec!["--ring-bytes".into(), "64KiB".into()],
            ..Setup::default()
        }),
    ]
}

/// From an attempt to the word of the other end: the promise of the product.
const CONFIRMED: Duration = Duration::from_secs(15);
/// For verdicts that rest on what was not seen: eight seconds of silence, and the other end's word.
const JUDGED: Duration = Duration::from_secs(40);

/// Whether a finding is about a connection from one pod to another, of this kind and port.
pub(crate) fn is(finding: &Finding, kind: FindingKind, from: &str, to: &str, port: u16) -> bool {
    let pod = |end: &Option<polproof_proto::v1::Endpoint>| match end.as_ref()?.kind.as_ref()? {
        Kind::Pod(pod) => Some(format!("{}/{}", pod.namespace, pod.name)),
        Kind::Node(_) | Kind::External(_) => None,
    };
    finding.key.as_ref().is_some_and(|key| {
        key.kind() == kind
            && pod(&key.source).as_deref() == Some(from)
            && pod(&key.destination).as_deref() == Some(to)
            && key.destination_port == u32::from(port)
    })
}

/// Waits for a finding that satisfies `also`.
pub(crate) fn wait_for_one(
    lab: &Lab,
    limit: Duration,
    (kind, from, to, port): (FindingKind, &str, &str, u16),
    also: impl Fn(&Finding) -> bool,
) -> Result<(Finding, Duration)> {
    let what = format!("there is {kind:?} from {from} to {to} port {port} as expected");
    let mut one = None;
    let (_, after) = wait_for_findings(lab, limit, &what, |found| {
        one = found
            .iter()
            .find(|finding| is(finding, kind, from, to, port) && also(finding))
            .cloned();
        one.is_some()
    })?;
    Ok((one.context("no finding")?, after))
}

fn both_ends(lab: &mut Lab) -> Result<()> {
    start(lab)?;
    for source in ["m/no-1", "m/no-2"] {
        let to = lab.pod("m/server-2")?.v4(80);
        let attempt = lab.pod(source)?.resident().connect(to, PATIENCE)?;
        ensure!(attempt.outcome == Outcome::Connected, "{attempt:?}");
        let expected = (FindingKind::Unenforced, source, "m/server-2", 80);
        let (found, after) = wait_for_one(lab, CONFIRMED, expected, |finding| {
            finding.evidence() == EvidenceLevel::TwoWitnesses && finding.settled == 1
        })?;
        ensure!(after < CONFIRMED, "{after:?}");
        ensure!(found.witnessed == 1, "{found:?}");
    }
    Ok(())
}

fn one_end(lab: &mut Lab) -> Result<()> {
    start(lab)?;
    lab.take_agent(0)?.kill()?;
    wait_for(
        Duration::from_secs(60),
        "the collector knows it is away",
        || {
            let status = lab.questions()?.status()?;
            Ok((status
                .overall
                .is_some_and(|overall| overall.agents_away == 1))
            .then_some(()))
        },
    )?;
    let to = lab.pod("m/server-2")?.v4(80);
    lab.pod("m/no-1")?.resident().connect(to, PATIENCE)?;
    let expected = (FindingKind::Unenforced, "m/no-1", "m/server-2", 80);
    let (found, _) = wait_for_one(lab, JUDGED, expected, |finding| finding.settled == 1)?;
    ensure!(
        found.evidence() == EvidenceLevel::OneWitness && found.witnessed == 0,
        "{found:?}"
    );

    // Allowed, and dropped on the way to a node without a witness.
    block(lab, "m/ok-2", "m/server-1", 80, true)?;
    fail_often(lab, "m/ok-2", "m/server-1", 80)?;
    withheld(
        lab,
        FindingKind::OverBlocked,
        &[
            InconclusiveReason::NoWitness,
            InconclusiveReason::WitnessIncomplete,
        ],
    )
}

/// Makes the destination's node drop a connection in FORWARD, or stop doing so; nothing else is touched.
fn block(lab: &Lab, from: &str, to: &str, port: u16, on: bool) -> Result<()> {
    let (source, destination) = (lab.pod(from)?, lab.pod(to)?);
    let [ip, _] = source.addresses();
    let verb = if on { "-I" } else { "-D" };
    let script = format!(
        "*filter\n{verb} FORWARD -s {ip} -d {} -p tcp --dport {port} -j DROP\nCOMMIT\n",
        destination.v4(port).ip()
    );
    feed(
        lab.node(destination.node())?.netns(),
        "iptables-restore",
        &["--noflush"],
        &script,
    )
}

/// Four attempts, with others beside them that get through on the same way.
fn fail_often(lab: &Lab, from: &str, to: &str, port: u16) -> Result<()> {
    let brief = Duration::from_millis(1_500);
    for _ in 0..4 {
        let server = lab.pod(to)?;
        let control = lab.pod(from)?.resident().connect(server.v4(81), PATIENCE)?;
        ensure!(control.outcome == Outcome::Refused, "{control:?}");
        let attempt = lab.pod(from)?.resident().connect(server.v4(port), brief)?;
        ensure!(attempt.outcome == Outcome::TimedOut, "{attempt:?}");
    }
    Ok(())
}

/// Waits until the four attempts are inconclusive for one of these reasons; none may be in a finding of this kind.
fn withheld(lab: &Lab, kind: FindingKind, reasons: &[InconclusiveReason]) -> Result<()> {
    wait_for(JUDGED, "every attempt is inconclusive", || {
        let found = lab.questions()?.findings()?;
        if found
            .iter()
            .any(|finding| finding.key.as_ref().is_some_and(|key| key.kind() == kind))
        {
            return Err(anyhow::anyhow!("accused:{}", lines(&found)).into());
        }
        let (_, counted) = judged(lab)?;
        let sum: u64 = reasons
            .iter()
            .filter_map(|reason| counted.get(reason))
            .sum();
        Ok((sum >= 4).then_some(()))
    })
    .with_context(|| findings::summary(lab))
}

fn over_blocked(lab: &mut Lab) -> Result<()> {
    start(lab)?;
    for source in ["m/ok-1", "m/ok-2"] {
        block(lab, source, "m/server-2", 80, true)?;
        fail_often(lab, source, "m/server-2", 80)?;
        let expected = (FindingKind::OverBlocked, source, "m/server-2", 80);
        let (found, _) = wait_for_one(lab, JUDGED, expected, |finding| finding.settled >= 1)?;
        ensure!(found.evidence() == EvidenceLevel::TwoWitnesses, "{found:?}");
        let named: Vec<_> = found.key.iter().flat_map(|key| &key.policies).collect();
        ensure!(
            named.iter().any(|policy| policy
                .policy
                .as_ref()
                .is_some_and(|object| object.name == "server")),
            "it names the policy that admits it: {named:?}"
        );
        block(lab, source, "m/server-2", 80, false)?;
        let to = lab.pod("m/server-2")?.v4(80);
        let attempt = lab.pod(source)?.resident().connect(to, PATIENCE)?;
        ensure!(attempt.outcome == Outcome::Connected, "{attempt:?}");
        wait_for_one(lab, JUDGED, expected, |finding| {
            finding
                .recovered
                .is_some_and(|over| over.cause() == RecoveryCause::Delivered)
        })?;
    }
    Ok(())
}

fn reply_lost(lab: &mut Lab) -> Result<()> {
    start(lab)?;
    let (client, server) = (lab.pod("m/ok-1")?, lab.pod("m/server-2")?);
    let script = format!(
        "*filter\n-I FORWARD -s {} -d {} -p tcp --sport 80 --tcp-flags SYN,ACK SYN,ACK -j DROP\nCOMMIT\n",
        server.v4(80).ip(),
        client.v4(80).ip()
    );
    feed(
        lab.node(server.node())?.netns(),
        "iptables-restore",
        &["--noflush"],
        &script,
    )?;
    fail_often(lab, "m/ok-1", "m/server-2", 80)?;
    let expected = (FindingKind::ReplyLost, "m/ok-1", "m/server-2", 80);
    wait_for_one(lab, JUDGED, expected, |finding| {
        finding.settled >= 1 && finding.evidence() == EvidenceLevel::TwoWitnesses
    })?;
    Ok(())
}

fn masqueraded(lab: &mut Lab) -> Result<()> {
    start(lab)?;
    let (source, server) = ("m/no-1", lab.pod("m/server-2")?);
    let pod = lab.pod(source)?;
    let script = format!(
        "*nat\n-I POSTROUTING -s {} -d {} -j MASQUERADE\nCOMMIT\n",
        pod.v4(0).ip(),
        server.v4(0).ip()
    );
    feed(
        lab.node(pod.node())?.netns(),
        "iptables-restore",
        &["--noflush"],
        &script,
    )?;
    let attempt = pod.resident().connect(server.v4(80), PATIENCE)?;
    ensure!(attempt.outcome == Outcome::Connected, "{attempt:?}");
    let expected = (FindingKind::Unenforced, source, "m/server-2", 80);
    let (found, _) = wait_for_one(lab, CONFIRMED, expected, |finding| {
        finding.settled == 1 && finding.evidence() == EvidenceLevel::TwoWitnesses
    })?;
    let sample = found.samples.first().context("no sample")?;
    let [node, _] = lab.node(0)?.addresses();
    ensure!(
        sample.source_address == node.to_string(),
        "as it arrived: {sample:?}"
    );
    Ok(())
}

fn stopped(lab: &mut Lab) -> Result<()> {
    start(lab)?;
    let to = lab.pod("m/server-2")?.v4(80);
    let expected = (FindingKind::Unenforced, "m/no-1", "m/server-2", 80);
    lab.pod("m/no-1")?.resident().connect(to, PATIENCE)?;
    wait_for_one(lab, JUDGED, expected, |finding| finding.settled == 1)?;

    lab.set_enforcer(Box::<IptablesDrop>::default())?;
    let enforced = Instant::now();
    for _ in 0..3 {
        let control = lab.pod("m/ok-1")?.resident().connect(to, PATIENCE)?;
        ensure!(control.outcome == Outcome::Connected, "{control:?}");
        let denied = lab
            .pod("m/no-1")?
            .resident()
            .connect(to, Duration::from_millis(900))?;
        ensure!(denied.outcome == Outcome::TimedOut, "{denied:?}");
    }
    wait_for(JUDGED, "it is proved that they were stopped", || {
        let (counts, _) = judged(lab)?;
        Ok((counts.denied_stopped >= 1).then_some(()))
    })
    .with_context(|| findings::summary(lab))?;
    let (over, _) = wait_for_one(lab, JUDGED, expected, |finding| {
        finding
            .recovered
            .is_some_and(|over| over.cause() == RecoveryCause::Enforced)
    })?;
    ensure!(over.observed == 1, "{over:?} {:?}", enforced.elapsed());

    // It falls back: the same finding stands again.
    lab.set_enforcer(Box::new(enforcers::None))?;
    lab.pod("m/no-1")?.resident().connect(to, PATIENCE)?;
    wait_for_one(lab, JUDGED, expected, |finding| {
        finding.settled == 2 && finding.recovered.is_none()
    })?;
    // The policy goes, and with it what it denied.
    lab.delete("NetworkPolicy", "m", "server")?;
    wait_for_one(lab, JUDGED, expected, |finding| {
        finding
            .recovered
            .is_some_and(|over| over.cause() == RecoveryCause::PolicyChanged)
    })?;
    Ok(())
}

fn shared_hook(lab: &mut Lab) -> Result<()> {
    start(lab)?;
    // It lets everything pass, but nobody can know.
    let _other = foreign::attach(lab.pod("m/server-2")?.netns(), ATTACH_TCX_INGRESS, -1)?;
    wait_for(Duration::from_secs(60), "the agent has noticed it", || {
        let to = lab.pod("m/server-2")?.v4(80);
        lab.pod("m/ok-1")?.resident().connect(to, PATIENCE)?;
        let (_, counted) = judged(lab)?;
        Ok(counted
            .contains_key(&InconclusiveReason::HookShared)
            .then_some(()))
    })?;
    block(lab, "m/ok-1", "m/server-2", 80, true)?;
    fail_often(lab, "m/ok-1", "m/server-2", 80)?;
    withheld(
        lab,
        FindingKind::OverBlocked,
        &[InconclusiveReason::WitnessIncomplete],
    )
}

fn overflow(lab: &mut Lab) -> Result<()> {
    start(lab)?;
    block(lab, "m/ok-1", "m/server-2", 80, true)?;
    // While nobody reads, far more is written than a ring of 64 KiB holds.
    let flood = crate::recovery::flood_of(lab, "m/server-2", 2_000)?;
    let process = lab.node(1)?.agent.as_ref().context("node-2 has no agent")?;
    process.pause()?;
    let pending = lab.pod("m/ok-2")?.resident().start_burst(flood)?;
    let failed = fail_often(lab, "m/ok-1", "m/server-2", 80);
    let flooded = pending.wait(Duration::from_secs(120));
    process.resume()?;
    failed?;
    flooded??;
    wait_for(JUDGED, "the agent knows what it lost", || {
        let lost = lab
            .node(1)?
            .metric("polproof_kernel_records_lost_total", &[])?;
        Ok((lost > 0.0).then_some(()))
    })?;
    withheld(
        lab,
        FindingKind::OverBlocked,
        &[
            InconclusiveReason::WitnessIncomplete,
            InconclusiveReason::RecordsLost,
        ],
    )
}
