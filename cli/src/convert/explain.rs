//! Explanations: the collector's and the engine's own, in one shape.

use polproof_policy::{ask, explain};
use polproof_proto::v1;

use super::direction;
use crate::printable::printable;
use crate::view::{Case, Family, Pairs, Policy, Tier, Walk, Walked};

/// An answer, from wherever it comes.
#[derive(Debug)]
pub(crate) struct Answered {
    /// The port that was asked for, or that stands for none; nothing from an older collector.
    pub(crate) port: Option<u16>,
    /// What is worth knowing of the ends.
    pub(crate) notes: Vec<String>,
    /// One for each family.
    pub(crate) families: Vec<Family>,
}

/// The collector's answer.
pub(crate) fn replied(response: v1::ExplainResponse) -> Answered {
    Answered {
        port: u16::try_from(response.port).ok().filter(|port| *port > 0),
        notes: response.notes.into_iter().map(printable).collect(),
        families: response.explanations.into_iter().map(family).collect(),
    }
}

fn family(mut explanation: v1::Explanation) -> Family {
    let others = std::mem::take(&mut explanation.others);
    let mut pairs = Pairs::default();
    for case in std::iter::once(&explanation).chain(&others) {
        // An older collector says nothing of pairs: it has one.
        count(&mut pairs, &case.verdict, case.pairs.max(1));
    }
    let name = printable(explanation.family.clone());
    let first = case(explanation);
    joined(name, pairs, first, others.into_iter().map(case).collect())
}

fn count(pairs: &mut Pairs, verdict: &str, by: u64) {
    match verdict {
        "allow" => pairs.allow += by,
        "deny" => pairs.deny += by,
        _ => pairs.unknown += by,
    }
}

fn joined(family: String, pairs: Pairs, first: Case, others: Vec<Case>) -> Family {
    let agree = others.is_empty();
    Family {
        family,
        verdict: if agree {
            first.verdict.clone()
        } else {
            "mixed".to_owned()
        },
        reason: if agree { first.reason } else { String::new() },
        pairs,
        walked: first.walked,
        first: first.verdict,
        others,
    }
}

fn case(explanation: v1::Explanation) -> Case {
    Case {
        verdict: printable(explanation.verdict),
        reason: printable(explanation.reason),
        walked: Walked {
            source: printable(explanation.source),
            source_address: printable(explanation.source_address),
            destination: printable(explanation.destination),
            destination_address: printable(explanation.destination_address),
            port: explanation.port,
            directions: explanation
                .directions
                .into_iter()
                .map(|walk| Walk {
                    direction: direction(walk.direction),
                    verdict: printable(walk.verdict),
                    reason: printable(walk.reason),
                    because: printable(walk.because),
                    tiers: walk
                        .tiers
                        .into_iter()
                        .map(|said| Tier {
                            tier: tier(said.tier()),
                            says: printable(said.says),
                            present: said.present,
                        })
                        .collect(),
                    policies: walk
                        .policies
                        .into_iter()
                        .map(|said| Policy {
                            tier: tier(said.tier()),
                            policy: printable(said.policy),
                            kind: printable(said.kind),
                            priority: said.priority,
                            rules: said.rules.into_iter().map(printable).collect(),
                        })
                        .collect(),
                    nearest: printable(walk.nearest),
                    notes: walk.notes.into_iter().map(printable).collect(),
                })
                .collect(),
        },
    }
}

const fn tier(tier: v1::PolicyTier) -> &'static str {
    match tier {
        v1::PolicyTier::Admin => "Admin",
        // An older collector knows this one only.
        v1::PolicyTier::NetworkPolicy | v1::PolicyTier::Unspecified => "NetworkPolicy",
        v1::PolicyTier::Baseline => "Baseline",
    }
}

/// The engine's own answer.
pub(crate) fn answered(reply: ask::Reply) -> Answered {
    let families = reply
        .answers
        .into_iter()
        .filter_map(|answer| {
            let pairs = Pairs {
                allow: answer.counts.allow as u64,
                deny: answer.counts.deny as u64,
                unknown: answer.counts.unknown as u64,
            };
            let mut cases = answer.cases.into_iter().map(own_case);
            let first = cases.next()?;
            let family = ask::family_name(answer.family).to_owned();
            Some(joined(family, pairs, first, cases.collect()))
        })
        .collect();
    Answered {
        port: Some(reply.port),
        notes: reply.notes.into_iter().map(printable).collect(),
        families,
    }
}

fn own_case(case: ask::Case) -> Case {
    Case {
        verdict: printable(case.explanation.verdict),
        reason: case.explanation.reason.unwrap_or_default(),
        walked: Walked {
            source: printable(case.source),
            source_address: case.source_ip.to_string(),
            destination: printable(case.destination),
            destination_address: case.destination_ip.to_string(),
            port: u32::from(case.port),
            directions: case.explanation.directions.into_iter().map(walk).collect(),
        },
    }
}

/// The engine's own walk, egress first.
pub(crate) fn walks(explanation: explain::Explanation) -> Vec<Walk> {
    explanation.directions.into_iter().map(walk).collect()
}

/// The engine's own walk of one direction.
fn walk(walk: explain::DirectionExplanation) -> Walk {
    Walk {
        direction: match walk.direction {
            polproof_policy::Direction::Ingress => "ingress",
            polproof_policy::Direction::Egress => "egress",
        },
        verdict: printable(walk.verdict),
        reason: walk.reason.unwrap_or_default(),
        because: printable(walk.because),
        tiers: walk
            .tiers
            .into_iter()
            .map(|said| Tier {
                tier: said.tier.name(),
                says: printable(said.says),
                present: said.present,
            })
            .collect(),
        policies: walk
            .policies
            .into_iter()
            .map(|said| Policy {
                policy: printable(said.policy),
                kind: said.kind,
                tier: said.tier.name(),
                priority: said.priority.map(u32::from),
                rules: said.rules.into_iter().map(printable).collect(),
            })
            .collect(),
        nearest: printable(walk.nearest.unwrap_or_default()),
        notes: walk.notes.into_iter().map(printable).collect(),
    }
}
