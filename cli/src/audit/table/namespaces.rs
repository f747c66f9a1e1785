//! The namespaces: what isolates their pods, and how many of them.

use polproof_policy::lint::Posture;

use super::Page;
use crate::audit::report::plural;
use crate::output::Tone;
use crate::printable::printable;

/// Namespaces that are shown, unless all are wanted.
const MOST_NAMESPACES: usize = 20;

impl Page<'_> {
    pub(super) fn namespaces(&self) -> String {
        let mut shown: Vec<&Posture> = self.report.namespaces.iter().collect();
        if shown.is_empty() {
            return String::new();
        }
        let most = if self.all {
            usize::MAX
        } else {
            MOST_NAMESPACES
        };
        let hidden = shown.len().saturating_sub(most);
        if hidden > 0 {
            // Those that lack something stay.
            shown.sort_by_key(|posture| is_covered(posture));
            shown.truncate(most);
            shown.sort_by(|a, b| a.namespace.cmp(&b.namespace));
        }
        let rows: Vec<_> = shown
            .into_iter()
            .map(|posture| self.posture(posture))
            .collect();
        let head = [
            "NAMESPACE",
            "POLICIES",
            "PODS",
            "DENY-ALL INGRESS",
            "DENY-ALL EGRESS",
            "COVERED INGRESS",
            "COVERED EGRESS",
        ];
        let mut text = format!("\n{}", self.screen.table(&head, &rows));
        if hidden > 0 {
            text.push_str(&format!(
                "and {} more, the best covered ones (--all shows them)\n",
                plural(hidden, "namespace")
            ));
        }
        text
    }

    fn posture(&self, of: &Posture) -> Vec<(Tone, String)> {
        let pods = of.governed_pods;
        let deny = |there: bool| match (there, pods) {
            (true, _) => (Tone::Good, "yes".to_owned()),
            (false, 0) => (Tone::Dim, "no".to_owned()),
            (false, _) => (Tone::Bad, "no".to_owned()),
        };
        let covered = |covered: usize| match (covered, pods) {
            (_, 0) => (Tone::Dim, "-".to_owned()),
            (covered, pods) if covered >= pods => (Tone::Good, format!("{covered}/{pods}")),
            (covered, pods) => (Tone::Warn, format!("{covered}/{pods}")),
        };
        let exempt = self.report.exempt_namespaces.iter();
        let name = if exempt.clone().any(|name| **name == *of.namespace) {
            format!("{} (exempt)", of.namespace)
        } else {
            of.namespace.to_string()
        };
        vec![
            (Tone::Plain, printable(name)),
            (Tone::Plain, of.policies.to_string()),
            (Tone::Plain, pods.to_string()),
            deny(of.default_deny_ingress),
            deny(of.default_deny_egress),
            covered(of.covered_ingress),
            covered(of.covered_egress),
        ]
    }
}

/// Whether nothing is to be done there.
const fn is_covered(posture: &Posture) -> bool {
    posture.governed_pods == 0
        || (posture.default_deny_ingress
            && posture.default_deny_egress
            && posture.covered_ingress >= posture.governed_pods
            && posture.covered_egress >= posture.governed_pods)
}
