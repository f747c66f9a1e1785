//! What filters inside a pod: netfilter rules in the pod's own network namespace, behind eth0. A packet that reached eth0 and
//! was not answered may have met them, and not the pod's application: then it proves less.
//!
//! ```text
//! nftables (nfnetlink) --\
//! legacy (ip_tables_names) --> here() --> InPod
//! ```
//!
//! It refuses to read rules and to judge what they do: a rule is a filter, were it a counter only. Asking changes nothing in the
//! pod. What cannot be asked counts as a filter, with the reason.

mod legacy;
mod nftables;

use polproof_flow::netns::InPod;

/// Things found that are named; the others are counted.
const NAMED: usize = 8;

/// What filters in the calling thread's network namespace.
pub fn here() -> InPod {
    let mut found = Vec::new();
    match nftables::chains() {
        Ok(chains) => found.extend(chains),
        Err(error) => found.push(format!("nftables cannot be asked: {error}")),
    }
    match legacy::tables() {
        Ok(tables) => found.extend(tables),
        Err(error) => found.push(format!("legacy iptables cannot be asked: {error}")),
    }
    if found.is_empty() {
        return InPod::Plain;
    }
    let more = found.len().saturating_sub(NAMED);
    found.truncate(NAMED);
    let mut text = found.join("; ");
    if more > 0 {
        text.push_str(&format!("; and {more} more"));
    }
    InPod::Filtered(text)
}
