//! Denials by policies of other kinds than NetworkPolicy, and denials that such policies may undo.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    missing_docs
)]

mod world;

use std::sync::Arc;

use polproof_flow::Judge;
use polproof_flow::finding::{DecidingPolicy, DeniedBy, InconclusiveReason as Reason, Report};
use polproof_policy::model::{
    Action, AdminKind, AdminPeer, AdminPolicy, AdminRule, ForeignEffect, ForeignKind,
    ForeignPolicy, ForeignScope, Selector, Subject, Tier,
};
use polproof_policy::{Direction, Kind, NamespacedName, Object, State, Uid};
use world::*;

/// The report on one answered attempt of the client at this time.
fn tried(judge: &mut Judge, at: f64) -> Report {
    let t = attempt(CLIENT, at as u32);
    let records = [t.syn(seconds(at)), t.syn_ack(seconds(at + 0.001))];
    feed(judge, seconds(at + 0.1), &records)
}

fn judged(state: &State) -> Report {
    tried(&mut judge(state), 100.0)
}

fn rule(action: Action, app: &str) -> AdminRule {
    AdminRule {
        name: None,
        action,
        peers: vec![AdminPeer::Pods {
            namespaces: Selector::default(),
            pods: selector(&[("app", app)]),
        }],
        ports: Vec::new(),
    }
}

/// About ingress to the server.
fn admin(kind: AdminKind, name: &str, uid: &str, rules: Vec<AdminRule>) -> AdminPolicy {
    AdminPolicy {
        kind,
        name: name.into(),
        uid: Uid(uid.into()),
        generation: 3,
        tier: match kind {
            AdminKind::BaselineAdminNetworkPolicy => Tier::Baseline,
            AdminKind::AdminNetworkPolicy | AdminKind::ClusterNetworkPolicy => Tier::Admin,
        },
        priority: 10,
        subject: Subject::Pods {
            namespaces: Selector::default(),
            pods: selector(&[("app", "server")]),
        },
        ingress: rules,
        egress: Vec::new(),
        annotations: Default::default(),
    }
}

fn apply(state: &mut State, policy: AdminPolicy) {
    state.apply(Object::AdminPolicy(Arc::new(policy)));
}

fn keep_out() -> AdminPolicy {
    let rules = vec![rule(Action::Allow, "friend"), rule(Action::Deny, "client")];
    admin(AdminKind::AdminNetworkPolicy, "keep-out", "anp", rules)
}

/// No NetworkPolicy at all.
fn open() -> State {
    let mut state = cluster();
    delete_policy(&mut state);
    state
}

fn decided(report: &Report) -> &[DecidingPolicy] {
    assert_eq!(counts(report), (1, 0, 0), "{report:#?}");
    &report.findings[0].key.policies
}

fn by_rule(kind: Kind, name: &str, uid: &str, rule: u32) -> DecidingPolicy {
    DecidingPolicy {
        direction: Direction::Ingress,
        id: NamespacedName::new("", name),
        kind,
        uid: Uid(uid.into()),
        generation: 3,
        by: DeniedBy::Rule(rule),
    }
}

#[test]
fn a_rule_that_denies_is_named_with_its_policy_and_nobody_else() {
    // The NetworkPolicy would deny it, too; it is not asked.
    let mut state = cluster();
    apply(&mut state, keep_out());
    let expected = by_rule(Kind::AdminNetworkPolicy, "keep-out", "anp", 1);
    assert_eq!(decided(&judged(&state)), [expected]);
}

#[test]
fn each_kind_of_the_other_tiers_is_named_as_what_it_was_written() {
    for (kind, name) in [
        (AdminKind::AdminNetworkPolicy, "a"),
        (AdminKind::BaselineAdminNetworkPolicy, "default"),
        (AdminKind::ClusterNetworkPolicy, "c"),
    ] {
        let mut state = open();
        let rules = vec![rule(Action::Deny, "client")];
        apply(&mut state, admin(kind, name, "uid", rules));
        let expected = by_rule(kind.kind(), name, "uid", 0);
        assert_eq!(decided(&judged(&state)), [expected]);
    }
}

#[test]
fn a_rule_that_allows_over_a_policy_that_denies_accuses_nobody() {
    let mut state = cluster();
    let rules = vec![rule(Action::Allow, "client")];
    apply(
        &mut state,
        admin(AdminKind::AdminNetworkPolicy, "let-in", "anp", rules),
    );
    let report = judged(&state);
    assert_eq!(report.findings, []);
    assert_eq!(report.judged.allowed_delivered, 1, "{report:#?}");
}

#[test]
fn an_admin_policy_that_was_edited_or_replaced_within_the_grace_time_accuses_nobody() {
    let edited = AdminPolicy {
        generation: 4,
        ..keep_out()
    };
    let replaced = AdminPolicy {
        uid: Uid("other".into()),
        ..keep_out()
    };
    for now in [edited, replaced] {
        let mut state = open();
        apply(&mut state, keep_out());
        let mut judge = judge(&state);
        apply(&mut state, now);
        judge.on_snapshot(seconds(90.0), state.snapshot(), true);
        let report = tried(&mut judge, 100.0);
        assert_eq!(report.findings, []);
        assert_eq!(inconclusive(&report, Reason::WithinGrace), 1, "{report:#?}");
        // When the grace time is over, the new one is accused.
        assert_eq!(decided(&tried(&mut judge, 121.0)).len(), 1);
    }
}

#[test]
fn one_that_denies_throughout_is_accused_although_others_came_and_went() {
    let mut state = open();
    apply(&mut state, keep_out());
    let mut judge = judge(&state);
    let baseline = AdminKind::BaselineAdminNetworkPolicy;
    let rules = vec![rule(Action::Deny, "client")];
    apply(&mut state, admin(baseline, "default", "banp", rules));
    apply_policy(&mut state, guard(7));
    judge.on_snapshot(seconds(90.0), state.snapshot(), true);
    let report = tried(&mut judge, 100.0);
    let expected = by_rule(Kind::AdminNetworkPolicy, "keep-out", "anp", 1);
    assert_eq!(decided(&report), [expected]);
    let report = feed(&mut judge, seconds(110.2), &[]);
    assert_eq!(counts(&report), (0, 1, 0), "{report:#?}");
}

#[test]
fn where_one_tier_takes_over_from_another_enforcement_may_lag() {
    let mut state = cluster();
    let mut judge = judge(&state);
    apply(&mut state, keep_out());
    judge.on_snapshot(seconds(90.0), state.snapshot(), true);
    let report = tried(&mut judge, 100.0);
    assert_eq!(report.findings, []);
    assert_eq!(inconclusive(&report, Reason::WithinGrace), 1, "{report:#?}");
}

fn foreign(direction: Direction, pods: Option<Selector>) -> ForeignPolicy {
    let admits = ForeignEffect {
        may_admit: true,
        may_block: true,
    };
    let blocks = ForeignEffect {
        may_admit: false,
        may_block: true,
    };
    let effect = |of| if of == direction { admits } else { blocks };
    ForeignPolicy {
        kind: ForeignKind::CiliumNetworkPolicy,
        id: NamespacedName::new("shop", "l7"),
        uid: Uid("cnp".into()),
        scope: ForeignScope {
            own_namespace: true,
            namespaces: None,
            pods,
        },
        ingress: effect(Direction::Ingress),
        egress: effect(Direction::Egress),
    }
}

fn with_foreign(mut state: State, policy: ForeignPolicy) -> State {
    state.apply(Object::ForeignPolicy(Arc::new(policy)));
    state
}

#[test]
fn a_foreign_policy_that_may_admit_at_the_denied_end_makes_it_inconclusive() {
    for pods in [None, Some(selector(&[("app", "server")]))] {
        let state = with_foreign(cluster(), foreign(Direction::Ingress, pods));
        let report = judged(&state);
        assert_eq!(report.findings, []);
        assert_eq!(
            inconclusive(&report, Reason::ForeignPolicy),
            1,
            "{report:#?}"
        );
    }
}

#[test]
fn a_foreign_policy_of_other_pods_or_of_the_other_direction_changes_nothing() {
    for policy in [
        foreign(Direction::Ingress, Some(selector(&[("app", "client")]))),
        foreign(Direction::Egress, None),
        ForeignPolicy {
            id: NamespacedName::new("other", "l7"),
            ..foreign(Direction::Ingress, None)
        },
    ] {
        let state = with_foreign(cluster(), policy);
        assert_eq!(counts(&judged(&state)), (1, 0, 0));
    }
}

#[test]
fn what_is_denied_at_both_ends_is_accused_at_the_end_that_nobody_may_open() {
    let mut state = with_foreign(cluster(), foreign(Direction::Ingress, None));
    let mut cage = guard(1);
    cage.id = NamespacedName::new("shop", "cage");
    cage.uid = Uid("cage".into());
    cage.pod_selector = selector(&[("app", "client")]);
    (cage.isolates_ingress, cage.isolates_egress) = (false, true);
    apply_policy(&mut state, cage);
    let report = judged(&state);
    let policies = decided(&report);
    assert_eq!(policies.len(), 1, "{policies:?}");
    assert_eq!(
        (policies[0].direction, &*policies[0].id.name),
        (Direction::Egress, "cage")
    );
}

#[test]
fn a_foreign_policy_that_comes_takes_back_what_was_just_seen() {
    let state = cluster();
    let mut judge = judge(&state);
    assert_eq!(counts(&tried(&mut judge, 100.0)), (1, 0, 0));
    let state = with_foreign(state, foreign(Direction::Ingress, None));
    judge.on_snapshot(seconds(103.0), state.snapshot(), true);
    let report = feed(&mut judge, seconds(110.2), &[]);
    assert_eq!(counts(&report), (0, 0, 1), "{report:#?}");
}

#[test]
fn a_refused_policy_of_the_whole_cluster_accuses_nobody() {
    let mut state = cluster();
    state.set_refused_policies([NamespacedName::new("", "of-a-newer-api")]);
    let report = judged(&state);
    assert_eq!(report.findings, []);
    let undecided: u64 = report.inconclusive.iter().map(|(_, count)| count).sum();
    assert_eq!(undecided, 1, "{report:#?}");
}
