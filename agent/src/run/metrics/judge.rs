//! What the judge counts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use polproof_flow::finding::{EXPOSURE_BOUNDS_MS, FindingKind, InconclusiveReason};
use polproof_flow::witness::Gap;
use polproof_policy::Protocol;

use crate::judge::{JudgeStats, KindStats, Words};
use crate::telemetry::{Histogram, Metrics, atomic};

pub(super) fn judge(m: &mut Metrics, s: &Arc<JudgeStats>) {
    m.counter(
        "polproof_records",
        "Records read from the ring buffer",
        atomic(s, |s| &s.records),
    );
    m.counter(
        "polproof_records_lost",
        "Records missing in the ring buffer",
        atomic(s, |s| &s.records_lost),
    );
    m.counter(
        "polproof_records_undecodable",
        "Records that made no sense",
        atomic(s, |s| &s.records_undecodable),
    );
    m.counter(
        "polproof_attempts",
        "Connection attempts, at either side",
        atomic(s, |s| &s.attempts),
    );
    m.counter(
        "polproof_attempts_exempt",
        "Attempts that no policy speaks of",
        atomic(s, |s| &s.exempt),
    );
    m.counter(
        "polproof_attempts_evicted",
        "Attempts evicted from a full table",
        atomic(s, |s| &s.evicted),
    );
    m.counter(
        "polproof_attempts_allowed_delivered",
        "Attempts allowed and delivered",
        atomic(s, |s| &s.allowed_delivered),
    );
    for reason in InconclusiveReason::ALL {
        let stats = Arc::clone(s);
        m.labelled(
            "polproof_attempts_inconclusive",
            "Attempts without a verdict, by reason",
            ("reason", format!("{reason:?}")),
            move || stats.inconclusive(reason),
        );
    }
    m.counter(
        "polproof_judge_appends",
        "Entries committed to the spool",
        atomic(s, |s| &s.appends),
    );
    m.counter(
        "polproof_judge_append_failures",
        "Entries that could not be committed at once",
        atomic(s, |s| &s.append_failures),
    );
    m.counter(
        "polproof_judge_dropped",
        "Attempts given up because they could never be committed",
        atomic(s, |s| &s.dropped),
    );
    m.counter(
        "polproof_judge_keep_failures",
        "Views that could not be kept on disk",
        atomic(s, |s| &s.keep_failures),
    );
    m.gauge(
        "polproof_ring_lag_bytes",
        "Bytes read from the ring buffer and not committed",
        atomic(s, |s| &s.ring_lag_bytes),
    );
    m.gauge(
        "polproof_attempts_held",
        "Attempts without a verdict",
        atomic(s, |s| &s.attempts_held),
    );
    m.gauge(
        "polproof_attempts_remembered",
        "Attempts remembered for the questions of other agents",
        atomic(s, |s| &s.remembered),
    );
    m.counter(
        "polproof_attempts_forgotten",
        "Attempts forgotten sooner than meant, for want of room",
        atomic(s, |s| &s.forgotten),
    );
    m.gauge(
        "polproof_udp_flows",
        "UDP flows in memory",
        atomic(s, |s| &s.flows),
    );
    m.counter(
        "polproof_udp_flows_evicted",
        "UDP flows forgotten for want of room",
        atomic(s, |s| &s.flows_evicted),
    );
    m.gauge(
        "polproof_findings_watched",
        "Findings whose end is watched for",
        atomic(s, |s| &s.watched),
    );
    m.gauge(
        "polproof_connections_followed",
        "Established connections that are followed",
        atomic(s, |s| &s.sockets),
    );
    m.gauge(
        "polproof_findings_unsettled",
        "Reported groups of attempts not judged for good",
        atomic(s, |s| &s.unsettled),
    );
    m.gauge(
        "polproof_findings_unreported",
        "Findings waiting to be committed",
        atomic(s, |s| &s.unreported),
    );
}

pub(super) fn findings(m: &mut Metrics, s: &Arc<JudgeStats>) {
    for (name, help, field) in FINDINGS {
        for kind in FindingKind::ALL {
            let stats = Arc::clone(s);
            m.labelled(name, help, ("kind", format!("{kind:?}")), move || {
                stats
                    .of(kind)
                    .map_or(0, |kind| field(kind).load(Ordering::Relaxed))
            });
        }
    }
    m.counter(
        "polproof_attempts_denied_stopped",
        "Attempts denied that a complete witness did not see, while something else got through: proof of enforcement",
        atomic(s, |s| &s.denied_stopped),
    );
    m.counter(
        "polproof_attempts_denied_in_grace",
        "Attempts denied and delivered within the grace time, or of flows older than the policies: no violations",
        atomic(s, |s| &s.denied_in_grace),
    );
    for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::Sctp] {
        let stats = Arc::clone(s);
        m.labelled(
            "polproof_openings",
            "Recorded packets that open something, at either side: SYNs, INITs, first datagrams; repetitions included",
            ("protocol", protocol.to_string()),
            move || stats.openings(protocol),
        );
    }
    let stats = Arc::clone(s);
    m.histogram(
        "polproof_exposure_seconds",
        "For how long after a change of policy that denies them connections still got through, of changes within the grace time",
        move || exposure(&stats),
    );
}

type OfKind = fn(&KindStats) -> &AtomicU64;

const FINDINGS: [(&str, &str, OfKind); 5] = [
    (
        "polproof_finding_attempts_observed",
        "Attempts in findings at first sight, by the finding's kind",
        |k| &k.observed,
    ),
    (
        "polproof_finding_attempts_settled",
        "Of those observed, judged for good",
        |k| &k.settled,
    ),
    (
        "polproof_finding_attempts_retracted",
        "Of those observed, taken back",
        |k| &k.retracted,
    ),
    (
        "polproof_finding_attempts_witnessed",
        "Of those observed, upheld by the witness at the other end",
        |k| &k.witnessed,
    ),
    (
        "polproof_findings_recovered",
        "Findings that came to an end",
        |k| &k.recovered,
    ),
];

fn exposure(stats: &JudgeStats) -> Histogram {
    let seconds = |ms: u64| Duration::from_millis(ms).as_secs_f64();
    let bounds = EXPOSURE_BOUNDS_MS
        .into_iter()
        .map(seconds)
        .chain([f64::INFINITY]);
    let counts = stats
        .exposure
        .iter()
        .map(|count| count.load(Ordering::Relaxed));
    Histogram {
        sum: seconds(stats.exposure_sum_ms.load(Ordering::Relaxed)),
        buckets: bounds.zip(counts).collect(),
    }
}

pub(super) fn witnesses(m: &mut Metrics, s: &Arc<JudgeStats>) {
    m.counter(
        "polproof_witness_questions",
        "Questions of other agents about what was seen here",
        atomic(s, |s| &s.questions),
    );
    m.counter(
        "polproof_witness_testimonies_dropped",
        "Answers to them that the stream did not take",
        atomic(s, |s| &s.testimonies_dropped),
    );
    m.counter(
        "polproof_witness_inquiries",
        "Questions of ours about what other agents saw",
        atomic(s, |s| &s.inquiries),
    );
    m.counter(
        "polproof_witness_inquiries_dropped",
        "Of ours, not sent: too many at once, or no collector",
        atomic(s, |s| &s.inquiries_dropped),
    );
    m.gauge(
        "polproof_witness_waiting",
        "Cases of ours in which another witness is waited for",
        atomic(s, |s| &s.inquiring),
    );
    m.counter(
        "polproof_witness_timeouts",
        "Cases of ours in which another witness was waited for in vain",
        atomic(s, |s| &s.inquiries_timed_out),
    );
    m.counter(
        "polproof_witness_not_asked",
        "Cases of ours in which nobody was asked, because too many were open",
        atomic(s, |s| &s.inquiries_not_made),
    );
    m.counter(
        "polproof_witness_questions_refused",
        "Questions of other agents that were one too many",
        atomic(s, |s| &s.questions_refused),
    );
    words(
        m,
        s,
        (
            "polproof_witness_testimonies",
            "Answers to other agents, by what they say: Seen, NotSeen, or why it cannot be told",
        ),
        |s| &s.testimonies,
    );
    words(
        m,
        s,
        (
            "polproof_witness_answers",
            "Answers of other agents to ours, by what they say: Seen, NotSeen, or why it cannot be told",
        ),
        |s| &s.answers,
    );
}

fn words(
    m: &mut Metrics,
    stats: &Arc<JudgeStats>,
    (name, help): (&'static str, &'static str),
    field: fn(&JudgeStats) -> &Words,
) {
    let s = Arc::clone(stats);
    m.labelled(name, help, ("word", "Seen"), move || {
        field(&s).seen.load(Ordering::Relaxed)
    });
    let s = Arc::clone(stats);
    m.labelled(name, help, ("word", "NotSeen"), move || {
        field(&s).not_seen.load(Ordering::Relaxed)
    });
    for gap in Gap::ALL {
        let s = Arc::clone(stats);
        m.labelled(name, help, ("word", format!("{gap:?}")), move || {
            field(&s).incomplete(gap)
        });
    }
}
