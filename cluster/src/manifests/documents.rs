//! Text -> documents: YAML, JSON and streams of either, as kubectl, kustomize and Helm write them.

use serde::de::{DeserializeSeed, IgnoredAny};
use serde_json::Value;

use super::contents::Contents;
use super::objects;
use super::place::Place;
use super::read::Text;
use super::value::Document;
use crate::ClusterError;

/// Objects within objects. The deepest that people have are schemas, at some fifty.
const MAX_DEPTH: usize = 128;
const MARK: char = '\u{feff}';

/// Adds the objects of a file.
pub(super) fn parse(file: &Text, contents: &mut Contents) -> Result<(), ClusterError> {
    let text = file.text.strip_prefix(MARK).unwrap_or(&file.text);
    let json = file.path.extension().is_some_and(|e| e == "json");
    if json || text.trim_start().starts_with('{') {
        // A stream of objects, as kubectl takes it. YAML may begin so, too, and then does not go on like JSON.
        match streamed(text) {
            Ok(documents) => return each(file, documents, json_value, contents),
            Err((line, problem)) if json => return Err(Place::new(file, line).broken(&problem)),
            Err(_) => {}
        }
    }
    each(file, documents(text), yaml_value, contents)
}

fn each<'t>(
    file: &'t Text,
    documents: impl IntoIterator<Item = (u64, &'t str)>,
    read: fn(Place<'_>, &str) -> Result<Value, ClusterError>,
    contents: &mut Contents,
) -> Result<(), ClusterError> {
    for (line, text) in documents {
        let place = Place::new(file, line);
        match read(place, text)? {
            // Only comments.
            Value::Null => {}
            value => objects::add(value, place, contents)?,
        }
    }
    Ok(())
}

/// The values of a JSON stream with their first lines, or where it is none.
fn streamed(text: &str) -> Result<Vec<(u64, &str)>, (u64, String)> {
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<IgnoredAny>();
    let mut found = Vec::new();
    let (mut start, mut line) = (0, 1);
    loop {
        let next = values.next();
        match next {
            None => return Ok(found),
            Some(Err(error)) => {
                return Err((u64::try_from(error.line()).unwrap_or(1), error.to_string()));
            }
            Some(Ok(IgnoredAny)) => {
                let end = values.byte_offset();
                let value = text.get(start..end).unwrap_or_default();
                let inside = value.trim_start();
                let before = value.len() - inside.len();
                line += lines(value.get(..before).unwrap_or_default());
                found.push((line, inside));
                line += lines(inside);
                start = end;
            }
        }
    }
}

fn lines(text: &str) -> u64 {
    let lines = text.bytes().filter(|byte| *byte == b'\n').count();
    u64::try_from(lines).unwrap_or(u64::MAX)
}

/// The documents of a YAML text with their first lines, without those that hold nothing. `---` and `...` in the first
/// column always separate documents, also inside block scalars.
fn documents(text: &str) -> Vec<(u64, &str)> {
    let text = without_notes(text);
    let mut documents = Vec::new();
    let (mut first, mut start) = (1, 0);
    let mut empty = true;
    let mut offset = 0;
    for (index, whole) in (1..).zip(text.split_inclusive('\n')) {
        let line = whole.strip_prefix(MARK).unwrap_or(whole);
        let marker = line.starts_with("---") || line.starts_with("...");
        let rest = line.get(3..).unwrap_or_default();
        if marker && (rest.is_empty() || rest.starts_with(char::is_whitespace)) {
            if !empty {
                documents.extend(text.get(start..offset).map(|document| (first, document)));
            }
            let end_of_document = line.starts_with("...");
            let skipped = if end_of_document {
                whole.len()
            } else {
                whole.len() - line.len()
            };
            (first, start) = (index + u64::from(end_of_document), offset + skipped);
            empty = end_of_document || holds_nothing(rest);
        } else {
            empty = empty && holds_nothing(line);
        }
        offset += whole.len();
    }
    if !empty {
        documents.extend(text.get(start..).map(|document| (first, document)));
    }
    documents
}

/// Whether a line outside of any value holds nothing: blank, a comment or a directive.
fn holds_nothing(line: &str) -> bool {
    let inside = line.trim();
    inside.is_empty() || inside.starts_with('#') || line.starts_with('%')
}

/// `helm install --dry-run` writes a head before the manifests, which is a document that is no object, and notes for people
/// after them, which are no YAML.
fn without_notes(text: &str) -> &str {
    if !text.starts_with("NAME:") {
        return text;
    }
    match text.find("\nNOTES:") {
        Some(end) => text.get(..=end).unwrap_or(text),
        None => text,
    }
}

fn json_value(place: Place<'_>, text: &str) -> Result<Value, ClusterError> {
    let mut json = serde_json::Deserializer::from_str(text);
    Document::of_length(text.len())
        .deserialize(&mut json)
        .map_err(|error| {
            let within = u64::try_from(error.line()).unwrap_or(1).max(1);
            place.below(within - 1).broken(&error.to_string())
        })
}

/// Parses one document. Every bound grows with the text, so that a large dump is read and a
/// small file cannot grow by aliases.
fn yaml_value(place: Place<'_>, text: &str) -> Result<Value, ClusterError> {
    let size = text.len() + 1024;
    let budget = serde_saphyr::budget! {
        max_events: size,
        max_nodes: size,
        max_total_scalar_bytes: size,
        max_depth: MAX_DEPTH,
        max_aliases: 1000,
        max_anchors: 1000,
        max_inclusion_depth: 0,
        max_merge_keys: 1000,
    };
    let options = serde_saphyr::options! {
        budget: budget,
        // kubectl's reader takes 0644 as octal, too.
        legacy_octal_numbers: true,
        with_snippet: false,
    };
    let document = Document::of_length(text.len());
    serde_saphyr::with_deserializer_from_str_with_options(text, options, |yaml| {
        document.deserialize(yaml)
    })
    .map_err(|error| {
        let error = error.without_snippet();
        let within = error
            .location()
            .map_or(1, |location| location.line().max(1));
        place
            .below(within - 1)
            .broken(&in_our_words(&error.to_string()))
    })
}

/// The parser speaks to programmers where it speaks of its options.
fn in_our_words(problem: &str) -> String {
    if let Some((duplicate, _)) = problem.split_once(", set DuplicateKeyPolicy") {
        return format!("{duplicate}; remove one of the two");
    }
    if problem.starts_with("budget breached") {
        return format!(
            "no manifest needs so much nesting or so many anchors, aliases and merge keys: {problem}"
        );
    }
    problem.to_owned()
}

#[cfg(test)]
mod tests {
    use super::{documents, streamed};

    #[test]
    fn documents_keep_their_lines() {
        let text =
            "a: 1\n---\nb: 2\n--- # c\nc: 3\n...\n---\n# nothing\n---\nd: |\n  ---\n  x\n---x: 1\n";
        assert_eq!(
            documents(text),
            [
                (1, "a: 1\n"),
                (2, "---\nb: 2\n"),
                (4, "--- # c\nc: 3\n"),
                (9, "---\nd: |\n  ---\n  x\n---x: 1\n"),
            ]
        );
    }

    #[test]
    fn windows_writes_marks_and_carriage_returns() {
        let text = "%YAML 1.2\r\n---\r\na: 1\r\n\u{feff}---\r\nb: 2";
        assert_eq!(
            documents(text),
            [(2, "---\r\na: 1\r\n"), (4, "---\r\nb: 2")]
        );
    }

    #[test]
    fn values_of_a_json_stream_keep_their_lines() {
        let text = "\n{\"a\":\n1}{}\n\n {\"b\":2}\n";
        assert_eq!(
            streamed(text),
            Ok(vec![(2, "{\"a\":\n1}"), (3, "{}"), (5, "{\"b\":2}")])
        );
    }

    #[test]
    fn helms_notes_are_no_manifests() {
        let text = "NAME: web\nMANIFEST:\n---\na: 1\nNOTES:\n1. Get the URL: {{\n";
        assert_eq!(documents(text).last(), Some(&(3, "---\na: 1\n")));
    }
}
