//! The walk shows the rule that the engine decided by, in random clusters. `PROPTEST_CASES` sets how many.

#![allow(clippy::disallowed_methods)]

use polproof_policy::evaluate::Decision;
use polproof_policy::explain::{DirectionExplanation, TierName};
use polproof_policy::model::{AdminPeer, AdminPolicy, AdminRule, Tier};
use polproof_policy::{DirectionVerdict, Object, State};
use proptest::prelude::*;

use super::cluster::{cluster, questions, refused};

/// What a domain name means is taken to be the address by the engine, and as unknown by the walk.
fn without_domain_names(object: &Object) -> Object {
    let Object::AdminPolicy(policy) = object else {
        return object.clone();
    };
    let named = |rule: &AdminRule| {
        let mut peers = rule.peers.iter();
        peers.any(|peer| matches!(peer, AdminPeer::DomainNames(_)))
    };
    let mut policy = AdminPolicy::clone(policy);
    policy.ingress.retain(|rule| !named(rule));
    policy.egress.retain(|rule| !named(rule));
    Object::AdminPolicy(policy.into())
}

/// The first rule of a tier that matches: the policy, the rule, and whether it is the end of the walk.
fn walked(walk: &DirectionExplanation, tier: TierName) -> Option<(String, usize, bool)> {
    let policies = walk.policies.iter().filter(|policy| policy.tier == tier);
    let mut lines = policies.flat_map(|of| of.rules.iter().map(|line| (&of.policy, line)));
    lines.find_map(|(policy, line)| {
        let index = line.strip_prefix("rule ")?;
        let index: String = index.chars().take_while(char::is_ascii_digit).collect();
        let (_, does) = line.split_once(") ")?;
        let decides = does.starts_with("allows it:") || does.starts_with("denies it:");
        (decides || does.starts_with("passes it on:"))
            .then(|| (policy.clone(), index.parse().unwrap(), decides))
    })
}

fn as_decided(walk: &DirectionExplanation, said: &DirectionVerdict<'_>) -> Result<(), String> {
    let admin = walked(walk, TierName::Admin);
    let shown = match said.decision {
        // The pod itself, or nobody that is governed: no rule counts.
        Decision::NotGoverned | Decision::Exempt => return Ok(()),
        Decision::Admin(by) if by.policy.tier == Tier::Admin => {
            admin == Some((by.policy.name.to_string(), by.rule, true))
        }
        _ if admin.as_ref().is_some_and(|(_, _, decides)| *decides) => false,
        Decision::Admin(by) => {
            let baseline = walked(walk, TierName::Baseline);
            baseline == Some((by.policy.name.to_string(), by.rule, true))
        }
        Decision::NotIsolated => {
            let baseline = walked(walk, TierName::Baseline);
            !baseline.is_some_and(|(_, _, decides)| decides)
        }
        Decision::Rule(_) | Decision::NoRule => true,
    };
    if shown {
        Ok(())
    } else {
        Err(format!("{:?} is walked as {walk:#?}", said.decision))
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: std::env::var("PROPTEST_CASES").ok().and_then(|of| of.parse().ok()).unwrap_or(1_000),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn the_walk_shows_what_decides(
        objects in cluster(),
        refused in refused(),
        questions in questions(10),
    ) {
        let mut state = State::new();
        let mut pods = Vec::new();
        for object in objects.iter().map(without_domain_names) {
            if let Object::Pod(pod) = &object {
                pods.push(pod.clone());
            }
            state.apply(object);
        }
        state.set_refused_policies(refused);
        let snapshot = state.snapshot();
        for question in &questions {
            let query = question.query(&pods);
            let verdict = snapshot.evaluate(&query);
            let walk = snapshot.explain(&query);
            for (walk, said) in walk.directions.iter().zip([&verdict.egress, &verdict.ingress]) {
                prop_assert_eq!(as_decided(walk, said), Ok(()), "{:?}", query);
            }
        }
    }
}
