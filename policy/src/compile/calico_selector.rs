//! Calico's selector expressions, as far as Kubernetes' requirements can say them.
//!
//! `all()`, `global()`, `has(k)`, `k == 'v'`, `k != 'v'`, `k in {...}`, `k not in {...}`, `k contains 's'`, `k starts with
//! 's'`, `k ends with 's'`, `!`, `&&`, `||` and parentheses. The answer is a list of requirements of which each holds
//! wherever the expression does; what cannot be said is left out, so the list never selects fewer.

use std::sync::Arc;

use crate::model::NAMESPACE_NAME_LABEL;
use crate::model::Requirement;

/// Parentheses and negations within one another; beyond, and past [`MAX_LENGTH`], everything is selected.
const MAX_DEPTH: usize = 64;
const MAX_LENGTH: usize = 64 * 1024;

/// What `selector` requires: of the namespace, and of the pod.
pub(super) fn pods(expression: &str) -> (Vec<Requirement>, Vec<Requirement>) {
    let (mut of_namespace, mut of_pod) = (Vec::new(), Vec::new());
    for requirement in requirements(expression) {
        match key(&requirement) {
            "projectcalico.org/namespace" => {
                of_namespace.push(renamed(requirement, NAMESPACE_NAME_LABEL));
            }
            // Labels that Calico adds: of orchestrators, namespaces (`pcns.`) and service accounts (`pcsa.`).
            ours if ours.starts_with("projectcalico.org/") => {}
            ours if ours.starts_with("pcns.") || ours.starts_with("pcsa.") => {}
            _ => of_pod.push(requirement),
        }
    }
    (of_namespace, of_pod)
}

/// What `namespaceSelector` requires of the namespace.
pub(super) fn namespaces(expression: &str) -> Vec<Requirement> {
    requirements(expression)
        .into_iter()
        .filter_map(|requirement| match key(&requirement) {
            "projectcalico.org/name" => Some(renamed(requirement, NAMESPACE_NAME_LABEL)),
            ours if ours.starts_with("projectcalico.org/") => None,
            _ => Some(requirement),
        })
        .collect()
}

fn key(requirement: &Requirement) -> &str {
    match requirement {
        Requirement::In(key, _)
        | Requirement::NotIn(key, _)
        | Requirement::Exists(key)
        | Requirement::DoesNotExist(key) => key,
    }
}

fn renamed(requirement: Requirement, key: &str) -> Requirement {
    let key = Arc::from(key);
    match requirement {
        Requirement::In(_, values) => Requirement::In(key, values),
        Requirement::NotIn(_, values) => Requirement::NotIn(key, values),
        Requirement::Exists(_) => Requirement::Exists(key),
        Requirement::DoesNotExist(_) => Requirement::DoesNotExist(key),
    }
}

fn requirements(expression: &str) -> Vec<Requirement> {
    if expression.len() > MAX_LENGTH {
        return Vec::new();
    }
    let Some(tokens) = tokens(expression) else {
        return Vec::new();
    };
    let mut parser = Parser {
        tokens: &tokens,
        depth: 0,
    };
    match parser.any(true) {
        Some(found) if parser.tokens.is_empty() => found,
        _ => Vec::new(),
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Token<'a> {
    /// A label's key, or an operator that is a word.
    Word(&'a str),
    Text(&'a str),
    Sign(&'static str),
}

/// The tokens, or nothing if a character belongs to none.
fn tokens(text: &str) -> Option<Vec<Token<'_>>> {
    const SIGNS: [&str; 10] = ["==", "!=", "&&", "||", "!", "(", ")", "{", "}", ","];
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let in_word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '/' | '-');
        let (token, after) = if let Some(sign) = SIGNS.iter().find(|sign| rest.starts_with(**sign))
        {
            (Token::Sign(sign), rest.get(sign.len()..)?)
        } else if matches!(first, '\'' | '"') {
            let (inside, after) = rest.get(1..)?.split_once(first)?;
            (Token::Text(inside), after)
        } else {
            let end = rest.find(|c| !in_word(c)).unwrap_or(rest.len());
            let word = rest.get(..end).filter(|word| !word.is_empty())?;
            (Token::Word(word), rest.get(end..)?)
        };
        tokens.push(token);
        rest = after.trim_start();
    }
    Some(tokens)
}

/// Reads and lowers at once. `holds` is whether the part must hold (true) or must not (inside a negation).
struct Parser<'t, 's> {
    tokens: &'t [Token<'s>],
    depth: usize,
}

type Found = Option<Vec<Requirement>>;

impl<'t, 's> Parser<'t, 's> {
    fn sign(&mut self, sign: &str) -> Option<()> {
        match self.tokens.split_first()? {
            (Token::Sign(found), rest) if *found == sign => {
                self.tokens = rest;
                Some(())
            }
            _ => None,
        }
    }

    fn word(&mut self) -> Option<&'s str> {
        match self.tokens.split_first()? {
            (Token::Word(word), rest) => {
                self.tokens = rest;
                Some(word)
            }
            _ => None,
        }
    }

    fn text(&mut self) -> Option<Arc<str>> {
        match self.tokens.split_first()? {
            (Token::Text(text), rest) => {
                self.tokens = rest;
                Some(Arc::from(*text))
            }
            _ => None,
        }
    }

    /// `a || b`; an empty expression is everything.
    fn any(&mut self, holds: bool) -> Found {
        if self.tokens.is_empty() {
            return Some(Vec::new());
        }
        let mut found = self.every(holds)?;
        while self.sign("||").is_some() {
            let other = self.every(holds)?;
            found = if holds {
                either(found, &other)
            } else {
                both(found, other)
            };
        }
        Some(found)
    }

    fn every(&mut self, holds: bool) -> Found {
        let mut found = self.one(holds)?;
        while self.sign("&&").is_some() {
            let other = self.one(holds)?;
            found = if holds {
                both(found, other)
            } else {
                either(found, &other)
            };
        }
        Some(found)
    }

    fn one(&mut self, holds: bool) -> Found {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return None;
        }
        let found = self.term(holds);
        self.depth -= 1;
        found
    }

    fn term(&mut self, holds: bool) -> Found {
        if self.sign("!").is_some() {
            return self.one(!holds);
        }
        if self.sign("(").is_some() {
            let found = self.any(holds)?;
            self.sign(")")?;
            return Some(found);
        }
        let key = self.word()?;
        if matches!(key, "all" | "global" | "has") && self.sign("(").is_some() {
            if key != "has" {
                self.sign(")")?;
                return Some(Vec::new());
            }
            let key = Arc::from(self.word()?);
            self.sign(")")?;
            return Some(vec![if holds {
                Requirement::Exists(key)
            } else {
                Requirement::DoesNotExist(key)
            }]);
        }
        let key: Arc<str> = Arc::from(key);
        if self.sign("==").is_some() {
            let values = vec![self.text()?];
            return Some(vec![one_of(key, values, holds)]);
        }
        if self.sign("!=").is_some() {
            let values = vec![self.text()?];
            return Some(vec![one_of(key, values, !holds)]);
        }
        match self.word()? {
            "in" => Some(vec![one_of(key, self.values()?, holds)]),
            word @ ("not" | "notin") => {
                if word == "not" && self.word()? != "in" {
                    return None;
                }
                Some(vec![one_of(key, self.values()?, !holds)])
            }
            word @ ("contains" | "starts" | "ends" | "startsWith" | "endsWith") => {
                if matches!(word, "starts" | "ends") && self.word()? != "with" {
                    return None;
                }
                self.text()?;
                // The label must at least be there; its absence is one of many ways not to match.
                Some(if holds {
                    vec![Requirement::Exists(key)]
                } else {
                    Vec::new()
                })
            }
            _ => None,
        }
    }

    fn values(&mut self) -> Option<Vec<Arc<str>>> {
        self.sign("{")?;
        let mut values = Vec::new();
        if self.sign("}").is_some() {
            return Some(values);
        }
        loop {
            values.push(self.text()?);
            if self.sign("}").is_some() {
                return Some(values);
            }
            self.sign(",")?;
        }
    }
}

const fn one_of(key: Arc<str>, values: Vec<Arc<str>>, holds: bool) -> Requirement {
    if holds {
        Requirement::In(key, values)
    } else {
        Requirement::NotIn(key, values)
    }
}

fn both(mut one: Vec<Requirement>, other: Vec<Requirement>) -> Vec<Requirement> {
    one.extend(other);
    one
}

/// What holds of either side: only a choice of values of one label can be said.
fn either(one: Vec<Requirement>, other: &[Requirement]) -> Vec<Requirement> {
    if one == other {
        return one;
    }
    match (one.as_slice(), other) {
        ([Requirement::In(key, values)], [Requirement::In(same, more)]) if key == same => {
            let values = values.iter().chain(more).cloned().collect();
            vec![Requirement::In(Arc::clone(key), values)]
        }
        _ => Vec::new(),
    }
}
