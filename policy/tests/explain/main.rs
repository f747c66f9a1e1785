//! The walk behind a verdict, word for word where people read it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

#[path = "../properties/admin.rs"]
#[allow(dead_code)]
mod admin;
#[path = "../properties/cluster.rs"]
#[allow(dead_code)]
mod cluster;
mod tiers;
mod walk;

use std::net::IpAddr;
use std::sync::Arc;

use polproof_policy::ask::{Directory, Question, Reply, ask};
use polproof_policy::explain::{DirectionExplanation, TierName};
use polproof_policy::model::{
    Action, AdminKind, AdminPeer, AdminPolicy, AdminPort, AdminRule, ContainerPort, ForeignEffect,
    ForeignKind, ForeignPolicy, ForeignScope, Labels, Namespace, NetworkPolicy, Peer, Pod,
    PolicyPort, PortMatch, Rule, Selector, Subject, Tier, Written,
};
use polproof_policy::{NamespacedName, Object, Protocol, State, Uid};

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs
        .iter()
        .map(|(key, value)| (Arc::from(*key), Arc::from(*value)))
        .collect()
}

fn select(pairs: &[(&str, &str)]) -> Selector {
    Selector {
        match_labels: labels(pairs),
        match_expressions: Vec::new(),
    }
}

fn pod(namespace: &str, name: &str, app: &str, ip: &str, owner: Option<(&str, &str)>) -> Object {
    let port = |name: &str, number| ContainerPort {
        name: Some(Arc::from(name)),
        number,
        protocol: Protocol::Tcp,
    };
    Object::Pod(Arc::new(Pod {
        id: NamespacedName::new(namespace, name),
        uid: Uid(Arc::from(format!("{namespace}-{name}"))),
        labels: labels(&[("app", app)]),
        ips: ip.parse::<IpAddr>().into_iter().collect(),
        node: None,
        host_network: false,
        finished: false,
        ports: vec![port("pg", 5432), port("metrics", 9090)],
        owner: owner.map(|(kind, name)| (Arc::from(kind), Arc::from(name))),
        annotations: Labels::new(),
    }))
}

fn namespace(name: &str) -> Object {
    Object::Namespace(Arc::new(Namespace {
        name: Arc::from(name),
        uid: Uid(Arc::from(name)),
        labels: Labels::new(),
        annotations: Labels::new(),
    }))
}

/// Ingress of `app=target` from `app=peer` on a port.
fn policy(name: &str, target: &str, peer: &str, port: u16) -> Object {
    Object::NetworkPolicy(Arc::new(NetworkPolicy {
        id: NamespacedName::new("shop", name),
        uid: Uid(Arc::from(name)),
        generation: 1,
        pod_selector: select(&[("app", target)]),
        isolates_ingress: true,
        isolates_egress: false,
        ingress: vec![Rule {
            peers: vec![Peer::Pods {
                namespaces: None,
                pods: Some(select(&[("app", peer)])),
            }],
            ports: vec![PolicyPort {
                protocol: Protocol::Tcp,
                port: PortMatch::Range(port, port),
                end_port_written: false,
            }],
        }],
        egress: Vec::new(),
        written: Written::default(),
        annotations: Labels::new(),
    }))
}

fn admin(kind: AdminKind, name: &str, priority: u16, ingress: Vec<AdminRule>) -> Object {
    Object::AdminPolicy(Arc::new(AdminPolicy {
        kind,
        name: Arc::from(name),
        uid: Uid(Arc::from(name)),
        generation: 1,
        tier: match kind {
            AdminKind::BaselineAdminNetworkPolicy => Tier::Baseline,
            AdminKind::AdminNetworkPolicy | AdminKind::ClusterNetworkPolicy => Tier::Admin,
        },
        priority,
        subject: Subject::Namespaces(Selector::default()),
        ingress,
        egress: Vec::new(),
        annotations: Labels::new(),
    }))
}

fn rule(name: &str, action: Action, namespace: Option<&str>, ports: Vec<AdminPort>) -> AdminRule {
    AdminRule {
        name: Some(Arc::from(name)),
        action,
        peers: vec![AdminPeer::Namespaces(match namespace {
            Some(name) => select(&[("kubernetes.io/metadata.name", name)]),
            None => Selector::default(),
        })],
        ports,
    }
}

fn directory(objects: Vec<Object>) -> Directory {
    let mut state = State::new();
    for object in objects {
        state.apply(object);
    }
    Directory::new(&state.snapshot())
}

fn asked(directory: &Directory, source: &str, destination: &str, port: u16) -> Reply {
    let question = Question {
        source,
        destination,
        port: Some(port),
        protocol: Protocol::Tcp,
        family: None,
    };
    ask(directory, &question, 1000).unwrap_or_else(|error| panic!("{error}"))
}

fn ingress(reply: &Reply) -> &DirectionExplanation {
    &reply.answers[0].cases[0].explanation.directions[1]
}

fn says(walk: &DirectionExplanation, tier: TierName) -> &str {
    &walk.tiers.iter().find(|of| of.tier == tier).unwrap().says
}

fn shop() -> Vec<Object> {
    vec![
        namespace("shop"),
        namespace("monitoring"),
        pod("shop", "web", "web", "10.0.0.1", None),
        pod("shop", "db", "db", "10.0.0.2", None),
        pod("monitoring", "prometheus", "prometheus", "10.0.0.3", None),
    ]
}

#[test]
fn the_nearest_miss_suggests_the_label_that_was_meant() {
    let mut objects = shop();
    objects.push(policy("db", "db", "wbe", 5432));
    objects.push(policy("other", "db", "prometheus", 1));
    let reply = asked(&directory(objects), "shop/web", "shop/db", 5432);
    assert_eq!(
        ingress(&reply).nearest.as_deref(),
        Some(
            "rule 0 of policy shop/db: pod shop/web has app=web, not app=wbe (did you mean app=web?)"
        )
    );
}

#[test]
fn a_label_that_others_have_is_no_slip() {
    let mut objects = shop();
    objects.push(pod("shop", "wbe", "wbe", "10.0.0.9", None));
    objects.push(policy("db", "db", "wbe", 5432));
    let reply = asked(&directory(objects), "shop/web", "shop/db", 5432);
    assert_eq!(
        ingress(&reply).nearest.as_deref(),
        Some("rule 0 of policy shop/db: pod shop/web has app=web, not app=wbe")
    );
}

#[test]
fn a_policy_that_misses_the_pod_by_a_slip_is_named() {
    let mut objects = shop();
    objects.push(policy("deny", "db", "nobody", 1));
    objects.push(policy("dbb", "dbb", "web", 5432));
    objects.push(pod("shop", "frontend", "frontend", "10.0.0.7", None));
    objects.push(policy("front", "frontnd", "web", 5432));
    let directory = directory(objects);
    let reply = asked(&directory, "shop/web", "shop/frontend", 5432);
    assert_eq!(
        ingress(&reply).notes,
        [
            "policy shop/front does not select it: pod shop/frontend has app=frontend, not app=frontnd (did you mean \
             app=frontend?)"
        ]
    );
}

#[test]
fn a_pod_selector_alone_means_the_own_namespace() {
    let mut objects = shop();
    objects.push(policy("db", "db", "prometheus", 9090));
    let reply = asked(
        &directory(objects),
        "monitoring/prometheus",
        "shop/db",
        9090,
    );
    assert_eq!(
        ingress(&reply).policies[0].rules,
        [
            "rule 0 does not: pod monitoring/prometheus is in namespace monitoring, not shop: a podSelector without a \
             namespaceSelector means the policy's own namespace"
        ]
    );
}

#[test]
fn a_foreign_policy_is_named_and_not_evaluated() {
    let mut objects = shop();
    objects.push(Object::ForeignPolicy(Arc::new(ForeignPolicy {
        kind: ForeignKind::CiliumNetworkPolicy,
        id: NamespacedName::new("shop", "x"),
        uid: Uid(Arc::from("x")),
        scope: ForeignScope {
            own_namespace: true,
            namespaces: None,
            pods: Some(select(&[("app", "db")])),
        },
        ingress: ForeignEffect {
            may_admit: true,
            may_block: true,
        },
        egress: ForeignEffect::default(),
    })));
    let reply = asked(&directory(objects), "shop/web", "shop/db", 5432);
    assert_eq!(
        ingress(&reply).notes,
        [
            "CiliumNetworkPolicy shop/x also selects pod shop/db and is not evaluated: it may block this"
        ]
    );
    assert!(
        reply.answers[0].cases[0].explanation.directions[0]
            .notes
            .is_empty()
    );
}

#[test]
fn a_workload_whose_pods_differ_shows_one_of_each() {
    let mut objects = shop();
    let owner = Some(("StatefulSet", "cache"));
    objects.push(pod("shop", "cache-0", "cache", "10.0.1.0", owner));
    objects.push(pod("shop", "cache-1", "cache", "10.0.1.1", owner));
    objects.push(pod("shop", "cache-2", "db", "10.0.1.2", owner));
    objects.push(policy("db", "db", "nobody", 1));
    let directory = directory(objects);
    let reply = asked(&directory, "shop/web", "shop/sts/cache", 5432);
    let answer = &reply.answers[0];
    assert_eq!((answer.counts.allow, answer.counts.deny), (2, 1));
    let shown: Vec<_> = answer
        .cases
        .iter()
        .map(|case| {
            (
                case.destination.as_str(),
                case.pairs,
                case.explanation.verdict.as_str(),
            )
        })
        .collect();
    assert_eq!(
        shown,
        [("shop/cache-2", 1, "deny"), ("shop/cache-0", 2, "allow")]
    );
    let same = asked(&directory, "shop/web", "shop/statefulset/cache", 5432);
    assert_eq!(same, reply);
    let question = Question {
        source: "shop/web",
        destination: "shop/sts/cahce",
        port: None,
        protocol: Protocol::Tcp,
        family: None,
    };
    let error = ask(&directory, &question, 1000).unwrap_err().to_string();
    assert_eq!(
        error,
        "there is no StatefulSet shop/cahce; did you mean shop/sts/cache?"
    );
    let most = ask(
        &directory,
        &Question {
            destination: "shop/sts/cache",
            ..question
        },
        2,
    );
    assert!(most.unwrap_err().to_string().contains("3 pairs"));
}

#[test]
fn a_pod_without_an_address_is_answered_in_both_families() {
    let mut objects = shop();
    objects.push(pod("shop", "new", "new", "", None));
    objects.push(pod("shop", "newer", "new", "", None));
    let reply = asked(&directory(objects), "shop/new", "shop/newer", 80);
    assert_eq!(reply.answers.len(), 2);
    assert_eq!(
        reply.notes,
        [
            "pods shop/new, shop/newer have no address (status.podIPs is empty): of ipBlocks, only one of everything is \
             taken to hold it"
        ]
    );
}

#[test]
fn a_thousand_policies_are_not_all_put_into_words() {
    let mut objects = shop();
    for index in 0..1000 {
        objects.push(policy(&format!("p{index:04}"), "db", "nobody", 1));
    }
    objects.push(policy("zz-last", "db", "web", 5432));
    let directory = directory(objects);
    let reply = asked(&directory, "shop/web", "shop/db", 5432);
    let walk = ingress(&reply);
    assert_eq!(walk.verdict, "allow");
    assert_eq!(walk.policies.len(), 501);
    assert_eq!(
        walk.policies.last().unwrap().rules,
        [
            "rule 0 admits: pods with app=web of namespace shop, port 5432/TCP",
            "and 500 more rules, of this and other policies, that do not"
        ]
    );
    let denied = asked(&directory, "shop/web", "shop/db", 1);
    assert!(
        ingress(&denied)
            .because
            .contains("shop/p0007, 993 more isolate pod shop/db"),
        "{}",
        ingress(&denied).because
    );
}
