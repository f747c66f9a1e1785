//! How the command ends.

use crate::printable::printable;

/// Nothing is wrong.
pub(crate) const FINE: u8 = 0;
/// There are violations.
pub(crate) const VIOLATIONS: u8 = 1;
/// Wrong flags or bad input.
pub(crate) const USAGE: u8 = 2;
/// The collector or cluster cannot be reached.
const AWAY: u8 = 3;

/// An end with a message for stderr.
#[derive(Debug)]
pub(crate) struct Failure {
    /// One line: what, where, why, and what to do. Empty: nothing is to be said.
    pub(crate) message: String,
    /// The exit code.
    pub(crate) code: u8,
}

impl Failure {
    /// Bad input.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            code: USAGE,
        }
    }

    /// Nobody there, or nobody who answers.
    pub(crate) fn away(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            code: AWAY,
        }
    }

    /// What a status of the collector means for the person who asked.
    pub(crate) fn status(collector: &str, status: &tonic::Status) -> Self {
        use tonic::Code;
        let said = printable(status.message());
        match status.code() {
            Code::InvalidArgument | Code::NotFound | Code::OutOfRange => Self::usage(said),
            Code::Unimplemented => Self::away(format!(
                "the collector at {collector} does not know this request: it is older than this command; update it"
            )),
            Code::FailedPrecondition => Self::away(format!("the collector at {collector}: {said}")),
            Code::PermissionDenied | Code::Unauthenticated => Self::away(format!(
                "the collector at {collector} refuses our certificate: {said}"
            )),
            _ => Self::away(crate::connect::transport(collector, status)),
        }
    }
}
