//! What the API says of itself: routes together with their description, and the OpenAPI 3.1 document made of that.
//!
//! Owns: [`Routes`], by which every route is added, and what handlers' arguments and answers mean in the document. Refuses
//! to know: what a route does. Invariant: a route and its description are added in one step, and the description is that
//! of the handler's own types, so neither can be without the other or say something else.
//!
//! The document is committed as `docs/openapi.json`. Made by hand over `schemars`, for: utoipa has each answer's type said
//! a second time beside the signature, and aide needs a `schemars` that is a version behind.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::OnceLock;

use axum::Json;
use axum::Router;
use axum::extract::{Extension, State};
use axum::handler::Handler;
use axum::http::{HeaderMap, HeaderName, Method, header};
use axum::response::IntoResponse;
use axum::response::sse::Sse;
use axum::routing::{MethodRouter, get, post};
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value, json};

use super::access::{self, Role};
use super::asked::{Body, Path, Query};
use super::problem::Problem;
use super::routes;

/// The version of the API, which its paths begin with.
const VERSION: &str = "1";

/// Routes and what they say of themselves.
pub(super) struct Routes<S> {
    router: Router<S>,
    operations: Vec<Operation>,
}

/// A route as the document has it.
pub(super) struct Operation {
    path: &'static str,
    method: Method,
    does: &'static str,
    tell: fn(&mut Told),
}

impl<S: Clone + Send + Sync + 'static> Routes<S> {
    pub(super) fn new() -> Self {
        Self {
            router: Router::new(),
            operations: Vec::new(),
        }
    }

    /// Adds a route that only looks. `does` says in one sentence what it answers.
    pub(super) fn get<A, T: 'static, H>(self, path: &'static str, does: &'static str, handler: H) -> Self
    where
        H: Handler<T, S> + Described<A>,
    {
        self.add(Method::GET, path, does, H::tell, get(handler))
    }

    /// Adds a route that changes something. `does` says in one sentence what.
    pub(super) fn post<A, T: 'static, H>(self, path: &'static str, does: &'static str, handler: H) -> Self
    where
        H: Handler<T, S> + Described<A>,
    {
        self.add(Method::POST, path, does, H::tell, post(handler))
    }

    fn add(
        mut self,
        method: Method,
        path: &'static str,
        does: &'static str,
        tell: fn(&mut Told),
        route: MethodRouter<S>,
    ) -> Self {
        self.operations.push(Operation {
            path,
            method,
            does,
            tell,
        });
        self.router = self.router.route(path, route);
        self
    }

    pub(super) fn merge(mut self, other: Self) -> Self {
        self.router = self.router.merge(other.router);
        self.operations.extend(other.operations);
        self
    }

    pub(super) fn with_state(self, state: S) -> Router {
        self.router.with_state(state)
    }
}

/// The document, made once.
pub(super) fn document() -> &'static str {
    static TEXT: OnceLock<String> = OnceLock::new();
    TEXT.get_or_init(|| {
        let mut operations = routes::routes().operations;
        operations.extend(access::routes().operations);
        // What was read from constants can be written.
        serde_json::to_string_pretty(&described(&operations)).unwrap_or_default()
    })
}

/// `GET /v1/openapi.json`.
pub(super) async fn openapi() -> Document {
    Document
}

/// The document as an answer.
pub(super) struct Document;

impl IntoResponse for Document {
    fn into_response(self) -> axum::response::Response {
        ([(header::CONTENT_TYPE, "application/json")], document()).into_response()
    }
}

fn described(operations: &[Operation]) -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
    });
    let mut schemas = settings.into_generator();
    let mut paths: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
    for operation in operations {
        let (value, used) = operation.described(schemas);
        schemas = used;
        let method = operation.method.as_str().to_ascii_lowercase();
        paths.entry(operation.path).or_default().insert(method, value);
    }
    let problem = schemas.subschema_for::<Problem>();
    json!({
        "openapi": "3.1.1",
        "info": {
            "title": "Backlot",
            "version": VERSION,
            "description": "The daemon of one drive. On its Unix socket, for the drive's owner, no token is needed; on TCP \
                            each operation says which role it asks for. Browsers log in for a cookie, and send the header \
                            `X-Backlot: 1` with every change. Paths are those of the drive, without a slash at the \
                            beginning. Lists that can be long come in pages: ask again with `next` as `cursor`. What goes \
                            wrong is told as `application/problem+json`, with a fixed word in `kind`.",
            "license": { "name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0" },
        },
        "paths": paths,
        "components": {
            "schemas": schemas.take_definitions(true),
            "responses": { "Problem": {
                "description": "It was not done: why, and what to do next.",
                "content": { "application/problem+json": { "schema": problem } },
            } },
            "securitySchemes": { "token": {
                "type": "http",
                "scheme": "bearer",
                "description": "The token of `api.viewer-token` or `api.admin-token` of the settings.",
            } },
        },
    })
}

impl Operation {
    fn described(&self, schemas: SchemaGenerator) -> (Value, SchemaGenerator) {
        let mut told = Told {
            path: self.path,
            schemas,
            parameters: Vec::new(),
            body: None,
            answer: None,
        };
        (self.tell)(&mut told);
        let mut answer = json!({ "description": "It was done." });
        if let Some((kind, schema)) = told.answer {
            answer["content"] = json!({ kind: { "schema": schema } });
        }
        let mut operation = json!({
            "operationId": self.id(),
            "summary": self.does,
            "tags": [self.words().next().unwrap_or_default()],
            "responses": { "200": answer, "default": { "$ref": "#/components/responses/Problem" } },
        });
        operation["security"] = match access::needed(&self.method, self.path) {
            Some(role) => json!([{ "token": roles_with(role) }]),
            None => json!([]),
        };
        if !told.parameters.is_empty() {
            operation["parameters"] = told.parameters.into();
        }
        if let Some(schema) = told.body {
            operation["requestBody"] = json!({
                "required": true,
                "content": { "application/json": { "schema": schema } },
            });
        }
        (operation, told.schemas)
    }

    /// The parts of the path that say something.
    fn words(&self) -> impl Iterator<Item = &'static str> {
        self.path.split('/').filter(|word| !word.is_empty() && *word != "v1")
    }

    /// A name for generated clients: `post_pins_remove`.
    fn id(&self) -> String {
        let method = self.method.as_str().to_ascii_lowercase();
        let words = self
            .words()
            .map(|word| word.replace(['{', '}'], "").replace(['.', '-'], "_"));
        [method].into_iter().chain(words).collect::<Vec<_>>().join("_")
    }
}

/// Who may, from least to most.
fn roles_with(least: Role) -> Vec<String> {
    let all = [Role::Viewer, Role::Admin];
    all.iter().filter(|role| **role >= least).map(Role::to_string).collect()
}

/// What is known of an operation while its handler's types tell of themselves.
pub(super) struct Told {
    path: &'static str,
    schemas: SchemaGenerator,
    parameters: Vec<Value>,
    body: Option<Value>,
    answer: Option<(&'static str, Value)>,
}

impl Told {
    fn schema<T: JsonSchema>(&mut self) -> Value {
        self.schemas.subschema_for::<T>().to_value()
    }

    /// The answer is of this media type.
    pub(super) fn answers_text(&mut self, kind: &'static str) {
        self.answer = Some((kind, json!({ "type": "string" })));
    }
}

/// A handler whose arguments and answer tell of themselves.
pub(super) trait Described<Arguments> {
    fn tell(told: &mut Told);
}

/// What a handler takes.
pub(super) trait Asks {
    fn tell(_told: &mut Told) {}
}

/// What a handler answers.
pub(super) trait Answers {
    fn tell(told: &mut Told);
}

macro_rules! described {
    ($($argument:ident),*) => {
        impl<F, Fut, Out, $($argument),*> Described<($($argument,)*)> for F
        where
            F: Fn($($argument),*) -> Fut,
            Fut: Future<Output = Out>,
            Out: Answers,
            $($argument: Asks,)*
        {
            fn tell(told: &mut Told) {
                $($argument::tell(told);)*
                Out::tell(told);
            }
        }
    };
}

described!();
described!(A);
described!(A, B);
described!(A, B, C);

impl<S> Asks for State<S> {}
impl Asks for HeaderMap {}
impl<T> Asks for Extension<T> {}
impl<T> Asks for Option<Extension<T>> {}

impl<T: Asks, E> Asks for Result<T, E> {
    fn tell(told: &mut Told) {
        T::tell(told);
    }
}

impl<T: JsonSchema> Asks for Body<T> {
    fn tell(told: &mut Told) {
        told.body = Some(told.schema::<T>());
    }
}

impl<T: JsonSchema> Asks for Path<T> {
    /// The parts in braces are all of one type.
    fn tell(told: &mut Told) {
        for part in told.path.split('/') {
            if let Some(name) = part.strip_prefix('{').and_then(|part| part.strip_suffix('}')) {
                let schema = told.schema::<T>();
                told.parameters
                    .push(json!({ "name": name, "in": "path", "required": true, "schema": schema }));
            }
        }
    }
}

impl<T: JsonSchema> Asks for Query<T> {
    fn tell(told: &mut Told) {
        let whole = T::json_schema(&mut told.schemas).to_value();
        let required = |name: &str| {
            whole["required"]
                .as_array()
                .is_some_and(|all| all.iter().any(|one| one == name))
        };
        for (name, schema) in whole["properties"].as_object().into_iter().flatten() {
            let mut schema = given(schema.clone());
            let description = schema.as_object_mut().and_then(|schema| schema.remove("description"));
            let mut parameter = json!({ "name": name, "in": "query", "required": required(name), "schema": schema });
            if let Some(description) = description {
                parameter["description"] = description;
            }
            told.parameters.push(parameter);
        }
    }
}

/// A value in a query is there or is not: it can't be `null`.
fn given(schema: Value) -> Value {
    let Value::Object(mut schema) = schema else {
        return schema;
    };
    if let Some(Value::Array(types)) = schema.get("type") {
        let mut types: Vec<Value> = types.iter().filter(|kind| *kind != "null").cloned().collect();
        let only = (types.len() == 1).then(|| types.swap_remove(0));
        schema.insert("type".to_owned(), only.unwrap_or(Value::Array(types)));
    }
    if let Some(Value::Array(ways)) = schema.remove("anyOf")
        && let Some(Value::Object(way)) = ways.into_iter().find(|way| way["type"] != "null")
    {
        schema.extend(way);
    }
    schema.retain(|_, value| !value.is_null());
    Value::Object(schema)
}

impl<T: JsonSchema> Answers for Json<T> {
    fn tell(told: &mut Told) {
        told.answer = Some(("application/json", told.schema::<T>()));
    }
}

impl<T: Answers> Answers for Result<T, Problem> {
    fn tell(told: &mut Told) {
        T::tell(told);
    }
}

/// With headers.
impl<T: Answers, const N: usize> Answers for ([(HeaderName, String); N], T) {
    fn tell(told: &mut Told) {
        T::tell(told);
    }
}

impl<S> Answers for Sse<S> {
    fn tell(told: &mut Told) {
        told.answers_text("text/event-stream");
    }
}

impl Answers for Document {
    fn tell(told: &mut Told) {
        told.answer = Some(("application/json", json!({ "type": "object" })));
    }
}

#[cfg(test)]
mod tests;
