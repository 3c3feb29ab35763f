//! The API as its document says it is: who may what on each route, what is refused and how, checked by outside tools and
//! against thousands of requests that nobody here thought of.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::Value;

use crate::common::drive::{Builder, SOON, drive_test, drive_test_within, eventually, run_within, say};
use crate::face::{ADMIN, Answer, Face, VIEWER};

const REQUIRE: &str = "BACKLOT_TEST_REQUIRE_TOOLS";
/// Where `.ci/tools openapi` puts them.
const TOOLS: &str = "/opt/backlot-tools/openapi/bin";
/// The variable that sets how many requests are thrown at the API.
const REQUESTS: &str = "BACKLOT_TEST_REQUESTS";
/// As many if nobody says.
const REQUESTS_IN_CI: u64 = 300;
/// Routes that are not thrown at: one has no end, one ends the daemon, and wrong logins lock out the right ones. Each has
/// tests of its own.
const NOT_THROWN_AT: [&str; 4] = ["/v1/events", "/v1/unmount", "/v1/login", "/v1/logout"];

fn tools_are_missing() -> bool {
    if Path::new(TOOLS).join("schemathesis").exists() {
        return false;
    }
    let reason = format!("no {TOOLS}/schemathesis; .ci/tools openapi installs it");
    assert!(
        std::env::var_os(REQUIRE).is_none_or(|v| v != "1"),
        "{REQUIRE}=1, and {reason}"
    );
    say(&format!("SKIPPED: tools ({reason})"));
    true
}

fn a_site() -> tempfile::TempDir {
    let site = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(site.path().join("sq010")).expect("made");
    for name in ["a.bin", "sq010/b.bin"] {
        std::fs::write(site.path().join(name), vec![7; 200_000]).expect("written");
    }
    site
}

/// All operations of the document: path, method, what is said.
fn operations(document: &Value) -> Vec<(String, String, Value)> {
    let paths = document["paths"].as_object().expect("paths").iter();
    let of = |(path, of): (&String, &Value)| -> Vec<_> {
        let methods = of.as_object().expect("methods").iter();
        methods
            .map(|(method, said)| (path.clone(), method.to_uppercase(), said.clone()))
            .collect()
    };
    paths.flat_map(of).collect()
}

fn query_names(said: &Value) -> usize {
    let parameters = said["parameters"].as_array().into_iter().flatten();
    parameters.filter(|parameter| parameter["in"] == "query").count()
}

/// Asks, and reads no more than the status: an answer may have no end.
fn status(face: &Face, method: &str, path: &str, token: Option<&str>, body: Option<&str>) -> u16 {
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n", face.at);
    if let Some(token) = token {
        head += &format!("Authorization: Bearer {token}\r\n");
    }
    if let Some(body) = body {
        head += &format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len());
    }
    let mut stream = TcpStream::connect(face.at).expect("it listens");
    stream.set_read_timeout(Some(SOON)).expect("a socket");
    write!(stream, "{head}\r\n{}", body.unwrap_or_default()).expect("asked");
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).expect("an answer");
    let code = line.split(' ').nth(1).and_then(|code| code.parse().ok());
    code.unwrap_or_else(|| panic!("{method} {path}: no status in {line:?}"))
}

#[test]
fn every_route_is_for_who_the_document_says() {
    drive_test(|| {
        let site = a_site();
        let face = Face::of_folder(site.path());
        let document = face.get(VIEWER, "/v1/openapi.json").json();
        let all = operations(&document);
        assert!(all.len() > 35, "{}", all.len());
        for (path, method, said) in &all {
            let roles: Vec<&str> = said["security"]
                .as_array()
                .unwrap_or_else(|| panic!("{method} {path} does not say who may"))
                .iter()
                .flat_map(|way| way["token"].as_array().expect("roles"))
                .filter_map(Value::as_str)
                .collect();
            // What the document may say at all: who may only look may look at everything, and change nothing.
            let wanted: &[&str] = match (method.as_str(), path.as_str()) {
                ("POST", "/v1/login") => &[],
                ("GET", _) | ("POST", "/v1/logout") => &["viewer", "admin"],
                _ => &["admin"],
            };
            assert_eq!(roles, wanted, "{method} {path}");

            let url = path.replace("{id}", "1").replace("{name}", "none");
            assert!(!url.contains('{'), "{path}: this test does not know what to put there");
            // One that is understood by nobody, so that nothing is done: being refused for that is being let in.
            let body = said.get("requestBody").map(|_| "{\"no-such-field\":1}");
            let answered = |token| status(&face, method, &url, token, body);
            let (nobody, viewer, admin) = (answered(None), answered(Some(VIEWER)), answered(Some(ADMIN)));
            let is_in = |code: u16| matches!(code, 200 | 400 | 404 | 422);
            let holds = match wanted {
                // Without the header that other pages can't send.
                [] => (nobody, viewer, admin) == (403, 403, 403),
                ["viewer", ..] => nobody == 401 && is_in(viewer) && is_in(admin),
                _ => nobody == 401 && viewer == 403 && is_in(admin),
            };
            assert!(
                holds,
                "{method} {path}: nobody {nobody}, viewer {viewer}, admin {admin}"
            );
            if body.is_some() && !wanted.is_empty() {
                assert_eq!(admin, 422, "{method} {path} takes a field that it does not know");
            }
        }
        assert_eq!(face.drive.status()["name"], "test", "it was not unmounted");
    });
}

/// Says what kind of problem it is, having seen that it says what to do next.
fn told(answer: &Answer) -> (u16, String) {
    let kind = answer.kind();
    let hint = answer.json()["hint"].as_str().unwrap_or_default().to_owned();
    assert!(!hint.is_empty(), "it does not say what to do next: {answer:?}");
    (answer.status, kind)
}

#[test]
fn what_is_refused_is_a_problem_that_says_what_to_do() {
    drive_test(|| {
        let site = a_site();
        let face = Face::of_folder(site.path());
        let bearer = format!("Authorization: Bearer {ADMIN}");
        let post = |path: &str, body: &str| face.ask("POST", path, &[&bearer], body);
        let is = |answer: &Answer, status: u16, kind: &str| {
            assert_eq!(told(answer), (status, kind.to_owned()), "{answer:?}");
        };
        is(&face.get(ADMIN, "/v1/none"), 404, "no-such-route");
        let put = face.ask("PUT", "/v1/pins", &[&bearer], "");
        is(&put, 405, "no-such-method");
        let allow = put.header("allow").expect("what is possible");
        assert!(allow.contains("GET") && allow.contains("POST"), "{allow}");
        let untyped = format!(
            "POST /v1/scans HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n{bearer}\r\nContent-Length: 2\r\n\r\n{{}}",
            face.at
        );
        is(&face.raw(untyped.as_bytes()), 415, "media-type");
        is(&post("/v1/scans", "{"), 400, "bad-request");
        is(&post("/v1/scans", "{\"path\":1}"), 422, "bad-request");
        is(&post("/v1/scans", "[]"), 422, "bad-request");
        is(
            &post("/v1/scans", &format!("{{\"path\":\"{}\"}}", "x".repeat(2 << 20))),
            413,
            "too-large",
        );
        is(&face.get(ADMIN, "/v1/scans/x"), 400, "bad-request");
        is(&face.get(ADMIN, "/v1/scans/7"), 404, "not-found");
        is(&face.get(ADMIN, "/v1/hydrations/7"), 404, "not-found");
        is(&face.get(ADMIN, "/v1/ls?limit=x"), 400, "bad-request");
        is(&face.get(ADMIN, "/v1/conflicts?cursor=x"), 400, "bad-request");
        is(&post("/v1/tasks/retry", "{}"), 400, "bad-request");
        is(&face.get(VIEWER, "/v1/ls?path=show/none"), 404, "not-found");
        is(&face.post(VIEWER, "/v1/cache/clear", &Value::Null), 403, "role");

        let typo = post("/v1/hydrations", "{\"pths\":[\"show\"]}");
        is(&typo, 422, "unknown-field");
        assert_eq!(typo.json()["hint"], "did you mean `paths`?");
        let typo = face.get(ADMIN, "/v1/ls?limt=1");
        is(&typo, 400, "unknown-field");
        assert_eq!(typo.json()["hint"], "did you mean `limit`?");
        let document = face.get(VIEWER, "/v1/openapi.json").json();
        let mut queries = 0;
        for (path, method, said) in operations(&document) {
            if query_names(&said) > 0 {
                let answer = face.ask(&method, &format!("{path}?no-such=1"), &[&bearer], "");
                is(&answer, 400, "unknown-field");
                queries += 1;
            }
        }
        assert!(queries >= 4, "{queries}");
    });
}

#[test]
fn an_outside_tool_finds_the_document_valid() {
    if tools_are_missing() {
        return;
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/openapi.json");
    let validate = |path: &Path| -> Output {
        let mut command = Command::new(Path::new(TOOLS).join("python"));
        command
            .args(["-I", "-m", "openapi_spec_validator", "--errors", "all"])
            .arg(path);
        run_within(Duration::from_secs(120), &mut command)
    };
    let out = validate(&path);
    let said = |out: &Output| {
        let [stdout, stderr] = [&out.stdout, &out.stderr].map(|text| String::from_utf8_lossy(text).into_owned());
        stdout + &stderr
    };
    assert!(out.status.success(), "{}", said(&out));
    // It does find faults.
    let dir = tempfile::tempdir().expect("a folder");
    let mut document: Value = serde_json::from_str(&std::fs::read_to_string(path).expect("read")).expect("JSON");
    document["paths"]["/v1/status"]["get"]["parameters"] = serde_json::json!([{ "in": "nowhere" }]);
    let broken = dir.path().join("openapi.json");
    std::fs::write(&broken, document.to_string()).expect("written");
    let out = validate(&broken);
    assert!(!out.status.success(), "a broken document passes: {}", said(&out));
}

#[test]
fn a_request_has_a_span_that_tells_its_route_and_nothing_of_its_query() {
    drive_test(|| {
        let site = a_site();
        let builder = Builder::local(site.path())
            .set("log.level", "debug")
            .set("log.format", "json");
        let face = Face::of(builder);
        assert_eq!(face.get(VIEWER, "/v1/ls?path=show/sq010").status, 200);
        eventually("a line about it", || {
            let log = face.drive.log();
            let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            let mut answered = lines.filter(|line| line["fields"]["message"] == "answered");
            answered.any(|line| {
                let span = &line["span"];
                span["name"] == "request"
                    && (&span["method"], &span["route"]) == (&"GET".into(), &"/v1/ls".into())
                    && span["id"].is_u64()
                    && line["fields"]["status"] == 200
            })
        });
        assert!(!face.drive.log().contains("path=show"), "{}", face.drive.log());
    });
}

/// Requests that were answered, by class of status.
fn answered(face: &Face) -> [u64; 2] {
    let metrics = face.get(VIEWER, "/metrics").body;
    let count = |class: &str| {
        let name = format!("backlot_api_requests_total{{status=\"{class}\"}} ");
        let line = metrics.lines().find_map(|line| line.strip_prefix(&name));
        line.and_then(|count| count.parse::<u64>().ok())
            .unwrap_or_else(|| panic!("no {name} in {metrics}"))
    };
    [count("2xx") + count("4xx"), count("5xx")]
}

#[test]
fn thousands_of_requests_break_nothing() {
    if tools_are_missing() {
        return;
    }
    let wanted = std::env::var(REQUESTS).map_or(REQUESTS_IN_CI, |count| count.parse().expect("a number"));
    drive_test_within(Duration::from_secs(1800), move || {
        let site = a_site();
        let face = Face::of_folder(site.path());
        let dir = tempfile::tempdir().expect("a folder");
        let mut rounds = 0;
        loop {
            let [before, _] = answered(&face);
            let mut command = Command::new(Path::new(TOOLS).join("schemathesis"));
            command
                .current_dir(dir.path())
                .env("HOME", dir.path())
                // One at a time: two at once meet a fault of Python 3.11's own parser.
                .args(["run", "--no-color", "--workers", "1", "--request-timeout", "30"])
                .arg("--url")
                .arg(format!("http://{}", face.at))
                .arg("--header")
                .arg(format!("Authorization: Bearer {ADMIN}"))
                .args(["--max-examples", if wanted > REQUESTS_IN_CI { "40" } else { "4" }])
                .args(["--seed", &(rounds + 1).to_string()])
                .args(["--generation-database", "none", "--suppress-health-check", "all"])
                .args(["--checks", CHECKS]);
            for path in NOT_THROWN_AT {
                command.args(["--exclude-path", path]);
            }
            command.arg(format!("http://{}/v1/openapi.json", face.at));
            let out = run_within(Duration::from_secs(900), &mut command);
            let text = String::from_utf8_lossy(&out.stdout);
            assert!(out.status.success(), "{text}\n{}", String::from_utf8_lossy(&out.stderr));
            rounds += 1;
            let [now, failed] = answered(&face);
            assert_eq!(failed, 0, "{text}");
            // Each round asks for the document and the figures as well.
            assert!(now > before + 100, "{text}");
            if now >= wanted {
                say(&format!(
                    "{now} requests in {rounds} rounds, none of them answered with 5xx"
                ));
                break;
            }
        }
        // It serves, and it is the same process.
        assert_eq!(std::fs::read(face.drive.path("a.bin")).expect("read").len(), 200_000);
        assert!(!face.drive.log().contains("panicked"), "{}", face.drive.log());
    });
}

/// What an answer must hold. That nothing is let in without a token is another test's; what is not among paths of the drive
/// is refused though it is a string, so that `positive_data_acceptance` can't hold.
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,\
                      response_schema_conformance,negative_data_rejection,unsupported_method";
