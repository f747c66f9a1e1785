//! What must hold for any traffic: the order of reading does not matter, and no crash counts anything twice or
//! not at all.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

mod world;

use std::collections::BTreeMap;
use std::sync::Arc;

use polproof_flow::finding::{FindingDelta, FindingKey, InconclusiveReason, JudgedCounts, Report};
use polproof_flow::record::{Instant, Record};
use polproof_flow::{Binding, Judge, Restored, Settings};
use polproof_policy::{Snapshot, State};
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;
use world::*;

/// What was reported in all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Totals {
    findings: BTreeMap<Arc<FindingKey>, (u64, u64, u64)>,
    inconclusive: BTreeMap<InconclusiveReason, u64>,
    judged: JudgedCounts,
}

impl Totals {
    fn add(&mut self, report: &Report) {
        for delta in &report.findings {
            let sum = self.findings.entry(Arc::clone(&delta.key)).or_default();
            sum.0 += delta.observed;
            sum.1 += delta.settled;
            sum.2 += delta.retracted;
            assert!(delta.samples.len() <= 3);
        }
        for (reason, count) in &report.inconclusive {
            // Of what left, other witnesses are asked as often as it is worth, and anew after a restart.
            if matches!(
                reason,
                InconclusiveReason::NoWitness | InconclusiveReason::WitnessIncomplete
            ) {
                continue;
            }
            *self.inconclusive.entry(*reason).or_default() += count;
        }
        self.judged.allowed_delivered += report.judged.allowed_delivered;
        self.judged.denied_delivered += report.judged.denied_delivered;
        self.judged.denied_unanswered += report.judged.denied_unanswered;
        self.judged.denied_answered += report.judged.denied_answered;
        self.judged.allowed_answered += report.judged.allowed_answered;
    }

    /// Attempts settled.
    fn settled(&self) -> u64 {
        self.findings.values().map(|counts| counts.1).sum()
    }

    /// Attempts at the destination that came to an end, one way or another.
    fn counted(&self) -> u64 {
        self.settled() + self.judged.allowed_delivered + self.inconclusive.values().sum::<u64>()
    }
}

/// One attempt of the traffic: who, when (ms), how it ends.
#[derive(Clone, Debug)]
struct Plan {
    peer: usize,
    out: bool,
    at: u64,
    end: u8,
}

const PEERS: [&str; 6] = [
    CLIENT,
    FRIEND,
    "203.0.113.9",
    "192.168.0.2",
    "10.1.1.77",
    "192.168.0.1",
];

fn plan() -> impl Strategy<Value = Plan> {
    (0..PEERS.len(), any::<bool>(), 0..8_000_u64, 0..8_u8).prop_map(|(peer, out, at, end)| Plan {
        peer,
        out,
        at,
        end,
    })
}

fn ms(n: u64) -> Instant {
    Instant(100 * SECOND + n * 1_000_000)
}

fn records(plans: &[Plan]) -> Vec<Record> {
    let mut records = Vec::new();
    for (isn, plan) in (1_u32..).zip(plans) {
        let t = if plan.out {
            departure(PEERS[plan.peer], isn)
        } else {
            attempt(PEERS[plan.peer], isn)
        };
        let at = plan.at;
        let soon = |n: u64| Instant(ms(n).0 + 20_000);
        records.push(t.syn(ms(at)));
        match plan.end {
            0 | 1 => records.push(t.syn_ack(soon(at))),
            2 => records.push(t.rst(soon(at))),
            3 => {}
            // The first SYN was dropped at the listener's full backlog.
            4 => records.extend([t.syn(ms(at + 1_000)), t.syn_ack(soon(at + 1_000))]),
            // The answer does not get back: everything is repeated.
            5 => records.extend([
                t.syn_ack(soon(at)),
                t.syn(ms(at + 1_000)),
                t.syn_ack(soon(at + 1_000)),
                t.syn(ms(at + 3_000)),
                t.syn_ack(soon(at + 3_000)),
            ]),
            6 => records.extend([t.syn(ms(at + 1_000)), t.syn(ms(at + 3_000))]),
            _ => records.push(t.unreachable(soon(at))),
        }
    }
    records.sort_by_key(|record| record.at);
    records
}

const WINDOW: u64 = 100;
const WINDOWS: u64 = 450;

fn views(flip: Option<u64>) -> Vec<(Instant, Snapshot)> {
    let mut state: State = cluster();
    let mut views = vec![(seconds(1.0), state.snapshot())];
    if let Some(at) = flip {
        delete_policy(&mut state);
        views.push((ms(at), state.snapshot()));
    }
    views
}

/// The run of a judge without any failure.
fn undisturbed(records: &[Record], views: &[(Instant, Snapshot)]) -> Totals {
    let mut judge = Judge::new(here(), Settings::default());
    identify(&mut judge);
    let mut totals = Totals::default();
    let mut views = views.iter().peekable();
    let mut position = 0;
    for window in 0..WINDOWS {
        let end = ms((window + 1) * WINDOW);
        while let Some((at, view)) = views.next_if(|(at, _)| *at <= end) {
            judge.on_snapshot(*at, view.clone(), true);
        }
        while position < records.len() && records[position].at < end {
            judge.on_record(records[position]);
            position += 1;
        }
        judge.tick(end, end);
        totals.add(&judge.take_report(end));
    }
    totals
}

/// What lies on the disk.
#[derive(Default)]
struct Disk {
    totals: Totals,
    deltas: Vec<FindingDelta>,
    open: Vec<Record>,
    position: usize,
    settled_until: Instant,
    bindings: Vec<Binding>,
}

impl Disk {
    fn append(&mut self, judge: &mut Judge, now: Instant, position: usize) {
        let report = judge.take_report(now);
        self.totals.add(&report);
        self.deltas.extend(report.findings);
        self.open = judge.open_attempts();
        self.settled_until = judge.settled_until();
        self.position = position;
        self.bindings = judge.bindings();
    }

    fn restore(&self, views: &[(Instant, Snapshot)], now: Instant) -> Judge {
        let mut judge = Judge::new(here(), Settings::default());
        judge.restore(
            Restored {
                views: views.to_vec(),
                bindings: self.bindings.clone(),
                open: self.open.clone(),
                unsettled: self
                    .deltas
                    .iter()
                    .filter(|delta| delta.observed > 0 && delta.last > self.settled_until)
                    .cloned()
                    .collect(),
                settled_until: self.settled_until,
            },
            now,
        );
        judge
    }
}

/// A window in which something goes wrong.
#[derive(Clone, Debug)]
struct Fault {
    window: u64,
    /// Killed, and so many windows without an agent; else the report cannot be written.
    down: Option<u64>,
}

fn fault() -> impl Strategy<Value = Fault> {
    (1..130_u64, proptest::option::weighted(0.3, 0..30_u64))
        .prop_map(|(window, down)| Fault { window, down })
}

fn disturbed(records: &[Record], views: &[(Instant, Snapshot)], faults: &[Fault]) -> Totals {
    let mut judge = Judge::new(here(), Settings::default());
    identify(&mut judge);
    let mut disk = Disk {
        bindings: judge.bindings(),
        ..Disk::default()
    };
    let mut position = 0;
    let mut seen = 0;
    let mut window = 0;
    while window < WINDOWS {
        let end = ms((window + 1) * WINDOW);
        while seen < views.len() && views[seen].0 <= end {
            judge.on_snapshot(views[seen].0, views[seen].1.clone(), true);
            seen += 1;
        }
        // In small batches, as a backlog is read.
        let mut batch = 0;
        while position < records.len() && records[position].at < end {
            judge.on_record(records[position]);
            position += 1;
            batch += 1;
            if batch % 8 == 0 {
                judge.tick(end, records[position - 1].at.minus(SECOND / 10));
            }
        }
        judge.tick(end, end);
        window += 1;
        match faults.iter().find(|fault| fault.window == window - 1) {
            None => disk.append(&mut judge, end, position),
            // Failed: taken back, and everything goes on in memory.
            Some(Fault { down: None, .. }) => {
                let report = judge.take_report(end);
                judge.put_back(report);
            }
            // Killed before the append.
            Some(Fault {
                down: Some(down), ..
            }) => {
                window += down;
                let now = ms(window * WINDOW);
                judge = disk.restore(&views[..seen], now);
                position = disk.position;
                // The new process lists the cluster: nothing has changed.
                if let Some((_, view)) = views[..seen].last() {
                    judge.on_snapshot(now, view.clone(), true);
                }
            }
        }
    }
    // The last report must be on the disk to count.
    let end = ms((WINDOWS + 400) * WINDOW);
    judge.tick(end, end);
    disk.append(&mut judge, end, position);
    disk.totals
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 96,
        failure_persistence: Some(Box::new(FileFailurePersistence::Off)),
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_interleaving_of_cpus_gives_the_same_report(
        plans in proptest::collection::vec(plan(), 1..40),
        cpus in proptest::collection::vec(0..4_usize, 200),
        order in proptest::collection::vec(0..4_usize, 400),
    ) {
        let records = records(&plans);
        let report = |records: &[Record]| {
            let mut judge = judge(&cluster());
            let first = feed(&mut judge, ms(20_000), records);
            let last = feed(&mut judge, ms(60_000), &[]);
            (first, last)
        };
        // Each CPU keeps its order; the reading of them is mixed at will.
        let mut queues = vec![std::collections::VecDeque::new(); 4];
        for (index, record) in records.iter().enumerate() {
            queues[cpus[index % cpus.len()]].push_back(*record);
        }
        let mut mixed = Vec::new();
        for cpu in order {
            mixed.extend(queues[cpu].pop_front());
        }
        mixed.extend(queues.into_iter().flatten());
        prop_assert_eq!(report(&records), report(&mixed));
    }

    #[test]
    fn no_crash_and_no_full_disk_changes_a_count(
        plans in proptest::collection::vec(plan(), 1..40),
        faults in proptest::collection::vec(fault(), 0..60),
    ) {
        let records = records(&plans);
        let views = views(None);
        let expected = undisturbed(&records, &views);
        let got = disturbed(&records, &views, &faults);
        prop_assert_eq!(&expected, &got);
        for (observed, settled, retracted) in got.findings.values() {
            prop_assert_eq!(*observed, settled + retracted);
        }
    }

    #[test]
    fn a_change_of_policy_around_a_crash_never_settles_too_much(
        plans in proptest::collection::vec(plan(), 1..40),
        faults in proptest::collection::vec(fault(), 0..60),
        flip in 0..14_000_u64,
    ) {
        let records = records(&plans);
        let views = views(Some(flip));
        let expected = undisturbed(&records, &views);
        let got = disturbed(&records, &views, &faults);
        for (observed, settled, retracted) in got.findings.values() {
            prop_assert_eq!(*observed, settled + retracted);
        }
        // Attempts are judged for good in groups, which differ after a crash: some may be taken back needlessly, but
        // none may stay whose expectation changed within the aftermath.
        let sound = plans
            .iter()
            .filter(|plan| !plan.out && matches!(plan.peer, 0 | 2))
            .filter(|plan| matches!(plan.end, 0 | 1 | 2 | 4 | 5) && plan.at + 5_000 < flip)
            .count() as u64;
        prop_assert!(got.settled() <= sound, "{} of {sound}", got.settled());
        prop_assert_eq!(expected.counted(), got.counted());
    }
}

#[test]
fn memory_is_bounded_under_a_flood_of_syns_from_random_sources() {
    let settings = Settings {
        max_attempts: 1_000,
        max_early: 100,
        max_tuples: 100,
        max_keys: 200,
        report_keys: 100,
        max_unsettled: 300,
        max_open_records: 500,
        ..Settings::default()
    };
    let mut judge = judge_with(&cluster(), settings);
    let mut totals = Totals::default();
    let mut sent = 0;
    for n in 0..50_000_u32 {
        let at = Instant(100 * SECOND + u64::from(n) * 50_000);
        let mut t = attempt(
            &format!("203.{}.{}.{}", n >> 16, (n >> 8) & 255, n & 255),
            n,
        );
        t.client.set_port(1024 + (n % 50_000) as u16);
        judge.on_record(t.syn(at));
        sent += 1;
        if n % 3 == 0 {
            judge.on_record(t.syn_ack(at));
        }
        if n % 7 == 0 {
            // Ends of old connections: answers to nothing.
            t.isn ^= 0x8000_0000;
            judge.on_record(t.rst(at));
        }
        if n % 50 == 0 {
            judge.tick(at, at);
            let tally = judge.tally();
            assert!(tally.held <= 2_000 && tally.unsettled <= 300 && tally.unreported <= 200);
            if judge.full() {
                let report = judge.take_report(at);
                assert!(judge.open_attempts().len() <= 500 * 3 + 200);
                // The disk is full every other time.
                if n % 100 == 0 {
                    judge.put_back(report);
                } else {
                    totals.add(&report);
                }
            }
        }
    }
    for end in [400.0, 401.0, 431.0, 432.0] {
        tick(&mut judge, seconds(end));
        totals.add(&judge.take_report(seconds(end)));
    }
    let observed: u64 = totals.findings.values().map(|counts| counts.0).sum();
    let ended: u64 = totals
        .findings
        .values()
        .map(|counts| counts.1 + counts.2)
        .sum();
    assert_eq!(
        observed, ended,
        "everything observed is settled or taken back"
    );
    let retracted: u64 = totals.findings.values().map(|counts| counts.2).sum();
    let undecided: u64 = totals.inconclusive.values().sum();
    assert_eq!(
        observed + undecided - retracted,
        sent,
        "every attempt is counted once"
    );
}

#[test]
#[expect(clippy::disallowed_methods, reason = "the cost is what is tested")]
fn a_known_connection_costs_one_look_at_each_new_view() {
    // Many attempts, no change: nothing but the memo is asked. The bound is generous, a machine may be slow.
    let mut judge = judge(&cluster());
    let begun = std::time::Instant::now();
    for n in 0..100_000_u32 {
        let at = Instant(100 * SECOND + u64::from(n) * 10_000);
        let t = attempt(CLIENT, n);
        judge.on_record(t.syn(at));
        judge.on_record(t.syn_ack(at));
        if n % 100 == 0 {
            judge.tick(at, at);
        }
    }
    let each = begun.elapsed() / 100_000;
    println!("{each:?} for each judged attempt");
    assert!(each < std::time::Duration::from_micros(200));
}

#[test]
fn many_attempts_on_few_findings_are_few_deltas() {
    let mut held = judge(&cluster());
    let mut urgent = 0;
    for n in 0..10_000_u32 {
        let at = seconds(100.0 + f64::from(n) / 10_000.0);
        let t = attempt(CLIENT, n);
        held.on_record(t.syn(at));
        held.on_record(t.syn_ack(at));
        tick(&mut held, at);
        if held.urgent() {
            urgent += 1;
            assert_eq!(counts(&held.take_report(at)).0, 1);
        }
    }
    assert_eq!(urgent, 1);
    let report = held.take_report(seconds(101.0));
    assert_eq!(report.findings.len(), 1);
    assert_eq!(report.findings[0].observed, 9_999);
    assert_eq!(report.findings[0].samples.len(), 3);
    assert_eq!(
        counts(&feed(&mut held, seconds(111.1), &[])),
        (0, 10_000, 0)
    );
}

#[test]
fn what_is_written_in_one_delta_is_settled_as_one() {
    let mut held = judge(&cluster());
    for (isn, at) in [(1, 100.0), (2, 100.9)] {
        let t = attempt(CLIENT, isn);
        let report = feed(
            &mut held,
            seconds(at + 0.05),
            &[t.syn(seconds(at)), t.syn_ack(seconds(at))],
        );
        held.put_back(report);
    }
    let written = feed(&mut held, seconds(101.0), &[]);
    assert_eq!(written.findings.len(), 1);
    let delta = &written.findings[0];
    assert_eq!(
        (delta.observed, delta.first, delta.last),
        (2, seconds(100.0), seconds(100.9))
    );
    // Half of it is old enough: a restart now would take the whole delta for open.
    assert!(feed(&mut held, seconds(110.5), &[]).is_empty());
    assert_eq!(counts(&feed(&mut held, seconds(111.0), &[])), (0, 2, 0));
}
