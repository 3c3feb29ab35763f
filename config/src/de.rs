//! Reads typed sections out of the tree of values.
//!
//! Owns the meeting of serde with the tree: what type a value must have, and which value an error is about. Texts from
//! variables and flags become the type that the key asks for. Refuses to know any key; serde's derives know them.
//! Invariant: an error carries the path to the node it is about, and never that node's value.

use std::fmt;

use serde::de::value::StrDeserializer;
use serde::de::{self, Deserialize, DeserializeSeed, Deserializer, IntoDeserializer as _, Visitor};
use serde::forward_to_deserialize_any;

use crate::error::did_you_mean;
use crate::tree::{self, Node, Table, Value};

/// One step from a node to one inside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    Key(String),
    Index(usize),
}

/// Why a section cannot be read.
#[derive(Debug)]
pub(crate) struct DeError {
    /// From the section to the node at fault, innermost step first.
    pub(crate) path: Vec<Step>,
    pub(crate) kind: Kind,
}

#[derive(Debug)]
pub(crate) enum Kind {
    /// The key that ends the path is not one of these.
    UnknownKey(&'static [&'static str]),
    /// A table lacks this key.
    Missing(&'static str),
    /// The value is wrong: the problem, and perhaps a hint.
    Value(String, Option<String>),
}

impl DeError {
    fn value(problem: String) -> Self {
        Self {
            path: Vec::new(),
            kind: Kind::Value(problem, None),
        }
    }

    fn within(mut self, step: Step) -> Self {
        self.path.push(step);
        self
    }
}

impl fmt::Display for DeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::UnknownKey(_) => f.write_str("unknown key"),
            Kind::Missing(field) => write!(f, "`{field}` is missing"),
            Kind::Value(problem, _) => f.write_str(problem),
        }
    }
}

impl std::error::Error for DeError {}

impl de::Error for DeError {
    /// Texts are `problem; hint`, as the units and secret references give them.
    fn custom<T: fmt::Display>(text: T) -> Self {
        let text = text.to_string();
        let (problem, hint) = match text.rsplit_once("; ") {
            Some((problem, hint)) => (problem.to_owned(), Some(hint.to_owned())),
            None => (text, None),
        };
        Self {
            path: Vec::new(),
            kind: Kind::Value(problem, hint),
        }
    }

    fn invalid_type(found: de::Unexpected<'_>, wanted: &dyn de::Expected) -> Self {
        let found = match found {
            de::Unexpected::Bool(_) => "true or false",
            de::Unexpected::Signed(_) => "a number",
            de::Unexpected::Str(_) => "a string",
            de::Unexpected::Seq => "a list",
            de::Unexpected::Map => "a table",
            de::Unexpected::Other(what) => what,
            _ => "what it is",
        };
        Self::value(format!("must be {wanted}, not {found}"))
    }

    fn invalid_value(_: de::Unexpected<'_>, wanted: &dyn de::Expected) -> Self {
        Self::value(format!("must be {wanted}"))
    }

    fn unknown_variant(written: &str, known: &'static [&'static str]) -> Self {
        let problem = format!("must be one of {}", known.join(", "));
        Self {
            path: Vec::new(),
            kind: Kind::Value(problem, did_you_mean(written, known.iter().copied())),
        }
    }

    fn unknown_field(_: &str, known: &'static [&'static str]) -> Self {
        Self {
            path: Vec::new(),
            kind: Kind::UnknownKey(known),
        }
    }

    fn missing_field(field: &'static str) -> Self {
        Self {
            path: Vec::new(),
            kind: Kind::Missing(field),
        }
    }
}

/// Reads a `T` from a node, of whose keys only those that `keep` accepts are looked at.
pub(crate) fn read<'de, T: Deserialize<'de>>(node: &Node, keep: fn(&str) -> bool) -> Result<T, DeError> {
    T::deserialize(NodeReader { node, keep })
}

struct NodeReader<'a> {
    node: &'a Node,
    keep: fn(&str) -> bool,
}

impl<'a> NodeReader<'a> {
    fn whole(node: &'a Node) -> Self {
        Self { node, keep: |_| true }
    }

    fn must_be(&self, wanted: &str) -> DeError {
        let found = match &self.node.value {
            Value::Text(_) => return DeError::value(format!("must be {wanted}")),
            Value::Str(_) => "a string",
            Value::Int(_) => "a number",
            Value::Bool(_) => "true or false",
            Value::Fraction => "a number with a fraction",
            Value::Date => "a date",
            Value::List(_) => "a list",
            Value::Table(_) => "a table",
        };
        DeError::value(format!("must be {wanted}, not {found}"))
    }

    fn whole_number(&self, max: u32) -> Result<u32, DeError> {
        let wanted = || format!("a whole number from 0 to {max}");
        let number = match &self.node.value {
            Value::Int(number) => *number,
            Value::Text(text) => text.trim().parse().map_err(|_| self.must_be(&wanted()))?,
            _ => return Err(self.must_be(&wanted())),
        };
        let number = u32::try_from(number).ok().filter(|number| *number <= max);
        number.ok_or_else(|| DeError::value(format!("must be {}", wanted())))
    }
}

impl<'de> Deserializer<'de> for NodeReader<'_> {
    type Error = DeError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DeError> {
        match &self.node.value {
            Value::Text(text) | Value::Str(text) => visitor.visit_str(text),
            Value::Int(number) => visitor.visit_i64(*number),
            Value::Bool(truth) => visitor.visit_bool(*truth),
            Value::List(nodes) => visitor.visit_seq(ListReader { nodes, next: 0 }),
            Value::Table(table) => visitor.visit_map(TableReader::new(table, self.keep)),
            Value::Fraction | Value::Date => Err(self.must_be(&(&visitor as &dyn de::Expected).to_string())),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DeError> {
        match &self.node.value {
            Value::Bool(truth) => visitor.visit_bool(*truth),
            Value::Text(text) if text == "true" => visitor.visit_bool(true),
            Value::Text(text) if text == "false" => visitor.visit_bool(false),
            _ => Err(self.must_be("true or false")),
        }
    }

    fn deserialize_u16<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DeError> {
        visitor.visit_u32(self.whole_number(u16::MAX.into())?)
    }

    fn deserialize_u32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DeError> {
        visitor.visit_u32(self.whole_number(u32::MAX)?)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DeError> {
        match &self.node.value {
            Value::Str(text) | Value::Text(text) => visitor.visit_str(text),
            _ => Err(self.must_be("a string")),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DeError> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DeError> {
        visitor.visit_some(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        known: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DeError> {
        match &self.node.value {
            Value::Str(text) | Value::Text(text) => {
                let text: StrDeserializer<'_, DeError> = text.as_str().into_deserializer();
                visitor.visit_enum(text)
            }
            _ => Err(self.must_be(&format!("one of {}", known.join(", ")))),
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DeError> {
        let wanted = "a list such as [\"one\", \"two\"]";
        match &self.node.value {
            Value::List(nodes) => visitor.visit_seq(ListReader { nodes, next: 0 }),
            Value::Text(text) => match tree::parse_list(text, self.node) {
                Some(nodes) => visitor.visit_seq(ListReader { nodes: &nodes, next: 0 }),
                None => Err(self.must_be(wanted)),
            },
            _ => Err(self.must_be(wanted)),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DeError> {
        match &self.node.value {
            Value::Table(table) => visitor.visit_map(TableReader::new(table, self.keep)),
            _ => Err(self.must_be("a table")),
        }
    }

    forward_to_deserialize_any! {
        i8 i16 i32 i64 i128 u8 u64 u128 f32 f64 char bytes byte_buf unit unit_struct newtype_struct tuple tuple_struct map
        identifier ignored_any
    }
}

struct TableReader<'a> {
    entries: std::collections::btree_map::Iter<'a, String, Node>,
    keep: fn(&str) -> bool,
    current: Option<(&'a str, &'a Node)>,
}

impl<'a> TableReader<'a> {
    fn new(table: &'a Table, keep: fn(&str) -> bool) -> Self {
        Self {
            entries: table.iter(),
            keep,
            current: None,
        }
    }
}

impl<'de> de::MapAccess<'de> for TableReader<'_> {
    type Error = DeError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, DeError> {
        let Some((key, node)) = self.entries.by_ref().find(|(key, node)| !node.bad && (self.keep)(key)) else {
            return Ok(None);
        };
        self.current = Some((key, node));
        let name: StrDeserializer<'_, DeError> = key.as_str().into_deserializer();
        seed.deserialize(name)
            .map(Some)
            .map_err(|error| error.within(Step::Key(key.clone())))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, DeError> {
        let (key, node) = self.current.take().expect("serde asks for a value only after its key");
        seed.deserialize(NodeReader::whole(node))
            .map_err(|error| error.within(Step::Key(key.to_owned())))
    }
}

struct ListReader<'a> {
    nodes: &'a [Node],
    next: usize,
}

impl<'de> de::SeqAccess<'de> for ListReader<'_> {
    type Error = DeError;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, DeError> {
        while let Some(node) = self.nodes.get(self.next) {
            let index = self.next;
            self.next += 1;
            if !node.bad {
                let read = seed.deserialize(NodeReader::whole(node));
                return read.map(Some).map_err(|error| error.within(Step::Index(index)));
            }
        }
        Ok(None)
    }
}

/// The keys of a section, as its derive knows them.
pub(crate) fn keys_of<T: Deserialize<'static>>() -> &'static [&'static str] {
    let mut keys: &'static [&'static str] = &[];
    // The reader always answers with an error once it has seen the keys: there is nothing to read here.
    drop(T::deserialize(KeysReader { keys: &mut keys }));
    keys
}

struct KeysReader<'a> {
    keys: &'a mut &'static [&'static str],
}

impl<'de> Deserializer<'de> for KeysReader<'_> {
    type Error = DeError;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, DeError> {
        Err(DeError::value("not a section".to_owned()))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DeError> {
        *self.keys = fields;
        self.deserialize_any(visitor)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}
