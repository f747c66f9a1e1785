//! Page tokens: where a walk stands, in text.

use sha2::{Digest as _, Sha256};

use crate::store::{Cursor, Filter};

/// The token of a place in a walk.
pub(super) fn write(cursor: &Cursor, filter: &Filter) -> String {
    let mark = mark(filter);
    match cursor {
        Cursor::Newest { began, after: None } => format!("1-{mark}-n-{began}"),
        Cursor::Newest {
            began,
            after: Some((last, id, node)),
        } => format!("1-{mark}-n-{began}-{last}-{id}-{node}"),
        Cursor::Changed { after, id, node } => format!("1-{mark}-c-{after}-{id}-{node}"),
    }
}

/// The place of a token; `None` if it is not one of ours or of another filter.
pub(super) fn read(token: &str, filter: &Filter) -> Option<Cursor> {
    let rest = token.strip_prefix("1-")?;
    let rest = rest.strip_prefix(&mark(filter))?;
    if let Some(rest) = rest.strip_prefix("-n-") {
        // The node comes last: it may hold any character.
        let mut parts = rest.splitn(4, '-');
        let began = parts.next()?.parse().ok()?;
        let after = match parts.next() {
            None => None,
            Some(last) => Some((
                last.parse().ok()?,
                parts.next()?.to_owned(),
                parts.next()?.to_owned(),
            )),
        };
        return Some(Cursor::Newest { began, after });
    }
    let mut parts = rest.strip_prefix("-c-")?.splitn(3, '-');
    Some(Cursor::Changed {
        after: parts.next()?.parse().ok()?,
        id: parts.next()?.to_owned(),
        node: parts.next()?.to_owned(),
    })
}

/// Tells filters apart: a walk goes on with the filter that it began with.
fn mark(filter: &Filter) -> String {
    let mut hash = Sha256::new();
    hash.update(format!("{filter:?}"));
    hash.finalize()
        .iter()
        .take(6)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_come_back_and_belong_to_their_filter() {
        let filter = Filter {
            namespace: "shop".to_owned(),
            ..Filter::default()
        };
        for cursor in [
            Cursor::Newest {
                began: 7,
                after: None,
            },
            Cursor::Newest {
                began: 7,
                after: Some((123, "ab".to_owned(), "node-1.example".to_owned())),
            },
            Cursor::Changed {
                after: 9,
                id: "~".to_owned(),
                node: String::new(),
            },
        ] {
            let token = write(&cursor, &filter);
            assert_eq!(read(&token, &filter), Some(cursor));
            assert_eq!(read(&token, &Filter::default()), None);
        }
        for wrong in ["", "1", "x", "1-", "1-000000000000-n-1", "\u{0}"] {
            assert_eq!(read(wrong, &filter), None, "{wrong:?}");
        }
    }
}
