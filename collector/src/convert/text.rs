//! Text of others, made safe to store, to log and to show.

/// What a terminal obeys instead of showing, or what makes text look like another text: controls (C0, DEL, C1), line
/// and paragraph separators, and the marks that turn the direction of writing.
pub fn unprintable(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}'
        )
}

/// The text with everything [`unprintable`] escaped (`\u{1b}`) and cut after `longest` bytes or a little less.
pub fn printable(text: &str, longest: usize) -> String {
    let mut safe = String::with_capacity(text.len().min(longest));
    for character in text.chars() {
        let before = safe.len();
        if unprintable(character) {
            safe.extend(character.escape_unicode());
        } else {
            safe.push(character);
        }
        if safe.len() > longest {
            safe.truncate(before);
            safe.push_str("...");
            break;
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_reaches_a_terminal_that_it_would_obey() {
        for (text, safe) in [
            (
                "shop/db: fine, größer \u{1f600}",
                "shop/db: fine, größer \u{1f600}",
            ),
            ("a\u{1b}[2Jb", "a\\u{1b}[2Jb"),
            ("a\r\nb\tc\u{7f}", "a\\u{d}\\u{a}b\\u{9}c\\u{7f}"),
            ("\u{9b}31m", "\\u{9b}31m"),
            ("x\u{202e}y\u{2066}", "x\\u{202e}y\\u{2066}"),
        ] {
            assert_eq!(printable(text, 100), safe);
        }
        assert_eq!(printable("abcdef", 6), "abcdef");
        assert_eq!(printable("abcdefg", 6), "abcdef...");
        assert_eq!(printable("éé", 3), "é...");
    }
}
