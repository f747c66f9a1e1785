//! What is reported, and what is not.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use polproof_proto::v1::{Answer, Direction, InconclusiveReason};
use polproof_tests::lab::enforcers::IptablesDrop;
use polproof_tests::lab::node::PodSpec;
use polproof_tests::lab::resident::Resident;
use polproof_tests::lab::traffic::{Burst, Outcome, Tally};
use polproof_tests::lab::wiring::feed;
use polproof_tests::lab::{Lab, Setup, wait_for};

use crate::Scenario;
use crate::findings::{self, Violation, judged, lines, wait_for_findings};

pub(crate) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::whole(
            "every denied connection is reported within a second, every allowed one is silent",
            matrix,
        ),
        Scenario::whole(
            "with an enforcer 1,000 denied and 1,000 allowed attempts are silent",
            enforced,
        ),
        Scenario::whole(
            "the own node and the pod itself are silent, unknown sources inconclusive",
            exempt,
        ),
        Scenario::whole("a policy's first moments accuse nobody", grace).with(|| Setup {
            grace: Duration::from_secs(4),
            ..Setup::default()
        }),
    ]
}

pub(crate) const MATRIX: &str = include_str!("../fixtures/lab/matrix.yaml");
/// Until everything is up on a busy machine.
pub(crate) const UP: Duration = Duration::from_secs(90);
/// For one attempt that gets an answer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

const SERVER: &[(Direction, &str, u32)] = &[(Direction::Ingress, "m/server", 2)];
const SHUT_IN: &[(Direction, &str, u32)] = &[
    (Direction::Ingress, "m/server", 2),
    (Direction::Egress, "m/shut-in", 0),
];

/// A lab with the matrix in it, ready.
pub(crate) fn start(lab: &mut Lab) -> Result<()> {
    lab.apply(MATRIX)?;
    lab.start_all()?;
    lab.wait_ready(UP)
}

/// Who connects: a pod, or the outside.
fn resident<'a>(lab: &'a Lab, source: &str) -> Result<&'a Resident> {
    if source == "outside" {
        return Ok(lab.outside());
    }
    Ok(lab.pod(source)?.resident())
}

fn violations(lab: &Lab) -> Result<Vec<Violation>> {
    let mut all = Vec::new();
    for destination in ["m/server-1", "m/server-2"] {
        let pod = lab.pod(destination)?;
        for (source, port, policies) in [
            ("m/no-1", 80, SERVER),
            ("m/no-2", 80, SERVER),
            ("m/no-1", 81, SERVER),
            ("m/no-2", 81, SERVER),
            ("m/ok-1", 82, SERVER),
            ("m/shut-in", 80, SHUT_IN),
            ("outside", 80, SERVER),
        ] {
            for to in [pod.v4(port), pod.v6(port)] {
                let answer = if port == 80 {
                    Answer::Accepted
                } else {
                    Answer::Refused
                };
                all.push(Violation {
                    source,
                    destination,
                    to,
                    answer,
                    policies,
                });
            }
        }
    }
    Ok(all)
}

fn matrix(lab: &mut Lab) -> Result<()> {
    start(lab)?;
    // First what is allowed: if it were reported, it would be there before the rest.
    let mut allowed = 0;
    for source in ["m/ok-1", "m/ok-2"] {
        for destination in ["m/server-1", "m/server-2", "m/no-1"] {
            let pod = lab.pod(destination)?;
            for to in [pod.v4(80), pod.v6(80), pod.v4(81), pod.v6(81)] {
                let attempt = lab.pod(source)?.resident().connect(to, PATIENCE)?;
                let open = to.port() == 80 && destination != "m/no-1";
                let outcome = if open {
                    Outcome::Connected
                } else {
                    Outcome::Refused
                };
                ensure!(attempt.outcome == outcome, "{source} to {to}: {attempt:?}");
                allowed += 1;
            }
        }
    }
    let expected = violations(lab)?;
    let mut times = Vec::new();
    for violation in &expected {
        let attempt = resident(lab, violation.source)?.connect(violation.to, PATIENCE)?;
        let outcome = match violation.answer {
            Answer::Accepted => Outcome::Connected,
            _ => Outcome::Refused,
        };
        ensure!(attempt.outcome == outcome, "{violation:?}: {attempt:?}");
        let what = format!("{} to {} is reported", violation.source, violation.to);
        let (found, took) = wait_for_findings(lab, Duration::from_secs(20), &what, |found| {
            found.iter().any(|finding| violation.is(finding))
        })?;
        times.push(took);
        let finding = found
            .iter()
            .find(|finding| violation.is(finding))
            .context("it was there")?;
        violation
            .check(lab, finding)
            .with_context(|| format!("{violation:?}\n{finding:#?}"))?;
        ensure!(finding.observed == 1, "{what}, {} times", finding.observed);
    }
    times.sort_unstable();
    eprintln!("reports, from the fastest to the slowest: {times:?}");
    // A busy machine may hold up any of them, but nothing holds up all: provisional findings wait for no other witness.
    ensure!(
        times
            .first()
            .is_some_and(|took| *took < Duration::from_secs(1)),
        "{times:?}"
    );
    let count = u64::try_from(expected.len())?;
    let found = findings::wait_for_exactly(lab, count, Duration::from_secs(30))?;
    ensure!(
        found.len() == expected.len(),
        "{}:{}",
        found.len(),
        lines(&found)
    );
    wait_for(
        Duration::from_secs(20),
        "every allowed attempt is judged",
        || {
            let (counts, _) = judged(lab)?;
            Ok(
                (counts.allowed_delivered == allowed && counts.denied_delivered == count)
                    .then_some(()),
            )
        },
    )
    .with_context(|| {
        format!(
            "{allowed} allowed, {count} denied; {}",
            findings::summary(lab)
        )
    })?;
    let (_, reasons) = judged(lab)?;
    ensure!(
        reasons.is_empty(),
        "nothing here is inconclusive: {reasons:?}"
    );
    command_line(lab, count)?;
    // What is gone is said so, and not taken for silence.
    lab.kill_collector()?;
    let output = lab.polproof(&["violations"])?;
    ensure!(
        output.status.code() == Some(3),
        "without a collector: {}",
        output.status
    );
    Ok(())
}

/// The command line tells the same, to people and to programs.
fn command_line(lab: &Lab, violations: u64) -> Result<()> {
    for (arguments, code) in [
        (&["violations", "-o", "json"][..], 1),
        (&["status", "-o", "json"], 0),
        (&["status", "--exit-code", "-o", "json"], 1),
        (&["violations", "-n", "elsewhere", "-o", "json"], 0),
    ] {
        let output = lab.polproof(arguments)?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.code() == Some(code),
            "{arguments:?}: {}: {said}",
            output.status
        );
        let value: serde_json::Value = serde_json::from_slice(&output.stdout)
            .with_context(|| format!("{arguments:?} prints JSON"))?;
        if arguments == ["violations", "-o", "json"] {
            ensure!(
                value.get("violations").and_then(serde_json::Value::as_u64) == Some(violations),
                "{value:#}"
            );
        }
    }
    Ok(())
}

fn enforced(lab: &mut Lab) -> Result<()> {
    lab.apply(MATRIX)?;
    lab.set_enforcer(Box::<IptablesDrop>::default())?;
    lab.start_all()?;
    lab.wait_ready(UP)?;
    let burst = |targets: [&str; 2], patience| -> Result<Burst> {
        let [one, two] = [lab.pod(targets[0])?, lab.pod(targets[1])?];
        Ok(Burst {
            targets: vec![one.v4(80), two.v6(80), one.v6(80), two.v4(80)],
            count: 500,
            concurrency: 250,
            per_second: 1_000,
            patience,
        })
    };
    let servers = ["m/server-1", "m/server-2"];
    // Less than the second after which a client sends its SYN again.
    let brief = Duration::from_millis(900);
    let mut pending = Vec::new();
    for source in ["m/no-1", "m/no-2"] {
        let denied = lab
            .pod(source)?
            .resident()
            .start_burst(burst(servers, brief)?)?;
        pending.push((
            source,
            denied,
            Tally {
                timed_out: 500,
                ..Tally::default()
            },
        ));
    }
    for source in ["m/ok-1", "m/ok-2"] {
        let allowed = lab
            .pod(source)?
            .resident()
            .start_burst(burst(servers, PATIENCE)?)?;
        pending.push((
            source,
            allowed,
            Tally {
                connected: 500,
                ..Tally::default()
            },
        ));
    }
    for (source, burst, expected) in pending {
        let tally = burst.wait(Duration::from_secs(60))??;
        ensure!(tally == expected, "{source}: {tally:?}, not {expected:?}");
    }
    wait_for(Duration::from_secs(30), "every attempt is judged", || {
        let (counts, _) = judged(lab)?;
        Ok((counts.allowed_delivered >= 1_000 && counts.denied_unanswered >= 1_000).then_some(()))
    })
    .with_context(|| findings::summary(lab))?;
    let (counts, reasons) = judged(lab)?;
    ensure!(
        counts.allowed_delivered == 1_000 && counts.denied_unanswered == 1_000,
        "counted too much: {counts:?}"
    );
    ensure!(
        counts.denied_delivered == 0 && counts.denied_answered == 0,
        "{counts:?}"
    );
    // On a machine that is busy a witness may have to say that it cannot tell; that is no verdict either.
    let mut reasons = reasons;
    reasons.remove(&InconclusiveReason::WitnessIncomplete);
    ensure!(reasons.is_empty(), "{}", findings::summary(lab));
    let found = lab.questions()?.findings()?;
    ensure!(found.is_empty(), "{}", lines(&found));
    Ok(())
}

fn exempt(lab: &mut Lab) -> Result<()> {
    lab.apply(MATRIX)?;
    // A pod that the cluster does not know (yet): its address lies in a pod CIDR and is nobody's.
    lab.add_pod(&PodSpec::new("m", "stranger", 1).unlisted())?;
    lab.start_all()?;
    lab.wait_ready(UP)?;
    let server = lab.pod("m/server-1")?;
    for to in [server.v4(80), server.v6(80), server.v4(81), server.v6(81)] {
        lab.node(0)?.resident.connect(to, PATIENCE)?;
        server.resident().connect(to, PATIENCE)?;
        lab.pod("m/stranger")?.resident().connect(to, PATIENCE)?;
    }
    // Every packet of this pod now leaves its node under the node's own address.
    let no = lab.pod("m/no-2")?.addresses();
    for (program, ip) in ["iptables-restore", "ip6tables-restore"].iter().zip(no) {
        let script = format!("*nat\n-I POSTROUTING -s {ip} -j MASQUERADE\nCOMMIT\n");
        feed(lab.node(1)?.netns(), program, &["--noflush"], &script)?;
    }
    for to in [server.v4(80), server.v6(80)] {
        lab.pod("m/no-2")?.resident().connect(to, PATIENCE)?;
    }
    let unidentified = InconclusiveReason::SourceUnidentified;
    let mut exempt = 0.0;
    wait_for(
        // A pod that nobody knows may be a new one: half a minute is waited for its name.
        Duration::from_secs(70),
        "every attempt is judged or inconclusive",
        || {
            let (counts, reasons) = judged(lab)?;
            // The own node's. What a pod sends to itself never crosses its eth0.
            exempt = lab.node(0)?.metric("polproof_attempts_exempt_total", &[])?;
            let done = exempt == 4.0
                && counts.allowed_delivered == 0
                && reasons.get(&unidentified) == Some(&4)
                && counts.denied_delivered == 2;
            Ok(done.then_some(()))
        },
    )
    .with_context(|| {
        format!(
            "want 4 exempt, 4 {unidentified:?}, 2 denied; {exempt} exempt, {}",
            findings::summary(lab)
        )
    })?;
    // Whom the node stood for is known to the agent that saw it leave: that one, and nobody else.
    let found = findings::wait_for_exactly(lab, 2, Duration::from_secs(30))?;
    for finding in &found {
        ensure!(
            crate::witnesses::is(
                finding,
                polproof_proto::v1::FindingKind::Unenforced,
                "m/no-2",
                "m/server-1",
                80
            ),
            "{}",
            lines(&found)
        );
    }
    Ok(())
}

pub(crate) const CLOSED: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: m, name: closed}
spec:
  podSelector: {matchLabels: {role: ok}}
  policyTypes: [Ingress]
";

fn grace(lab: &mut Lab) -> Result<()> {
    start(lab)?;
    let target = lab.pod("m/ok-1")?.v4(80);
    let from = |lab: &Lab| -> Result<()> {
        let attempt = lab.pod("m/no-2")?.resident().connect(target, PATIENCE)?;
        ensure!(attempt.outcome == Outcome::Refused, "{attempt:?}");
        Ok(())
    };
    from(lab)?;
    lab.apply(CLOSED)?;
    // Some of these are before the agent knows of the policy, some after it: none is a violation.
    let began = std::time::Instant::now();
    let mut attempts = 1;
    while began.elapsed() < lab.setup().grace.mul_f32(0.75) {
        from(lab)?;
        attempts += 1;
        std::thread::sleep(Duration::from_millis(100));
    }
    wait_for(
        Duration::from_secs(30),
        "every attempt is judged or inconclusive",
        || {
            let (counts, reasons) = judged(lab)?;
            let found = lab.questions()?.findings()?;
            if findings::totals(&found).0 > 0 {
                return Err(
                    anyhow::anyhow!("accused within the grace time:{}", lines(&found)).into(),
                );
            }
            let seen = counts.allowed_delivered + reasons.values().sum::<u64>();
            Ok((seen >= attempts).then_some(()))
        },
    )
    .with_context(|| format!("{attempts} attempts; {}", findings::summary(lab)))?;
    let (_, reasons) = judged(lab)?;
    ensure!(
        reasons.contains_key(&InconclusiveReason::WithinGrace),
        "{reasons:?}"
    );
    // The grace is over by now, or soon.
    lab.wait_ready(UP)?;
    from(lab)?;
    findings::wait_for_exactly(lab, 1, Duration::from_secs(30))?;
    Ok(())
}
