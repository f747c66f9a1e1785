//! The list of metrics.

mod judge;

use polproof_policy::compile::OPTIONAL_KINDS;

use crate::observe::{KernelLacks, capabilities};

use super::{Arc, Figures, Kind, Metrics, PodsStats, atomic};

pub(super) fn metrics(figures: &Arc<Figures>) -> Metrics {
    let mut m = Metrics::default();
    m.info(
        "polproof_agent_build_info",
        "Always 1; the version is in the label",
        ("version", env!("CARGO_PKG_VERSION")),
    );
    kernel(&mut m, figures);
    lacking(&mut m);
    pods(&mut m, figures);
    judge::judge(&mut m, &figures.judge);
    judge::findings(&mut m, &figures.judge);
    judge::witnesses(&mut m, &figures.judge);
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

/// Asked at the scrape; the answer is found out once, when the programs are loaded.
fn lacking(m: &mut Metrics) {
    for lack in KernelLacks::ALL {
        m.labelled_gauge(
            "polproof_agent_kernel_lacks",
            "1 where the running kernel lacks something that the agent would use",
            ("what", lack.name()),
            move || u64::from(capabilities().lacks(lack)),
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
