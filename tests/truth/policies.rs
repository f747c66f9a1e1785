//! What the policies of a group say. Sources are told apart by their role (or their address), and everybody is closed but for that.

use std::fmt::Write as _;

use anyhow::{Context, Result};
use polproof_tests::lab::wiring::{self, CLUSTER_CIDRS};

use crate::cell::Said;
use crate::scene::Scene;

/// The policy that isolates everybody.
pub(crate) const DEFAULT_DENY: &str = "default-deny";

/// Everybody is isolated, and selectors open.
const CLOSED: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: t, name: default-deny}
spec:
  podSelector: {}
  policyTypes: [Ingress, Egress]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: t, name: from-others}
spec:
  podSelector: {matchExpressions: [{key: role, operator: In, values: [in, watch]}]}
  policyTypes: [Egress]
  egress: [{}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: t, name: from-watch-to-destinations}
spec:
  podSelector: {matchLabels: {app: destination}}
  policyTypes: [Ingress]
  ingress:
    - from: [{podSelector: {matchLabels: {role: watch}}}]
";

/// The rule with a named port admits nobody who is there, and is what some enforcers stumble over.
const BY_SELECTOR: &str = "
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: t, name: to-destinations}
spec:
  podSelector: {matchLabels: {app: destination}}
  policyTypes: [Ingress]
  ingress:
    - from: [{podSelector: {matchExpressions: [{key: role, operator: In, values: [ok, eg]}]}}]
    - from: [{podSelector: {matchLabels: {role: nobody}}}]
      ports: [{port: metrics}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: t, name: from-sources}
spec:
  podSelector: {matchLabels: {role: ok}}
  policyTypes: [Egress]
  egress:
    - to: [{podSelector: {matchLabels: {app: destination}}}]
";

/// The same, said without a policy for everybody: who may reach a destination stands in the one policy with a named port.
pub(crate) const ALONE: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: t, name: to-destinations}
spec:
  podSelector: {matchLabels: {app: destination}}
  policyTypes: [Ingress]
  ingress:
    - from: [{podSelector: {matchExpressions: [{key: role, operator: In, values: [ok, eg, watch]}]}}]
    - from: [{podSelector: {matchLabels: {role: nobody}}}]
      ports: [{port: metrics}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: t, name: from-sources}
spec:
  podSelector: {matchExpressions: [{key: role, operator: In, values: [eg, both]}]}
  policyTypes: [Egress]
";

/// What most groups have.
pub(crate) fn by_selector() -> String {
    format!("{CLOSED}{BY_SELECTOR}")
}

/// The same said by addresses of pods: blocks admit the sources, and leave out those that are to be denied. Whether a block
/// holds a pod at all, the API leaves open; that nobody else admits what it leaves out, it does not.
pub(crate) fn by_block(scene: &Scene) -> Result<String> {
    let mut text = format!(
        "{CLOSED}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{namespace: t, name: to-destinations}}
spec:
  podSelector: {{matchLabels: {{app: destination}}}}
  policyTypes: [Ingress]
  ingress:
    - from:
"
    );
    let mut left_out = vec![wiring::pod_addresses(1, 0), wiring::pod_addresses(1, 1)];
    for said in [Said::DeniedIngress, Said::DeniedBoth] {
        let pod = format!("t/from-{}", said.role());
        let pair = scene.places.get(&pod);
        left_out.push(*pair.with_context(|| format!("nobody knows where {pod} is"))?);
    }
    let [v4, v6]: [Vec<String>; 2] = [
        left_out.iter().map(|[v4, _]| format!("{v4}/32")).collect(),
        left_out.iter().map(|[_, v6]| format!("{v6}/128")).collect(),
    ];
    for (cidr, except) in wiring::pod_cidrs(1).iter().zip([v4, v6]) {
        let except: Vec<String> = except.iter().map(|cidr| format!("\"{cidr}\"")).collect();
        let except = except.join(", ");
        let _ = writeln!(
            text,
            "        - ipBlock: {{cidr: \"{cidr}\", except: [{except}]}}"
        );
    }
    text.push_str(
        "---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: t, name: from-sources}
spec:
  podSelector: {matchLabels: {role: ok}}
  policyTypes: [Egress]
  egress:
    - to:
",
    );
    for cidr in CLUSTER_CIDRS {
        let _ = writeln!(text, "        - ipBlock: {{cidr: \"{cidr}\"}}");
    }
    Ok(text)
}
