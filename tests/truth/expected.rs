//! What may be said of a cell, given what happened: the one finding that is right, and for which reasons it may be missing.

use polproof_policy::Protocol;
use polproof_proto::v1::{FindingKind, InconclusiveReason as Reason};
use polproof_tests::lab::tap::What;

use crate::cell::{Cell, Path, Said, State};
use crate::facts::Fact;
use crate::stage::Stage;

/// What must be found, and why it may be missing. Any other finding is false. Where nothing is right, but there are reasons, one of
/// them has to be told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Expected {
    /// The finding that is right.
    pub(crate) right: Option<FindingKind>,
    /// For which reasons it may be missing; empty: for none.
    pub(crate) excuses: Vec<Reason>,
}

impl Expected {
    const fn silence() -> Self {
        Self {
            right: None,
            excuses: Vec::new(),
        }
    }

    fn open(reason: Reason) -> Self {
        Self {
            right: None,
            excuses: vec![reason],
        }
    }

    fn find(right: FindingKind, excuses: &[Reason]) -> Self {
        Self {
            right: Some(right),
            excuses: excuses.to_vec(),
        }
    }
}

/// How often a cell is tried: over-blocking is only said after three times.
pub(crate) const ATTEMPTS: usize = 3;

/// Why nothing may be said of a pod's first moments.
const YOUNG: &[Reason] = &[
    Reason::WithinGrace,
    Reason::AttachedLate,
    Reason::DestinationUnidentified,
    Reason::SnapshotNotReady,
];

/// And of datagrams, where the namespace was found soon after the agent's start.
const YOUNG_UDP: &[Reason] = &[
    Reason::WithinGrace,
    Reason::AttachedLate,
    Reason::DestinationUnidentified,
    Reason::SnapshotNotReady,
    Reason::FlowBegunBefore,
];

/// What must be said of a cell. `way_open`: something else got through to the destination at that time, and was answered.
pub(crate) fn expected(cell: Cell, stage: Stage, facts: &[Fact], way_open: bool) -> Expected {
    let delivered = facts.iter().any(|fact| fact.arrived.is_some());
    if cell.path == Path::Hairpin {
        // What a pod sends to itself is none of the policies' business.
        return Expected::silence();
    }
    if stage.said(cell.said) != Said::Allowed {
        return if !delivered {
            Expected::silence()
        } else if stage == Stage::Young {
            let excuses = if cell.protocol == Protocol::Udp {
                YOUNG_UDP
            } else {
                YOUNG
            };
            Expected::find(FindingKind::StartupGap, excuses)
        } else {
            violation(cell, facts)
        };
    }
    let lost = |fact: &Fact| fact.answer == Some(What::Accepted) && fact.back.is_none();
    if facts.iter().any(lost) {
        let excuses: &[Reason] = match (cell.protocol, cell.path) {
            // No number of its own, so what was translated is not found again.
            (Protocol::Udp, Path::NodePort | Path::Service) => &[
                Reason::UdpSilence,
                Reason::SourceIsNode,
                Reason::TooFewAttempts,
            ],
            // Datagrams of one flow are one attempt.
            (Protocol::Udp, _) => &[Reason::UdpSilence, Reason::TooFewAttempts],
            // Three attempts, and two ends to go to.
            (_, Path::Service) => &[Reason::TooFewAttempts],
            _ => &[],
        };
        return Expected::find(FindingKind::ReplyLost, excuses);
    }
    if delivered || facts.is_empty() || stage == Stage::Young {
        return Expected::silence();
    }
    if stage == Stage::Blocks {
        return in_no_block(cell);
    }
    over_blocked(cell, facts, way_open)
}

/// It is admitted by a block that holds the pod's address, if blocks hold pods at all, and reached nobody: nobody is to blame.
fn in_no_block(cell: Cell) -> Expected {
    match cell.path {
        Path::SameNode | Path::Across => Expected::open(Reason::ExpectationUnknown),
        // Nor is it known which address is compared with the block.
        Path::Service => Expected::open(Reason::TranslatedAddress),
        Path::NodePort | Path::Hairpin => Expected::silence(),
    }
}

/// It was denied and delivered.
fn violation(cell: Cell, facts: &[Fact]) -> Expected {
    let answered = facts.iter().any(|fact| fact.answer.is_some());
    if !answered && cell.state == State::Firewall {
        // The pod stopped what the network let through: nobody can say from outside that the pod would have taken it.
        return Expected::silence();
    }
    let mut excuses = Vec::new();
    if cell.state == State::Sidecar {
        excuses.push(Reason::InPodFilter);
    }
    if cell.path == Path::NodePort && cell.protocol == Protocol::Udp {
        // Masqueraded, and without a number of its own: nobody can name the source.
        excuses.extend([Reason::SourceIsNode, Reason::SourceUnidentified]);
    }
    Expected::find(FindingKind::Unenforced, &excuses)
}

/// It was allowed and reached nobody.
fn over_blocked(cell: Cell, facts: &[Fact], way_open: bool) -> Expected {
    if cell.path == Path::NodePort {
        // What it came as is not what the policies admit: whether they are asked before or after masquerading, the API leaves open.
        return Expected::silence();
    }
    let mut excuses = Vec::new();
    if !way_open {
        // It may have been the way: nobody is to blame.
        excuses.push(Reason::NoControl);
    }
    if facts.len() < ATTEMPTS {
        excuses.push(Reason::TooFewAttempts);
    }
    if cell.path == Path::Service {
        // Nobody saw to which backend it would have gone.
        excuses.extend([
            Reason::MixedEndpoints,
            Reason::WitnessIncomplete,
            Reason::NoWitness,
        ]);
    }
    if cell.protocol == Protocol::Udp {
        // Datagrams of one flow are one attempt.
        excuses.extend([Reason::UdpSilence, Reason::TooFewAttempts]);
    }
    Expected {
        right: way_open.then_some(FindingKind::OverBlocked),
        excuses,
    }
}
