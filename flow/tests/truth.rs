//! Random traffic between two nodes, under a policy that comes and goes and a network that does what it likes: what is settled is
//! the truth, and all of it.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

mod world;

use polproof_flow::finding::{End, FindingKind, InconclusiveReason as Reason};
use polproof_policy::State;
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;
use world::pair::*;
use world::{apply_policy, delete_policy, guard};

const PODS: [(&str, At); 4] = [
    ("client", CLIENT),
    ("friend", FRIEND),
    ("server", SERVER),
    ("neighbour", NEIGHBOUR),
];
const END: f64 = 220.0;

#[derive(Clone, Debug)]
struct Plan {
    at: f64,
    from: usize,
    to: usize,
    fate: Fate,
}

fn plan() -> impl Strategy<Value = Plan> {
    let at = (450..1_800_u32).prop_map(|tenths| f64::from(tenths) / 10.0);
    // Most talk to the server.
    let ends = prop_oneof![3 => Just(2_usize), 1 => 0..4_usize];
    (at, 0..4_usize, ends, 0..FATES.len()).prop_map(|(at, from, to, fate)| Plan {
        at,
        from: if from == to { (from + 1) % 4 } else { from },
        to,
        fate: FATES[fate],
    })
}

/// How often questions are late, and records lost.
#[derive(Clone, Debug)]
struct Weather {
    delay: usize,
    lost: Option<f64>,
    away: Option<usize>,
}

fn weather() -> impl Strategy<Value = Weather> {
    (
        0..20_usize,
        proptest::option::weighted(0.3, 45..180_u32),
        proptest::option::weighted(0.3, 0..2_usize),
    )
        .prop_map(|(delay, lost, away)| Weather {
            delay,
            lost: lost.map(f64::from),
            away,
        })
}

fn run(plans: &[Plan], flips: &[f64], weather: &Weather) -> Nodes {
    let mut state: State = two_nodes();
    let mut nodes = Nodes::new(&state);
    nodes.delay = weather.delay;
    if let Some(node) = weather.away {
        nodes.reachable[node] = false;
    }
    let mut events: Vec<(f64, Option<&Plan>)> =
        plans.iter().map(|plan| (plan.at, Some(plan))).collect();
    events.extend(flips.iter().map(|at| (*at, None)));
    events.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut present = true;
    for (at, plan) in events {
        nodes.run(at);
        match plan {
            Some(plan) => nodes.attempt(PODS[plan.from].1, PODS[plan.to].1, 80, plan.fate),
            None => {
                present = !present;
                if present {
                    apply_policy(&mut state, guard(1));
                } else {
                    delete_policy(&mut state);
                }
                nodes.view(&state, nodes.now);
            }
        }
        if let Some(lost) = weather.lost
            && (lost..lost + 0.2).contains(&nodes.now)
        {
            for (n, judge) in nodes.judges.iter_mut().enumerate() {
                judge.on_lost(on(n, nodes.now - 1.0), on(n, nodes.now));
            }
        }
    }
    nodes.run(END);
    nodes
}

/// Whether the policy was there from `before` seconds before a moment until `after` seconds after it; `None` if it came or
/// went then. It is there from 1 s on.
fn constant(flips: &[f64], at: f64, before: f64, after: f64) -> Option<bool> {
    if flips
        .iter()
        .any(|flip| (at - before..=at + after).contains(flip))
    {
        return None;
    }
    Some(flips.iter().filter(|flip| **flip < at).count() % 2 == 0)
}

fn denied(plan: &Plan) -> bool {
    plan.to == 2 && plan.from != 1
}

fn named(end: &End) -> usize {
    let End::Pod(id, _) = end else {
        panic!("{end:?}");
    };
    PODS.iter()
        .position(|(name, _)| *name == &*id.name)
        .unwrap()
}

fn check(plans: &[Plan], flips: &[f64], weather: &Weather) -> Result<(), TestCaseError> {
    let nodes = run(plans, flips, weather);
    for (pair, plan) in plans.iter().map(|plan| ((plan.from, plan.to), plan)) {
        let mut settled = 0;
        for book in &nodes.books {
            for (key, sum) in &book.findings {
                prop_assert_eq!(
                    sum.observed,
                    sum.settled + sum.retracted,
                    "{:?} {:?}",
                    key,
                    sum
                );
                prop_assert!(sum.witnessed <= sum.settled);
                let delivered = matches!(
                    key.kind,
                    FindingKind::Unenforced | FindingKind::LateEnforcement
                );
                if delivered && (named(&key.source), named(&key.destination)) == pair {
                    settled += sum.settled;
                }
            }
        }
        let same =
            |other: &&Plan| (other.from, other.to) == pair && denied(plan) && other.fate.arrives();
        let surely = plans.iter().filter(same);
        let surely = surely
            .filter(|other| constant(flips, other.at, 31.0, 6.5) == Some(true))
            .count() as u64;
        let perhaps = plans.iter().filter(same);
        let perhaps = perhaps
            .filter(|other| constant(flips, other.at, 29.5, 4.5) == Some(true))
            .count() as u64;
        prop_assert!(
            (surely..=perhaps).contains(&settled),
            "{pair:?}: {settled} of {surely} to {perhaps}"
        );
    }
    for (n, book) in nodes.books.iter().enumerate() {
        for (key, sum) in &book.findings {
            let pair = (named(&key.source), named(&key.destination));
            let failed = |wanted: fn(Fate) -> bool| {
                plans
                    .iter()
                    .filter(|plan| (plan.from, plan.to) == pair && wanted(plan.fate))
                    .filter(|plan| {
                        !denied(plan) || constant(flips, plan.at, 29.5, 1.0) == Some(false)
                    })
                    .count() as u64
            };
            match key.kind {
                FindingKind::OverBlocked => {
                    let lost =
                        failed(|fate| matches!(fate, Fate::Dropped | Fate::Reset | Fate::Icmp));
                    prop_assert!(sum.observed >= 3 && sum.observed <= lost, "{key:?} {sum:?}");
                    prop_assert!(
                        plans.iter().any(|plan| plan.to == pair.1
                            && PODS[plan.from].1.0 == n
                            && plan.fate.arrives()),
                        "no control"
                    );
                    prop_assert!(weather.away != Some(PODS[pair.1].1.0) || PODS[pair.1].1.0 == n);
                }
                FindingKind::ReplyLost => {
                    let lost = failed(|fate| fate == Fate::ReplyLost);
                    prop_assert!(sum.observed >= 3 && sum.observed <= lost);
                }
                FindingKind::Unenforced | FindingKind::LateEnforcement => {}
                FindingKind::StartupGap | FindingKind::Survivor => {
                    prop_assert!(false, "{key:?}");
                }
            }
        }
        // Every address is a pod's own, and every pod is known.
        for reason in [
            Reason::SourceUnidentified,
            Reason::SourceIsNode,
            Reason::SourceAmbiguous,
            Reason::MixedEndpoints,
        ] {
            prop_assert_eq!(book.inconclusive.get(&reason), None);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 64,
        failure_persistence: Some(Box::new(FileFailurePersistence::Off)),
        ..ProptestConfig::default()
    })]

    #[test]
    fn what_is_settled_is_the_truth(
        plans in proptest::collection::vec(plan(), 1..80),
        flips in proptest::collection::vec((300..2_000_u32).prop_map(|t| f64::from(t) / 10.0), 0..4),
        weather in weather(),
    ) {
        check(&plans, &flips, &weather)?;
    }

    #[test]
    fn a_network_that_does_as_it_should_is_accused_of_nothing(
        plans in proptest::collection::vec(plan(), 1..80),
        flips in proptest::collection::vec((300..2_000_u32).prop_map(|t| f64::from(t) / 10.0), 0..8),
        // How long it takes to follow.
        lag in 0..25_u32,
        weather in weather(),
    ) {
        let mut plans = plans;
        for plan in &mut plans {
            let then = plan.at - f64::from(lag);
            let present = flips.iter().filter(|flip| **flip < then).count() % 2 == 0;
            plan.fate = match (denied(plan) && present, plan.fate) {
                (true, fate) if fate.arrives() => Fate::Dropped,
                (false, Fate::Dropped | Fate::Reset | Fate::Icmp | Fate::ReplyLost | Fate::Elsewhere) => Fate::Accepted,
                (_, Fate::Elsewhere) => Fate::Reset,
                (_, fate) => fate,
            };
        }
        let nodes = run(&plans, &flips, &weather);
        for book in &nodes.books {
            prop_assert!(
                book.findings.values().all(|sum| sum.settled == 0),
                "{:#?}",
                book.findings
            );
        }
    }
}
