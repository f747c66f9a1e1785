//! Text in lines.

/// Columns of text that goes to no terminal, and the most that is good to read.
const READABLE: usize = 110;

/// Adds text in lines that fit, each indented.
pub(in crate::audit) fn wrap(to: &mut String, text: &str, indent: usize) {
    let room = terminal_size::terminal_size_of(std::io::stdout())
        .map_or(READABLE, |(terminal_size::Width(width), _)| {
            usize::from(width).min(READABLE)
        })
        .saturating_sub(indent)
        .max(20);
    let margin = " ".repeat(indent);
    let mut used = 0;
    for word in text.split_whitespace() {
        let length = word.chars().count();
        if used > 0 && used + 1 + length > room {
            to.push('\n');
            used = 0;
        }
        if used == 0 {
            to.push_str(&margin);
        } else {
            to.push(' ');
            used += 1;
        }
        to.push_str(word);
        used += length;
    }
    to.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_broken_between_words() {
        let mut text = String::new();
        wrap(&mut text, &"word ".repeat(60), 4);
        let longest = text.lines().map(str::len).max();
        assert!(
            longest <= Some(READABLE) && text.lines().count() > 2,
            "{text}"
        );
        assert!(
            text.lines().all(|line| line.starts_with("    word")),
            "{text}"
        );
    }
}
