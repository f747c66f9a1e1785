//! An explanation for people.

use crate::output::{Screen, Tone};
use crate::view::{Explanation, Family, Walk, Walked};

/// The colour of a verdict.
pub(crate) fn tone(verdict: &str) -> Tone {
    match verdict {
        "allow" => Tone::Good,
        "deny" => Tone::Bad,
        _ => Tone::Warn,
    }
}

/// The whole explanation.
pub(super) fn text(explanation: &Explanation, screen: &Screen) -> String {
    let colon = if explanation.destination.contains(':') {
        format!("[{}]", explanation.destination)
    } else {
        explanation.destination.clone()
    };
    let mut text = format!(
        "{} -> {colon}:{}/{}: {}\n",
        explanation.source,
        explanation.port,
        explanation.protocol,
        screen.paint(tone(&explanation.verdict), &sentence(explanation)),
    );
    for note in &explanation.notes {
        text.push_str(&format!("  note: {note}\n"));
    }
    // What is the same in both families is said once.
    let mut bodies: Vec<(Vec<&str>, String)> = Vec::new();
    let first = explanation.families.first();
    let same = first.is_some_and(|first| {
        let mut families = explanation.families.iter();
        families.all(|family| family.says() == first.says())
    });
    for family in &explanation.families {
        let before = first.filter(|first| !same && !std::ptr::eq(*first, family));
        let body = body(family, before, explanation, screen);
        match bodies.iter_mut().find(|(_, said)| *said == body) {
            Some((families, _)) => families.push(&family.family),
            None => bodies.push((vec![&family.family], body)),
        }
    }
    for (families, body) in bodies {
        text.push_str(&format!(
            "\n{}: {body}",
            screen.paint(Tone::Bold, &families.join(" and "))
        ));
    }
    text
}

impl Family {
    /// What it says, but for the addresses.
    fn says(&self) -> (&str, &[Walk], usize) {
        (&self.verdict, &self.walked.directions, self.others.len())
    }
}

fn sentence(explanation: &Explanation) -> String {
    match explanation.verdict.as_str() {
        "allow" => "the policies allow it".to_owned(),
        "deny" => "the policies deny it".to_owned(),
        "unknown" => "the policies leave it open".to_owned(),
        _ if explanation.families.iter().any(|of| of.verdict == "mixed") => {
            "the policies say different things for different pods".to_owned()
        }
        _ => "the policies say different things for IPv4 and IPv6".to_owned(),
    }
}

/// `before` is a family that was shown already: what it says, too, is not said again.
fn body(
    family: &Family,
    before: Option<&Family>,
    explanation: &Explanation,
    screen: &Screen,
) -> String {
    let all = family.pairs.allow + family.pairs.deny + family.pairs.unknown;
    if family.others.is_empty() {
        let head = screen.paint(tone(&family.verdict), &family.verdict);
        let head = if all > 1 {
            format!("{head} (all {all} pairs of pods; one of them:)")
        } else {
            head
        };
        return format!(
            "{head}\n{}",
            walks(&family.walked, before, explanation, screen, "  ")
        );
    }
    let mut counts = Vec::new();
    for (number, word) in [
        (family.pairs.allow, "allowed"),
        (family.pairs.deny, "denied"),
        (family.pairs.unknown, "left open"),
    ] {
        if number > 0 {
            counts.push(format!("{number} {word}"));
        }
    }
    let mut text = format!(
        "{} of {all} pairs of pods\n",
        screen.paint(Tone::Warn, &counts.join(", "))
    );
    let first = (&family.first, &family.walked);
    let others = family
        .others
        .iter()
        .map(|case| (&case.verdict, &case.walked));
    for (verdict, walked) in std::iter::once(first).chain(others) {
        text.push_str(&format!(
            "  {} -> {}: {}\n{}",
            walked.source,
            walked.destination,
            screen.paint(tone(verdict), verdict),
            walks(walked, None, explanation, screen, "    ")
        ));
    }
    text
}

fn walks(
    walked: &Walked,
    before: Option<&Family>,
    explanation: &Explanation,
    screen: &Screen,
    indent: &str,
) -> String {
    let mut text = String::new();
    for walk in &walked.directions {
        // As asked, unless several stand behind it.
        let (as_asked, found) = if walk.direction == "egress" {
            (&explanation.source, &walked.source)
        } else {
            (&explanation.destination, &walked.destination)
        };
        let end = if found.is_empty() || as_asked.matches('/').count() < 2 {
            as_asked
        } else {
            found
        };
        let said = before.filter(|before| before.walked.directions.contains(walk));
        if let Some(before) = said {
            text.push_str(&format!(
                "{indent}{} of {end}: {}, as for {}\n",
                walk.direction,
                screen.paint(tone(&walk.verdict), &walk.verdict),
                before.family
            ));
            continue;
        }
        text.push_str(&format!(
            "{indent}{} of {end}: {}, because {}\n",
            walk.direction,
            screen.paint(tone(&walk.verdict), &walk.verdict),
            walk.because
        ));
        text.push_str(&walk_text(walk, screen, indent));
    }
    text
}

fn walk_text(walk: &Walk, screen: &Screen, indent: &str) -> String {
    let mut text = String::new();
    // A cluster without admin policies has one tier, and needs no word of tiers.
    let tiers = walk
        .tiers
        .iter()
        .any(|tier| tier.present && tier.tier != "NetworkPolicy");
    let policies = |of: Option<&str>, indent: &str, text: &mut String| {
        for policy in &walk.policies {
            if of.is_some_and(|tier| tier != policy.tier) {
                continue;
            }
            let name = match (policy.kind.as_str(), policy.priority) {
                ("NetworkPolicy" | "", _) => format!("policy {}", policy.policy),
                (kind, Some(priority)) => {
                    format!("{kind} {} (priority {priority})", policy.policy)
                }
                (kind, None) => format!("{kind} {}", policy.policy),
            };
            text.push_str(&format!("{indent}  {name}\n"));
            for rule in &policy.rules {
                text.push_str(&format!("{indent}    {rule}\n"));
            }
        }
    };
    if tiers {
        for tier in walk.tiers.iter().filter(|tier| tier.present) {
            text.push_str(&format!(
                "{indent}  {} tier: {}\n",
                screen.paint(Tone::Bold, tier.tier),
                tier.says
            ));
            policies(Some(tier.tier), &format!("{indent}  "), &mut text);
        }
    } else {
        policies(None, indent, &mut text);
    }
    let rules: usize = walk.policies.iter().map(|policy| policy.rules.len()).sum();
    if !walk.nearest.is_empty() && rules > 1 {
        text.push_str(&format!("{indent}  nearest: {}\n", walk.nearest));
    }
    for note in &walk.notes {
        text.push_str(&format!("{indent}  note: {note}\n"));
    }
    text
}
