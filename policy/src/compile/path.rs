//! Where in an object we are; becomes text only when something is refused.

use std::fmt;

use super::Refusal;

/// The path of a field, linked to its parents on the stack, so that a valid object costs no
/// allocation for paths.
pub(super) struct Path<'a> {
    parent: Option<&'a Path<'a>>,
    segment: Segment<'a>,
}

enum Segment<'a> {
    /// The object's own name; prints nothing.
    Object(&'a str),
    Field(&'a str),
    Index(usize),
    Key(&'a str),
}

impl<'a> Path<'a> {
    pub(super) const fn of(object: &'a str) -> Self {
        Self {
            parent: None,
            segment: Segment::Object(object),
        }
    }

    pub(super) const fn field(&'a self, name: &'a str) -> Self {
        self.child(Segment::Field(name))
    }

    pub(super) const fn index(&'a self, index: usize) -> Self {
        self.child(Segment::Index(index))
    }

    pub(super) const fn key(&'a self, key: &'a str) -> Self {
        self.child(Segment::Key(key))
    }

    const fn child(&'a self, segment: Segment<'a>) -> Self {
        Self {
            parent: Some(self),
            segment,
        }
    }

    /// The refusal of this field.
    pub(super) fn refuse(&self, problem: impl Into<String>, remedy: impl Into<String>) -> Refusal {
        Refusal {
            object: short(self.object()),
            field: short(&self.to_string()),
            problem: short(&problem.into()),
            remedy: remedy.into(),
            more: Vec::new(),
        }
    }

    fn object(&self) -> &str {
        match (&self.segment, self.parent) {
            (Segment::Object(object), _) => object,
            (_, Some(parent)) => parent.object(),
            (_, None) => "",
        }
    }
}

/// What a person reads of a text that may be megabytes long.
pub fn short(text: &str) -> String {
    const MOST: usize = 300;
    match text.char_indices().nth(MOST) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at_top = match self.parent {
            Some(parent) => {
                parent.fmt(f)?;
                matches!(parent.segment, Segment::Object(_))
            }
            None => true,
        };
        match self.segment {
            Segment::Object(_) => Ok(()),
            Segment::Field(name) if at_top => f.write_str(name),
            Segment::Field(name) => write!(f, ".{name}"),
            Segment::Index(index) => write!(f, "[{index}]"),
            Segment::Key(key) => write!(f, "[{key}]"),
        }
    }
}
