//! What must hold of every cluster: the engine answers as the naive reference does, and how a
//! state came about does not matter.
//!
//! 2,000 random clusters a test, with 10 or 12 questions each; `PROPTEST_CASES` sets another number. How often each feature
//! is met is measured in `frequency`.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods
)]

mod admin;
mod cluster;
mod frequency;

use std::collections::BTreeMap;
use std::sync::Arc;

use cluster::{Question, cluster, object, questions, refused};
use polproof_policy::model::{AdminPolicy, Pod};
use polproof_policy::reference::{self, Answer, Decided};
use polproof_policy::{
    Change, Direction, Endpoint, Expectation, IpOwner, Key, Kind, NamespacedName, Object, Query,
    Snapshot, State, UnknownReason,
};
use proptest::collection::vec;
use proptest::prelude::*;

fn config() -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES")
        .ok()
        .and_then(|cases| cases.parse().ok())
        .unwrap_or(2_000);
    ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

fn state_of(objects: &[Object]) -> State {
    let mut state = State::new();
    for object in objects {
        state.apply(object.clone());
    }
    state
}

fn pods_of(objects: &[Object]) -> Vec<Arc<Pod>> {
    objects
        .iter()
        .filter_map(|object| match object {
            Object::Pod(pod) => Some(Arc::clone(pod)),
            _ => None,
        })
        .collect()
}

fn answers(
    snapshot: &Snapshot,
    pods: &[Arc<Pod>],
    questions: &[Question],
) -> Vec<(Answer, Answer)> {
    questions
        .iter()
        .map(|question| {
            let query = question.query(pods);
            let verdict = snapshot.evaluate(&query);
            ((&verdict.egress).into(), (&verdict.ingress).into())
        })
        .collect()
}

fn owners(snapshot: &Snapshot) -> Vec<String> {
    let ips = "10.0.0.1 10.0.0.2 10.0.0.3 10.0.1.1 10.0.1.2 10.0.2.1 172.16.0.1 172.16.0.2 \
               203.0.113.9 fd00::1 fd00::2 fd00::3 fd00:1::1 fd02::1 2001:db8::9";
    ips.split_whitespace()
        .map(|ip| match snapshot.owner(ip.parse().unwrap()) {
            IpOwner::Pod(pod) => format!("pod {}", pod.uid.0),
            other => format!("{other:?}"),
        })
        .collect()
}

/// Both are the same cluster, seen from outside.
fn assert_same(
    left: &Snapshot,
    right: &Snapshot,
    questions: &[Question],
) -> Result<(), TestCaseError> {
    let objects: Vec<Object> = left.objects().collect();
    prop_assert!(left.refused_policies().eq(right.refused_policies()));
    prop_assert_eq!(&objects, &right.objects().collect::<Vec<_>>());
    for kind in Kind::ALL {
        prop_assert_eq!(left.count(kind), right.count(kind));
    }
    prop_assert_eq!(owners(left), owners(right));
    let pods = pods_of(&objects);
    prop_assert_eq!(
        answers(left, &pods, questions),
        answers(right, &pods, questions)
    );
    Ok(())
}

/// What may happen to a state.
#[derive(Clone, Debug)]
enum Step {
    Apply(Object),
    /// The object that is the n-th at the time.
    Delete(usize),
    /// A late delete for an object that was replaced.
    DeleteOtherUid(usize),
    Reset(Kind, Vec<Object>),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => object().prop_map(Step::Apply),
        2 => (0..20_usize).prop_map(Step::Delete),
        1 => (0..20_usize).prop_map(Step::DeleteOtherUid),
        1 => (proptest::sample::select(Kind::ALL.to_vec()), vec(object(), 0..8))
            .prop_map(|(kind, objects)| Step::Reset(kind, objects)),
    ];
    vec(step, 1..40)
}

fn identity(object: &Object) -> (Kind, NamespacedName) {
    let key = object.key();
    (key.kind, key.id)
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn evaluate_is_the_reference(
        objects in cluster(),
        refused in refused(),
        questions in questions(12),
    ) {
        let mut state = state_of(&objects);
        state.set_refused_policies(refused.clone());
        let snapshot = state.snapshot();
        let pods = pods_of(&objects);
        for question in &questions {
            let query = question.query(&pods);
            let verdict = snapshot.evaluate(&query);
            for (direction, of) in [
                (Direction::Egress, &verdict.egress),
                (Direction::Ingress, &verdict.ingress),
            ] {
                let expected = reference::evaluate_beside(&objects, &refused, &query, direction);
                prop_assert_eq!(Answer::from(of), expected, "{:?} of {:?}", direction, query);
            }
        }
    }

    #[test]
    fn explanation_says_what_the_verdict_says(
        objects in cluster(),
        refused in refused(),
        questions in questions(10),
    ) {
        let mut state = state_of(&objects);
        state.set_refused_policies(refused.clone());
        let snapshot = state.snapshot();
        let pods = pods_of(&objects);
        for question in &questions {
            let query = question.query(&pods);
            let verdict = snapshot.evaluate(&query);
            let explanation = snapshot.explain(&query);
            let directions = [&verdict.egress, &verdict.ingress];
            for (said, of) in explanation.directions.iter().zip(directions) {
                let isolating: Vec<String> =
                    of.isolating.iter().map(|policy| policy.id.to_string()).collect();
                let of_tier = said.policies.iter().filter(|p| p.kind == "NetworkPolicy");
                let told: Vec<_> = of_tier.map(|p| p.policy.clone()).collect();
                if !isolating.is_empty() {
                    prop_assert_eq!(told, isolating);
                }
                // The other tiers may overrule what these lines say.
                if snapshot.admin_policies().next().is_some()
                    || refused.iter().any(|id| id.namespace.is_empty())
                {
                    continue;
                }
                let lines = || said.policies.iter().flat_map(|policy| &policy.rules);
                // "admits" alone would be words that do not know why.
                prop_assert!(!lines().any(|l| l.ends_with(" admits") || l.ends_with("admit it")));
                let admits = lines().any(|line| line.contains(" admits: "));
                let open = lines().any(|line| line.contains("some CNIs only"));
                match of.expectation {
                    Expectation::Deny => prop_assert!(!admits && !open, "{:?}", said),
                    Expectation::Unknown(UnknownReason::RefusedPolicy) => {
                        prop_assert!(!admits && !open, "{:?}", said);
                        let named = refused.iter().any(|id| said.because.contains(&id.to_string()));
                        prop_assert!(named, "{:?}", said);
                    }
                    Expectation::Unknown(UnknownReason::IpBlockOnPod) => {
                        prop_assert!(!admits && open, "{:?}", said);
                    }
                    Expectation::Allow | Expectation::Unknown(_) => {}
                }
                if let polproof_policy::Decision::Rule(by) = of.decision {
                    let line = said
                        .policies
                        .iter()
                        .find(|policy| policy.policy == by.policy.id.to_string())
                        .and_then(|policy| policy.rules.get(by.rule.unwrap()));
                    prop_assert!(line.unwrap().contains(" admits"), "{:?}", said);
                }
            }
        }
    }

    #[test]
    fn refused_policies_open_denials_and_nothing_else(
        objects in cluster(),
        refused in refused(),
        questions in questions(10),
    ) {
        let mut state = state_of(&objects);
        let before = state.snapshot();
        let change = state.set_refused_policies(refused.clone());
        prop_assert_eq!(change == Change::None, refused.is_empty());
        prop_assert_eq!(state.set_refused_policies(refused.clone()), Change::None);
        let snapshot = state.snapshot();
        prop_assert_eq!(before.version() == snapshot.version(), refused.is_empty());
        let pods = pods_of(&objects);
        let pairs = answers(&before, &pods, &questions)
            .into_iter()
            .zip(answers(&snapshot, &pods, &questions));
        for ((without, with), question) in pairs.zip(&questions) {
            let query = question.query(&pods);
            for (without, with, governed) in [
                (without.0, with.0, query.source),
                (without.1, with.1, query.destination),
            ] {
                // What the Admin tier denies is decided before a NetworkPolicy is asked; the reference knows the rest.
                let by_admin = matches!(without.decision, Decided::Admin(..));
                let concerns = |id: &NamespacedName| {
                    id.namespace.is_empty()
                        || matches!(governed, Endpoint::Pod(pod) if id.namespace == pod.id.namespace)
                };
                let denied = without.expectation == Expectation::Deny;
                let opened = denied && refused.iter().any(concerns);
                if opened && by_admin {
                    prop_assert_eq!(with.decision, without.decision);
                } else if opened {
                    let unknown = Expectation::Unknown(UnknownReason::RefusedPolicy);
                    prop_assert_eq!(with, Answer { expectation: unknown, ..without });
                } else {
                    prop_assert_eq!(with, without);
                }
            }
        }
        state.set_refused_policies([]);
        assert_same(&before, &state.snapshot(), &questions)?;
    }

    #[test]
    fn a_denial_that_does_not_depend_on_the_source_meets_everybody(
        objects in cluster(),
        questions in questions(6),
    ) {
        let snapshot = state_of(&objects).snapshot();
        let pods = pods_of(&objects);
        for question in &questions {
            let asked = question.query(&pods);
            let Endpoint::Pod(destination) = asked.destination else { continue };
            let outside = Query { source: Endpoint::External, ..asked };
            let denied = snapshot.evaluate(&outside).ingress.expectation == Expectation::Deny;
            let uid = &destination.uid;
            if !denied || snapshot.ingress_depends_on_source(uid, asked.protocol, asked.port) {
                continue;
            }
            for pod in &pods {
                if pod.host_network || pod.uid == destination.uid {
                    continue;
                }
                let of_pod = Query { source: Endpoint::Pod(pod), ..asked };
                let verdict = snapshot.evaluate(&of_pod).ingress;
                prop_assert!(verdict.expectation != Expectation::Allow, "{:?}", of_pod);
            }
        }
    }

    #[test]
    fn order_of_applies_does_not_matter(
        (objects, shuffled) in cluster()
            .prop_flat_map(|objects| (Just(objects.clone()), Just(objects).prop_shuffle())),
        questions in questions(10),
    ) {
        let left = state_of(&objects).snapshot();
        let right = state_of(&shuffled).snapshot();
        assert_same(&left, &right, &questions)?;
    }

    #[test]
    fn applied_and_deleted_is_never_applied(
        objects in cluster(),
        other in object(),
        questions in questions(10),
    ) {
        // A cluster that has none of that name; rejecting the others would run into proptest's bound.
        let mut objects = objects;
        objects.retain(|object| identity(object) != identity(&other));
        let mut state = state_of(&objects);
        let before = state.snapshot();
        prop_assert_eq!(state.apply(other.clone()), Change::Changed);
        prop_assert_eq!(state.delete(&other.key()), Change::Changed);
        prop_assert_eq!(state.delete(&other.key()), Change::None);
        assert_same(&before, &state.snapshot(), &questions)?;
    }

    #[test]
    fn reset_is_a_replay(
        before in cluster(),
        after in cluster(),
        questions in questions(10),
    ) {
        let mut state = state_of(&before);
        for kind in Kind::ALL {
            let of_kind = || after.iter().filter(|o| o.key().kind == kind).cloned().collect();
            state.reset(kind, of_kind());
            prop_assert_eq!(state.reset(kind, of_kind()), Change::None);
        }
        assert_same(&state.snapshot(), &state_of(&after).snapshot(), &questions)?;
    }

    #[test]
    fn new_rules_of_an_admin_policy_reach_every_pod(
        objects in cluster(),
        other in admin::admin_policy(),
        together in any::<bool>(),
        questions in questions(10),
    ) {
        let mut state = state_of(&objects);
        let before = state.snapshot();
        let with_new_rules = |object: &Object| match object {
            Object::AdminPolicy(policy) => Object::AdminPolicy(Arc::new(AdminPolicy {
                generation: policy.generation + 1,
                ingress: other.ingress.clone(),
                egress: other.egress.clone(),
                ..AdminPolicy::clone(policy)
            })),
            other => other.clone(),
        };
        let after: Vec<Object> = objects.iter().map(with_new_rules).collect();
        if together {
            for kind in Kind::ALL {
                let of_kind = after.iter().filter(|object| object.key().kind == kind);
                state.reset(kind, of_kind.cloned().collect());
            }
        } else {
            for object in &after {
                state.apply(object.clone());
            }
        }
        assert_same(&state.snapshot(), &state_of(&after).snapshot(), &questions)?;
        // An old snapshot does not feel what happened after it.
        assert_same(&before, &state_of(&objects).snapshot(), &questions)?;
    }

    #[test]
    fn history_does_not_matter(steps in steps(), questions in questions(10)) {
        let mut state = State::new();
        let mut expected: BTreeMap<_, Object> = BTreeMap::new();
        let mut kept: Option<(Snapshot, Vec<Object>)> = None;
        for (number, step) in steps.into_iter().enumerate() {
            match step {
                Step::Apply(object) => {
                    state.apply(object.clone());
                    expected.insert(identity(&object), object);
                }
                Step::Delete(nth) => {
                    let Some(key) = expected.values().nth(nth).map(Object::key) else { continue };
                    expected.remove(&(key.kind, key.id.clone()));
                    prop_assert_eq!(state.delete(&key), Change::Changed);
                }
                Step::DeleteOtherUid(nth) => {
                    let Some(key) = expected.values().nth(nth).map(Object::key) else { continue };
                    let late = Key { uid: polproof_policy::Uid("earlier".into()), ..key };
                    prop_assert_eq!(state.delete(&late), Change::None);
                }
                Step::Reset(kind, objects) => {
                    let of_kind = |object: &&Object| object.key().kind == kind;
                    expected.retain(|(of, _), _| *of != kind);
                    for object in objects.iter().filter(of_kind) {
                        expected.insert(identity(object), object.clone());
                    }
                    state.reset(kind, objects);
                }
            }
            if number == 10 {
                kept = Some((state.snapshot(), expected.values().cloned().collect()));
            }
        }
        let objects: Vec<Object> = expected.into_values().collect();
        assert_same(&state.snapshot(), &state_of(&objects).snapshot(), &questions)?;
        // An old snapshot does not feel what happened after it.
        if let Some((snapshot, objects)) = kept {
            assert_same(&snapshot, &state_of(&objects).snapshot(), &questions)?;
        }
    }
}
