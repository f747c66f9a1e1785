//! Just enough of Rust's lexer to tell code from comments and literals.

/// The source with comments and the contents of literals replaced by spaces: offsets and line breaks stay.
pub(super) fn code(source: &str) -> String {
    Lexer {
        bytes: source.as_bytes(),
        at: 0,
        out: Vec::with_capacity(source.len()),
    }
    .run()
}

struct Lexer<'source> {
    bytes: &'source [u8],
    at: usize,
    out: Vec<u8>,
}

impl Lexer<'_> {
    fn run(mut self) -> String {
        while let Some(byte) = self.peek(0) {
            match byte {
                b'/' if self.peek(1) == Some(b'/') => {
                    self.blank_while(|lexer| lexer.peek(0) != Some(b'\n'))
                }
                b'/' if self.peek(1) == Some(b'*') => self.block_comment(),
                b'"' => self.string(),
                b'\'' => self.quote(),
                b'r' | b'b' | b'c' if !self.follows_word() => self.prefixed(),
                _ => self.keep(),
            }
        }
        // Only whole characters were blanked or kept, so this never replaces anything.
        String::from_utf8_lossy(&self.out).into_owned()
    }

    fn peek(&self, ahead: usize) -> Option<u8> {
        self.bytes.get(self.at + ahead).copied()
    }

    fn keep(&mut self) {
        self.out.extend(self.peek(0));
        self.at += 1;
    }

    fn blank(&mut self) {
        if let Some(byte) = self.peek(0) {
            self.out.push(if byte == b'\n' { b'\n' } else { b' ' });
        }
        self.at += 1;
    }

    fn blank_while(&mut self, go_on: impl Fn(&Self) -> bool) {
        while self.peek(0).is_some() && go_on(self) {
            self.blank();
        }
    }

    fn follows_word(&self) -> bool {
        self.at
            .checked_sub(1)
            .and_then(|before| self.bytes.get(before))
            .is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_')
    }

    fn block_comment(&mut self) {
        let mut depth = 0usize;
        while self.peek(0).is_some() {
            match (self.peek(0), self.peek(1)) {
                (Some(b'/'), Some(b'*')) => depth += 1,
                (Some(b'*'), Some(b'/')) => depth -= 1,
                _ => {
                    self.blank();
                    continue;
                }
            }
            self.blank();
            self.blank();
            if depth == 0 {
                return;
            }
        }
    }

    /// A string with escapes, from its opening quote on. The quotes stay.
    fn string(&mut self) {
        self.keep();
        while let Some(byte) = self.peek(0) {
            match byte {
                b'\\' => {
                    self.blank();
                    self.blank();
                }
                b'"' => return self.keep(),
                _ => self.blank(),
            }
        }
    }

    /// `'x'`, `'\n'`, or a lifetime, which has no closing quote.
    fn quote(&mut self) {
        let escaped = self.peek(1) == Some(b'\\');
        let width = self.peek(1).map_or(1, |first| match first {
            0..0x80 => 1,
            0x80..0xe0 => 2,
            0xe0..0xf0 => 3,
            _ => 4,
        });
        if !escaped && self.peek(1 + width) != Some(b'\'') {
            return self.keep();
        }
        self.keep();
        if escaped {
            self.blank();
            self.blank();
        }
        self.blank_while(|lexer| lexer.peek(0) != Some(b'\''));
        self.keep();
    }

    /// What begins with r, b or c: a raw or byte string, or a word.
    fn prefixed(&mut self) {
        let letters = (0..2)
            .take_while(|ahead| matches!(self.peek(*ahead), Some(b'r' | b'b' | b'c')))
            .count();
        let raw = (0..letters).any(|ahead| self.peek(ahead) == Some(b'r'));
        let hashes = (0..)
            .take_while(|ahead| raw && self.peek(letters + ahead) == Some(b'#'))
            .count();
        if self.peek(letters + hashes) != Some(b'"') {
            return self.keep();
        }
        for _ in 0..letters + hashes {
            self.keep();
        }
        if !raw {
            return self.string();
        }
        self.keep();
        let closes = |lexer: &Self| {
            lexer.peek(0) == Some(b'"') && (1..=hashes).all(|ahead| lexer.peek(ahead) == Some(b'#'))
        };
        self.blank_while(|lexer| !closes(lexer));
        for _ in 0..=hashes {
            self.keep();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::code;

    #[test]
    fn comments_and_literals_are_blanked_and_code_stays() {
        for (source, expected) in [
            ("a // todo!()\nb", "a           \nb"),
            ("a /* x /* y */ z */ b", "a                   b"),
            (r#"f("todo!(\" x") g"#, r#"f("          ") g"#),
            (r##"r#"a " b"# c"##, r##"r#"     "# c"##),
            ("b'\\'' 'x' 'static", "b'  ' ' ' 'static"),
            ("'é' x", "'  ' x"),
            ("br\"x\" crab", "br\" \" crab"),
            ("/* open", "       "),
        ] {
            assert_eq!(code(source), expected, "{source}");
            assert_eq!(code(source).len(), source.len());
        }
    }
}
