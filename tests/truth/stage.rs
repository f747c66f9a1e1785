//! In which order things happen in a group: some enforcers show their nature only when pods come, policies go or they
//! themselves are struck.

use std::time::Duration;

use anyhow::Result;
use polproof_tests::lab::Lab;
use polproof_tests::lab::enforcers::{Drill, Entry};

use crate::cell::{Cell, Path, Said, State};
use crate::scene::{POLICIES, Scene, roles};

/// Until everything is up on a busy machine.
pub(crate) const UP: Duration = Duration::from_secs(120);

/// The order of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Pods and policies, then the enforcer, then agents; traffic when all of it is old.
    Settled,
    /// The policies come after the enforcer has ceased to take notice.
    Unnoticed,
    /// A policy that isolated everybody goes; the others stay.
    Freed,
    /// Traffic while the enforcer is upgraded.
    Upgraded(Duration),
    /// The enforcer dies, and all destinations are made again; traffic when they are old.
    Remade,
    /// Two destinations are made again, and traffic comes at once.
    Young,
}

impl Stage {
    /// The one that suits an enforcer.
    pub(crate) fn of(entry: &Entry) -> Self {
        match (entry.drill, entry.name) {
            (Some(Drill::Upgraded(open)), _) => Self::Upgraded(open),
            (Some(Drill::Died), _) => Self::Remade,
            (None, "stale" | "tcx-frozen") => Self::Unnoticed,
            (None, "denies-stay") => Self::Freed,
            (None, name) if name.starts_with("lagging") || name.starts_with("new-pod") => {
                Self::Young
            }
            _ => Self::Settled,
        }
    }

    /// Whether a cell belongs to it: where moments count, the lab has to be small.
    pub(crate) fn has(self, cell: &Cell) -> bool {
        let brief = matches!(self, Self::Young | Self::Upgraded(_));
        let direct = matches!(cell.path, Path::SameNode | Path::Across);
        !brief || direct && cell.state.role() == "plain" && cell.state != State::FullBacklog
    }

    /// Whether something that is denied must get through, or the group has shown nothing.
    pub(crate) fn must_leak(self, entry: &Entry) -> bool {
        match self {
            Self::Settled | Self::Freed => false,
            Self::Unnoticed | Self::Upgraded(_) => true,
            Self::Remade => entry.name == "dead-leaves-open",
            Self::Young => entry.name.starts_with("lagging"),
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
    pub(crate) fn begin(self, lab: &mut Lab, entry: &Entry) -> Result<()> {
        if self == Self::Unnoticed {
            lab.set_enforcer(entry.make())?;
            return lab.apply(POLICIES);
        }
        lab.apply(POLICIES)?;
        lab.set_enforcer(entry.make())?;
        if self == Self::Freed {
            lab.delete("NetworkPolicy", "t", "default-deny")?;
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
        if self == Self::Remade {
            if let Some(drill) = entry.drill {
                lab.befall(&drill.event())?;
            }
            for role in roles(cells) {
                scene.make_again(lab, role, cells)?;
            }
            lab.wait_ready(UP)?;
        }
        Ok(())
    }

    /// What happens just before the traffic.
    pub(crate) fn touch_off(
        self,
        lab: &mut Lab,
        entry: &Entry,
        scene: &mut Scene,
        cells: &[Cell],
    ) -> Result<()> {
        match self {
            Self::Upgraded(_) => match entry.drill {
                Some(drill) => lab.befall(&drill.event()),
                None => Ok(()),
            },
            Self::Young => scene.make_again(lab, "plain", cells),
            _ => Ok(()),
        }
    }
}
