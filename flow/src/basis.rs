//! What attempts that are judged together rest on.

use crate::finding::{Answer, InconclusiveReason};

/// What the witnesses at the other end said of the attempts of one group.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Words {
    /// They bear out so many.
    pub(crate) witnessed: u64,
    /// They refute one: then only those are believed that were borne out.
    pub(crate) refuted: Option<InconclusiveReason>,
    /// Some of them were not accepted: a filter in the pod may have taken or refused them.
    pub(crate) bare: bool,
}

impl Words {
    pub(crate) fn basis(self) -> Basis {
        Basis {
            refused: self.refuted.filter(|_| self.witnessed == 0),
            witnessed: self.witnessed > 0,
            bare: self.bare,
        }
    }
}

/// What the attempts of one group rest on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Basis {
    /// Why none is believed, if so.
    pub(crate) refused: Option<InconclusiveReason>,
    /// The witness at the other end has seen one, too.
    pub(crate) witnessed: bool,
    /// Some rest on nothing but that no filter in the pod can have refused or taken them.
    pub(crate) bare: bool,
}

/// Whether an attempt proves nothing if something filters in the pod.
pub(crate) const fn is_bare(answer: Answer) -> bool {
    matches!(answer, Answer::Refused | Answer::Delivered)
}
