//! Policies of the admin and baseline tiers.

use polproof_policy::{Kind, NamespacedName};

use crate::{Case, admin_policy as admin, all_of, anp, cnp, refused};

#[test]
fn admin_policies_that_no_server_takes() {
    let to = |text: &str| anp(&format!("{{action: Deny, to: [{text}]}}"));
    let spec = |text: &str| admin("AdminNetworkPolicy", text);
    let ports = |text: &str| {
        anp(&format!(
            "{{action: Deny, to: [{{namespaces: {{}}}}], ports: [{text}]}}"
        ))
    };
    let networks = |text: &str| to(&format!("{{networks: [{text}]}}"));
    const TO: &str = "spec.egress[0].to[0]";
    const PORT: &str = "spec.egress[0].ports[0]";
    const SUBJECT: &str = "{namespaces: {}}";
    let many = vec!["{namespaces: {}}"; 101].join(", ");
    let cidrs: Vec<String> = (0..26).map(|n| format!("10.{n}.0.0/16")).collect();
    let cases: Vec<Case> = vec![
        (
            spec(&format!("{{priority: 1001, subject: {SUBJECT}}}")),
            "spec.priority",
            "no priority",
        ),
        (
            spec(&format!("{{priority: -1, subject: {SUBJECT}}}")),
            "spec.priority",
            "no priority",
        ),
        (
            spec(&format!("{{priority: high, subject: {SUBJECT}}}")),
            "spec.priority",
            "whole number",
        ),
        (
            spec(&format!("{{subject: {SUBJECT}}}")),
            "spec.priority",
            "missing",
        ),
        (spec("{priority: 1}"), "spec.subject", "missing"),
        (
            spec("{priority: 1, subject: {}}"),
            "spec.subject",
            "no field",
        ),
        (
            spec(
                "{priority: 1, subject: {namespaces: {}, pods: {namespaceSelector: {}, podSelector: {}}}}",
            ),
            "spec.subject",
            "stand together",
        ),
        (
            spec("{priority: 1, subject: {pods: {podSelector: {}}}}"),
            "spec.subject.pods.namespaceSelector",
            "missing",
        ),
        (
            spec("{priority: 1, subject: {namespaces: {matchLabels: [a]}}}"),
            "spec.subject.namespaces.matchLabels",
            "must be an object",
        ),
        (to("{}"), TO, "no field"),
        (to("null"), TO, "must be an object"),
        (to("{namespaces: {}, nodes: {}}"), TO, "stand together"),
        (
            to("{namespaces: {}, galaxies: {}}"),
            "spec.egress[0].to[0].galaxies",
            "there is no such field",
        ),
        (anp("{action: Deny, to: []}"), "spec.egress[0].to", "empty"),
        (anp("{action: Deny}"), "spec.egress[0].to", "missing"),
        (
            anp(&format!("{{action: Deny, to: [{many}]}}")),
            "spec.egress[0].to",
            "101 entries",
        ),
        (
            anp("{to: [{namespaces: {}}]}"),
            "spec.egress[0].action",
            "missing",
        ),
        (
            anp("{action: Accept, to: [{namespaces: {}}]}"),
            "spec.egress[0].action",
            "no action",
        ),
        (
            anp("{action: deny, to: [{namespaces: {}}]}"),
            "spec.egress[0].action",
            "no action",
        ),
        (
            anp(&format!(
                "{{name: {}, action: Deny, to: [{{namespaces: {{}}}}]}}",
                "n".repeat(101)
            )),
            "spec.egress[0].name",
            "101 characters",
        ),
        (ports("{}"), PORT, "no field"),
        (
            ports("{namedPort: web, portNumber: {port: 1}}"),
            PORT,
            "stand together",
        ),
        (
            ports("{portNumber: {port: 0}}"),
            "spec.egress[0].ports[0].portNumber.port",
            "no port",
        ),
        (
            ports("{portNumber: {}}"),
            "spec.egress[0].ports[0].portNumber.port",
            "missing",
        ),
        (
            ports("{portNumber: {port: 1, protocol: ICMP}}"),
            "spec.egress[0].ports[0].portNumber.protocol",
            "no protocol",
        ),
        (
            ports("{portRange: {start: 9, end: 9}}"),
            "spec.egress[0].ports[0].portRange.end",
            "greater",
        ),
        (
            ports("{portRange: {start: 9, end: 8}}"),
            "spec.egress[0].ports[0].portRange.end",
            "greater",
        ),
        (
            ports("{portRange: {start: 9}}"),
            "spec.egress[0].ports[0].portRange.end",
            "missing",
        ),
        (ports(""), "spec.egress[0].ports", "empty"),
        (
            anp("{action: Deny, to: [{networks: [10.0.0.0/8]}], ports: [{namedPort: web}]}"),
            PORT,
            "named port",
        ),
        (
            anp("{action: Deny, to: [{nodes: {}}], ports: [{namedPort: web}]}"),
            PORT,
            "named port",
        ),
        (
            anp("{action: Allow, to: [{domainNames: [a.b]}], ports: [{namedPort: web}]}"),
            PORT,
            "named port",
        ),
        (
            networks("10.0.0.0"),
            "spec.egress[0].to[0].networks[0]",
            "no CIDR",
        ),
        (networks(""), "spec.egress[0].to[0].networks", "empty"),
        (
            networks("10.0.0.0/8, 10.0.0.0/8"),
            "spec.egress[0].to[0].networks[1]",
            "twice",
        ),
        (
            networks(&cidrs.join(", ")),
            "spec.egress[0].to[0].networks",
            "26 entries",
        ),
        (
            to("{domainNames: [a.example]}"),
            "spec.egress[0].to[0].domainNames",
            "does not allow",
        ),
        (
            anp("{action: Pass, to: [{domainNames: [a.example]}]}"),
            "spec.egress[0].to[0].domainNames",
            "does not allow",
        ),
        (
            anp("{action: Allow, to: [{domainNames: [a.*.example]}]}"),
            "spec.egress[0].to[0].domainNames[0]",
            "no domain name",
        ),
        (
            anp("{action: Allow, to: [{domainNames: [localhost]}]}"),
            "spec.egress[0].to[0].domainNames[0]",
            "no domain name",
        ),
        // Slips of the pen.
        (
            to("{namespace: {}}"),
            "spec.egress[0].to[0].namespace",
            "no such field",
        ),
        (
            anp("{action: Deny, to: [{namespaces: {}}], port: []}"),
            "spec.egress[0].port",
            "no such",
        ),
    ];
    let id = NamespacedName::new("", "a");
    all_of(
        &cases,
        "AdminNetworkPolicy a",
        Kind::AdminNetworkPolicy,
        &id,
    );
}

#[test]
fn cluster_and_baseline_policies_that_no_server_takes() {
    let protocols = |text: &str| {
        cnp(&format!(
            "{{action: Deny, to: [{{namespaces: {{}}}}], protocols: [{text}]}}"
        ))
    };
    const PROTOCOL: &str = "spec.egress[0].protocols[0]";
    let rules = vec!["{action: Deny, to: [{namespaces: {}}]}"; 26].join(", ");
    let cases: Vec<Case> = vec![
        (
            cnp("{action: Allow, to: [{namespaces: {}}]}"),
            "spec.egress[0].action",
            "no action",
        ),
        (
            cnp("").replace("tier: Admin", "tier: admin"),
            "spec.tier",
            "no tier",
        ),
        (cnp("").replace("tier: Admin, ", ""), "spec.tier", "missing"),
        (cnp(&rules), "spec.egress", "26 entries"),
        (protocols("{}"), PROTOCOL, "no field"),
        (
            protocols("{tcp: {}}"),
            "spec.egress[0].protocols[0].tcp.destinationPort",
            "missing",
        ),
        (
            protocols("{udp: {destinationPort: {number: 1, range: {start: 1, end: 2}}}}"),
            "spec.egress[0].protocols[0].udp.destinationPort",
            "stand together",
        ),
        (
            protocols("{sctp: {destinationPort: {number: 65536}}}"),
            "spec.egress[0].protocols[0].sctp.destinationPort.number",
            "no port number",
        ),
        (
            protocols("{tcp: {destinationPort: {range: {start: 2, end: 1}}}}"),
            "spec.egress[0].protocols[0].tcp.destinationPort.range.end",
            "not greater",
        ),
        (
            cnp(
                "{action: Deny, to: [{networks: [10.0.0.0/8]}], protocols: [{destinationNamedPort: web}]}",
            ),
            PROTOCOL,
            "named port",
        ),
    ];
    let id = NamespacedName::new("", "a");
    all_of(
        &cases,
        "ClusterNetworkPolicy a",
        Kind::ClusterNetworkPolicy,
        &id,
    );

    let baseline = |spec: &str| admin("BaselineAdminNetworkPolicy", spec);
    let cases: Vec<Case> = vec![
        (
            baseline(
                "{subject: {namespaces: {}}, ingress: [{action: Pass, from: [{namespaces: {}}]}]}",
            ),
            "spec.ingress[0].action",
            "no action",
        ),
        (
            baseline("{subject: {namespaces: {}}, priority: 1}"),
            "spec.priority",
            "no such field",
        ),
    ];
    let id = NamespacedName::new("", "default");
    let kind = Kind::BaselineAdminNetworkPolicy;
    all_of(&cases, "BaselineAdminNetworkPolicy default", kind, &id);
    let other = baseline("{subject: {namespaces: {}}}").replace("default", "other");
    let reason = refused(&other).reason;
    assert!(
        reason.starts_with("metadata.name: ") && reason.ends_with("name it default"),
        "{reason}"
    );
}
