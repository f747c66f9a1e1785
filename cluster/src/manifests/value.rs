//! A document as a JSON value, within a bound of memory.
//!
//! The items of a list are slimmed one by one as they are read, so that a dump of a whole cluster takes the memory of what
//! is looked at and not of what is printed. Text can say in few bytes what takes many (`[{a},{a},...]`): what the value
//! takes is counted while it is built, and a document that passes the bound is refused.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::slim::slim_item;

/// Bytes that a value takes, about: an entry, and the node that a map with at least one entry has.
const ENTRY: usize = 64;
const MAP: usize = 640;
/// What any document may take, and what it may take beyond for each byte of its text.
const LEAST: usize = 256 << 20;
const EACH_BYTE: usize = 4;

/// Builds the value of a document.
pub(super) struct Document {
    taken: Cell<usize>,
    most: usize,
}

impl Document {
    /// For a text of this many bytes.
    pub(super) const fn of_length(length: usize) -> Self {
        Self {
            taken: Cell::new(0),
            most: LEAST.saturating_add(length.saturating_mul(EACH_BYTE)),
        }
    }
}

impl<'de> DeserializeSeed<'de> for &Document {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        let part = Part {
            document: self,
            place: Place::Top,
        };
        part.deserialize(deserializer)
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Place {
    Top,
    Items,
    Inside,
}

#[derive(Clone, Copy)]
struct Part<'d> {
    document: &'d Document,
    place: Place,
}

impl<'d> Part<'d> {
    const fn at(self, place: Place) -> Self {
        Self { place, ..self }
    }

    fn take<E: Error>(self, bytes: usize) -> Result<(), E> {
        let taken = self.document.taken.get().saturating_add(bytes);
        self.document.taken.set(taken);
        if taken > self.document.most {
            return Err(E::custom(format_args!(
                "the document says more than {} MiB of values in its few bytes; no API server takes such an object",
                self.document.most >> 20
            )));
        }
        Ok(())
    }

    fn text<E: Error>(self, text: String) -> Result<Value, E> {
        self.take(text.len())?;
        Ok(Value::String(text))
    }
}

impl<'de> DeserializeSeed<'de> for Part<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Part<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value of JSON")
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    // Numbers past 64 bits are floating-point to kubectl, too.
    #[expect(clippy::cast_precision_loss, reason = "as JSON numbers are read")]
    fn visit_i128<E: Error>(self, value: i128) -> Result<Value, E> {
        self.visit_f64(value as f64)
    }

    #[expect(clippy::cast_precision_loss, reason = "as JSON numbers are read")]
    fn visit_u128<E: Error>(self, value: u128) -> Result<Value, E> {
        self.visit_f64(value as f64)
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        match Number::from_f64(value) {
            Some(number) => Ok(Value::Number(number)),
            None => Err(E::custom(format_args!(
                "{value} is no number that JSON can hold; quote it if it is a text"
            ))),
        }
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        self.text(value.to_owned())
    }

    fn visit_string<E: Error>(self, value: String) -> Result<Value, E> {
        self.text(value)
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.deserialize(deserializer)
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(
        self,
        deserializer: D,
    ) -> Result<Value, D::Error> {
        self.deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        let taken = &self.document.taken;
        let mut before = taken.get();
        while let Some(mut entry) = entries.next_element_seed(self.at(Place::Inside))? {
            if self.place == Place::Items && slim_item(&mut entry) {
                taken.set(before.saturating_add(weight(&entry)));
            }
            self.take(ENTRY)?;
            before = taken.get();
            list.push(entry);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(field) = fields.next_key::<String>()? {
            if map.contains_key(&field) {
                return Err(A::Error::custom(format_args!(
                    "{field} stands twice in one object; remove one of the two"
                )));
            }
            self.take(if map.is_empty() { MAP } else { ENTRY } + field.len())?;
            let items = self.place == Place::Top && field == "items";
            let place = if items { Place::Items } else { Place::Inside };
            let value = fields.next_value_seed(self.at(place))?;
            map.insert(field, value);
        }
        Ok(Value::Object(map))
    }
}

/// What a value takes, counted as while it is built.
fn weight(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
        Value::String(text) => text.len(),
        Value::Array(entries) => entries.iter().map(|entry| ENTRY + weight(entry)).sum(),
        Value::Object(fields) => {
            let entries = fields.iter();
            let inside = entries.map(|(name, value)| ENTRY + name.len() + weight(value));
            inside.sum::<usize>() + if fields.is_empty() { 0 } else { MAP - ENTRY }
        }
    }
}
