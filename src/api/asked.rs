//! What a request says, taken apart: its body, its query, the parts of its path. What can't be understood becomes a problem
//! that says what is wrong and what would be right.
//!
//! Owns: how a request is read. Refuses to know: what it asks for. Invariant: whatever a request says, a refusal of it is a
//! [`Problem`], and one of an unknown field names the one that was meant where that can be guessed.

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{self, FromRequest, FromRequestParts, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use serde::de::DeserializeOwned;

use super::problem::Problem;

/// The JSON of a request's body.
#[derive(Debug)]
pub(super) struct Body<T>(pub(super) T);

/// The query of a request's address.
#[derive(Debug)]
pub(super) struct Query<T>(pub(super) T);

/// The part of a request's path that its route leaves open.
#[derive(Debug)]
pub(super) struct Path<T>(pub(super) T);

/// What a body says, or why it can't be understood.
pub(super) type Asked<T> = Result<Body<T>, Problem>;
/// What a route answers.
pub(super) type Answer<T> = Result<Json<T>, Problem>;

/// Returns what was asked for.
pub(super) fn body<T>(asked: Asked<T>) -> Result<T, Problem> {
    asked.map(|Body(request)| request)
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let read = Json::from_request(request, state).await;
        read.map(|Json(asked)| Self(asked)).map_err(|e| refused_body(&e))
    }
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let read = extract::Query::from_request_parts(parts, state).await;
        read.map(|extract::Query(asked)| Self(asked))
            .map_err(|e| misunderstood(e.status(), &e.body_text()))
    }
}

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let read = extract::Path::from_request_parts(parts, state).await;
        read.map(|extract::Path(asked)| Self(asked))
            .map_err(|e| misunderstood(e.status(), &e.body_text()))
    }
}

fn refused_body(e: &JsonRejection) -> Problem {
    match e.status() {
        StatusCode::PAYLOAD_TOO_LARGE => Problem::new(e.status(), "too-large", "the request is too large")
            .hint("ask in several requests, or for a folder or a pattern in place of many paths"),
        StatusCode::UNSUPPORTED_MEDIA_TYPE => Problem::new(e.status(), "media-type", "the request's body is not JSON")
            .hint("send `Content-Type: application/json`"),
        status => misunderstood(status, &e.body_text()),
    }
}

/// A request that does not say what it must. `said` is what the reader of it found.
fn misunderstood(status: StatusCode, said: &str) -> Problem {
    // Which layer failed is of no use to who asked.
    let why = said.split_once(": ").map_or(said, |(_layer, why)| why);
    let Some((name, known)) = unknown_field(why) else {
        return Problem::new(status, "bad-request", why).hint("GET /v1/openapi.json says what each request may be");
    };
    let problem = Problem::new(status, "unknown-field", format!("nothing is called `{name}` here"));
    match backlot_config::did_you_mean(name, known.iter().copied()) {
        Some(hint) => problem.hint(&hint),
        None if known.is_empty() => problem.hint("nothing can be asked for here"),
        None => problem.hint(&format!("there is {}", known.join(", "))),
    }
}

/// Reads serde's words about a field that it does not know: its name, and those that there are.
fn unknown_field(why: &str) -> Option<(&str, Vec<&str>)> {
    let (_, rest) = why.split_once("unknown field `")?;
    let (name, rest) = rest.split_once("`, ")?;
    Some((name, rest.split('`').skip(1).step_by(2).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_field_is_told_with_the_nearest_known_one() {
        let told = |said: &str| {
            let problem = misunderstood(StatusCode::UNPROCESSABLE_ENTITY, said);
            (problem.kind, problem.title, problem.hint.unwrap_or_default())
        };
        let body = |field: &str, known: &str| {
            format!(
                "Failed to deserialize the JSON body into the target type: unknown field `{field}`, {known} at line 1 column 9"
            )
        };
        for (said, hint) in [
            (
                body("pths", "expected one of `paths`, `heads`"),
                "did you mean `paths`?",
            ),
            (body("pths", "expected `path`"), "did you mean `path`?"),
            (body("colour", "expected `paths` or `heads`"), "there is paths, heads"),
            (body("colour", "there are no fields"), "nothing can be asked for here"),
        ] {
            let (kind, title, told) = told(&said);
            assert_eq!((kind.as_str(), told.as_str()), ("unknown-field", hint), "{said}");
            assert!(title.starts_with("nothing is called `"), "{title}");
        }
        let (kind, title, _) = told("Failed to parse the request body as JSON: EOF while parsing at line 1 column 0");
        assert_eq!(
            (kind.as_str(), title.as_str()),
            ("bad-request", "EOF while parsing at line 1 column 0")
        );
    }
}
