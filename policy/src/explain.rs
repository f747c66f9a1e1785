//! The walk behind a verdict, in plain values that people-facing code prints.

use crate::model::Direction;

/// The walk behind a verdict.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Explanation {
    /// `allow`, `deny` or `unknown: reason`.
    pub verdict: String,
    /// Egress first, then ingress.
    pub directions: Vec<DirectionExplanation>,
}

/// The walk of one direction.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct DirectionExplanation {
    /// Which direction.
    pub direction: Direction,
    /// `allow`, `deny` or `unknown: reason`.
    pub verdict: String,
    /// One sentence that says why.
    pub because: String,
    /// `namespace/name` of each policy that isolates, and its rules: admits or why not.
    pub policies: Vec<PolicyExplanation>,
}

/// What one policy said.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct PolicyExplanation {
    /// `namespace/name`.
    pub policy: String,
    /// One line a rule: "rule 0 admits: ..." or "rule 1 does not: port 80/TCP is not 5432/TCP".
    pub rules: Vec<String>,
}

pub(crate) fn explain(_s: &crate::Snapshot, _q: &crate::Query<'_>) -> Explanation {
    todo!()
}
