//! `/metrics`, read by the parser that Prometheus' makers publish.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::common::drive::{drive_test, run_within, say};
use crate::face::{Face, VIEWER, over_socket};

const REQUIRE: &str = "BACKLOT_TEST_REQUIRE_TOOLS";
/// Where `.ci/tools metrics` puts it.
const PYTHON: &str = "/opt/backlot-tools/metrics/bin/python";
/// Reads the text and prints what it understood: the families by their names.
const PARSE: &str = r"
import json, sys
from prometheus_client.parser import text_string_to_metric_families as families
print(json.dumps([[f.name, f.type, f.documentation, [[s.name, s.labels, s.value] for s in f.samples]]
                  for f in families(open(sys.argv[1]).read())]))
";

fn parser_is_missing() -> bool {
    if Path::new(PYTHON).exists() {
        return false;
    }
    let reason = format!("no {PYTHON}; .ci/tools metrics installs it");
    assert!(
        std::env::var_os(REQUIRE).is_none_or(|v| v != "1"),
        "{REQUIRE}=1, and {reason}"
    );
    say(&format!("SKIPPED: tools ({reason})"));
    true
}

type Samples = BTreeMap<String, f64>;

/// Has the text parsed; returns the samples by name and labels.
fn parsed(text: &str) -> Samples {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("metrics");
    std::fs::write(&file, text).expect("written");
    let out = run_within(
        Duration::from_secs(60),
        Command::new(PYTHON).args(["-I", "-c", PARSE]).arg(&file),
    );
    assert!(out.status.success(), "{}\n{text}", String::from_utf8_lossy(&out.stderr));
    let families: Vec<Family> = serde_json::from_slice(&out.stdout).expect("JSON");
    let mut samples = Samples::new();
    for (name, kind, help, of) in families {
        assert!(name.starts_with("backlot_"), "{name}");
        assert!(
            matches!(kind.as_str(), "gauge" | "counter" | "histogram"),
            "{name} is a {kind}"
        );
        assert!(help.ends_with(['.', ')']), "{name}: {help}");
        assert!(
            !name.contains("_ms") && !name.contains("millis") && !name.contains("kib"),
            "{name}: base units"
        );
        for (sample, labels, value) in of {
            // The parser takes `_total` off a counter's family, and leaves it on its samples.
            assert_eq!(kind == "counter", sample.ends_with("_total"), "{sample} is a {kind}");
            let labels = labels.as_object().expect("labels");
            let shown: Vec<String> = labels
                .iter()
                .map(|(key, value)| format!("{key}={}", value.as_str().expect("text")))
                .collect();
            let key = format!("{sample}{{{}}}", shown.join(","));
            let value = value.as_f64().unwrap_or(f64::INFINITY);
            assert!(samples.insert(key.clone(), value).is_none(), "{key} is there twice");
        }
    }
    samples
}

/// Name, kind, help, and the samples: name, labels, value.
type Family = (String, String, String, Vec<(String, Value, Value)>);

#[test]
fn an_outside_parser_reads_what_the_status_says() {
    if parser_is_missing() {
        return;
    }
    drive_test(|| {
        let site = tempfile::tempdir().expect("a folder");
        std::fs::write(site.path().join("a.bin"), vec![7; 3 << 20]).expect("written");
        let face = Face::of_folder(site.path());
        let fresh = parsed(&over_socket(&face.drive, "/metrics").body);
        assert_eq!(fresh["backlot_hydration_wait_seconds_count{}"], 0.0);
        assert_eq!(std::fs::read(face.drive.path("a.bin")).expect("read").len(), 3 << 20);
        face.post(crate::face::ADMIN, "/v1/queues/pause", &serde_json::json!({}));
        let folder = face.drive.path("publish");
        std::fs::create_dir(&folder).expect("made");
        std::fs::write(folder.join("new.bin"), vec![1; 12345]).expect("written");

        let answer = face.get(VIEWER, "/metrics");
        assert_eq!(
            answer.header("content-type"),
            Some("text/plain; version=0.0.4; charset=utf-8")
        );
        let samples = parsed(&answer.body);
        let status = face.drive.status_now();
        let is = |key: &str, value: &Value| {
            assert_eq!(samples.get(key).copied(), value.as_f64(), "{key} in\n{}", answer.body)
        };
        let causes: f64 = samples
            .iter()
            .filter(|(key, _)| key.starts_with("backlot_hydration_bytes_total"))
            .map(|(_, value)| value)
            .sum();
        assert_eq!(Some(causes), status["hydration"]["fetched_bytes"].as_f64());
        assert!(causes >= f64::from(3 << 20));
        is("backlot_cache_bytes{}", &status["cache"]["bytes"]);
        is("backlot_cache_limit_bytes{}", &status["cache"]["max_bytes"]);
        is("backlot_unsynced_files{}", &status["publishing"]["pending"]["files"]);
        is("backlot_queue_bytes{project=show,state=waiting}", &Value::from(12345));
        is("backlot_queue_paused{project=show}", &Value::from(1));
        is("backlot_link_up{site=site}", &Value::from(1));
        is("backlot_tree_files{}", &status["files"]);
        let waits = samples["backlot_hydration_wait_seconds_count{}"];
        assert!(
            waits >= 1.0 && samples["backlot_hydration_wait_seconds_bucket{le=+Inf}"] == waits,
            "{}",
            answer.body
        );
        assert_eq!(samples["backlot_cache_reads_total{result=miss}"], waits);
        assert!(samples["backlot_oldest_unsynced_seconds{}"] > 0.0);
    });
}
