//! One trial: a lab, traffic, changes, and the account at the end.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use polproof_policy::Uid;
use polproof_proto::v1::endpoint::Kind;
use polproof_proto::v1::{Endpoint, Finding, FindingKind};
use polproof_tests::lab::enforcers::{Event, IptablesDrop};
use polproof_tests::lab::{Lab, Setup, wait_for};

use crate::Plan;
use crate::changes::{Cluster, Seat};
use crate::random::Random;
use crate::traffic::{Attempt, PATIENCE, Traffic};
use crate::truth::{Denied, Truth};

const GRACE: Duration = Duration::from_secs(2);
const SETTLE: Duration = Duration::from_secs(3);
/// Until every agent has read a change of the manifests, on a busy machine.
const NOTICE: Duration = Duration::from_millis(2_500);
const UP: Duration = Duration::from_secs(90);
/// A failure of the enforcer lasts so long: longer than grace and notice, so that there is something to find.
const FAILURE: Duration = Duration::from_secs(12);
/// From the end of one failure to the next.
const BETWEEN: Duration = Duration::from_secs(8);

/// The kinds that accuse.
const ACCUSE: [FindingKind; 5] = [
    FindingKind::Unenforced,
    FindingKind::LateEnforcement,
    FindingKind::StartupGap,
    FindingKind::OverBlocked,
    FindingKind::ReplyLost,
];

pub(crate) fn run(plan: Plan) -> Result<()> {
    let mut lab = Lab::create(Setup {
        grace: GRACE,
        settle: SETTLE,
        ..Setup::default()
    })?;
    let outcome = churn(&mut lab, plan);
    outcome.with_context(|| lab.logs(40))
}

fn churn(lab: &mut Lab, plan: Plan) -> Result<()> {
    lab.set_enforcer(Box::<IptablesDrop>::default())?;
    let mut cluster = Cluster::new(plan.seed);
    let mut truth = Truth::default();
    let mut from = Instant::now();
    cluster.begin(lab)?;
    truth.note(lab, from)?;
    lab.start_all()?;
    lab.wait_ready(UP)?;

    let traffic = Arc::new(Traffic::default());
    let seats = u32::try_from(cluster.seats.len())?;
    let every = Duration::from_secs(1) * seats / plan.per_second;
    let mut seeds = Random::new(plan.seed ^ 0x5eed);
    let mut begin = |lab: &Lab, seat: &Seat| -> Result<()> {
        if let Some(id) = &seat.pod {
            let pod = lab.pod(id)?;
            traffic.begin(pod.resident(), pod.addresses(), every, seeds.next());
        }
        Ok(())
    };
    for seat in &cluster.seats {
        begin(lab, seat)?;
    }
    traffic.aim(cluster.addresses(lab)?);

    let mut counts: BTreeMap<&'static str, u64> = BTreeMap::new();
    let mut failures = Failures::new(plan);
    let until = Instant::now() + plan.length;
    let mut pauses = Random::new(plan.seed ^ 0x9a05e);
    while Instant::now() < until {
        failures.step(lab)?;
        from = Instant::now();
        let what = cluster.change(lab, &traffic, &mut begin)?;
        truth.note(lab, from)?;
        *counts.entry(what).or_default() += 1;
        let next = Instant::now() + Duration::from_millis(100 + pauses.next() % 400);
        wait_for(Duration::from_secs(2), "the next change is due", || {
            Ok((Instant::now() >= next).then_some(()))
        })?;
    }
    failures.end(lab)?;
    traffic.stop();
    let over = Instant::now() + PATIENCE;
    wait_for(PATIENCE * 3, "what was under way has ended", || {
        Ok((Instant::now() > over).then_some(()))
    })?;
    let findings = settled(lab)?;
    let (attempts, left_out) = traffic.attempts();
    let account = Account::take(&mut truth, &attempts, &findings, &failures);
    eprintln!(
        "  changes {counts:?}; failures {}; states {}; attempts {} ({left_out} left out), delivered {}; {account}",
        failures.times.len(),
        truth.states(),
        attempts.len(),
        attempts
            .iter()
            .filter(|attempt| attempt.delivered())
            .count(),
    );
    account.check(plan)
}

/// Failures of the enforcer, one after the other.
struct Failures {
    on: bool,
    random: Random,
    next: Instant,
    /// What has failed, until when.
    now: Option<(Event, Instant)>,
    /// From, to.
    times: Vec<(Instant, Instant)>,
}

impl Failures {
    fn new(plan: Plan) -> Self {
        Self {
            on: plan.faults,
            random: Random::new(plan.seed ^ 0xfa11),
            next: Instant::now() + BETWEEN,
            now: None,
            times: Vec::new(),
        }
    }

    fn step(&mut self, lab: &mut Lab) -> Result<()> {
        if !self.on {
            return Ok(());
        }
        match &self.now {
            Some((_, until)) if Instant::now() >= *until => self.end(lab),
            None if Instant::now() >= self.next => {
                let event = match self.random.below(3) {
                    // With the first one everything is open, so that there is something to find.
                    _ if self.times.is_empty() => Event::Upgraded(FAILURE),
                    0 => Event::Upgraded(FAILURE),
                    1 => Event::Died(None),
                    _ => Event::Died(Some(format!("node-{}", 1 + self.random.below(2)))),
                };
                let from = Instant::now();
                lab.befall(&event)?;
                self.times.push((from, from + FAILURE));
                self.now = Some((event, from + FAILURE));
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn end(&mut self, lab: &mut Lab) -> Result<()> {
        if let Some((event, _)) = self.now.take() {
            if matches!(event, Event::Died(_)) {
                lab.befall(&Event::Restarted)?;
            }
            if let Some((_, to)) = self.times.last_mut() {
                *to = (*to).max(Instant::now());
            }
        }
        self.next = Instant::now() + BETWEEN;
        Ok(())
    }
}

/// All findings, when nothing is provisional any more.
fn settled(lab: &Lab) -> Result<Vec<Finding>> {
    let quiet_since = Instant::now();
    wait_for(
        Duration::from_secs(90),
        "every finding is settled or taken back",
        || {
            let Ok(findings) = lab.questions().and_then(|questions| questions.findings()) else {
                return Ok(None);
            };
            let open = findings
                .iter()
                .any(|finding| finding.observed != finding.settled + finding.retracted);
            // Testimony and later verdicts may still come, for as long as attempts may wait.
            let waited = quiet_since.elapsed() > Duration::from_secs(15);
            Ok((!open && waited).then_some(findings))
        },
    )
}

/// What came of it.
#[derive(Debug, Default)]
struct Account {
    /// Findings that nothing which happened can explain.
    false_ones: Vec<String>,
    /// Denials that were broken for all to see, and not found.
    missed: BTreeSet<Denied>,
    found: usize,
    must: usize,
    by_kind: BTreeMap<&'static str, u64>,
}

impl std::fmt::Display for Account {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            formatter,
            "findings {:?}; broken denials that had to be found {}, found {}, missed {}; false findings {}",
            self.by_kind,
            self.must,
            self.found,
            self.missed.len(),
            self.false_ones.len()
        )
    }
}

impl Account {
    fn take(
        truth: &mut Truth,
        attempts: &[Attempt],
        findings: &[Finding],
        failures: &Failures,
    ) -> Self {
        let mut account = Self::default();
        let mut must = BTreeSet::new();
        let mut may = BTreeSet::new();
        let mut blocked = BTreeSet::new();
        for attempt in attempts {
            if attempt.delivered()
                && let Some(denied) =
                    truth.denied_throughout(attempt, GRACE + NOTICE, SETTLE + NOTICE)
            {
                must.insert(denied);
            }
            let failing = failures
                .times
                .iter()
                .any(|(from, to)| attempt.ended >= *from && attempt.began <= *to + NOTICE);
            if !failing {
                continue;
            }
            let about = truth
                .ends(attempt)
                .into_iter()
                .map(|(source, destination)| Denied {
                    source,
                    destination,
                    port: attempt.to.port(),
                })
                .collect::<Vec<_>>();
            if !attempt.delivered() {
                // An enforcer that no longer hears of changes also goes on stopping what is allowed by now.
                if truth.allowed_at_all(attempt, NOTICE, NOTICE) {
                    blocked.extend(about.clone());
                }
            }
            // What became of an attempt whose pod went meanwhile is not known: it may have been delivered.
            if (attempt.delivered() || attempt.outcome.is_none())
                && truth.denied_at_all(attempt, NOTICE, NOTICE)
            {
                may.extend(about);
            }
        }
        let mut found = BTreeSet::new();
        for finding in findings {
            let Some(about) = about(finding) else {
                continue;
            };
            let kind = finding
                .key
                .as_ref()
                .map_or(FindingKind::Unspecified, |key| key.kind());
            *account.by_kind.entry(kind.as_str_name()).or_default() +=
                u64::from(finding.settled > 0);
            if finding.settled == 0 || !ACCUSE.contains(&kind) {
                continue;
            }
            if matches!(kind, FindingKind::OverBlocked | FindingKind::ReplyLost) {
                if !blocked.contains(&about) {
                    account.false_ones.push(format!("{finding:?}"));
                }
                continue;
            }
            if !may.contains(&about) && !must.contains(&about) {
                account.false_ones.push(format!("{finding:?}"));
            }
            found.insert(about);
        }
        account.must = must.len();
        account.found = must.intersection(&found).count();
        account.missed = must.difference(&found).cloned().collect();
        account
    }

    fn check(&self, plan: Plan) -> Result<()> {
        ensure!(
            self.false_ones.is_empty(),
            "{} false findings, such as {}",
            self.false_ones.len(),
            self.false_ones.first().map_or("", String::as_str)
        );
        ensure!(self.missed.is_empty(), "missed: {:#?}", self.missed);
        // A trial in which nothing could be found, or be wrong, shows nothing.
        ensure!(
            plan.faults == (self.must > 0),
            "{} broken denials with faults={}",
            self.must,
            plan.faults
        );
        Ok(())
    }
}

fn about(finding: &Finding) -> Option<Denied> {
    let key = finding.key.as_ref()?;
    let uid = |end: &Option<Endpoint>| match end.as_ref()?.kind.as_ref()? {
        Kind::Pod(pod) => Some(Uid(pod.uid.as_str().into())),
        Kind::Node(_) | Kind::External(_) => None,
    };
    Some(Denied {
        source: uid(&key.source)?,
        destination: uid(&key.destination)?,
        port: u16::try_from(key.destination_port).ok()?,
    })
}
