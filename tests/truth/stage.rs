//! In which order things happen in a group, and what its policies look like: some enforcers show their nature only when pods
//! come, policies go, they themselves are struck, or policies are written in one way and not in another.

use std::time::Duration;

use anyhow::Result;
use polproof_tests::lab::Lab;
use polproof_tests::lab::enforcers::{Drill, Entry};

use crate::cell::{Cell, Path, Said, State};
use crate::facts::Taps;
use crate::policies::{self, ALONE, DEFAULT_DENY};
use crate::scene::{Scene, roles};
use crate::traffic::Traffic;

/// Until everything is up on a busy machine.
pub(crate) const UP: Duration = Duration::from_secs(120);

/// The order of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Pods and policies, then the enforcer, then agents; traffic when all of it is old.
    Settled,
    /// The same, and what isolates the destinations is one policy with a named port.
    Alone,
    /// The same, and pods are admitted by their addresses.
    Blocks,
    /// The same, and a pod that may send stands before all sources in the order of names.
    Led,
    /// The policies come after the enforcer has ceased to take notice.
    Unnoticed,
    /// A policy that isolated everybody goes; the others stay.
    Freed,
    /// Traffic while the enforcer is upgraded.
    Upgraded(Duration),
    /// The enforcer dies, and pods are made again; traffic when they are old.
    Remade(End),
    /// Two destinations are made again, and traffic comes at once.
    Young,
}

/// Pods of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Sources,
    Destinations,
}

/// What the packets of a group have to show, or it has shown nothing of its enforcer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shows {
    /// Something that is denied gets through.
    Leak,
    /// Something that is allowed gets through to nobody, while something else does.
    Block,
    /// The same, and nothing else does either.
    CutOff,
}

impl Stage {
    /// Those that suit an enforcer.
    pub(crate) fn all_of(entry: &Entry) -> Vec<Self> {
        match (entry.drill, entry.name) {
            (Some(Drill::Upgraded(open)), _) => vec![Self::Upgraded(open)],
            (Some(Drill::Died), "dead-cuts-off") => {
                vec![Self::Remade(End::Destinations), Self::Remade(End::Sources)]
            }
            (Some(Drill::Died), _) => vec![Self::Remade(End::Destinations)],
            (None, "stale" | "tcx-frozen") => vec![Self::Unnoticed],
            (None, "denies-stay") => vec![Self::Freed],
            (None, "named-ports-refused") => vec![Self::Settled, Self::Alone],
            (None, "shared-rules") => vec![Self::Settled, Self::Led],
            (None, "ipblock-misses-pods") => vec![Self::Blocks],
            // Where nothing is denied for want of a block, and where nothing is denied at all.
            (None, "iptables-drop" | "none") => vec![Self::Settled, Self::Blocks],
            (None, name) if name.starts_with("lagging") || name.starts_with("new-pod") => {
                vec![Self::Young]
            }
            _ => vec![Self::Settled],
        }
    }

    /// What it is called beside an enforcer that is tried in several ways, or in another than most.
    pub(crate) const fn label(self) -> Option<&'static str> {
        match self {
            Self::Alone => Some("no default deny"),
            Self::Blocks => Some("ipBlock"),
            Self::Led => Some("an open pod first"),
            Self::Remade(End::Sources) => Some("new sources"),
            Self::Settled
            | Self::Unnoticed
            | Self::Freed
            | Self::Upgraded(_)
            | Self::Remade(End::Destinations)
            | Self::Young => None,
        }
    }

    /// Whether a cell belongs to it: where moments count, the lab has to be small.
    pub(crate) fn has(self, cell: &Cell) -> bool {
        let brief = matches!(self, Self::Young | Self::Upgraded(_));
        let direct = matches!(cell.path, Path::SameNode | Path::Across);
        !brief || direct && cell.state.role() == "plain" && cell.state != State::FullBacklog
    }

    /// What the packets have to show of the enforcer.
    pub(crate) fn must_show(self, entry: &Entry) -> &'static [Shows] {
        match (self, entry.name) {
            (Self::Unnoticed | Self::Upgraded(_) | Self::Young, _) => &[Shows::Leak],
            (Self::Alone | Self::Led, _) | (Self::Blocks, "none") => &[Shows::Leak],
            (Self::Freed, _) => &[Shows::Block],
            (Self::Remade(End::Destinations), "dead-leaves-open") => &[Shows::Leak, Shows::Block],
            (Self::Remade(End::Destinations), _) => &[Shows::CutOff],
            (Self::Remade(End::Sources), _) => &[Shows::Block],
            (Self::Settled, "named-ports-refused" | "shared-rules")
            | (Self::Blocks, "ipblock-misses-pods") => &[Shows::Block],
            (Self::Settled | Self::Blocks, _) => &[],
        }
    }

    /// What the policies say about a cell's source when there is traffic.
    pub(crate) const fn said(self, said: Said) -> Said {
        match (self, said) {
            (Self::Freed, Said::DeniedEgress) => Said::Allowed,
            (Self::Freed, Said::DeniedBoth) => Said::DeniedIngress,
            (_, said) => said,
        }
    }

    /// Brings in policies and enforcer.
    pub(crate) fn begin(self, lab: &mut Lab, entry: &Entry, scene: &mut Scene) -> Result<()> {
        let policies = match self {
            Self::Alone => ALONE.to_owned(),
            Self::Blocks => policies::by_block(scene)?,
            _ => policies::by_selector(),
        };
        if self == Self::Led {
            scene.lead(lab)?;
        }
        if self == Self::Unnoticed {
            lab.set_enforcer(entry.make())?;
            return lab.apply(&policies);
        }
        lab.apply(&policies)?;
        lab.set_enforcer(entry.make())?;
        if self == Self::Freed {
            lab.delete("NetworkPolicy", "t", DEFAULT_DENY)?;
        }
        Ok(())
    }

    /// What happens once the agents watch, and after which everything is to grow old.
    pub(crate) fn strike(
        self,
        lab: &mut Lab,
        entry: &Entry,
        scene: &mut Scene,
        cells: &[Cell],
    ) -> Result<()> {
        let Self::Remade(end) = self else {
            return Ok(());
        };
        if let Some(drill) = entry.drill {
            lab.befall(&drill.event())?;
        }
        match end {
            End::Sources => scene.make_sources(lab)?,
            End::Destinations => {
                for role in roles(cells) {
                    scene.make(lab, role, cells)?;
                }
            }
        }
        lab.wait_ready(UP)
    }

    /// What happens just before the traffic, or begins it.
    pub(crate) fn touch_off(
        self,
        lab: &mut Lab,
        entry: &Entry,
        scene: &mut Scene,
        cells: &[Cell],
        (taps, traffic): (&mut Taps, &mut Traffic),
    ) -> Result<()> {
        match self {
            Self::Upgraded(_) => match entry.drill {
                Some(drill) => lab.befall(&drill.event()),
                None => Ok(()),
            },
            Self::Young => {
                for node in 0..2 {
                    let pod = scene.make_one(lab, "plain", node, cells)?;
                    taps.add(lab, &pod)?;
                    let for_it = cells.iter().filter(|cell| cell.destinations() == [&*pod]);
                    traffic.start(lab, scene, for_it)?;
                }
                traffic.rounds += 1;
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
