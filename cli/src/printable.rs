//! Text of others, made safe for a terminal.

/// The text with everything escaped (`\u{1b}`) that a terminal obeys instead of showing, or that makes text look like
/// another text: controls (C0, DEL, C1), line separators, marks that turn the direction of writing. The collector does
/// the same to what it takes in; an old one, or its database, may not have.
pub(crate) fn printable(text: impl Into<String>) -> String {
    let text = text.into();
    if !text.chars().any(unprintable) {
        return text;
    }
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        if unprintable(character) {
            safe.extend(character.escape_unicode());
        } else {
            safe.push(character);
        }
    }
    safe
}

fn unprintable(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}'
        )
}
