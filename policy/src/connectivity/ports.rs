//! What two ends may say to each other, port by port, as runs of equal verdicts.

use std::collections::HashMap;
use std::sync::Arc;

use crate::evaluate::{Expectation, UnknownReason};
use crate::model::Protocol;

/// The protocols, in the order in which they are kept and shown.
pub const PROTOCOLS: [Protocol; 3] = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];

/// What holds for a port, for all pods of both ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// Every pod of the one may connect to every pod of the other.
    Allow,
    /// None may.
    Deny,
    /// The API leaves it open, for this reason (the first one met, where pairs of pods differ in it).
    Unknown(UnknownReason),
    /// The pods of one of the ends differ.
    Mixed(Counts),
}

/// Pairs of pods by verdict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Counts {
    /// Allowed.
    pub allow: u64,
    /// Denied.
    pub deny: u64,
    /// Left open by the API.
    pub unknown: u64,
}

impl Counts {
    /// All pairs.
    pub const fn total(&self) -> u64 {
        self.allow
            .saturating_add(self.deny)
            .saturating_add(self.unknown)
    }
}

impl Access {
    /// Whether some pair of pods may connect for sure.
    pub const fn any_allowed(&self) -> bool {
        match self {
            Self::Allow => true,
            Self::Mixed(counts) => counts.allow > 0,
            Self::Deny | Self::Unknown(_) => false,
        }
    }

    /// Whether some pair of pods is kept from connecting for sure.
    pub const fn any_denied(&self) -> bool {
        match self {
            Self::Deny => true,
            Self::Mixed(counts) => counts.deny > 0,
            Self::Allow | Self::Unknown(_) => false,
        }
    }

    /// Whether the API leaves some pair of pods open.
    pub const fn any_unknown(&self) -> bool {
        match self {
            Self::Unknown(_) => true,
            Self::Mixed(counts) => counts.unknown > 0,
            Self::Allow | Self::Deny => false,
        }
    }

    /// Egress of the source AND ingress of the destination, as [`Verdict::expectation`](crate::Verdict::expectation).
    const fn and(self, ingress: Self) -> Self {
        match (self, ingress) {
            (Self::Deny, _) | (_, Self::Deny) => Self::Deny,
            (Self::Allow, of) => of,
            (of, _) => of,
        }
    }
}

impl From<Expectation> for Access {
    fn from(expectation: Expectation) -> Self {
        match expectation {
            Expectation::Allow => Self::Allow,
            Expectation::Deny => Self::Deny,
            Expectation::Unknown(reason) => Self::Unknown(reason),
        }
    }
}

/// Neighbouring ports of one protocol with one verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Segment {
    /// The protocol.
    pub protocol: Protocol,
    /// The first port.
    pub first: u16,
    /// The last port.
    pub last: u16,
    /// What holds for them.
    pub access: Access,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Run {
    last: u16,
    access: Access,
}

/// The verdict for every port, 1 to 65535, of every protocol. Equal ones have equal values.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Ports {
    /// By [`PROTOCOLS`]; ascending, without neighbours of one verdict, the last one ends with 65535.
    runs: [Vec<Run>; 3],
}

impl Ports {
    /// One verdict for everything.
    pub fn all(access: Access) -> Self {
        let run = vec![Run {
            last: u16::MAX,
            access,
        }];
        Self {
            runs: [run.clone(), run.clone(), run],
        }
    }

    /// From the ports at which a verdict may change, by protocol, and what holds for a port.
    pub(super) fn from_cuts(
        cuts: &[Vec<u16>; 3],
        mut access: impl FnMut(Protocol, u16) -> Access,
    ) -> Self {
        let mut ports = Self::default();
        for ((protocol, cuts), runs) in PROTOCOLS.iter().zip(cuts).zip(&mut ports.runs) {
            let mut starts: Vec<u16> = cuts.iter().copied().filter(|cut| *cut > 1).collect();
            starts.push(1);
            starts.sort_unstable();
            starts.dedup();
            let lasts = starts.iter().skip(1).map(|next| next - 1).chain([u16::MAX]);
            for (first, last) in starts.iter().zip(lasts) {
                push(runs, last, access(*protocol, *first));
            }
        }
        ports
    }

    /// All runs.
    pub fn segments(&self) -> impl Iterator<Item = Segment> {
        PROTOCOLS
            .iter()
            .zip(&self.runs)
            .flat_map(|(protocol, runs)| {
                let mut first = 1;
                runs.iter().map(move |run| {
                    let segment = Segment {
                        protocol: *protocol,
                        first,
                        last: run.last,
                        access: run.access,
                    };
                    first = run.last.saturating_add(1);
                    segment
                })
            })
    }

    /// The verdict, if it is one for everything.
    pub fn uniform(&self) -> Option<Access> {
        let mut segments = self.segments();
        let first = segments.next()?.access;
        segments
            .all(|segment| segment.access == first)
            .then_some(first)
    }

    /// Whether any port has a verdict of this sort.
    pub fn any(&self, is: impl Fn(&Access) -> bool) -> bool {
        self.runs.iter().flatten().any(|run| is(&run.access))
    }

    /// The verdict of a port.
    pub fn at(&self, protocol: Protocol, port: u16) -> Option<Access> {
        self.segments()
            .find(|of| of.protocol == protocol && of.first <= port && port <= of.last)
            .map(|of| of.access)
    }

    /// The places where both agree with themselves, with the verdicts of both.
    pub fn beside<'a>(
        &'a self,
        other: &'a Self,
    ) -> impl Iterator<Item = (Protocol, u16, u16, Access, Access)> + 'a {
        PROTOCOLS
            .iter()
            .zip(self.runs.iter().zip(&other.runs))
            .flat_map(|(protocol, (left, right))| {
                let mut left = left.iter().peekable();
                let mut right = right.iter().peekable();
                let mut first = 1;
                std::iter::from_fn(move || {
                    let (one, two) = (*left.peek()?, *right.peek()?);
                    let last = one.last.min(two.last);
                    if one.last == last {
                        left.next();
                    }
                    if two.last == last {
                        right.next();
                    }
                    let place = (*protocol, first, last, one.access, two.access);
                    first = last.saturating_add(1);
                    Some(place)
                })
            })
    }

    fn merged(&self, other: &Self, merge: impl Fn(Access, Access) -> Access) -> Self {
        let mut ports = Self::default();
        for (protocol, _, last, one, two) in self.beside(other) {
            if let Some(runs) = PROTOCOLS
                .iter()
                .position(|of| *of == protocol)
                .and_then(|at| ports.runs.get_mut(at))
            {
                push(runs, last, merge(one, two));
            }
        }
        ports
    }
}

fn push(runs: &mut Vec<Run>, last: u16, access: Access) {
    match runs.last_mut() {
        Some(run) if run.access == access => run.last = last,
        _ => runs.push(Run { last, access }),
    }
}

/// The number of a [`Ports`] in a [`Cells`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CellId(u32);

impl CellId {
    pub(super) const fn place(self) -> usize {
        self.0 as usize
    }
}

/// Every distinct value of a matrix once: most pairs have one of few.
#[derive(Debug)]
pub(super) struct Cells {
    all: Vec<Arc<Ports>>,
    ids: HashMap<Arc<Ports>, CellId>,
    both: HashMap<(CellId, CellId), CellId>,
    sums: HashMap<Vec<(CellId, u64)>, CellId>,
}

impl Cells {
    pub(super) const DENY: CellId = CellId(0);
    pub(super) const ALLOW: CellId = CellId(1);

    pub(super) fn new() -> Self {
        let mut cells = Self {
            all: Vec::new(),
            ids: HashMap::new(),
            both: HashMap::new(),
            sums: HashMap::new(),
        };
        cells.id(Ports::all(Access::Deny));
        cells.id(Ports::all(Access::Allow));
        cells
    }

    pub(super) fn id(&mut self, ports: Ports) -> CellId {
        if let Some(id) = self.ids.get(&ports) {
            return *id;
        }
        // More than four billion values do not fit into memory.
        let id = CellId(u32::try_from(self.all.len()).unwrap_or(u32::MAX));
        let ports = Arc::new(ports);
        self.all.push(Arc::clone(&ports));
        self.ids.insert(ports, id);
        id
    }

    pub(super) fn get(&self, id: CellId) -> Option<&Arc<Ports>> {
        self.all.get(id.0 as usize)
    }

    /// Egress of the source AND ingress of the destination.
    #[inline]
    pub(super) fn and(&mut self, egress: CellId, ingress: CellId) -> CellId {
        if egress == Self::DENY || ingress == Self::DENY {
            return Self::DENY;
        }
        if egress == Self::ALLOW || egress == ingress {
            return ingress;
        }
        if ingress == Self::ALLOW {
            return egress;
        }
        if let Some(id) = self.both.get(&(egress, ingress)) {
            return *id;
        }
        let (Some(one), Some(two)) = (self.get(egress), self.get(ingress)) else {
            return Self::DENY;
        };
        let ports = one.merged(two, Access::and);
        let id = self.id(ports);
        self.both.insert((egress, ingress), id);
        id
    }

    /// What holds for many pairs of pods together, each with its number of pairs.
    pub(super) fn sum(&mut self, parts: &[(CellId, u64)]) -> Option<CellId> {
        let mut present = parts.iter().filter(|(_, pairs)| *pairs > 0);
        let (first, _) = present.next()?;
        if present.all(|(of, _)| of == first) {
            return Some(*first);
        }
        let mut counted: Vec<(CellId, u64)> = Vec::with_capacity(4);
        for (id, pairs) in parts.iter().filter(|(_, pairs)| *pairs > 0) {
            match counted.iter_mut().find(|(of, _)| of == id) {
                Some((_, sum)) => *sum = sum.saturating_add(*pairs),
                None => counted.push((*id, *pairs)),
            }
        }
        counted.sort_unstable();
        if let Some(id) = self.sums.get(&counted) {
            return Some(*id);
        }
        let mut sum: Option<Ports> = None;
        for (id, pairs) in &counted {
            let weighted = weighted(self.get(*id)?, *pairs);
            sum = Some(match sum {
                Some(sum) => sum.merged(&weighted, add),
                None => weighted,
            });
        }
        let settled = sum?.merged(&Ports::all(Access::Allow), |one, _| settle(one));
        // The reason of an unknown is that of a part; counts do not carry it.
        let reasons: Vec<Arc<Ports>> = counted
            .iter()
            .filter_map(|(id, _)| self.get(*id).cloned())
            .collect();
        let named = reasons.iter().fold(settled, |sum, part| {
            sum.merged(part, |one, two| match (one, two) {
                (Access::Mixed(counts), Access::Unknown(_)) if counts.unknown == counts.total() => {
                    two
                }
                _ => one,
            })
        });
        let id = self.id(named);
        self.sums.insert(counted, id);
        Some(id)
    }
}

fn weighted(ports: &Ports, pairs: u64) -> Ports {
    ports.merged(ports, |access, _| {
        let mut counts = Counts::default();
        match access {
            Access::Allow => counts.allow = pairs,
            Access::Deny => counts.deny = pairs,
            Access::Unknown(_) => counts.unknown = pairs,
            // Parts are of one class of pods each.
            Access::Mixed(of) => counts = of,
        }
        Access::Mixed(counts)
    })
}

const fn add(one: Access, two: Access) -> Access {
    match (one, two) {
        (Access::Mixed(one), Access::Mixed(two)) => Access::Mixed(Counts {
            allow: one.allow.saturating_add(two.allow),
            deny: one.deny.saturating_add(two.deny),
            unknown: one.unknown.saturating_add(two.unknown),
        }),
        (one, _) => one,
    }
}

/// Counts that agree are a plain verdict; all unknown stays counted until its reason is known.
const fn settle(access: Access) -> Access {
    match access {
        Access::Mixed(counts) if counts.deny == 0 && counts.unknown == 0 => Access::Allow,
        Access::Mixed(counts) if counts.allow == 0 && counts.unknown == 0 => Access::Deny,
        of => of,
    }
}
