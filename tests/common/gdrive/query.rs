//! What is asked of the drive: fields of an answer, and searches.
//!
//! Owns: their grammar. Refuses to know: HTTP.

use axum::Json;
use axum::response::{IntoResponse, Response};
use serde_json::Value;

use super::Params;
use super::store::{File, Store};

/// Keeps of an answer the fields that were asked for: `a,b(c,d),files(id,name)`, `*`.
pub(super) fn masked(value: &Value, fields: &str) -> Value {
    if let Value::Array(items) = value {
        return items.iter().map(|item| masked(item, fields)).collect();
    }
    let Value::Object(all) = value else {
        return value.clone();
    };
    let mut out = serde_json::Map::new();
    let (mut depth, mut start) = (0, 0);
    let mut pieces = Vec::new();
    for (at, c) in fields.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                pieces.push(&fields[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    pieces.push(&fields[start..]);
    for piece in pieces {
        let piece = piece.trim();
        let (name, inner) = match piece.split_once('(') {
            Some((name, inner)) => (name, Some(inner.strip_suffix(')').unwrap_or(inner))),
            None => match piece.split_once('/') {
                Some((name, inner)) => (name, Some(inner)),
                None => (piece, None),
            },
        };
        if name == "*" {
            return value.clone();
        }
        if let Some(found) = all.get(name) {
            out.insert(
                name.to_owned(),
                inner.map_or_else(|| found.clone(), |inner| masked(found, inner)),
            );
        }
    }
    Value::Object(out)
}

pub(super) fn answer(value: &Value, params: &Params, default: &str) -> Response {
    Json(masked(value, params.get("fields").map_or(default, String::as_str))).into_response()
}

/// The queries that are understood: `in parents`, `name`, `mimeType`, `trashed`, joined by `and`, `or`, `not`, parentheses.
pub(super) struct Search<'q> {
    pub(super) words: &'q [String],
    pub(super) at: usize,
    pub(super) store: &'q Store,
}

pub(super) fn words(query: &str) -> Option<Vec<String>> {
    let mut out = Vec::new();
    let mut chars = query.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            ' ' => {}
            '(' | ')' | '=' => out.push(c.to_string()),
            '!' => {
                chars.next_if_eq(&'=')?;
                out.push("!=".into());
            }
            '\'' => {
                let mut text = String::from("'");
                loop {
                    match chars.next()? {
                        '\\' => text.push(chars.next()?),
                        '\'' => break,
                        c => text.push(c),
                    }
                }
                out.push(text);
            }
            c => {
                let mut word = c.to_string();
                while let Some(c) = chars.next_if(|c| c.is_alphanumeric()) {
                    word.push(c);
                }
                out.push(word);
            }
        }
    }
    Some(out)
}

impl Search<'_> {
    fn next(&mut self) -> Option<String> {
        self.at += 1;
        self.words.get(self.at - 1).cloned()
    }

    fn is_next(&mut self, word: &str) -> bool {
        let is = self.words.get(self.at).is_some_and(|w| w == word);
        self.at += usize::from(is);
        is
    }

    pub(super) fn any(&mut self, file: &File) -> Option<bool> {
        let mut is = self.all(file)?;
        while self.is_next("or") {
            is |= self.all(file)?;
        }
        Some(is)
    }

    fn all(&mut self, file: &File) -> Option<bool> {
        let mut is = self.one(file)?;
        while self.is_next("and") {
            is &= self.one(file)?;
        }
        Some(is)
    }

    fn one(&mut self, file: &File) -> Option<bool> {
        if self.is_next("(") {
            let is = self.any(file)?;
            return self.is_next(")").then_some(is);
        }
        if self.is_next("not") {
            return Some(!self.one(file)?);
        }
        let field = self.next()?;
        let op = self.next()?;
        let value = self.next()?;
        let text = value.strip_prefix('\'');
        if let Some(id) = field.strip_prefix('\'') {
            let id = if id == "root" { "0root" } else { id };
            return (op == "in" && value == "parents").then(|| file.parent.as_deref() == Some(id));
        }
        let is = match field.as_str() {
            // Drive compares names without regard to case.
            "name" if op == "contains" => return Some(file.name.to_lowercase().starts_with(&text?.to_lowercase())),
            "name" => file.name.to_lowercase() == text?.to_lowercase(),
            "mimeType" => file.mime == text?,
            "trashed" => self.store.is_trashed(file) == (value == "true"),
            _ => return None,
        };
        Some(if op == "!=" { !is } else { is })
    }
}
