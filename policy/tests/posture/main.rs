//! The lints that look at classes of pods and at sorted ranges find what looking at every pair and every address finds.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod cluster;
mod naive;

use std::collections::{BTreeMap, BTreeSet};

use cluster::{World, world};
use polproof_policy::lint::{Input, Options, audit};
use polproof_policy::{Snapshot, State};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, TestRunner};

const LINTS: [&str; 8] = [
    "NP040", "NP041", "NP042", "NP050", "NP051", "NP071", "NP100", "NP101",
];

fn snapshot(world: &World) -> Snapshot {
    let mut state = State::new();
    for object in &world.objects {
        state.apply(object.clone());
    }
    state.set_refused_policies(world.refused.iter().cloned());
    state.snapshot()
}

fn findings(snapshot: &Snapshot) -> BTreeSet<(&'static str, String)> {
    let input = Input {
        snapshot,
        refused: &[],
    };
    let found = audit(input, &Options::default()).findings.into_iter();
    found
        .filter(|finding| LINTS.contains(&finding.lint))
        .map(|finding| (finding.lint, finding.subject))
        .collect()
}

proptest! {
    #![proptest_config(Config {
        cases: 2_000,
        failure_persistence: None,
        ..Config::default()
    })]

    #[test]
    fn fast_paths_find_what_every_pair_finds(world in world()) {
        let snapshot = snapshot(&world);
        prop_assert_eq!(findings(&snapshot), naive::findings(&snapshot));
    }
}

/// A property that is never tried is no property.
#[test]
fn random_clusters_have_findings_of_every_lint() {
    let mut runner = TestRunner::deterministic();
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for _ in 0..500 {
        let world = world().new_tree(&mut runner).unwrap().current();
        for (lint, _) in naive::findings(&snapshot(&world)) {
            *counts.entry(lint).or_default() += 1;
        }
    }
    for lint in LINTS {
        let count = counts.get(lint).copied().unwrap_or_default();
        assert!(count >= 10, "{lint}: {count} in 500 clusters; {counts:?}");
    }
}
