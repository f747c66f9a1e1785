//! The list of metrics.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use polproof_flow::finding::{EXPOSURE_BOUNDS_MS, FindingKind};
use polproof_flow::witness::Gap;
use polproof_policy::Protocol;
use polproof_policy::compile::OPTIONAL_KINDS;

use super::{Arc, Figures, InconclusiveReason, JudgeStats, Kind, Metrics, PodsStats, atomic};
use crate::judge::{KindStats, Words};
use crate::observe::{KernelLacks, capabilities};
use crate::telemetry::Histogram;

pub(super) fn metrics(figures: &Arc<Figures>) -> Metrics {
    let mut m = Metrics::default();
    m.info(
        "polproof_agent_build_info",
        "Always 1; the version is in the label",
        ("version", env!("CARGO_PKG_VERSION")),
    );
    kernel(&mut m, figures);
    lacks(&mut m);
    pods(&mut m, figures);
    judge(&mut m, figures);
    witnesses(&mut m, figures);
    report(&mut m, figures);
    m
}

fn kernel(m: &mut Metrics, figures: &Arc<Figures>) {
    let read = |field: fn(&crate::observe::Counters) -> u64| {
        let figures = Arc::clone(figures);
        move || field(&figures.pods.kernel())
    };
    m.counter(
        "polproof_kernel_records",
        "Records that the BPF programs were to write, since their maps were made",
        read(|c| c.records),
    );
    m.counter(
        "polproof_kernel_records_lost",
        "Of those, lost because the ring buffer was full",
        read(|c| c.ring_full),
    );
    m.counter(
        "polproof_kernel_packets_unparsed",
        "Packets whose headers could not be walked",
        read(|c| c.unparsed),
    );
    m.counter(
        "polproof_kernel_fragments",
        "Non-first fragments, which carry no ports",
        read(|c| c.fragments),
    );
    m.counter(
        "polproof_kernel_no_cookie",
        "Records not written because the namespace could not be read",
        read(|c| c.no_cookie),
    );
}

fn lacks(m: &mut Metrics) {
    for lack in KernelLacks::ALL {
        let lacking = u64::from(capabilities().lacks(lack));
        m.labelled_gauge(
            "polproof_kernel_lacks",
            "1 for what the running kernel does not have; the log says what follows from it",
            ("what", lack.name()),
            move || lacking,
        );
    }
}

fn pods(m: &mut Metrics, figures: &Arc<Figures>) {
    let s = &figures.pods;
    m.gauge(
        "polproof_namespaces",
        "Network namespaces in --netns-dir",
        atomic(s, |s| &s.namespaces),
    );
    m.gauge(
        "polproof_namespaces_attached",
        "Of those, watched by the programs",
        atomic(s, |s| &s.attached),
    );
    m.gauge(
        "polproof_namespaces_unidentified",
        "Attached, pod unknown",
        atomic(s, |s| &s.unidentified),
    );
    m.gauge(
        "polproof_namespaces_contradicted",
        "Attached, witnesses of the identity disagree",
        atomic(s, |s| &s.contradicted),
    );
    m.gauge(
        "polproof_hooks_shared",
        "Attached, another program is on eth0 too",
        atomic(s, |s| &s.hooks_shared),
    );
    m.gauge(
        "polproof_pods_expected",
        "Living pods of this node with a network of their own",
        atomic(s, |s| &s.pods_expected),
    );
    m.gauge(
        "polproof_pods_watched",
        "Of those, identified and attached",
        atomic(s, |s| &s.pods_watched),
    );
    m.counter(
        "polproof_attach_failures",
        "Failed tries to attach",
        atomic(s, |s| &s.attach_failures),
    );
    m.counter(
        "polproof_links_collected",
        "Dead links removed",
        atomic(s, |s| &s.links_collected),
    );
    inside(m, s);
    let view = figures.view.clone();
    m.gauge(
        "polproof_view_ready",
        "1 once every kind of object is listed",
        move || u64::from(view.borrow().ready),
    );
    let view = figures.view.clone();
    m.gauge(
        "polproof_view_stale",
        "1 while the source of objects has a problem",
        move || u64::from(view.borrow().problem.is_some()),
    );
    let view = figures.view.clone();
    m.gauge(
        "polproof_view_policies",
        "NetworkPolicies in the view",
        move || view.borrow().snapshot.count(Kind::NetworkPolicy) as u64,
    );
    for optional in &OPTIONAL_KINDS {
        let view = figures.view.clone();
        m.labelled_gauge(
            "polproof_view_other_policies",
            "Policies of other kinds in the view",
            ("kind", polproof_cluster::spoken(optional.kind)),
            move || view.borrow().snapshot.count(optional.kind) as u64,
        );
    }
}

fn inside(m: &mut Metrics, s: &Arc<PodsStats>) {
    m.gauge(
        "polproof_pods_filtered_inside",
        "Pods attached to with netfilter rules in their own namespace: what is not answered there proves nothing",
        atomic(s, |s| &s.filtered_inside),
    );
    m.gauge(
        "polproof_pods_selected",
        "Pods identified that a policy selects: their connections are listed",
        atomic(s, |s| &s.pods_selected),
    );
    m.counter(
        "polproof_hook_gaps",
        "Times that the programs were found detached, and attached again",
        atomic(s, |s| &s.gaps),
    );
    m.counter(
        "polproof_socket_lists",
        "Lists of a pod's connections",
        atomic(s, |s| &s.socket_lists),
    );
    m.counter(
        "polproof_socket_list_failures",
        "Lists of a pod's connections that could not be had",
        atomic(s, |s| &s.socket_failures),
    );
    m.counter(
        "polproof_sockets_left_out",
        "Connections left out because a pod had too many",
        atomic(s, |s| &s.sockets_left_out),
    );
    m.counter(
        "polproof_sockets_undecided",
        "Connections left out because it is not certain which end opened them",
        atomic(s, |s| &s.sockets_undecided),
    );
}

fn judge(m: &mut Metrics, figures: &Arc<Figures>) {
    let s = &figures.judge;
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
    findings(m, figures);
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
        "Attempts in memory",
        atomic(s, |s| &s.attempts_held),
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

fn findings(m: &mut Metrics, figures: &Arc<Figures>) {
    for (name, help, field) in FINDINGS {
        for kind in FindingKind::ALL {
            let stats = Arc::clone(&figures.judge);
            m.labelled(name, help, ("kind", format!("{kind:?}")), move || {
                stats
                    .of(kind)
                    .map_or(0, |kind| field(kind).load(Ordering::Relaxed))
            });
        }
    }
    let s = &figures.judge;
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

fn witnesses(m: &mut Metrics, figures: &Arc<Figures>) {
    let s = &figures.judge;
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

fn report(m: &mut Metrics, figures: &Arc<Figures>) {
    let s = &figures.spool;
    m.counter(
        "polproof_spool_entries",
        "Entries written to the spool",
        atomic(s, |s| &s.entries),
    );
    m.counter(
        "polproof_spool_batches",
        "Batches numbered",
        atomic(s, |s| &s.batches),
    );
    m.counter(
        "polproof_spool_batches_dropped",
        "Unconfirmed batches dropped because the spool was full, or left by another version of the agent",
        atomic(s, |s| &s.batches_dropped),
    );
    m.counter(
        "polproof_spool_corrupt",
        "Damaged places in the spool",
        atomic(s, |s| &s.corrupt),
    );
    m.counter(
        "polproof_spool_append_errors",
        "Appends that failed",
        atomic(s, |s| &s.append_errors),
    );
    m.gauge(
        "polproof_spool_bytes",
        "Bytes on disk",
        atomic(s, |s| &s.bytes),
    );
    m.gauge(
        "polproof_spool_segments",
        "Segments on disk",
        atomic(s, |s| &s.segments),
    );
    m.gauge(
        "polproof_spool_unconfirmed",
        "Batches that the collector has not confirmed",
        atomic(s, |s| &s.unconfirmed),
    );
    let s = &figures.stream;
    m.gauge(
        "polproof_stream_connected",
        "1 while the collector has welcomed us",
        atomic(s, |s| &s.connected),
    );
    m.counter(
        "polproof_stream_connects",
        "Streams welcomed",
        atomic(s, |s| &s.connects),
    );
    m.counter(
        "polproof_stream_failures",
        "Tries and streams that failed",
        atomic(s, |s| &s.failures),
    );
    m.counter(
        "polproof_stream_batches_sent",
        "Batches sent, resent ones included",
        atomic(s, |s| &s.batches_sent),
    );
    m.counter(
        "polproof_stream_batches_refused",
        "Batches too large to send",
        atomic(s, |s| &s.batches_refused),
    );
    m.gauge(
        "polproof_stream_confirmed",
        "Highest batch number confirmed",
        atomic(s, |s| &s.confirmed),
    );
    m.counter(
        "polproof_stream_heartbeats",
        "Heartbeats sent",
        atomic(s, |s| &s.heartbeats),
    );
    m.counter(
        "polproof_stream_heartbeats_skipped",
        "Heartbeats not sent because of congestion",
        atomic(s, |s| &s.heartbeats_skipped),
    );
}
