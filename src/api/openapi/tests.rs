use std::collections::BTreeSet;
use std::fs;
use std::path::{Path as FilePath, PathBuf};

use super::*;

/// Rewrites the committed document.
const BLESS: &str = "BACKLOT_TEST_BLESS";
/// Lists that are not told page by page, for they can't be long.
const SHORT: [(&str, &str); 7] = [
    ("/v1/settings", "a row a setting"),
    ("/v1/log", "the last 200 lines"),
    ("/v1/queues", "a row a project"),
    ("/v1/limits", "a row a site"),
    ("/v1/sites", "a row a site"),
    ("/v1/sync", "a row a project and site"),
    (
        "/v1/jobs",
        "one for each pair of sites and day, of each project the newest alone",
    ),
];

fn here() -> &'static FilePath {
    FilePath::new(env!("CARGO_MANIFEST_DIR"))
}

fn parsed() -> Value {
    serde_json::from_str(document()).expect("JSON")
}

/// All operations: path, method, what is said.
fn operations(document: &Value) -> impl Iterator<Item = (&str, &str, &Value)> {
    let paths = document["paths"].as_object().expect("paths").iter();
    paths.flat_map(|(path, of)| {
        let methods = of.as_object().expect("methods").iter();
        methods.map(|(method, said)| (path.as_str(), method.as_str(), said))
    })
}

fn resolved<'d>(document: &'d Value, schema: &'d Value) -> &'d Value {
    match schema["$ref"].as_str().and_then(|to| to.strip_prefix('#')) {
        Some(pointer) => document
            .pointer(pointer)
            .unwrap_or_else(|| panic!("{pointer} is not there")),
        None => schema,
    }
}

#[test]
fn the_committed_document_is_what_the_code_says() {
    let path = here().join("docs/openapi.json");
    if std::env::var_os(BLESS).is_some() {
        fs::write(&path, format!("{}\n", document())).expect("written");
    }
    let committed: Value = serde_json::from_str(&fs::read_to_string(&path).expect("read")).expect("JSON");
    let now = parsed();
    let names = |document: &Value| -> BTreeSet<String> {
        operations(document)
            .map(|(path, method, _)| format!("{method} {path}"))
            .collect()
    };
    let differing: Vec<_> = names(&committed).symmetric_difference(&names(&now)).cloned().collect();
    let hint =
        format!("{BLESS}=1 cargo test -p backlot --lib api::openapi, then read the difference of docs/openapi.json");
    assert!(differing.is_empty(), "in one of both only: {differing:?}; {hint}");
    for part in ["paths", "components", "info"] {
        let parts = now[part].as_object().expect("an object");
        for (name, value) in parts {
            assert_eq!(&committed[part][name], value, "{part} {name}; {hint}");
        }
    }
    assert_eq!(committed, now, "{hint}");
}

/// Returns the texts in a source, up to its tests, that begin with a slash.
fn quoted(source: &str) -> impl Iterator<Item = String> {
    let code = source.split("#[cfg(test)]").next().unwrap_or_default();
    let texts = code.split("\"/").skip(1);
    texts.map(|rest| format!("/{}", rest.split('"').next().unwrap_or_default()))
}

fn sources(of: &str, ending: &str) -> Vec<(PathBuf, String)> {
    let mut out = Vec::new();
    let mut folders = vec![here().join(of)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|is| is == ending) && !path.ends_with("tests.rs") {
                let text = fs::read_to_string(&path).expect("read");
                out.push((path, text));
            }
        }
    }
    out
}

/// Whoever adds a route past [`Routes`], or does not merge what he added, is told here which one.
#[test]
fn no_route_is_missing_and_the_page_asks_for_none_that_is() {
    let document = parsed();
    let known: BTreeSet<&str> = operations(&document).map(|(path, _, _)| path).collect();
    let mut missing = Vec::new();
    let mut met = 0;
    for (file, text) in [sources("src/api", "rs"), sources("src/web", "js")].concat() {
        for path in quoted(&text).filter(|text| text.starts_with("/v1/") || text == "/metrics") {
            met += 1;
            if !known.contains(path.split('?').next().unwrap_or_default()) {
                missing.push(format!("{path} ({})", file.display()));
            }
        }
    }
    assert!(
        missing.is_empty(),
        "not in the document, see CONTRIBUTING: {missing:#?}"
    );
    assert!(met >= known.len(), "{met} were met, {} are known", known.len());
    for (file, text) in sources("src/api", "rs") {
        let past = file
            .file_name()
            .is_some_and(|name| name != "openapi.rs" && name != "pages.rs");
        assert!(
            !(past && text.contains(".route(")),
            "{}: routes are added by `Routes`, see CONTRIBUTING",
            file.display()
        );
    }
}

#[test]
fn every_body_refuses_fields_that_it_does_not_know() {
    let document = parsed();
    let mut bodies = 0;
    for (path, method, said) in operations(&document) {
        let Some(body) = said.get("requestBody") else { continue };
        let schema = resolved(&document, &body["content"]["application/json"]["schema"]);
        let open = "#[serde(deny_unknown_fields)] is missing";
        assert_eq!(schema["additionalProperties"], false, "{method} {path}: {open}");
        bodies += 1;
    }
    assert!(bodies > 10, "{bodies}");
}

#[test]
fn every_list_that_can_be_long_comes_in_pages() {
    let document = parsed();
    let mut paged = 0;
    for (path, method, said) in operations(&document) {
        let schema = &said["responses"]["200"]["content"]["application/json"]["schema"];
        let schema = resolved(&document, schema);
        let has_next = schema["properties"].get("next").is_some();
        let is_bare_list =
            method == "get" && schema["type"] == "array" && SHORT.iter().all(|(short, _)| *short != path);
        if has_next || is_bare_list {
            let parameters = said["parameters"].as_array().cloned().unwrap_or_default();
            for name in ["cursor", "limit"] {
                let has = parameters
                    .iter()
                    .any(|parameter| parameter["name"] == name && parameter["in"] == "query");
                assert!(has, "{method} {path} has no {name}");
            }
            assert!(has_next, "{method} {path} does not say how to go on: `next` is missing");
            paged += 1;
        }
    }
    assert!(paged >= 3, "{paged}");
}

#[test]
fn a_query_is_told_by_its_type() {
    let document = parsed();
    let tasks = &document["paths"]["/v1/tasks"]["get"];
    let parameter = |name: &str| {
        let mut all = tasks["parameters"].as_array().expect("parameters").iter();
        all.find(|&one| one["name"] == name)
            .cloned()
            .unwrap_or_else(|| panic!("no {name}"))
    };
    let limit = parameter("limit");
    assert_eq!((&limit["in"], &limit["required"]), (&json!("query"), &json!(false)));
    assert_eq!(limit["schema"]["type"], "integer", "{limit}");
    assert_eq!(parameter("state")["schema"]["$ref"], "#/components/schemas/TaskWord");
    assert_eq!(tasks["operationId"], "get_tasks");
    let scan = &document["paths"]["/v1/scans/{id}"]["get"];
    assert_eq!(
        (&scan["parameters"][0]["name"], &scan["parameters"][0]["in"]),
        (&json!("id"), &json!("path"))
    );
    let ids: Vec<_> = operations(&document)
        .map(|(_, _, said)| said["operationId"].clone())
        .collect();
    let different: BTreeSet<_> = ids.iter().map(Value::to_string).collect();
    assert_eq!(ids.len(), different.len(), "names of operations are their own");
}
