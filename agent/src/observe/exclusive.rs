//! Is the pod's eth0 ours alone? Another program on the same hook may drop a packet before or after ours, or end
//! the chain: what we saw would then prove nothing.

use aya::programs::SchedClassifier;
use polproof_flow::netns::Hook;

use super::error::ObserveError;
use super::means::Means;
use super::netlink::{ETHERNET, Interface};
use super::tc::{self, Direction, Qdisc};

/// What we have on an interface, to tell it from others'.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ours {
    pub(super) ingress: u32,
    pub(super) egress: u32,
    /// Where we have it.
    pub(super) means: Means,
    /// Whether there is such a thing as tcx that others could use.
    pub(super) tcx: bool,
}

impl Ours {
    /// Id of our program of that direction.
    pub(super) fn id(&self, direction: Direction) -> u32 {
        match direction {
            Direction::Ingress => self.ingress,
            Direction::Egress => self.egress,
        }
    }
}

/// Asks for everything else on the interface, in the calling thread's namespace: tcx on both hooks, classic filters of
/// clsact, XDP. A question that fails is an answer too: not exclusive.
pub(super) fn check(name: &str, interface: &Interface, ours: Ours) -> Hook {
    let mut others = Vec::new();
    if interface.hardware != ETHERNET {
        others.push(format!(
            "{name} is no Ethernet device (type {}): its packets cannot be parsed",
            interface.hardware
        ));
    }
    if let Some(id) = interface.xdp {
        others.push(format!("XDP program {id}"));
    }
    for direction in Direction::BOTH {
        if ours.tcx {
            tcx(name, direction, ours, &mut others);
        }
    }
    if let Err(error) = filters(interface.index, ours, &mut others) {
        others.push(error.to_string());
    }
    if others.is_empty() {
        Hook::Exclusive
    } else {
        Hook::Shared(others.join("; "))
    }
}

fn missing(means: &str, direction: Direction) -> String {
    let direction = direction.name();
    format!("polproof's own program is missing on {means} {direction}")
}

fn tcx(name: &str, direction: Direction, ours: Ours, others: &mut Vec<String>) {
    let programs = match SchedClassifier::query_tcx(name, direction.tcx()) {
        Ok((_, programs)) => programs,
        Err(error) => {
            others.push(format!("tcx {} cannot be asked: {error}", direction.name()));
            return;
        }
    };
    // By the other means none of them is ours.
    let own = (ours.means == Means::Tcx).then(|| ours.id(direction));
    if own.is_some_and(|own| !programs.iter().any(|program| program.id() == own)) {
        others.push(missing("tcx", direction));
    }
    for program in programs.iter().filter(|program| Some(program.id()) != own) {
        others.push(format!(
            "tcx {} program {} ({})",
            direction.name(),
            program.id(),
            program.name_as_str().unwrap_or("unnamed")
        ));
    }
}

fn filters(index: u32, ours: Ours, others: &mut Vec<String>) -> Result<(), ObserveError> {
    let none = tc::qdisc(index)? == Qdisc::Absent;
    for direction in Direction::BOTH {
        let present = if none {
            Vec::new()
        } else {
            tc::filters(index, direction)?
        };
        let own = (ours.means == Means::Clsact).then(|| ours.id(direction));
        if own.is_some_and(|own| !present.iter().any(|filter| filter.program == Some(own))) {
            others.push(missing("clsact", direction));
        }
        for filter in present {
            if own.is_some() && filter.program == own {
                continue;
            }
            let name = filter.name.map(|name| format!(" ({name})"));
            let text = format!(
                "tc filter {} on {}{}",
                filter.kind,
                direction.name(),
                name.unwrap_or_default()
            );
            // Many filters of one kind are one reason.
            if !others.contains(&text) {
                others.push(text);
            }
        }
    }
    Ok(())
}
