//! The difference as JSON and YAML.

use polproof_policy::Direction;
use polproof_policy::connectivity::{
    Change, Connectivity, Edit, Effect, OneSided, PortChange, Responsible,
};
use serde::Serialize;

use super::Found;
use crate::matrix::names;
use crate::matrix::view::{End, Verdictual};

/// `polproof diff -o json`.
#[derive(Debug, Serialize)]
pub(super) struct Diff {
    /// What was before.
    before: String,
    /// What is after.
    after: String,
    summary: Summary,
    /// Between workloads that are on both sides.
    changes: Vec<Changed>,
    /// Workloads that are new.
    new: Vec<Only>,
    /// Workloads that are gone.
    gone: Vec<Only>,
    /// Policies that were added, removed or changed.
    policies: Vec<Policy>,
}

/// Pairs of ends by what happened to them; a pair may count for several.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Summary {
    /// Whether connectivity between ends of both sides changed.
    pub(super) changed: bool,
    pub(super) opened: u64,
    pub(super) closed: u64,
    pub(super) became_unknown: u64,
    pub(super) became_known: u64,
    /// Ends on both sides, those outside included.
    pub(super) common: usize,
    pub(super) new: usize,
    pub(super) gone: usize,
}

#[derive(Debug, Serialize)]
struct Changed {
    /// Every one of these to every one of the destinations.
    sources: Vec<String>,
    destinations: Vec<String>,
    pairs: u64,
    ports: Vec<Ports>,
    /// Empty: pods or namespaces changed (labels, ports, addresses), no policy did.
    responsible: Vec<Because>,
}

#[derive(Debug, Serialize)]
struct Ports {
    /// `opened`, `closed`, `became_unknown`, `became_known`.
    effect: &'static str,
    families: Vec<&'static str>,
    protocol: String,
    first_port: u16,
    last_port: u16,
    before: Verdictual,
    after: Verdictual,
}

#[derive(Debug, Serialize)]
struct Because {
    /// `egress` of the source or `ingress` of the destination.
    direction: String,
    #[serde(flatten)]
    policy: Policy,
}

/// A policy that changed.
#[derive(Debug, Serialize)]
struct Policy {
    kind: &'static str,
    #[serde(skip_serializing_if = "str::is_empty")]
    namespace: String,
    name: String,
    /// `added`, `removed`, `changed`.
    change: &'static str,
}

#[derive(Debug, Serialize)]
struct Only {
    #[serde(flatten)]
    end: End,
    /// Workloads that may connect to it, on some port.
    allowed_from: u64,
    /// Workloads that it may connect to, on some port.
    allowed_to: u64,
    allowed_from_outside: bool,
    allowed_to_outside: bool,
}

const fn effect(of: Effect) -> &'static str {
    match of {
        Effect::Opened => "opened",
        Effect::Closed => "closed",
        Effect::BecameUnknown => "became_unknown",
        Effect::BecameKnown => "became_known",
    }
}

pub(super) const fn edit(of: Edit) -> &'static str {
    match of {
        Edit::Added => "added",
        Edit::Removed => "removed",
        Edit::Changed => "changed",
    }
}

impl Summary {
    pub(super) fn of(found: &Found) -> Self {
        let mut summary = Self {
            changed: !found.difference.changes.is_empty(),
            common: found.difference.common,
            new: found.difference.new.len(),
            gone: found.difference.gone.len(),
            ..Self::default()
        };
        for change in &found.difference.changes {
            let has = |effect| change.ports.iter().any(|of| of.effect() == effect);
            for (effect, count) in [
                (Effect::Opened, &mut summary.opened),
                (Effect::Closed, &mut summary.closed),
                (Effect::BecameUnknown, &mut summary.became_unknown),
                (Effect::BecameKnown, &mut summary.became_known),
            ] {
                if has(effect) {
                    *count = count.saturating_add(change.pairs);
                }
            }
        }
        summary
    }
}

fn names_of(of: &Connectivity, ends: &[usize]) -> Vec<String> {
    let ends = ends.iter().filter_map(|end| of.ends().get(*end));
    ends.map(ToString::to_string).collect()
}

impl Diff {
    pub(super) fn of(found: &Found) -> Self {
        let difference = &found.difference;
        Self {
            before: found.sides.before.name.clone(),
            after: found.sides.after.name.clone(),
            summary: Summary::of(found),
            changes: difference
                .changes
                .iter()
                .map(|of| changed(found, of))
                .collect(),
            new: one_sided(&found.after, &difference.new),
            gone: one_sided(&found.before, &difference.gone),
            policies: (0..difference.policies.changes.len())
                .filter_map(|at| policy(found, at))
                .collect(),
        }
    }
}

fn changed(found: &Found, of: &Change) -> Changed {
    Changed {
        sources: names_of(&found.after, &of.sources),
        destinations: names_of(&found.after, &of.destinations),
        pairs: of.pairs,
        ports: of.ports.iter().map(ports).collect(),
        responsible: of
            .responsible
            .iter()
            .filter_map(|of| because(found, of))
            .collect(),
    }
}

fn ports(of: &PortChange) -> Ports {
    Ports {
        effect: effect(of.effect()),
        families: of.families.iter().map(|of| names::family(*of)).collect(),
        protocol: of.protocol.to_string(),
        first_port: of.first,
        last_port: of.last,
        before: Verdictual::from(&of.before),
        after: Verdictual::from(&of.after),
    }
}

fn policy(found: &Found, at: usize) -> Option<Policy> {
    let of = found.difference.policies.changes.get(at)?;
    Some(Policy {
        kind: of.kind.name(),
        namespace: of.id.namespace.to_string(),
        name: of.id.name.to_string(),
        change: edit(of.edit),
    })
}

fn because(found: &Found, of: &Responsible) -> Option<Because> {
    Some(Because {
        direction: match of.direction {
            Direction::Ingress => "ingress".to_owned(),
            Direction::Egress => "egress".to_owned(),
        },
        policy: policy(found, of.policy)?,
    })
}

fn one_sided(of: &Connectivity, ends: &[OneSided]) -> Vec<Only> {
    ends.iter()
        .filter_map(|one| {
            Some(Only {
                end: End::from(of.ends().get(one.end)?),
                allowed_from: one.from,
                allowed_to: one.to,
                allowed_from_outside: one.from_outside,
                allowed_to_outside: one.to_outside,
            })
        })
        .collect()
}
