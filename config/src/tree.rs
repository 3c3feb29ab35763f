//! Settings before they have a type: one tree of values, each with its place.
//!
//! Owns reading TOML text into a tree, and laying one tree over another. Refuses to know any key.
//! Invariant: a node's places are those of the layer its value comes from; a table keeps the place where it was first named.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::error::ConfigError;
use crate::origin::{Layer, Origin, Origins, Place, Position};

pub(crate) type Table = BTreeMap<String, Node>;

/// A value, and where it was written.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) value: Value,
    pub(crate) layer: Layer,
    pub(crate) key_place: Place,
    pub(crate) place: Place,
    /// Reported as wrong: readers pass over it, so that what else is wrong comes to light.
    pub(crate) bad: bool,
}

/// A value as written. Numbers with a fraction and dates carry nothing: no setting is one.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    /// From a variable or a flag, of whatever type the key asks for.
    Text(String),
    Str(String),
    Int(i64),
    Bool(bool),
    Fraction,
    Date,
    List(Vec<Node>),
    Table(Table),
}

impl Node {
    /// A value from a variable or a flag.
    pub(crate) fn text(text: &str, layer: Layer, place: Place) -> Self {
        Self {
            value: Value::Text(text.to_owned()),
            layer,
            key_place: place.clone(),
            place,
            bad: false,
        }
    }

    pub(crate) fn as_table(&self) -> Option<&Table> {
        match &self.value {
            Value::Table(table) => Some(table),
            _ => None,
        }
    }

    /// The node wrapped into a table per name: `a.b` is a table `a` holding it as `b`.
    pub(crate) fn under(self, path: &[String]) -> Table {
        let (last, parents) = path
            .split_last()
            .expect("callers pass the key's names, of which there is at least one");
        let table = |node: Self, name: &String| Table::from([(name.clone(), node)]);
        parents.iter().rev().fold(table(self.clone(), last), |inner, name| {
            table(
                Self {
                    value: Value::Table(inner),
                    ..self.clone()
                },
                name,
            )
        })
    }
}

/// Lays `over` on `base`: tables are merged, everything else is replaced.
pub(crate) fn merge(base: &mut Table, over: Table) {
    for (key, node) in over {
        match (base.get_mut(&key).map(|below| &mut below.value), node.value) {
            (Some(Value::Table(below)), Value::Table(above)) => merge(below, above),
            (_, value) => {
                base.insert(key, Node { value, ..node });
            }
        }
    }
}

/// Records the origin of every value below `table`.
pub(crate) fn record_origins(table: &Table, prefix: &str, origins: &mut Origins) {
    for (key, node) in table {
        let key = format!("{prefix}{key}");
        match &node.value {
            Value::Table(inner) => record_origins(inner, &format!("{key}."), origins),
            _ => origins.insert(
                key,
                Origin {
                    layer: node.layer,
                    place: node.key_place.clone(),
                },
            ),
        }
    }
}

/// Reads the text of one file.
///
/// # Errors
/// Every syntax error of the text.
pub(crate) fn parse(text: &str, layer: Layer, path: &Arc<Path>) -> Result<Table, Vec<ConfigError>> {
    let mut reader = Reader {
        text,
        layer,
        path,
        errors: Vec::new(),
    };
    let (table, syntax_errors) = DeTable::parse_recoverable(text);
    for error in &syntax_errors {
        let place = reader.place(error.span().map_or(0, |span| span.start));
        reader.error(place, error.message().replace('\n', ", "));
    }
    let table = reader.table(table.get_ref());
    if reader.errors.is_empty() {
        Ok(table)
    } else {
        Err(reader.errors)
    }
}

/// Reads a list given in a variable or a flag, as in `["a", "b"]`.
pub(crate) fn parse_list(text: &str, of: &Node) -> Option<Vec<Node>> {
    let value = DeValue::parse(text).ok()?;
    let path = Path::new("").into();
    let mut reader = Reader {
        text,
        layer: of.layer,
        path: &path,
        errors: Vec::new(),
    };
    let items = reader.list(value.get_ref().as_array()?.iter());
    if !reader.errors.is_empty() {
        return None;
    }
    let here = |node| Node {
        key_place: of.place.clone(),
        place: of.place.clone(),
        ..node
    };
    Some(items.into_iter().map(here).collect())
}

struct Reader<'a> {
    text: &'a str,
    layer: Layer,
    path: &'a Arc<Path>,
    errors: Vec<ConfigError>,
}

impl Reader<'_> {
    fn place(&self, offset: usize) -> Place {
        let before = self.text.get(..offset).unwrap_or(self.text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let line = before.matches('\n').count() + 1;
        let column = before[line_start..].chars().count() + 1;
        Place::File(self.path.clone(), Some(Position { line, column }))
    }

    fn error(&mut self, place: Place, problem: String) {
        self.errors.push(ConfigError {
            place,
            key: String::new(),
            problem,
            hint: None,
        });
    }

    fn table(&mut self, table: &DeTable<'_>) -> Table {
        let mut out = Table::new();
        for (key, value) in table {
            let key_place = self.place(key.span().start);
            out.insert(key.get_ref().to_string(), self.node(value, key_place));
        }
        out
    }

    fn list<'v>(&mut self, items: impl Iterator<Item = &'v Spanned<DeValue<'v>>>) -> Vec<Node> {
        items
            .map(|item| self.node(item, self.place(item.span().start)))
            .collect()
    }

    fn node(&mut self, value: &Spanned<DeValue<'_>>, key_place: Place) -> Node {
        let place = self.place(value.span().start);
        let value = match value.get_ref() {
            DeValue::String(text) => Value::Str(text.to_string()),
            DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
                Ok(number) => Value::Int(number),
                Err(_) => {
                    self.error(place.clone(), "the number is too large".to_owned());
                    Value::Int(0)
                }
            },
            DeValue::Float(_) => Value::Fraction,
            DeValue::Boolean(truth) => Value::Bool(*truth),
            DeValue::Datetime(_) => Value::Date,
            DeValue::Array(items) => Value::List(self.list(items.iter())),
            DeValue::Table(table) => Value::Table(self.table(table)),
        };
        Node {
            value,
            layer: self.layer,
            key_place,
            place,
            bad: false,
        }
    }
}
