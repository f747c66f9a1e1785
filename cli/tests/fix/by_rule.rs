//! The corrections by rule: each finding with a suggestion is gone after its patch, and the new policies do what they are for.

use std::path::Path;

use serde_json::{Value, json};

use crate::run::{DNS, SHOP, fix, found, input, patched, polproof, text};

const SERVICES: &str = r#"---
apiVersion: v1
kind: Service
metadata: { name: web, namespace: shop }
spec: { selector: { app: frontend }, ports: [{ port: 80, targetPort: http }] }
---
apiVersion: v1
kind: Service
metadata: { name: db, namespace: shop }
spec: { selector: { app: db }, ports: [{ port: 15432, targetPort: 5432 }] }
---
apiVersion: v1
kind: Namespace
metadata: { name: watch, labels: { purpose: monitoring } }
---
apiVersion: v1
kind: Pod
metadata: { name: prom, namespace: watch, labels: { app: prom } }
spec: { containers: [{ name: prom, image: i, ports: [{ name: stats, containerPort: 8125, protocol: UDP }] }] }
status: { podIPs: [{ ip: 10.0.7.7 }] }
"#;

/// Policies of namespace shop: the finding that each has, its spec, and a place in it with what is there afterwards.
fn slips() -> Vec<(&'static str, Value, &'static str, Value)> {
    let frontend = json!({"matchLabels": {"app": "frontend"}});
    let db = json!({"matchLabels": {"app": "db"}});
    let from = |peer: Value, ports: Value| {
        json!({"podSelector": db, "policyTypes": ["Ingress"],
               "ingress": [{"from": [peer], "ports": ports}]})
    };
    let to = |peer: Value, ports: Value| {
        json!({"podSelector": frontend, "policyTypes": ["Egress"],
               "egress": [{"to": [peer], "ports": ports}]})
    };
    let pods = |labels: Value| json!({"podSelector": {"matchLabels": labels}});
    let name = "kubernetes.io/metadata.name";
    vec![
        (
            "NP030 shop/p",
            json!({"podSelector": {"matchLabels": {"app": "frontnd"}}, "policyTypes": ["Ingress"]}),
            "/spec/podSelector",
            frontend.clone(),
        ),
        (
            "NP031 shop/p:ingress[0].from[0]",
            from(pods(json!({"ap": "frontend"})), json!([{"port": 5432}])),
            "/spec/ingress/0/from/0/podSelector",
            frontend.clone(),
        ),
        (
            "NP032 shop/p:ingress[0].from[0]",
            from(
                json!({"namespaceSelector": {"matchLabels": {"purpose": "monitorng"}}}),
                json!([{"port": 5432}]),
            ),
            "/spec/ingress/0/from/0/namespaceSelector/matchLabels",
            json!({"purpose": "monitoring"}),
        ),
        (
            "NP033 shop/p:ingress[0].from[0]",
            from(pods(json!({"app": "prom"})), json!([{"port": 5432}])),
            "/spec/ingress/0/from/0",
            json!({"podSelector": {"matchLabels": {"app": "prom"}},
                   "namespaceSelector": {"matchLabels": {name: "watch"}}}),
        ),
        (
            "NP041 shop/p:egress[0].ports[0]",
            to(
                json!({"namespaceSelector": {"matchLabels": {name: "watch"}}}),
                json!([{"port": "stats"}]),
            ),
            "/spec/egress/0/ports/0",
            json!({"port": "stats", "protocol": "UDP"}),
        ),
        (
            "NP042 shop/p:egress[0].ports[0]",
            to(pods(json!({"app": "db"})), json!([{"port": 15432}])),
            "/spec/egress/0/ports/0/port",
            json!(5432),
        ),
        (
            "NP042 shop/p:ingress[0].ports[0]",
            json!({"podSelector": frontend, "policyTypes": ["Ingress"],
                   "ingress": [{"from": [pods(json!({"app": "db"}))], "ports": [{"port": 80}]}]}),
            "/spec/ingress/0/ports/0/port",
            json!("http"),
        ),
        (
            "NP043 shop/p:egress[0]",
            to(json!({"namespaceSelector": {}}), json!([{"port": 53}])),
            "/spec/egress/0/ports",
            json!([{"port": 53}, {"port": 53, "protocol": "UDP"}]),
        ),
        (
            "NP052 shop/p:egress[0].to[0]",
            to(
                json!({"ipBlock": {"cidr": "203.0.0.0/8", "except": ["203.1.0.0/16", "203.1.2.0/24", "203.1.0.0/16"]}}),
                json!([{"port": 443}]),
            ),
            "/spec/egress/0/to/0/ipBlock/except",
            json!(["203.1.0.0/16"]),
        ),
        (
            "NP060 shop/p:egress",
            json!({"podSelector": frontend, "policyTypes": ["Ingress"],
                   "egress": [{"to": [pods(json!({"app": "db"}))], "ports": [{"port": 5432}]}]}),
            "/spec/policyTypes",
            json!(["Ingress", "Egress"]),
        ),
        (
            "NP062 shop/p",
            json!({"podSelector": {}, "egress": []}),
            "/spec/policyTypes",
            json!(["Ingress", "Egress"]),
        ),
        (
            "NP091 shop/p:egress[0].ports[0]",
            to(
                pods(json!({"app": "db"})),
                json!([{"port": 5432, "endPort": 5432}]),
            ),
            "/spec/egress/0/ports/0",
            json!({"port": 5432}),
        ),
        (
            "NP022 shop/web->169.254.169.254",
            to(
                json!({"ipBlock": {"cidr": "169.254.0.0/16"}}),
                json!([{"port": 80}]),
            ),
            "/spec/egress/0/to/0/ipBlock/except",
            json!(["169.254.169.254/32"]),
        ),
    ]
}

fn policy(name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
           "metadata": {"namespace": "shop", "name": name}, "spec": spec})
}

fn document(object: &Value) -> String {
    format!("---\n{object}\n")
}

fn fixes(folder: &Path, more: &[&str]) -> Value {
    let output = fix(folder, &[&["-o", "json"], more].concat());
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The cluster with everything applied that fix says.
fn applied(manifests: &[&str], policies: &[Value], fixes: &Value) -> tempfile::TempDir {
    let folder = input(manifests);
    let new = fixes["policies"].as_array().unwrap().iter();
    let new = new.map(|new| document(&new["manifest"]));
    let patched = policies
        .iter()
        .map(|policy| document(&patched(policy, fixes)));
    let all: String = new.chain(patched).collect();
    std::fs::write(folder.path().join("policies.yaml"), all).unwrap();
    folder
}

#[test]
fn each_finding_that_a_rule_can_remedy_is_gone() {
    for (finding, spec, place, expected) in slips() {
        let policy = policy("p", &spec);
        let folder = input(&[DNS, SHOP, SERVICES, &document(&policy)]);
        let before = found(folder.path());
        assert!(before.contains(finding), "{finding}: {before:?}");
        let fixes = fixes(folder.path(), &[]);
        let corrected = patched(&policy, &fixes);
        assert_eq!(
            corrected.pointer(place),
            Some(&expected),
            "{finding}: {corrected:#}"
        );
        let after = applied(&[DNS, SHOP, SERVICES], &[policy], &fixes);
        let left = found(after.path());
        assert!(!left.contains(finding), "{finding}: {left:?}");
        let high: Vec<_> = fixes["left"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|of| of["severity"] == "high")
            .collect();
        assert!(high.is_empty(), "{finding}: {high:?}");
        let said: std::collections::BTreeSet<String> = fixes["left"]
            .as_array()
            .unwrap()
            .iter()
            .map(|of| {
                format!(
                    "{} {}",
                    of["lint"].as_str().unwrap(),
                    of["subject"].as_str().unwrap()
                )
            })
            .collect();
        assert_eq!(
            said, left,
            "{finding}: what fix says is left is what audit finds"
        );
    }
}

#[test]
fn the_name_of_a_namespace_that_is_only_assumed_is_corrected_too() {
    let policy = policy(
        "dns",
        &json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": [{
            "to": [{"namespaceSelector": {"matchLabels": {"name": "kube-system"}}}],
            "ports": [{"port": 53, "protocol": "UDP"}, {"port": 53}]}]}),
    );
    let folder = input(&[SHOP, &document(&policy)]);
    let fixes = fixes(folder.path(), &[]);
    assert_eq!(
        patched(&policy, &fixes).pointer("/spec/egress/0/to/0/namespaceSelector/matchLabels"),
        Some(&json!({"kubernetes.io/metadata.name": "kube-system"})),
        "{fixes:#}"
    );
    let names: Vec<_> = fixes["policies"]
        .as_array()
        .unwrap()
        .iter()
        .map(|new| &new["manifest"]["metadata"]["name"])
        .collect();
    assert_eq!(names, ["default-deny-ingress"]);
}

#[test]
fn dns_servers_of_another_name_on_another_port_are_allowed_there() {
    let servers = DNS
        .replace("kube-system", "openshift-dns")
        .replace("k8s-app: kube-dns", "dns: default")
        .replace("containerPort: 53", "containerPort: 5353")
        .replace("port: 53", "port: 5353");
    let folder = input(&[&servers, SHOP]);
    let dns = ["--dns", "openshift-dns:dns=default"];
    let fixes = fixes(folder.path(), &dns);
    let new = fixes["policies"].as_array().unwrap();
    let allow = new
        .iter()
        .find(|new| new["manifest"]["metadata"]["name"] == "allow-dns")
        .unwrap();
    let rule = &allow["manifest"]["spec"]["egress"][0];
    assert_eq!(
        rule["ports"],
        json!([{"port": 5353, "protocol": "TCP"}, {"port": 5353, "protocol": "UDP"}])
    );
    assert_eq!(
        rule["to"][0]["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"],
        "openshift-dns"
    );
    let left: Vec<_> = fixes["left"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|of| of["lint"] == "NP020")
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_pod_that_has_dns_gets_no_second_rule_for_it() {
    let isolated = |app: &str, egress: Value| {
        policy(
            app,
            &json!({"podSelector": {"matchLabels": {"app": app}}, "policyTypes": ["Egress"], "egress": egress}),
        )
    };
    let allowed = isolated(
        "frontend",
        json!([{"to": [{"namespaceSelector": {}}], "ports": [{"port": 53, "protocol": "UDP"}, {"port": 53}]}]),
    );
    let cut = isolated("db", json!([]));
    let folder = input(&[DNS, SHOP, &document(&allowed), &document(&cut)]);
    let audit = fixes(folder.path(), &["--ingress-only"]);
    let new: Vec<_> = audit["policies"]
        .as_array()
        .unwrap()
        .iter()
        .map(|new| &new["manifest"])
        .collect();
    let dns: Vec<_> = new
        .iter()
        .filter(|new| {
            new["metadata"]["name"]
                .as_str()
                .unwrap()
                .starts_with("allow-dns")
        })
        .collect();
    assert_eq!(dns.len(), 1, "{new:?}");
    assert_eq!(
        dns[0]["spec"]["podSelector"],
        json!({"matchLabels": {"app": "db"}})
    );
}

#[test]
fn a_rule_that_an_admin_policy_makes_useless_is_not_written() {
    let deny = r#"---
apiVersion: policy.networking.k8s.io/v1alpha1
kind: AdminNetworkPolicy
metadata: { name: no-dns }
spec:
  priority: 1
  subject: { namespaces: {} }
  egress:
  - { name: no-dns, action: Deny, to: [{ namespaces: { matchLabels: { kubernetes.io/metadata.name: kube-system } } }] }
"#;
    let folder = input(&[DNS, SHOP, deny]);
    let fixes = fixes(folder.path(), &[]);
    let names: Vec<_> = fixes["policies"]
        .as_array()
        .unwrap()
        .iter()
        .map(|new| new["manifest"]["metadata"]["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["default-deny"]);
    let left = fixes["left"]
        .as_array()
        .unwrap()
        .iter()
        .any(|of| of["lint"] == "NP020");
    assert!(left, "{fixes:#}");
}

#[test]
fn what_somebody_accepted_is_left_as_it_is() {
    let mut out = policy(
        "out",
        &json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"],
               "egress": [{"to": [{"podSelector": {"matchLabels": {"app": "dbb"}}}]}]}),
    );
    out["metadata"]["annotations"] =
        json!({"polproof.io/suppress": "NP031: the pods come next week"});
    let folder = input(&[DNS, SHOP, &document(&out)]);
    let fixes = fixes(folder.path(), &[]);
    assert_eq!(fixes["patches"], json!([]), "{fixes:#}");
}

#[test]
fn a_namespace_that_is_not_there_is_a_mistake() {
    let folder = input(&[DNS, SHOP]);
    let output = polproof(&["fix", folder.path().to_str().unwrap(), "-n", "shopp"]);
    assert_eq!(output.status.code(), Some(2));
    let said = text(&output.stderr);
    assert!(
        said.contains("-n shopp: there is no such namespace"),
        "{said}"
    );
}

#[test]
fn the_tour_is_corrected_until_its_checks_hold() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures");
    let tour = fixtures.join("tour");
    let read = |file: &str| std::fs::read_to_string(tour.join(file)).unwrap();
    let policies: Vec<Value> = read("policies.yaml")
        .split("---\n")
        .map(|document| serde_saphyr::from_str(document).unwrap())
        .collect();
    let check = |folder: &Path| {
        let expected = fixtures.join("check/tour.yaml");
        let arguments = [
            "check",
            expected.to_str().unwrap(),
            "--manifests",
            folder.to_str().unwrap(),
        ];
        polproof(&arguments).status.code()
    };
    assert_eq!(check(&tour), Some(1));
    let before = found(&tour);
    assert_eq!(before.len(), 17, "{before:?}");
    let after = applied(&[&read("cluster.yaml")], &policies, &fixes(&tour, &[]));
    assert_eq!(check(after.path()), Some(0));
    assert_eq!(
        found(after.path()).into_iter().collect::<Vec<_>>(),
        ["NP013 shop/db:egress[0]"]
    );
}
