//! Ports of a rule: numbers as merged ranges, names by protocol.

use std::sync::Arc;

use crate::model::{AdminPort, Pod, PolicyPort, PortMatch, Protocol};

/// The ports of a rule.
#[derive(Clone, Debug)]
pub(crate) enum Ports {
    /// Every port of every protocol.
    Every,
    /// These.
    Some { numbers: Numbers, names: Names },
}

/// Names of container ports, sorted.
type Names = Arc<[(Protocol, Arc<str>)]>;

/// Ports of one protocol, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PortRange {
    protocol: Protocol,
    first: u16,
    last: u16,
}

/// Sorted ranges that neither overlap nor touch.
#[derive(Clone, Debug)]
pub(crate) enum Numbers {
    /// As most rules have: beside the rule, so that nothing else need be read.
    Few([PortRange; FEW]),
    /// Found by bisection.
    Many(Arc<[PortRange]>),
}

const FEW: usize = 3;

/// Fills the places that are not taken: a range without a port.
const NO_PORT: PortRange = PortRange {
    protocol: Protocol::Tcp,
    first: u16::MAX,
    last: 0,
};

impl Numbers {
    fn new(mut ranges: Vec<PortRange>) -> Self {
        ranges.sort_unstable();
        ranges.dedup_by(|next, held| {
            let joins = held.protocol == next.protocol && next.first <= held.last.saturating_add(1);
            if joins {
                held.last = held.last.max(next.last);
            }
            joins
        });
        let mut few = [NO_PORT; FEW];
        if ranges.len() > FEW {
            return Self::Many(ranges.into());
        }
        for (place, range) in few.iter_mut().zip(ranges) {
            *place = range;
        }
        Self::Few(few)
    }

    #[inline]
    fn contain(&self, protocol: Protocol, port: u16) -> bool {
        match self {
            Self::Few(few) => few.iter().any(|range| range.contains(protocol, port)),
            Self::Many(ranges) => {
                let after = ranges
                    .partition_point(|range| (range.protocol, range.first) <= (protocol, port));
                after
                    .checked_sub(1)
                    .and_then(|at| ranges.get(at))
                    .is_some_and(|range| range.contains(protocol, port))
            }
        }
    }
}

impl PortRange {
    #[inline]
    fn contains(self, protocol: Protocol, port: u16) -> bool {
        self.protocol == protocol && self.first <= port && port <= self.last
    }
}

/// Collects the ports of a rule that names some.
#[derive(Default)]
struct Collected {
    numbers: Vec<PortRange>,
    names: Vec<(Protocol, Arc<str>)>,
}

impl Collected {
    fn add(&mut self, protocol: Protocol, port: &PortMatch) {
        let (first, last) = match port {
            PortMatch::Any => (0, u16::MAX),
            PortMatch::Range(first, last) => (*first, *last),
            PortMatch::Named(name) => return self.names.push((protocol, Arc::clone(name))),
        };
        if first <= last {
            self.numbers.push(PortRange {
                protocol,
                first,
                last,
            });
        }
    }

    fn finish(mut self) -> Ports {
        self.names.sort_unstable();
        self.names.dedup();
        Ports::Some {
            numbers: Numbers::new(self.numbers),
            names: self.names.into(),
        }
    }
}

impl Ports {
    pub(crate) fn compile(ports: &[PolicyPort]) -> Self {
        if ports.is_empty() {
            return Self::Every;
        }
        let mut collected = Collected::default();
        for port in ports {
            collected.add(port.protocol, &port.port);
        }
        collected.finish()
    }

    pub(crate) fn compile_admin(ports: &[AdminPort]) -> Self {
        if ports.is_empty() {
            return Self::Every;
        }
        let mut collected = Collected::default();
        for port in ports {
            match port {
                AdminPort::Of(protocol, port) => collected.add(*protocol, port),
                // A name says nothing of the protocol.
                AdminPort::Named(name) => {
                    for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::Sctp] {
                        collected.names.push((protocol, Arc::clone(name)));
                    }
                }
            }
        }
        collected.finish()
    }

    #[inline]
    pub(crate) fn admit_number(&self, protocol: Protocol, port: u16) -> bool {
        match self {
            Self::Every => true,
            Self::Some { numbers, .. } => numbers.contain(protocol, port),
        }
    }

    /// Whether one of the names means this port on the pod.
    #[inline]
    pub(crate) fn admit_name(&self, protocol: Protocol, port: u16, on: &Pod) -> bool {
        match self {
            Self::Every => true,
            // Most rules have none; looking a name up is no part of their way.
            Self::Some { names, .. } => !names.is_empty() && are_named(names, protocol, port, on),
        }
    }
}

fn are_named(names: &Names, protocol: Protocol, port: u16, on: &Pod) -> bool {
    on.ports
        .iter()
        .filter(|declared| declared.number == port && declared.protocol == protocol)
        .filter_map(|declared| declared.name.as_deref())
        .any(|name| {
            names
                .binary_search_by(|(of, named)| (*of, &**named).cmp(&(protocol, name)))
                .is_ok()
        })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn ports(of: &[(Protocol, u16, u16)]) -> Ports {
        let mut collected = Collected::default();
        for (protocol, first, last) in of {
            collected.add(*protocol, &PortMatch::Range(*first, *last));
        }
        collected.finish()
    }

    #[test]
    fn merged_ranges_hold_what_the_single_ones_held() {
        use Protocol::{Sctp, Tcp, Udp};
        let mut written = Vec::new();
        // A walk without pattern over few ports, so that ranges overlap, touch and leave holes.
        let mut at = 7_u16;
        for step in 0..400_u16 {
            at = (at * 31 + step) % 2_000;
            let protocol = if step % 3 == 0 { Udp } else { Tcp };
            written.push((protocol, at, at + step % 3));
            let few = written.len() < 6;
            if !few && step % 50 != 0 {
                continue;
            }
            let ports = ports(&written);
            for protocol in [Tcp, Udp, Sctp] {
                for port in 0..2_010 {
                    let held = written.iter().any(|(of, first, last)| {
                        *of == protocol && (*first..=*last).contains(&port)
                    });
                    assert_eq!(
                        ports.admit_number(protocol, port),
                        held,
                        "{protocol} {port}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_hundred_thousand_ports_are_few_ranges() {
        let every: Vec<_> = (0..100_000_u32)
            .map(|number| {
                let port = u16::try_from(number % 65_536).unwrap();
                (Protocol::Tcp, port, port)
            })
            .collect();
        let Ports::Some { numbers, .. } = ports(&every) else {
            unreachable!()
        };
        assert!(matches!(numbers, Numbers::Few([_, NO_PORT, NO_PORT])));
    }

    #[test]
    fn the_ends_of_the_ports_do_not_wrap() {
        let ports = ports(&[(Protocol::Tcp, u16::MAX, u16::MAX), (Protocol::Tcp, 0, 0)]);
        assert!(ports.admit_number(Protocol::Tcp, u16::MAX));
        assert!(ports.admit_number(Protocol::Tcp, 0));
        assert!(!ports.admit_number(Protocol::Tcp, 1));
        assert!(!ports.admit_number(Protocol::Udp, 0));
    }
}
