//! Why attempts got no verdict, in words, and what to do about it.

use std::collections::BTreeMap;

use crate::view::Node;

/// Reasons that are explained; `-o json` has all.
const SHOWN: usize = 8;

/// What a reason means, and what to do; by the names of `-o json`.
const REASONS: [(&str, &str, &str); 26] = [
    (
        "within_grace",
        "tried while the policies had just changed",
        "nothing: it is judged when tried again later",
    ),
    (
        "source_unidentified",
        "the source address is inside a pod network and belongs to no known pod",
        "see whether the agents' view of the cluster is stale, and whether a tunnel or gateway uses pod addresses",
    ),
    (
        "source_is_node",
        "came from a node: a pod behind masquerading or a process on the host's network",
        "run an agent on every node, so that the source's witness can name the pod",
    ),
    (
        "source_ambiguous",
        "the source address had several owners at the time",
        "nothing if pods come and go fast; else look for two pods with one address",
    ),
    (
        "destination_unidentified",
        "reached a network namespace that belongs to no known pod",
        "look at the agent's log for the namespace; its pod may be on no list of the API server",
    ),
    (
        "hook_shared",
        "another program sits on the pod's eth0 and may act before ours",
        "see who attaches to pods' eth0 (bpftool net inside the pod's namespace); such pods cannot be judged",
    ),
    (
        "not_answered",
        "reached the pod's eth0, and the pod did not answer",
        "nothing, unless the pod should answer there",
    ),
    (
        "expectation_unknown",
        "the policies leave it open",
        "ask `polproof explain` for the connection: it says what is missing",
    ),
    (
        "records_lost",
        "packet records were lost around it",
        "raise the agent's --ring-bytes or its CPU limit",
    ),
    (
        "expectation_changed",
        "the policies, labels or addresses changed right after it",
        "nothing: it is judged when tried again later",
    ),
    (
        "snapshot_not_ready",
        "the agent had not read the whole cluster yet",
        "nothing after a start; else see whether the agent reaches the API server",
    ),
    (
        "state_evicted",
        "more was tried at once than the agent's tables hold",
        "look for a scan or a flood; the figures are too low meanwhile",
    ),
    (
        "attached_late",
        "the pod could talk before its eth0 was watched",
        "nothing if it is rare; else see why the agent is slow to attach (its log and CPU limit)",
    ),
    (
        "foreign_policy",
        "denied here, but a policy of the CNI's own API, which is not evaluated, may admit it",
        "express it as NetworkPolicy if it shall be judged",
    ),
    (
        "no_witness",
        "died on the way, and there was no witness at the destination to ask",
        "run an agent on every node, and see that all are connected",
    ),
    (
        "witness_incomplete",
        "the witness at the other end cannot say that it saw nothing",
        "see what the status says of the other nodes: pods not watched, records lost, agents away",
    ),
    (
        "no_control",
        "was not delivered, and nothing else got through at that time to show that the way was open",
        "nothing; traffic to the same pod that is allowed makes it a proof",
    ),
    (
        "too_few_attempts",
        "was not delivered, once or twice",
        "nothing: three attempts make a finding",
    ),
    (
        "destination_not_ready",
        "was not delivered to a pod that was not ready",
        "nothing, unless the pod should be ready",
    ),
    (
        "answered_elsewhere",
        "something answered, and the destination never saw it: a proxy, or a backend that nobody knows",
        "see whether a load balancer, mesh or SYN proxy answers for the pod; it hides what the policies do",
    ),
    (
        "in_pod_filter",
        "a filter of the pod's own (netfilter, tc, XDP, a sidecar) may have decided",
        "nothing: what a pod filters itself is not the network's doing",
    ),
    (
        "flow_begun_before",
        "belongs to a connection that is older than the policies that deny it",
        "see `polproof violations --kind survivor`; restart the client if it must end",
    ),
    (
        "mixed_endpoints",
        "went to a Service whose pods are expected to be treated differently",
        "run an agent on every node: the destination's witness says which pod it was",
    ),
    (
        "translated_address",
        "an ipBlock decides, and the address may have been translated on the way",
        "write such rules for addresses that arrive as they left (externalTrafficPolicy: Local)",
    ),
    (
        "named_port",
        "a named port decides, and no pod says which number it is",
        "declare the port in the pod's containers, or write its number",
    ),
    (
        "udp_silence",
        "a datagram without an answer, which says nothing",
        "nothing",
    ),
];

/// Lines about the most frequent reasons of all nodes.
pub(super) fn lines(nodes: &[Node]) -> Vec<String> {
    let mut all: BTreeMap<&str, u64> = BTreeMap::new();
    for (reason, count) in nodes.iter().flat_map(|node| &node.inconclusive) {
        let sum = all.entry(reason).or_default();
        *sum = sum.saturating_add(*count);
    }
    let mut all: Vec<_> = all.into_iter().filter(|(_, count)| *count > 0).collect();
    all.sort_by_key(|(reason, count)| (std::cmp::Reverse(*count), *reason));
    let more = all.len().saturating_sub(SHOWN);
    let mut lines: Vec<String> = all
        .into_iter()
        .take(SHOWN)
        .map(|(reason, count)| {
            REASONS
                .iter()
                .find(|(name, ..)| *name == reason)
                .map_or_else(
                    || format!("{count} {reason}: only a newer polproof knows what that is"),
                    |(_, means, remedy)| format!("{count} {reason}: {means}. To do: {remedy}"),
                )
        })
        .collect();
    if more > 0 {
        lines.push(format!("and {more} more reasons: -o json has them"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_of_the_wire_is_explained() {
        let mut number = 1;
        while let Ok(reason) = polproof_proto::v1::InconclusiveReason::try_from(number) {
            let name = reason
                .as_str_name()
                .trim_start_matches("INCONCLUSIVE_REASON_")
                .to_lowercase();
            assert!(REASONS.iter().any(|(known, ..)| *known == name), "{name}");
            number += 1;
        }
        assert_eq!(usize::try_from(number - 1), Ok(REASONS.len()));
    }
}
