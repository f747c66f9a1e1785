//! Suppressions as people write them.

use super::{Day, Place};
use crate::lint::lint;

/// An entry of a file of suppressions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    pub(super) lint: &'static str,
    subject: String,
    pub(super) reason: String,
    until: Option<Day>,
    pub(super) by: Place,
}

/// What is wrong with an entry, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{entry}: {problem}")]
pub struct RuleProblem {
    /// Which entry.
    pub entry: String,
    /// The field and its remedy.
    pub problem: String,
}

impl Rule {
    /// Takes an entry. `subject` may have stars, each of which stands for any text; `until` is the last day.
    ///
    /// # Errors
    /// A lint that there is not, no subject, no reason, no date.
    pub fn new(
        entry: String,
        lint: &str,
        subject: &str,
        reason: &str,
        until: Option<&str>,
    ) -> Result<Self, RuleProblem> {
        let made = known(lint.trim()).and_then(|lint| {
            let (subject, reason) = (subject.trim(), reason.trim());
            if subject.is_empty() {
                return Err(format!(
                    "{lint} without a subject: write the finding's subject, such as shop/web, shop/* or *"
                ));
            }
            if reason.is_empty() {
                return Err(format!(
                    "{lint} {subject} has no reason: write why it is accepted"
                ));
            }
            let until = until
                .map(|until| until.trim().parse::<Day>())
                .transpose()
                .map_err(|error| format!("{lint} {subject}: until: {error}"))?;
            Ok((lint, subject.to_owned(), reason.to_owned(), until))
        });
        match made {
            Ok((lint, subject, reason, until)) => Ok(Self {
                lint,
                subject,
                reason,
                until,
                by: Place::File(entry),
            }),
            Err(problem) => Err(RuleProblem { entry, problem }),
        }
    }

    pub(super) fn is_about(&self, subject: &str) -> bool {
        glob(&self.subject, subject)
    }

    pub(super) fn is_over(&self, today: Day) -> bool {
        self.until.is_some_and(|until| until < today)
    }

    /// Why it has no effect, if it has none.
    pub(super) fn idle(&self, today: Day, matches: bool) -> Option<String> {
        let Self { lint, subject, .. } = self;
        match self.until {
            Some(until) if until < today => Some(format!(
                "{lint} {subject} was accepted until {until} only: remedy it, or decide anew"
            )),
            _ if !matches => Some(format!(
                "{lint} {subject} matches no finding (any more): remove it"
            )),
            _ => None,
        }
    }
}

/// The entries of an annotation: `NP022: why; NP002, NP003: why`. A semicolon within a reason is taken as such, unless a
/// lint follows it.
pub(super) fn entries(text: &str) -> Vec<Result<(Vec<&'static str>, String), String>> {
    let mut chunks: Vec<String> = Vec::new();
    for piece in text.split([';', '\n']).map(str::trim) {
        match chunks.last_mut() {
            _ if piece.is_empty() => {}
            Some(last) if !begins_with_lint(piece) => {
                last.push_str("; ");
                last.push_str(piece);
            }
            _ => chunks.push(piece.to_owned()),
        }
    }
    chunks.iter().map(|chunk| entry(chunk)).collect()
}

fn entry(chunk: &str) -> Result<(Vec<&'static str>, String), String> {
    if !begins_with_lint(chunk) {
        return Err(format!(
            "{chunk:?} names no lint: write \"NP022: why this is accepted\""
        ));
    }
    let (ids, reason) = chunk.split_once(':').unwrap_or((chunk, ""));
    let reason = reason.trim();
    if reason.is_empty() {
        return Err(format!(
            "{ids} has no reason and so suppresses nothing: write \"{ids}: why this is accepted\""
        ));
    }
    let lints = ids.split(',').map(|id| known(id.trim()));
    Ok((lints.collect::<Result<_, _>>()?, reason.to_owned()))
}

fn begins_with_lint(text: &str) -> bool {
    text.strip_prefix("NP")
        .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
}

fn known(id: &str) -> Result<&'static str, String> {
    lint(id)
        .map(|lint| lint.id)
        .ok_or_else(|| format!("there is no lint {id:?}; `polproof audit --list` names them"))
}

/// Whether a text is what a pattern says; a star stands for any text, everything else for itself (subjects have brackets).
fn glob(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = text.strip_prefix(parts.next().unwrap_or_default()) else {
        return false;
    };
    let Some(last) = parts.next_back() else {
        return rest.is_empty();
    };
    for part in parts {
        match rest.split_once(part) {
            Some((_, after)) => rest = after,
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_is_any_text_and_brackets_are_themselves() {
        for (pattern, text, is) in [
            ("shop/web", "shop/web", true),
            ("shop/web", "shop/web-1", false),
            ("shop/*", "shop/web:ingress[0].from[1]", true),
            ("*", "", true),
            ("*/web:ingress[0]", "shop/web:ingress[0]", true),
            ("*/web:ingress[0]", "shop/web:ingress0", false),
            ("a*b*c", "abc", true),
            ("a*b*c", "aXbYbZc", true),
            ("a*b*c", "acb", false),
            ("ab*ba", "aba", false),
            ("**", "x", true),
            ("shop/*->169.254.169.254", "shop/web->169.254.169.254", true),
            ("", "x", false),
        ] {
            assert_eq!(glob(pattern, text), is, "{pattern} {text}");
        }
    }

    #[test]
    fn an_annotation_has_a_reason_for_each_lint() {
        assert_eq!(
            entries("NP001: legacy; to be moved in May\n"),
            [Ok((vec!["NP001"], "legacy; to be moved in May".to_owned()))]
        );
        assert_eq!(
            entries("NP001, NP001: two at once; NP001: and: a colon;;")
                .into_iter()
                .map(|entry| entry.map(|(_, reason)| reason))
                .collect::<Vec<_>>(),
            [Ok("two at once".to_owned()), Ok("and: a colon".to_owned())]
        );
        for (text, problem) in [
            ("NP001", "NP001 has no reason"),
            ("NP001:  ", "NP001 has no reason"),
            ("NP001: fine; NP001", "NP001 has no reason"),
            ("because", "names no lint"),
            ("NP999: why", "there is no lint \"NP999\""),
        ] {
            let said = entries(text);
            assert!(
                matches!(said.last(), Some(Err(said)) if said.contains(problem)),
                "{text}: {said:?}"
            );
        }
        assert!(entries(" ; \n").is_empty());
    }
}
