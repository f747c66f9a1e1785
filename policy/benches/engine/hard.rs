//! The synthetic cluster, changed so that what is usually little becomes much.

use std::collections::BTreeMap;
use std::sync::Arc;

use polproof_policy::model::{NetworkPolicy, Peer, Pod, Rule, Selector};
use polproof_policy::{Kind, Object};

/// What `synthetic::cluster` makes.
pub(crate) type Objects = Vec<(Kind, Vec<Object>)>;

/// Every pod may connect to every pod by its egress rules, and none takes it: each pair of groups has to be looked at to know
/// that a rule for it is in vain.
pub(crate) fn egress_denied(objects: &mut Objects) {
    let anywhere = Rule {
        peers: vec![Peer::Pods {
            namespaces: Some(Selector::default()),
            pods: None,
        }],
        ports: Vec::new(),
    };
    policies(objects, |_, policy| {
        policy.isolates_ingress = true;
        policy.isolates_egress = true;
        policy.ingress.clear();
        policy.egress = vec![anywhere.clone()];
    });
}

/// Every rule has 20 more peers, each a block with exceptions, no two alike.
pub(crate) fn many_blocks(objects: &mut Objects) {
    policies(objects, |number, policy| {
        let rules = policy.ingress.iter_mut().chain(policy.egress.iter_mut());
        for (nth, rule) in rules.enumerate() {
            for block in 0..20 {
                let (a, b) = ((number * 7 + nth * 3) % 200, block * 12);
                rule.peers.push(Peer::IpBlock {
                    cidr: format!("{}.{b}.0.0/14", a + 1).parse().unwrap(),
                    except: vec![
                        format!("{}.{b}.{}.0/24", a + 1, number % 250)
                            .parse()
                            .unwrap(),
                    ],
                });
            }
        }
    });
}

/// Labels that rules select by tell every pod from every other: pod 5 has `bit-0` and `bit-2`.
pub(crate) fn no_two_alike(objects: &mut Objects) {
    const BITS: usize = 14;
    let bit = |number: usize| Arc::<str>::from(format!("bit-{number}"));
    let set = Arc::<str>::from("1");
    for (_, objects) in objects.iter_mut() {
        for (number, object) in objects.iter_mut().enumerate() {
            if let Object::Pod(pod) = object {
                let mut changed = Pod::clone(pod);
                for nth in (0..BITS).filter(|nth| number >> nth & 1 == 1) {
                    changed.labels.insert(bit(nth), Arc::clone(&set));
                }
                *pod = Arc::new(changed);
            }
        }
    }
    policies(objects, |number, policy| {
        policy.ingress.push(Rule {
            peers: vec![Peer::Pods {
                namespaces: Some(Selector::default()),
                pods: Some(Selector {
                    match_labels: BTreeMap::from([(bit(number % BITS), Arc::clone(&set))]),
                    match_expressions: Vec::new(),
                }),
            }],
            ports: Vec::new(),
        });
    });
}

fn policies(objects: &mut Objects, change: impl Fn(usize, &mut NetworkPolicy)) {
    for (_, objects) in objects {
        for (number, object) in objects.iter_mut().enumerate() {
            if let Object::NetworkPolicy(policy) = object {
                let mut changed = NetworkPolicy::clone(policy);
                change(number, &mut changed);
                *policy = Arc::new(changed);
            }
        }
    }
}
