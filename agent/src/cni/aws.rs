//! The AWS VPC CNI. Its policy agent is off by default.

use super::{Chain, Claim, Recognised, chained_engine};

pub(super) fn detect(chain: &Chain) -> Option<Recognised> {
    if !chain.has("aws-cni") {
        return None;
    }
    if let Some(engine) = chained_engine(chain) {
        return Some(Recognised {
            name: "AWS VPC CNI",
            claim: Claim::Depends,
            remedy: format!(
                "{engine} is chained to it: policies are enforced if its agent runs on this node"
            ),
        });
    }
    // `network-policy-enforcing-mode` is how the policy agent starts pods, not whether it runs.
    let strict = chain.plugins.iter().any(|p| {
        p.kind == "aws-cni"
            && p.text("networkPolicyEnforcingMode")
                .or_else(|| p.text("network-policy-enforcing-mode"))
                == Some("strict")
    });
    Some(Recognised {
        name: "AWS VPC CNI",
        claim: Claim::Depends,
        remedy: format!(
            "off by default: set enableNetworkPolicy=true on the add-on (agent flag --enable-network-policy=true){}",
            if strict {
                ""
            } else {
                "; in mode \"standard\" a new pod is open until its rules are there, mode \"strict\" closes it first"
            }
        ),
    })
}
