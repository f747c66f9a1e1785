//! How often the random clusters lead to each case: those that never do prove nothing of it.

use std::collections::BTreeMap;

use polproof_policy::model::{
    Action, AdminKind, AdminPeer, AdminPolicy, AdminPort, NetworkPolicy, Peer, Pod, PortMatch,
    Requirement, Selector, Tier,
};
use polproof_policy::{
    Decision, DirectionVerdict, Expectation, Family, Kind, Object, Protocol, Query, UnknownReason,
};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use crate::cluster::{cluster, questions, refused};
use crate::{pods_of, state_of};

const CLUSTERS: u32 = 500;
const QUESTIONS: usize = 12;

/// Features of clusters, and in how many of a thousand there must be at least one.
const OF_CLUSTERS: [(&str, u32); 28] = [
    ("hostNetwork pod", 400),
    ("finished pod", 250),
    ("pod without addresses", 600),
    ("pod of both families", 300),
    ("two pods of one name in two namespaces", 400),
    ("namespace that lies about its name", 50),
    ("pods of a namespace without an object", 500),
    ("empty selector", 500),
    ("In", 400),
    ("NotIn", 400),
    ("Exists", 400),
    ("DoesNotExist", 400),
    ("peer with both selectors", 500),
    ("ipBlock", 500),
    ("except", 400),
    ("rule for everyone", 400),
    ("named port", 500),
    ("endPort", 500),
    ("SCTP rule", 300),
    ("several policies on one pod", 300),
    ("AdminNetworkPolicy", 250),
    ("BaselineAdminNetworkPolicy", 100),
    ("ClusterNetworkPolicy", 300),
    ("admin policies of one priority", 120),
    ("admin rule by node", 80),
    ("admin rule by named port", 150),
    ("admin rule with an unknown peer", 70),
    ("refused policy", 300),
];

/// What verdicts of one direction come to, and of how many of ten thousand at least.
const OF_VERDICTS: [(&str, u32); 26] = [
    ("allow", 4_000),
    ("deny", 700),
    ("not governed", 2_000),
    ("not isolated", 1_500),
    ("exempt", 500),
    ("by a rule", 300),
    ("by no rule", 400),
    ("by an admin rule that allows", 150),
    ("by an admin rule that denies", 150),
    ("by a baseline rule that allows", 50),
    ("by a baseline rule that denies", 50),
    ("by a rule with an unknown peer", 60),
    ("passed on to a NetworkPolicy", 15),
    ("passed in Baseline", 10),
    ("unknown OwnNodeEgress", 20),
    ("unknown IpBlockOnPod", 40),
    ("unknown HostNetworkPod", 150),
    ("unknown MixedFamilies", 200),
    ("unknown RefusedPolicy", 120),
    ("unknown EqualPriority", 25),
    ("unknown DomainName", 10),
    ("admin rule beside an isolating policy", 150),
    ("hostNetwork pod at the other end", 300),
    ("node at the other end", 500),
    ("SCTP", 500),
    ("IPv6", 2_000),
];

#[derive(Default)]
struct Counts(BTreeMap<&'static str, u32>);

impl Counts {
    fn add(&mut self, what: &'static str, holds: bool) {
        *self.0.entry(what).or_default() += u32::from(holds);
    }

    /// Prints all, and names those below their floor.
    fn check(&self, floors: &[(&'static str, u32)], per: u32, total: u32) {
        let mut rare = Vec::new();
        let share = |count: u32| u64::from(count) * u64::from(per) / u64::from(total);
        for (what, floor) in floors {
            let found = share(*self.0.get(what).unwrap_or(&0));
            println!("{what:45} {found:6} of {per}, at least {floor}");
            if found < u64::from(*floor) {
                rare.push(format!("{what}: {found} of {per}, not {floor}"));
            }
        }
        assert!(rare.is_empty(), "too rare: {rare:#?}");
        let known = |what: &&&str| !floors.iter().any(|(name, _)| name == *what);
        let unknown: Vec<_> = self.0.keys().filter(known).collect();
        assert!(unknown.is_empty(), "without a floor: {unknown:?}");
    }
}

fn selectors(policy: &NetworkPolicy) -> Vec<&Selector> {
    let peers = policy.ingress.iter().chain(&policy.egress);
    let peers = peers.flat_map(|rule| &rule.peers);
    let of_peers = peers.flat_map(|peer| match peer {
        Peer::Pods { namespaces, pods } => vec![namespaces.as_ref(), pods.as_ref()],
        Peer::IpBlock { .. } => Vec::new(),
    });
    let mut all: Vec<_> = of_peers.flatten().collect();
    all.push(&policy.pod_selector);
    all
}

fn count_cluster(objects: &[Object], counts: &mut Counts) {
    let (mut pods, mut policies, mut admin): (Vec<&Pod>, Vec<&NetworkPolicy>, Vec<&AdminPolicy>) =
        Default::default();
    let mut namespaces = Vec::new();
    for object in objects {
        match object {
            Object::Pod(pod) => pods.push(pod),
            Object::NetworkPolicy(policy) => policies.push(policy),
            Object::AdminPolicy(policy) => admin.push(policy),
            Object::Namespace(namespace) => namespaces.push(namespace),
            _ => {}
        }
    }
    let pod = |is: &dyn Fn(&Pod) -> bool| pods.iter().any(|pod| is(pod));
    counts.add("hostNetwork pod", pod(&|pod| pod.host_network));
    counts.add("finished pod", pod(&|pod| pod.finished));
    counts.add("pod without addresses", pod(&|pod| pod.ips.is_empty()));
    let both = |pod: &Pod| {
        [Family::V4, Family::V6]
            .iter()
            .all(|family| pod.ips.iter().any(|ip| Family::of(*ip) == *family))
    };
    counts.add("pod of both families", pod(&both));
    let namesake = |pod: &Pod| {
        let mut others = pods.iter();
        others.any(|other| other.id.name == pod.id.name && other.id.namespace != pod.id.namespace)
    };
    counts.add("two pods of one name in two namespaces", pod(&namesake));
    let lies = namespaces.iter().any(|of| {
        let said = of.labels.get("kubernetes.io/metadata.name");
        said.is_some_and(|said| *said != of.name)
    });
    counts.add("namespace that lies about its name", lies);
    let stray = |pod: &Pod| !namespaces.iter().any(|of| of.name == pod.id.namespace);
    counts.add("pods of a namespace without an object", pod(&stray));

    let selectors: Vec<_> = policies.iter().flat_map(|of| selectors(of)).collect();
    counts.add("empty selector", selectors.iter().any(|of| of.is_empty()));
    let requires = |is: fn(&Requirement) -> bool| {
        let mut all = selectors.iter().flat_map(|of| &of.match_expressions);
        all.any(is)
    };
    counts.add("In", requires(|of| matches!(of, Requirement::In(..))));
    counts.add("NotIn", requires(|of| matches!(of, Requirement::NotIn(..))));
    counts.add(
        "Exists",
        requires(|of| matches!(of, Requirement::Exists(_))),
    );
    let absent = |of: &Requirement| matches!(of, Requirement::DoesNotExist(_));
    counts.add("DoesNotExist", requires(absent));

    let rules = || {
        let policies = policies.iter();
        policies.flat_map(|of| of.ingress.iter().chain(&of.egress))
    };
    let peer = |is: fn(&Peer) -> bool| rules().flat_map(|rule| &rule.peers).any(is);
    let both = |peer: &Peer| {
        matches!(
            peer,
            Peer::Pods {
                namespaces: Some(_),
                pods: Some(_)
            }
        )
    };
    counts.add("peer with both selectors", peer(both));
    counts.add("ipBlock", peer(|of| matches!(of, Peer::IpBlock { .. })));
    let cut = |of: &Peer| matches!(of, Peer::IpBlock { except, .. } if !except.is_empty());
    counts.add("except", peer(cut));
    counts.add(
        "rule for everyone",
        rules().any(|rule| rule.peers.is_empty()),
    );
    let ports = || rules().flat_map(|rule| &rule.ports);
    let named = ports().any(|port| matches!(port.port, PortMatch::Named(_)));
    counts.add("named port", named);
    let range = ports().any(|port| matches!(port.port, PortMatch::Range(a, b) if a < b));
    counts.add("endPort", range);
    counts.add(
        "SCTP rule",
        ports().any(|port| port.protocol == Protocol::Sctp),
    );
    let several = pod(&|pod| {
        let selecting = policies.iter().filter(|of| {
            of.id.namespace == pod.id.namespace && of.pod_selector.matches(&pod.labels)
        });
        selecting.count() > 1
    });
    counts.add("several policies on one pod", several);

    let kind = |kind: AdminKind| admin.iter().any(|of| of.kind == kind);
    counts.add("AdminNetworkPolicy", kind(AdminKind::AdminNetworkPolicy));
    let baseline = AdminKind::BaselineAdminNetworkPolicy;
    counts.add("BaselineAdminNetworkPolicy", kind(baseline));
    counts.add(
        "ClusterNetworkPolicy",
        kind(AdminKind::ClusterNetworkPolicy),
    );
    let equal = admin.iter().enumerate().any(|(at, of)| {
        let mut later = admin[at + 1..].iter();
        of.kind != baseline
            && later.any(|other| {
                other.kind != baseline && (of.tier, of.priority) == (other.tier, other.priority)
            })
    });
    counts.add("admin policies of one priority", equal);
    let rules = || {
        let policies = admin.iter();
        policies.flat_map(|of| of.ingress.iter().chain(&of.egress))
    };
    let peer = |is: fn(&AdminPeer) -> bool| rules().flat_map(|rule| &rule.peers).any(is);
    let node = |of: &AdminPeer| matches!(of, AdminPeer::Nodes(_));
    counts.add("admin rule by node", peer(node));
    let named = |of: &AdminPort| matches!(of, AdminPort::Named(_));
    let named = rules().flat_map(|rule| &rule.ports).any(named);
    counts.add("admin rule by named port", named);
    let unknown = |of: &AdminPeer| *of == AdminPeer::Unrecognised;
    counts.add("admin rule with an unknown peer", peer(unknown));
}

fn count_verdict(query: &Query<'_>, egress: bool, of: &DirectionVerdict<'_>, counts: &mut Counts) {
    use UnknownReason as Why;
    let is = |expectation| of.expectation == expectation;
    counts.add("allow", is(Expectation::Allow));
    counts.add("deny", is(Expectation::Deny));
    let decision = of.decision;
    counts.add("not governed", matches!(decision, Decision::NotGoverned));
    counts.add("not isolated", matches!(decision, Decision::NotIsolated));
    counts.add("exempt", matches!(decision, Decision::Exempt));
    counts.add("by a rule", matches!(decision, Decision::Rule(_)));
    counts.add("by no rule", matches!(decision, Decision::NoRule));
    for (what, tier, expectation) in [
        (
            "by an admin rule that allows",
            Tier::Admin,
            Expectation::Allow,
        ),
        (
            "by an admin rule that denies",
            Tier::Admin,
            Expectation::Deny,
        ),
        (
            "by a baseline rule that allows",
            Tier::Baseline,
            Expectation::Allow,
        ),
        (
            "by a baseline rule that denies",
            Tier::Baseline,
            Expectation::Deny,
        ),
    ] {
        let by = matches!(decision, Decision::Admin(by) if by.policy.tier == tier);
        counts.add(what, by && is(expectation));
    }
    let by_unknown = match decision {
        Decision::Admin(by) => {
            let policy = by.policy;
            let rules = if egress {
                &policy.egress
            } else {
                &policy.ingress
            };
            rules[by.rule].peers.contains(&AdminPeer::Unrecognised)
        }
        _ => false,
    };
    counts.add("by a rule with an unknown peer", by_unknown);
    let by_admin = matches!(decision, Decision::Admin(_));
    let beside = by_admin && !of.isolating.is_empty();
    counts.add("admin rule beside an isolating policy", beside);
    for (what, reason) in [
        ("unknown OwnNodeEgress", Why::OwnNodeEgress),
        ("unknown IpBlockOnPod", Why::IpBlockOnPod),
        ("unknown HostNetworkPod", Why::HostNetworkPod),
        ("unknown MixedFamilies", Why::MixedFamilies),
        ("unknown RefusedPolicy", Why::RefusedPolicy),
        ("unknown EqualPriority", Why::EqualPriority),
        ("unknown DomainName", Why::DomainName),
    ] {
        counts.add(what, is(Expectation::Unknown(reason)));
    }
    use polproof_policy::Endpoint;
    let other = if egress {
        query.destination
    } else {
        query.source
    };
    let host = matches!(other, Endpoint::Pod(pod) if pod.host_network && !pod.finished);
    counts.add("hostNetwork pod at the other end", host);
    counts.add("node at the other end", matches!(other, Endpoint::Node(_)));
    counts.add("SCTP", query.protocol == Protocol::Sctp);
    counts.add("IPv6", query.source_ip.is_ipv6());
}

/// The same cluster with every Pass rule taken out: where the outcome differs, Pass mattered.
fn without_pass(objects: &[Object]) -> Vec<Object> {
    let mut objects = objects.to_vec();
    for object in &mut objects {
        if let Object::AdminPolicy(policy) = object {
            let mut changed = AdminPolicy::clone(policy);
            for rule in changed.ingress.iter_mut().chain(&mut changed.egress) {
                if rule.action == Action::Pass {
                    // The index of the others stays what it is.
                    rule.action = Action::Allow;
                    rule.peers = vec![AdminPeer::Unrecognised];
                }
            }
            *policy = changed.into();
        }
    }
    objects
}

#[test]
fn every_feature_is_met_often_enough() {
    let mut runner = TestRunner::deterministic();
    let clusters = (cluster(), refused(), questions(QUESTIONS));
    let (mut of_clusters, mut of_verdicts) = (Counts::default(), Counts::default());
    let mut verdicts = 0;
    for _ in 0..CLUSTERS {
        let (objects, refused, questions) = clusters.new_tree(&mut runner).unwrap().current();
        count_cluster(&objects, &mut of_clusters);
        of_clusters.add("refused policy", !refused.is_empty());
        let without_pass = state_of(&without_pass(&objects)).snapshot();
        let mut state = state_of(&objects);
        state.set_refused_policies(refused);
        let snapshot = state.snapshot();
        let pods = pods_of(&objects);
        for question in &questions {
            let query = question.query(&pods);
            let verdict = snapshot.evaluate(&query);
            let other = without_pass.evaluate(&query);
            for (egress, of, other) in [
                (true, &verdict.egress, &other.egress),
                (false, &verdict.ingress, &other.ingress),
            ] {
                verdicts += 1;
                count_verdict(&query, egress, of, &mut of_verdicts);
                let by_other = matches!(other.decision, Decision::Admin(_));
                let passed = by_other && !matches!(of.decision, Decision::Admin(_));
                let isolated = !of.isolating.is_empty();
                of_verdicts.add("passed on to a NetworkPolicy", passed && isolated);
                let baseline = matches!(other.decision,
                    Decision::Admin(by) if by.policy.tier == Tier::Baseline);
                of_verdicts.add("passed in Baseline", passed && baseline);
            }
        }
        assert!(
            Kind::ALL
                .iter()
                .map(|kind| snapshot.count(*kind))
                .sum::<usize>()
                == objects.len()
        );
    }
    of_clusters.check(&OF_CLUSTERS, 1_000, CLUSTERS);
    of_verdicts.check(&OF_VERDICTS, 10_000, verdicts);
}
