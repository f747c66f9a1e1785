//! By which means programs come onto eth0.

use std::time::Duration;

use aya::programs::{ProgramError, SchedClassifier, TcAttachType};

use super::error::ObserveError;

/// How the programs are attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Means {
    /// tcx links (Linux 6.6): pinned, so that they are ours alone to take away.
    Tcx,
    /// Filters of the classic clsact qdisc, which live as long as the device, and which others may take away.
    Clsact,
}

impl Means {
    /// How often a hook must be asked whether our programs are still there. A pinned link is taken away by nobody without
    /// meaning to; a filter goes with a qdisc that somebody resets. A witness says "not seen" two seconds after the
    /// moment at the earliest, so that by then a loss of filters is known.
    pub fn recheck(self) -> Duration {
        match self {
            Self::Tcx => Duration::from_secs(30),
            Self::Clsact => Duration::from_secs(1),
        }
    }

    /// The best that the running kernel has, found by asking what only a kernel with tcx can answer.
    pub(super) fn of_running_kernel() -> Result<Self, ObserveError> {
        // Every network namespace has this interface.
        match SchedClassifier::query_tcx("lo", TcAttachType::Ingress) {
            Ok(_) => Ok(Self::Tcx),
            Err(error) if is_unknown(&error) => Ok(Self::Clsact),
            Err(error) => Err(error.into()),
        }
    }
}

/// The kernel's answer to a question that it does not know; lacking privileges is another one.
fn is_unknown(error: &ProgramError) -> bool {
    matches!(error, ProgramError::SyscallError(error) if error.io_error.raw_os_error() == Some(libc::EINVAL))
}
