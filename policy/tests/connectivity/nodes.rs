//! Rules about nodes, where some nodes are not known.

use std::net::IpAddr;
use std::sync::Arc;

use polproof_policy::compile;
use polproof_policy::connectivity::{Access, Connectivity, Options};
use polproof_policy::model::{Labels, Node, Pod};
use polproof_policy::{Kind, NamespacedName, Object, Protocol, State, Uid};

fn pod(name: &str, ip: &str, host_of: Option<&str>) -> Object {
    Object::Pod(Arc::new(Pod {
        id: NamespacedName::new("shop", name),
        uid: Uid(Arc::from(name)),
        labels: Labels::new(),
        ips: vec![ip.parse::<IpAddr>().unwrap()],
        node: host_of.map(Arc::from),
        host_network: host_of.is_some(),
        finished: false,
        ports: Vec::new(),
        owner: None,
        annotations: Labels::new(),
    }))
}

/// The engine takes a node without an object for one without labels. A hostNetwork pod there is not like one of a node that
/// the selector leaves out.
#[test]
fn a_node_that_is_not_known_is_not_like_one_that_no_selector_selects() {
    let policy = serde_json::json!({
        "metadata": {"name": "no-nodes"},
        "spec": {
            "subject": {"namespaces": {}},
            "priority": 1,
            "egress": [{
                "action": "Deny",
                "to": [{"nodes": {"matchExpressions": [{"key": "pool", "operator": "DoesNotExist"}]}}]
            }]
        }
    });
    let mut state = State::new();
    for object in [
        pod("web", "10.0.0.1", None),
        pod("known", "192.0.2.1", Some("n1")),
        pod("unknown", "192.0.2.2", Some("n2")),
        Object::Node(Arc::new(Node {
            name: Arc::from("n1"),
            uid: Uid(Arc::from("n1")),
            labels: [(Arc::from("pool"), Arc::from("a"))].into(),
            addresses: Vec::new(),
            pod_cidrs: Vec::new(),
        })),
        compile::optional(Kind::AdminNetworkPolicy, &policy).unwrap(),
    ] {
        state.apply(object);
    }
    let mut matrix = Connectivity::of(&state.snapshot(), &Options::default());
    let at = |name: &str| {
        let mut ends = matrix.ends().iter();
        ends.position(|end| &*end.name == name).unwrap()
    };
    let (web, known, unknown) = (at("web"), at("known"), at("unknown"));
    let mut access = |to| {
        let cell = matrix.cell(web, to).families[0].unwrap();
        matrix.ports(cell).unwrap().at(Protocol::Tcp, 80).unwrap()
    };
    assert_eq!(access(known), Access::Allow);
    assert!(
        matches!(access(unknown), Access::Unknown(_)),
        "{:?}",
        access(unknown)
    );
}
