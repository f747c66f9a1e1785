//! The walk of the admin and baseline tiers.

use std::sync::Arc;

use polproof_policy::ask::Directory;
use polproof_policy::explain::{DirectionExplanation, TierName};
use polproof_policy::model::{
    Action, AdminKind, AdminPeer, AdminPolicy, AdminPort, AdminRule, Pod, PortMatch, Selector, Tier,
};
use polproof_policy::{NamespacedName, Object, Protocol, State};

use super::{admin, asked, directory, ingress, pod, policy, rule, says, shop};

fn platform() -> Vec<Object> {
    let mut objects = shop();
    objects.extend([
        admin(
            AdminKind::AdminNetworkPolicy,
            "platform",
            10,
            vec![
                rule(
                    "scrape",
                    Action::Pass,
                    Some("monitoring"),
                    vec![AdminPort::Named(Arc::from("metrics"))],
                ),
                rule(
                    "no-db",
                    Action::Deny,
                    None,
                    vec![AdminPort::Of(Protocol::Tcp, PortMatch::Range(5432, 5432))],
                ),
                // Never reached by what the rules before it match.
                rule("after", Action::Allow, None, Vec::new()),
            ],
        ),
        admin(
            AdminKind::ClusterNetworkPolicy,
            "later",
            20,
            vec![rule("all", Action::Allow, None, Vec::new())],
        ),
        admin(
            AdminKind::BaselineAdminNetworkPolicy,
            "default",
            0,
            vec![rule("nothing", Action::Deny, None, Vec::new())],
        ),
    ]);
    objects
}

#[test]
fn the_admin_tier_is_walked_to_the_rule_that_decides() {
    let reply = asked(&directory(platform()), "shop/web", "shop/db", 5432);
    let walk = ingress(&reply);
    assert_eq!(
        says(walk, TierName::Admin),
        "rule 1 \"no-db\" of AdminNetworkPolicy platform denies it"
    );
    let lines: Vec<_> = walk
        .policies
        .iter()
        .filter(|policy| policy.tier == TierName::Admin)
        .map(|policy| {
            (
                policy.policy.as_str(),
                policy.priority,
                policy.rules.clone(),
            )
        })
        .collect();
    assert_eq!(
        lines,
        [
            (
                "platform",
                Some(10),
                vec![
                    "rule 0 \"scrape\" (Pass) does not match: the namespace of pod shop/web is shop, not monitoring, \
                     and port 5432/TCP is not metrics (9090 on pod shop/db)"
                        .to_owned(),
                    "rule 1 \"no-db\" (Deny) denies it: every pod of every namespace, port 5432/TCP"
                        .to_owned(),
                ]
            ),
            ("later", Some(20), vec!["not reached".to_owned()]),
        ]
    );
}

#[test]
fn a_pass_is_followed_into_the_next_tiers() {
    let reply = asked(
        &directory(platform()),
        "monitoring/prometheus",
        "shop/db",
        9090,
    );
    let walk = ingress(&reply);
    assert_eq!(
        says(walk, TierName::Admin),
        "rule 0 \"scrape\" of AdminNetworkPolicy platform passes it on to the NetworkPolicies"
    );
    assert_eq!(
        says(walk, TierName::NetworkPolicy),
        "no NetworkPolicy selects pod shop/db for ingress"
    );
    assert_eq!(
        says(walk, TierName::Baseline),
        "rule 0 \"nothing\" of BaselineAdminNetworkPolicy default denies it"
    );
    let mut isolated = platform();
    isolated.push(policy("db", "db", "web", 5432));
    let reply = asked(
        &directory(isolated),
        "monitoring/prometheus",
        "shop/db",
        9090,
    );
    assert_eq!(
        says(ingress(&reply), TierName::Baseline),
        "not reached: pod shop/db is isolated by NetworkPolicies"
    );
}

/// A rule about nothing that is known, and about every namespace.
fn half_known(name: &str, action: Action) -> AdminRule {
    let mut rule = rule(name, action, None, Vec::new());
    rule.peers.push(AdminPeer::Unrecognised);
    rule
}

fn lines(walk: &DirectionExplanation) -> Vec<&str> {
    let policies = walk.policies.iter();
    let rules = policies.flat_map(|policy| &policy.rules);
    rules.map(String::as_str).collect()
}

#[test]
fn a_rule_with_a_peer_that_is_not_known_is_walked_as_it_is_judged() {
    let mut objects = shop();
    objects.push(admin(
        AdminKind::AdminNetworkPolicy,
        "newer",
        10,
        vec![
            half_known("lets", Action::Allow),
            half_known("passes", Action::Pass),
        ],
    ));
    let reply = asked(&directory(objects), "shop/web", "shop/db", 5432);
    let walk = ingress(&reply);
    assert_eq!(walk.verdict, "deny");
    assert_eq!(
        says(walk, TierName::Admin),
        "rule 1 \"passes\" of AdminNetworkPolicy newer denies it"
    );
    assert_eq!(
        lines(walk),
        [
            "rule 0 \"lets\" (Allow) does not match: one of its peers has no field that is known, so it allows nobody",
            "rule 1 \"passes\" (Pass) denies it: everybody, to be on the safe side, as one of its peers has no field that is \
             known, every port",
        ]
    );
}

#[test]
fn the_baseline_admin_network_policy_is_walked_after_cluster_network_policies() {
    let mut objects = shop();
    let baseline = AdminKind::BaselineAdminNetworkPolicy;
    let nothing = vec![rule("nothing", Action::Deny, None, Vec::new())];
    objects.push(admin(baseline, "default", 0, nothing));
    let Object::AdminPolicy(first) = admin(
        AdminKind::ClusterNetworkPolicy,
        "first",
        20,
        vec![rule("all", Action::Allow, None, Vec::new())],
    ) else {
        unreachable!()
    };
    objects.push(Object::AdminPolicy(Arc::new(AdminPolicy {
        tier: Tier::Baseline,
        ..AdminPolicy::clone(&first)
    })));
    let reply = asked(&directory(objects), "shop/web", "shop/db", 5432);
    let walk = ingress(&reply);
    assert_eq!(walk.verdict, "allow");
    assert_eq!(
        lines(walk),
        [
            "rule 0 \"all\" (Allow) allows it: every pod of every namespace, every port",
            "not reached",
        ]
    );
}

#[test]
fn what_a_baseline_rule_denies_beside_a_refused_policy_is_said_with_both() {
    let mut state = State::new();
    for object in platform() {
        state.apply(object);
    }
    state.set_refused_policies([
        NamespacedName::new("shop", "typo"),
        NamespacedName::new("", "newer"),
    ]);
    let directory = Directory::new(&state.snapshot());
    let reply = asked(&directory, "monitoring/prometheus", "shop/db", 9090);
    assert_eq!(
        ingress(&reply).because,
        "rule 0 \"nothing\" of BaselineAdminNetworkPolicy default denies pod monitoring/prometheus to pod shop/db; but the \
         refused policies shop/typo, newer could not be evaluated, and may admit it"
    );
}

#[test]
fn an_admin_rule_that_denies_by_address_is_not_said_to_admit() {
    let mut objects = shop();
    let mut policy = AdminPolicy {
        egress: vec![AdminRule {
            name: None,
            action: Action::Deny,
            peers: vec![AdminPeer::Networks(vec!["10.0.0.0/8".parse().unwrap()])],
            ports: Vec::new(),
        }],
        ..match admin(AdminKind::AdminNetworkPolicy, "out", 1, Vec::new()) {
            Object::AdminPolicy(policy) => AdminPolicy::clone(&policy),
            _ => unreachable!(),
        }
    };
    policy.ingress.clear();
    objects.push(Object::AdminPolicy(Arc::new(policy)));
    let reply = asked(&directory(objects), "shop/web", "shop/db", 5432);
    let egress = &reply.answers[0].cases[0].explanation.directions[0];
    assert_eq!(
        egress.because,
        "it depends on a block of addresses whether pod shop/web to pod shop/db is allowed, and CNIs differ in whether one \
         matches the address of a pod"
    );
}

#[test]
fn what_is_certain_whatever_a_domain_name_means_is_not_put_down_to_it() {
    let egress = |name: &str, priority: u16, rules: Vec<AdminRule>| {
        let Object::AdminPolicy(policy) =
            admin(AdminKind::ClusterNetworkPolicy, name, priority, Vec::new())
        else {
            unreachable!()
        };
        Object::AdminPolicy(Arc::new(AdminPolicy {
            egress: rules,
            ..AdminPolicy::clone(&policy)
        }))
    };
    let by = |name: &str, action: Action, peer: AdminPeer| AdminRule {
        name: Some(Arc::from(name)),
        action,
        peers: vec![peer],
        ports: Vec::new(),
    };
    let names = AdminPeer::DomainNames(vec![Arc::from("*.example.com")]);
    let block = AdminPeer::Networks(vec!["203.0.113.0/24".parse().unwrap()]);
    let mut objects = shop();
    objects.extend([
        egress("names", 1, vec![by("names", Action::Allow, names)]),
        egress("block", 2, vec![by("block", Action::Deny, block)]),
    ]);
    let directory = directory(objects);
    let walk = |to: &str| {
        let reply = asked(&directory, "monitoring/prometheus", to, 443);
        let egress = &reply.answers[0].cases[0].explanation.directions[0];
        (
            egress.because.clone(),
            says(egress, TierName::Admin).to_owned(),
        )
    };
    // Allowed by that rule or by no rule at all: the walk finds none.
    let (because, admin) = walk("198.51.100.7");
    assert!(because.starts_with("no policy selects"), "{because}");
    assert!(admin.ends_with("and no rule matches"), "{admin}");
    // Allowed by that rule or denied by the next one.
    let (because, admin) = walk("203.0.113.7");
    assert!(
        because.starts_with("it depends on a domain name"),
        "{because}"
    );
    assert_eq!(
        admin,
        "rule 0 \"names\" of ClusterNetworkPolicy names may decide it, which the API leaves open"
    );
}

#[test]
fn a_node_that_is_not_known_is_walked_as_it_is_judged() {
    let mut objects = shop();
    let Object::Pod(agent) = pod("shop", "agent", "agent", "192.0.2.9", None) else {
        unreachable!()
    };
    objects.push(Object::Pod(Arc::new(Pod {
        node: Some(Arc::from("n9")),
        host_network: true,
        ..Pod::clone(&agent)
    })));
    let Object::AdminPolicy(out) = admin(AdminKind::AdminNetworkPolicy, "out", 1, Vec::new())
    else {
        unreachable!()
    };
    objects.push(Object::AdminPolicy(Arc::new(AdminPolicy {
        egress: vec![AdminRule {
            name: None,
            action: Action::Deny,
            peers: vec![AdminPeer::Nodes(Selector::default())],
            ports: Vec::new(),
        }],
        ..AdminPolicy::clone(&out)
    })));
    let reply = asked(&directory(objects), "shop/web", "shop/agent", 80);
    let egress = &reply.answers[0].cases[0].explanation.directions[0];
    assert_eq!(egress.reason.as_deref(), Some("HostNetworkPod"));
    assert_eq!(
        says(egress, TierName::Admin),
        "rule 0 of AdminNetworkPolicy out may decide it, which the API leaves open"
    );
    let [line] = lines(egress)[..] else {
        panic!("{:?}", lines(egress))
    };
    assert!(
        line.starts_with("rule 0 (Deny) denies it: node n9, which is not known, is one with"),
        "{line}"
    );
}
