//! A real browser, spoken to in the W3C's WebDriver protocol: a handful of JSON requests to `chromedriver`.
//!
//! Owns: the driver's process and one session. Refuses to know: the page. Invariant: nothing here waits for ever, and what
//! was started is gone when this is dropped.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::drive::{eventually_within, find_program, say, wait_within};
use crate::face::raw;

/// The variable that turns a missing Chromium from a skip into a failure.
const REQUIRE: &str = "BACKLOT_TEST_REQUIRE_CHROMIUM";
/// The variable that names a folder for screenshots.
const SCREENSHOTS: &str = "BACKLOT_TEST_SCREENSHOTS";
/// How long anything on the page may take on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(40);
/// The key under which WebDriver hands out elements.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

pub(crate) struct Browser {
    driver: Child,
    at: SocketAddr,
    session: String,
    _profile: TempDir,
}

pub(crate) fn chromium_is_missing() -> bool {
    let missing: Vec<&str> = ["chromium", "chromedriver"]
        .into_iter()
        .filter(|name| find_program(name).is_none())
        .collect();
    if missing.is_empty() {
        return false;
    }
    let reason = format!("no {} on the path", missing.join(", "));
    assert!(
        std::env::var_os(REQUIRE).is_none_or(|v| v != "1"),
        "{REQUIRE}=1, and {reason}"
    );
    say(&format!("SKIPPED: chromium ({reason})"));
    true
}

impl Browser {
    pub(crate) fn start() -> Self {
        let profile = tempfile::tempdir().expect("a folder");
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("started");
        let mut lines = BufReader::new(driver.stdout.take().expect("piped")).lines();
        let port = lines.by_ref().map_while(Result::ok).find_map(|line| {
            let (_, port) = line.split_once("started successfully on port ")?;
            port.trim_end_matches('.').parse::<u16>().ok()
        });
        // It goes on talking, and must not hang in that.
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
        let at = SocketAddr::from(([127, 0, 0, 1], port.expect("a port")));
        let mut browser = Self {
            driver,
            at,
            session: String::new(),
            _profile: profile,
        };
        let args = [
            "--headless=new",
            "--no-sandbox",
            "--disable-dev-shm-usage",
            "--disable-gpu",
            "--window-size=1360,860",
            "--no-first-run",
            "--disable-background-networking",
            "--force-device-scale-factor=1",
            "--lang=en",
            &format!("--user-data-dir={}", browser._profile.path().display()),
        ];
        let wanted = json!({ "capabilities": { "alwaysMatch": {
            "browserName": "chrome",
            "goog:loggingPrefs": { "browser": "ALL" },
            "goog:chromeOptions": { "binary": find_program("chromium").expect("there"), "args": args },
        } } });
        let begun = browser.ask("POST", "/session", &wanted);
        browser.session = begun["sessionId"]
            .as_str()
            .unwrap_or_else(|| panic!("no session: {begun}"))
            .to_owned();
        browser
    }

    fn ask(&self, method: &str, path: &str, body: &Value) -> Value {
        let value = self.try_ask(method, path, body);
        assert!(value.get("error").is_none(), "{method} {path}: {value}");
        value
    }

    fn try_ask(&self, method: &str, path: &str, body: &Value) -> Value {
        let body = if method == "GET" {
            String::new()
        } else {
            body.to_string()
        };
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            self.at,
            body.len()
        );
        raw(self.at, request.as_bytes()).json()["value"].clone()
    }

    fn post(&self, path: &str, body: &Value) -> Value {
        self.ask("POST", &format!("/session/{}/{path}", self.session), body)
    }

    pub(crate) fn open(&self, url: &str) {
        self.post("url", &json!({ "url": url }));
    }

    /// Runs a script's body in the page and returns what it returns.
    pub(crate) fn run(&self, script: &str) -> Value {
        self.post("execute/sync", &json!({ "script": script, "args": [] }))
    }

    /// Waits until an expression is true in the page; returns how long that took.
    pub(crate) fn wait(&self, expression: &str) -> Duration {
        let script = format!("return Boolean({expression})");
        eventually_within(PATIENCE, &format!("{expression} in the page\n{}", self.text()), || {
            self.run(&script) == true
        })
    }

    /// All text of the page.
    pub(crate) fn text(&self) -> String {
        self.run("return document.body.innerText")
            .as_str()
            .unwrap_or_default()
            .to_owned()
    }

    /// Does something to an element, once it is there and nothing lies over it. The page may draw it anew between finding it
    /// and doing that.
    fn with(&self, selector: &str, deed: &str, body: &Value) {
        let mut last = Value::Null;
        eventually_within(PATIENCE, &format!("{deed} of {selector}"), || {
            let wanted = json!({ "using": "css selector", "value": selector });
            let found = self.try_ask("POST", &format!("/session/{}/element", self.session), &wanted);
            let Some(element) = found[ELEMENT].as_str() else {
                last = found;
                return false;
            };
            last = self.try_ask(
                "POST",
                &format!("/session/{}/element/{element}/{deed}", self.session),
                body,
            );
            match last["error"].as_str() {
                None => true,
                Some(
                    "stale element reference"
                    | "element click intercepted"
                    | "element not interactable"
                    | "no such element",
                ) => false,
                Some(_) => panic!("{deed} of {selector}: {last}"),
            }
        });
    }

    /// Clicks with the mouse, so that what lies under something else can't be clicked.
    pub(crate) fn click(&self, selector: &str) {
        self.with(selector, "click", &json!({}));
    }

    pub(crate) fn type_in(&self, selector: &str, text: &str) {
        self.with(selector, "value", &json!({ "text": text }));
    }

    /// Presses keys with whatever has the focus.
    pub(crate) fn keys(&self, keys: &[&str]) {
        let actions: Vec<Value> = keys
            .iter()
            .flat_map(|key| {
                [
                    json!({ "type": "keyDown", "value": key }),
                    json!({ "type": "keyUp", "value": key }),
                ]
            })
            .collect();
        self.post(
            "actions",
            &json!({ "actions": [{ "type": "key", "id": "keys", "actions": actions }] }),
        );
    }

    pub(crate) fn dark(&self, is: bool) {
        let scheme = if is { "dark" } else { "light" };
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        self.post(
            "goog/cdp/execute",
            &json!({ "cmd": "Emulation.setEmulatedMedia", "params": { "features": features } }),
        );
    }

    /// What the page complained of: errors of scripts, and what its policy forbade.
    pub(crate) fn complaints(&self) -> Vec<String> {
        let log = self.post("se/log", &json!({ "type": "browser" }));
        let lines = log
            .as_array()
            .expect("lines")
            .iter()
            .filter(|line| line["level"] == "SEVERE");
        lines
            .map(|line| line["message"].as_str().unwrap_or_default().to_owned())
            .collect()
    }

    /// Keeps a picture of the page, where somebody wants it.
    pub(crate) fn screenshot(&self, name: &str) {
        let Some(dir) = std::env::var_os(SCREENSHOTS) else {
            return;
        };
        let png = self.ask("GET", &format!("/session/{}/screenshot", self.session), &Value::Null);
        let png = base64(png.as_str().expect("text"));
        std::fs::write(Path::new(&dir).join(format!("{name}.png")), png).expect("written");
    }
}

fn base64(text: &str) -> Vec<u8> {
    let value = |byte: u8| match byte {
        b'A'..=b'Z' => u32::from(byte - b'A'),
        b'a'..=b'z' => u32::from(byte - b'a') + 26,
        b'0'..=b'9' => u32::from(byte - b'0') + 52,
        b'+' => 62,
        _ => 63,
    };
    let letters: Vec<u8> = text
        .bytes()
        .filter(|byte| *byte != b'=' && !byte.is_ascii_whitespace())
        .collect();
    let of = |four: &[u8]| {
        let bits = four.iter().fold(0, |bits, byte| bits << 6 | value(*byte)) << (6 * (4 - four.len()));
        bits.to_be_bytes()[1..four.len()].to_vec()
    };
    letters.chunks(4).flat_map(of).collect()
}

impl Drop for Browser {
    fn drop(&mut self) {
        if !self.session.is_empty() {
            // Chromium's processes go with their session.
            let request = format!(
                "DELETE /session/{} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
                self.session, self.at
            );
            let at = self.at;
            drop(std::thread::spawn(move || raw(at, request.as_bytes())).join());
        }
        drop(self.driver.kill());
        if wait_within(&mut self.driver, Duration::from_secs(5)).is_none() {
            say("the browser's driver was left behind");
        }
    }
}
