//! Random policies of the tiers around NetworkPolicy, and of CNIs' own APIs.

use std::sync::Arc;

use polproof_policy::model::{
    Action, AdminKind, AdminPeer, AdminPolicy, AdminPort, AdminRule, ForeignEffect, ForeignKind,
    ForeignPolicy, ForeignScope, PortMatch, Subject, Tier,
};
use polproof_policy::{Direction, NamespacedName};
use proptest::collection::vec;
use proptest::option::weighted;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use crate::cluster::{
    PORT_NAMES, PORTS, generation, namespace_selector, protocol, selector, text, uid,
};

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        3 => Just(Action::Allow),
        3 => Just(Action::Deny),
        3 => Just(Action::Pass),
    ]
}

/// 1 in 20 is one in which nothing is known.
fn peer(direction: Direction) -> BoxedStrategy<AdminPeer> {
    let everywhere = prop_oneof![
        3 => namespace_selector().prop_map(AdminPeer::Namespaces),
        3 => Just(AdminPeer::Namespaces(Default::default())),
        4 => (namespace_selector(), selector())
            .prop_map(|(namespaces, pods)| AdminPeer::Pods { namespaces, pods }),
    ];
    match direction {
        Direction::Ingress => {
            prop_oneof![19 => everywhere, 1 => Just(AdminPeer::Unrecognised)].boxed()
        }
        Direction::Egress => {
            let nets = [
                "0.0.0.0/0",
                "10.0.0.0/16",
                "10.0.0.1/32",
                "172.16.0.0/24",
                "203.0.113.0/24",
                "fd00::/16",
                "::/0",
            ];
            let networks = subsequence(nets.to_vec(), 1..=2)
                .prop_map(|nets| nets.iter().map(|net| net.parse().unwrap()).collect());
            let names = select(vec!["example.com", "*.example.com"])
                .prop_map(|name| AdminPeer::DomainNames(vec![Arc::from(name)]));
            prop_oneof![
                8 => everywhere,
                3 => selector().prop_map(AdminPeer::Nodes),
                5 => networks.prop_map(AdminPeer::Networks),
                3 => names,
                1 => Just(AdminPeer::Unrecognised),
            ]
            .boxed()
        }
    }
}

fn port() -> impl Strategy<Value = AdminPort> {
    let number = prop_oneof![
        1 => Just(PortMatch::Any),
        3 => select(PORTS.to_vec()).prop_map(|port| PortMatch::Range(port, port)),
        2 => (select(PORTS.to_vec()), 1..=20_u16)
            .prop_map(|(first, more)| PortMatch::Range(first, first + more)),
    ];
    prop_oneof![
        3 => (protocol(), number).prop_map(|(protocol, port)| AdminPort::Of(protocol, port)),
        1 => text(&PORT_NAMES).prop_map(AdminPort::Named),
    ]
}

fn rules(direction: Direction) -> impl Strategy<Value = Vec<AdminRule>> {
    let rule = (
        weighted(0.3, text(&["first", "second"])),
        action(),
        vec(peer(direction), 1..=2),
        // Most for every port, so that rules meet.
        prop_oneof![3 => Just(Vec::new()), 2 => vec(port(), 1..=2)],
    )
        .prop_map(|(name, action, peers, ports)| AdminRule {
            name,
            action,
            peers,
            ports,
        });
    vec(rule, 0..=4)
}

/// Half of them select everything. There are two priorities, so that several often have one.
pub(crate) fn admin_policy() -> impl Strategy<Value = AdminPolicy> {
    let subject = prop_oneof![
        2 => namespace_selector().prop_map(Subject::Namespaces),
        2 => (namespace_selector(), selector())
            .prop_map(|(namespaces, pods)| Subject::Pods { namespaces, pods }),
        4 => Just(Subject::Namespaces(Default::default())),
    ];
    let kind = prop_oneof![
        3 => Just((AdminKind::AdminNetworkPolicy, Tier::Admin)),
        1 => Just((AdminKind::BaselineAdminNetworkPolicy, Tier::Baseline)),
        2 => Just((AdminKind::ClusterNetworkPolicy, Tier::Admin)),
        3 => Just((AdminKind::ClusterNetworkPolicy, Tier::Baseline)),
    ];
    (
        kind,
        text(&["a", "b", "c", "d"]),
        generation(),
        0..2_u16,
        subject,
        rules(Direction::Ingress),
        rules(Direction::Egress),
    )
        .prop_map(
            |((kind, tier), name, generation, priority, subject, ingress, egress)| {
                let baseline = kind == AdminKind::BaselineAdminNetworkPolicy;
                let name = if baseline { Arc::from("default") } else { name };
                AdminPolicy {
                    uid: uid(kind.kind().name(), &name, generation),
                    kind,
                    name,
                    generation: 1,
                    tier,
                    priority: if baseline { 0 } else { priority },
                    subject,
                    ingress,
                    egress,
                    annotations: Default::default(),
                }
            },
        )
}

pub(crate) fn foreign_policy() -> impl Strategy<Value = ForeignPolicy> {
    let kind = select(vec![
        ForeignKind::CiliumNetworkPolicy,
        ForeignKind::CiliumClusterwideNetworkPolicy,
        ForeignKind::CalicoNetworkPolicy,
        ForeignKind::CalicoGlobalNetworkPolicy,
    ]);
    (
        kind,
        text(&["red", "green"]),
        generation(),
        weighted(0.5, namespace_selector()),
        weighted(0.5, selector()),
    )
        .prop_map(|(kind, namespace, generation, namespaces, pods)| {
            let own_namespace = matches!(
                kind,
                ForeignKind::CiliumNetworkPolicy | ForeignKind::CalicoNetworkPolicy
            );
            let namespace = if own_namespace { &*namespace } else { "" };
            let id = NamespacedName::new(namespace, "f");
            let effect = ForeignEffect {
                may_admit: true,
                may_block: true,
            };
            ForeignPolicy {
                uid: uid(&format!("{kind:?}"), &id, generation),
                kind,
                id,
                scope: ForeignScope {
                    own_namespace,
                    namespaces,
                    pods,
                },
                ingress: effect,
                egress: effect,
            }
        })
}
