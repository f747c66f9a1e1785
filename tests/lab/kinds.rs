//! The kinds of findings that depend on time: late, at the start of a pod, older than the policy.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use polproof_proto::v1::{FindingKind, InconclusiveReason, RecoveryCause};
use polproof_tests::lab::node::PodSpec;
use polproof_tests::lab::traffic::Outcome;
use polproof_tests::lab::wiring::feed;
use polproof_tests::lab::{Lab, Setup, wait_for};

use crate::Scenario;
use crate::findings::{self, judged, lines};
use crate::verdicts::{CLOSED, PATIENCE, UP, start};
use crate::witnesses::{is, wait_for_one};

pub(crate) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::whole(
            "a policy that nobody enforces: within the grace an exposure, then late, then a violation",
            in_time,
        )
        .with(|| Setup {
            grace: Duration::from_secs(3),
            ..Setup::default()
        }),
        Scenario::whole(
            "a pod that is reached before its policies are enforced: a gap at its start",
            startup,
        ),
        Scenario::whole(
            "a connection older than the policy that denies it survives, until it ends",
            survivor,
        ),
        Scenario::whole(
            "a filter of the pod's own: what reached eth0 and was not answered accuses nobody",
            in_pod,
        ),
    ]
}

const JUDGED: Duration = Duration::from_secs(40);
/// Less than grace and late together: for so long what gets through to a new pod is a gap at its start.
const NEW: Duration = Duration::from_secs(10);

fn in_time(lab: &mut Lab) -> Result<()> {
    start(lab)?;
    let target = lab.pod("m/ok-1")?.v4(80);
    lab.apply(CLOSED)?;
    let expected = |kind| (kind, "m/no-2", "m/ok-1", 80);
    let mut late = false;
    // From before the agents know of it until long after it has to be enforced.
    wait_for(
        Duration::from_secs(60),
        "what is late has become a violation",
        || {
            let attempt = lab.pod("m/no-2")?.resident().connect(target, PATIENCE)?;
            if attempt.outcome != Outcome::Refused {
                return Err(anyhow::anyhow!("{attempt:?}").into());
            }
            std::thread::sleep(Duration::from_millis(200));
            let found = lab.questions()?.findings()?;
            let is = |kind| {
                let (kind, from, to, port) = expected(kind);
                found
                    .iter()
                    .any(|finding| is(finding, kind, from, to, port))
            };
            late |= is(FindingKind::LateEnforcement);
            Ok(is(FindingKind::Unenforced).then_some(()))
        },
    )?;
    ensure!(late, "it was never called late");
    for kind in [FindingKind::LateEnforcement, FindingKind::Unenforced] {
        wait_for_one(lab, JUDGED, expected(kind), |finding| finding.settled >= 1)?;
    }
    let (counts, _) = judged(lab)?;
    ensure!(counts.denied_in_grace >= 1, "{counts:?}");
    Ok(())
}

fn startup(lab: &mut Lab) -> Result<()> {
    start(lab)?;
    // The policy `server` is older than this pod.
    lab.add_pod(
        &PodSpec::new("m", "server-3", 1)
            .labels(&[("app", "server")])
            .port("http", 80),
    )?;
    let to = lab.pod("m/server-3")?.v4(80);
    // The programs are attached some milliseconds after the pod can be reached: what comes before that is not seen.
    let expected = (FindingKind::StartupGap, "m/no-1", "m/server-3", 80);
    wait_for(NEW, "an attempt is seen", || {
        let attempt = lab.pod("m/no-1")?.resident().connect(to, PATIENCE)?;
        if attempt.outcome != Outcome::Connected {
            return Err(anyhow::anyhow!("{attempt:?}").into());
        }
        let found = lab.questions()?.findings()?;
        let (kind, from, to, port) = expected;
        let seen = found.iter().any(|it| is(it, kind, from, to, port));
        Ok(seen.then_some(()))
    })?;
    wait_for_one(lab, JUDGED, expected, |finding| finding.settled >= 1)?;
    Ok(())
}

fn survivor(lab: &mut Lab) -> Result<()> {
    start(lab)?;
    lab.pod("m/ok-1")?.resident().serve_echo(7)?;
    let held = lab
        .pod("m/no-2")?
        .resident()
        .hold(lab.pod("m/ok-1")?.v4(7), Duration::from_millis(200))?;
    lab.apply(CLOSED)?;
    let expected = (FindingKind::Survivor, "m/no-2", "m/ok-1", 7);
    wait_for_one(lab, Duration::from_secs(90), expected, |_| true)?;
    ensure!(!held.ended(), "nobody ended it");
    let found = lab.questions()?.findings()?;
    ensure!(
        !found
            .iter()
            .any(|finding| is(finding, FindingKind::Unenforced, "m/no-2", "m/ok-1", 7)),
        "it is no violation:{}",
        lines(&found)
    );
    drop(held);
    wait_for_one(lab, Duration::from_secs(90), expected, |finding| {
        finding
            .recovered
            .is_some_and(|over| over.cause() == RecoveryCause::Closed)
    })?;
    Ok(())
}

fn in_pod(lab: &mut Lab) -> Result<()> {
    lab.apply(crate::verdicts::MATRIX)?;
    let server = lab.pod("m/server-2")?;
    for program in ["iptables-restore", "ip6tables-restore"] {
        feed(
            server.netns(),
            program,
            &["--noflush"],
            "*filter\n-A INPUT -p tcp --dport 80 -j DROP\nCOMMIT\n",
        )?;
    }
    lab.start_all()?;
    lab.wait_ready(UP)?;
    let to = lab.pod("m/server-2")?.v4(80);
    let attempt = lab
        .pod("m/no-1")?
        .resident()
        .connect(to, Duration::from_millis(900))?;
    ensure!(attempt.outcome == Outcome::TimedOut, "{attempt:?}");
    wait_for(JUDGED, "it is inconclusive", || {
        let (_, counted) = judged(lab)?;
        Ok(counted
            .contains_key(&InconclusiveReason::InPodFilter)
            .then_some(()))
    })
    .with_context(|| findings::summary(lab))?;
    let found = lab.questions()?.findings()?;
    ensure!(found.is_empty(), "{}", lines(&found));
    Ok(())
}
