//! Processor time of an operation with the programs at both ends, over that without.
//!
//! The ends are those of one wire, so that what the operation costs at both of them is in the denominator as what the programs
//! cost at both of them is in the numerator: the ratio is that of each end.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use polproof_agent::observe::Means;

use super::load::Operation;
use super::wire::{Family, Wire};
use super::{Effort, median, print};

/// What is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Arm {
    /// Nothing: what the others are compared with.
    Nothing,
    /// Nothing, once more.
    Control,
    /// tcx programs that return at once: what the hook itself costs.
    Empty,
    /// Ours, by tcx.
    Tcx,
    /// Ours, by clsact.
    Clsact,
}

impl Arm {
    const ALL: [Self; 5] = [
        Self::Nothing,
        Self::Empty,
        Self::Tcx,
        Self::Control,
        Self::Clsact,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Nothing => "without",
            Self::Control => "control",
            Self::Empty => "empty",
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        }
    }
}

/// What one arm cost in one round.
type Costs = BTreeMap<(usize, usize), f64>;

pub(crate) fn measure(effort: Effort) -> Result<()> {
    let wire = Wire::new()?;
    let mut tcx = wire.ours(Means::Tcx)?;
    let mut clsact = wire.ours(Means::Clsact)?;
    let mut rounds: Vec<BTreeMap<Arm, Costs>> = Vec::new();
    costs(&wire, effort)?; // warm
    for round in 0..effort.rounds {
        let mut arms = Arm::ALL;
        // Each is first, and each comes after each, in turn.
        let length = arms.len();
        arms.rotate_left(round % length);
        if (round / length) % 2 == 1 {
            arms.reverse();
        }
        let mut this = BTreeMap::new();
        for arm in arms {
            let costs = match arm {
                Arm::Nothing | Arm::Control => costs(&wire, effort)?,
                Arm::Empty => {
                    let _empty = wire.empty()?;
                    costs(&wire, effort)?
                }
                Arm::Tcx => {
                    tcx.attach_to(&wire)?;
                    let costs = costs(&wire, effort)?;
                    tcx.detach_from(&wire)?;
                    costs
                }
                Arm::Clsact => {
                    clsact.attach_to(&wire)?;
                    let costs = costs(&wire, effort)?;
                    clsact.detach_from(&wire)?;
                    costs
                }
            };
            this.insert(arm, costs);
        }
        rounds.push(this);
    }
    report(&rounds)
}

fn costs(wire: &Wire, effort: Effort) -> Result<Costs> {
    let mut costs = Costs::new();
    for (operation, one) in Operation::ALL.iter().enumerate() {
        for (family, other) in Family::ALL.iter().enumerate() {
            costs.insert((operation, family), one.cost(wire, *other, effort)?);
        }
    }
    Ok(costs)
}

fn report(rounds: &[BTreeMap<Arm, Costs>]) -> Result<()> {
    for (operation, one) in Operation::ALL.iter().enumerate() {
        for (family, other) in Family::ALL.iter().enumerate() {
            let of = |arm: Arm| -> Result<Vec<f64>> {
                rounds
                    .iter()
                    .map(|round| round.get(&arm)?.get(&(operation, family)).copied())
                    .collect::<Option<_>>()
                    .context("an arm was not measured")
            };
            let (nothing, control) = (of(Arm::Nothing)?, of(Arm::Control)?);
            let name = |arm: Arm| format!("bpf.{}.{}.{}", one.name(), other.name(), arm.name());
            print(&name(Arm::Nothing), median(nothing.clone()), "us/operation");
            let without: Vec<f64> = nothing
                .iter()
                .zip(&control)
                .map(|(one, other)| (one + other) / 2.0)
                .collect();
            let ratio = |costs: &[f64], base: &[f64]| {
                median(
                    costs
                        .iter()
                        .zip(base)
                        .map(|(cost, base)| cost / base)
                        .collect(),
                )
            };
            print(&name(Arm::Control), ratio(&control, &nothing), "ratio");
            for arm in [Arm::Empty, Arm::Tcx, Arm::Clsact] {
                print(&name(arm), ratio(&of(arm)?, &without), "ratio");
            }
        }
    }
    Ok(())
}
