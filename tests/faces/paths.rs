//! A path argument never leaves the drive, and nothing that is sent makes the daemon fail.

use std::fmt::Write as _;

use serde_json::json;

use crate::common::drive::drive_test;
use crate::face::{ADMIN, Face};

/// Percent-encoded, every byte.
fn encoded(path: &str) -> String {
    path.bytes().fold(String::new(), |mut all, byte| {
        let _written = write!(all, "%{byte:02X}");
        all
    })
}

#[test]
fn paths_do_not_leave_the_drive() {
    drive_test(|| {
        let outside = tempfile::tempdir().expect("a folder");
        let site = outside.path().join("site");
        std::fs::create_dir(&site).expect("made");
        std::fs::write(site.join("inside.txt"), "inside").expect("written");
        std::fs::write(outside.path().join("outside.txt"), "outside").expect("written");
        let face = Face::of_folder(&site);
        let absolute = outside.path().join("outside.txt").display().to_string();
        let long = "a".repeat(5000);
        let deep = "a/".repeat(20_000);
        let evil = [
            "..",
            ".",
            "../outside.txt",
            "show/..",
            "show/../..",
            "show/../../outside.txt",
            "show/../../../../../../etc/passwd",
            "show//inside.txt",
            "show/./inside.txt",
            "/etc/passwd",
            "//etc/passwd",
            "\\..\\..",
            "show/\0",
            "\0",
            "show/inside.txt\0.jpg",
            "%2e%2e/outside.txt",
            "..%2foutside.txt",
            "file:///etc/passwd",
            &absolute,
            &long,
            &deep,
        ];
        for path in evil {
            let shown: String = path.chars().take(60).collect();
            let refused = |what: &str, answer: &crate::face::Answer| {
                let fine = matches!(answer.status, 400 | 404 | 409 | 413 | 414 | 431);
                assert!(
                    fine && !answer.body.contains("outside\""),
                    "{what} {shown:?}: {answer:?}"
                );
            };
            if encoded(path).len() < 30_000 {
                refused("ls", &face.get(ADMIN, &format!("/v1/ls?path={}", encoded(path))));
            }
            for route in ["hydrations", "cache/evict"] {
                refused(
                    route,
                    &face.post(ADMIN, &format!("/v1/{route}"), &json!({ "paths": [path] })),
                );
            }
            let pinned = face.post(
                ADMIN,
                "/v1/pins",
                &json!({ "paths": [path], "note": null, "who": "test" }),
            );
            refused("pins", &pinned);
            refused(
                "unpin",
                &face.post(ADMIN, "/v1/pins/remove", &json!({ "what": [path] })),
            );
            refused("scans", &face.post(ADMIN, "/v1/scans", &json!({ "path": path })));
            for route in ["tasks/retry", "tasks/cancel", "tasks/hold"] {
                refused(
                    route,
                    &face.post(ADMIN, &format!("/v1/{route}"), &json!({ "paths": [path] })),
                );
            }
            refused(
                "resolve",
                &face.post(
                    ADMIN,
                    "/v1/conflicts/resolve",
                    &json!({ "paths": [path], "keep": "mine" }),
                ),
            );
        }
        // The right path is found, so the refusals above are about the paths.
        let found = face.get(ADMIN, "/v1/ls?path=show%2Finside.txt");
        assert_eq!(
            (found.status, found.json()["entries"][0]["name"].as_str()),
            (200, Some("inside.txt"))
        );

        for url in [
            "/../outside.txt",
            "/v1/../../outside.txt",
            "/%2e%2e/outside.txt",
            "/app.js/../../outside.txt",
            "//etc/passwd",
            "/./app.js",
            "/APP.JS",
            "/app.js%00",
            "/app.js/",
        ] {
            let answer = face.get(ADMIN, url);
            assert!(matches!(answer.status, 400 | 404), "{url}: {answer:?}");
        }
        assert_eq!(face.drive.status()["name"], "test");
    });
}

#[test]
fn requests_without_sense_are_answered_and_harm_nothing() {
    drive_test(|| {
        let site = tempfile::tempdir().expect("a folder");
        let face = Face::of_folder(site.path());
        let large = json!({ "paths": ["x".repeat(3 << 20)] });
        let answer = face.post(ADMIN, "/v1/hydrations", &large);
        assert_eq!((answer.status, answer.kind().as_str()), (413, "too-large"));
        let bearer = format!("Authorization: Bearer {ADMIN}");
        for route in [
            "pins",
            "pins/remove",
            "hydrations",
            "cache/evict",
            "queues/pause",
            "queues/priority",
            "tasks/retry",
            "tasks/priority",
            "conflicts/resolve",
            "wait",
            "scans",
            "unmount",
        ] {
            for body in [
                "{",
                "null",
                "[]",
                "0",
                "\"\"",
                "{\"paths\":{}}",
                "{\"paths\":[1]}",
                "{\"no-such-field\":1}",
                "\u{feff}{}",
            ] {
                let answer = face.ask("POST", &format!("/v1/{route}"), &[&bearer], body);
                assert!((400..500).contains(&answer.status), "{route} {body}: {answer:?}");
            }
        }
        for query in [
            "limit=-1",
            "limit=99999999999999999999",
            "cursor=x",
            "path=%FF",
            "path=%",
            "limit=",
        ] {
            let answer = face.get(ADMIN, &format!("/v1/ls?{query}"));
            assert!(answer.status < 500, "{query}: {answer:?}");
        }
        for nonsense in [
            &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
            b"GET\r\n\r\n",
            b"GET / HTTP/9.9\r\n\r\n",
            b"\0\0\0\0\r\n\r\n",
        ] {
            let mut stream = std::net::TcpStream::connect(face.at).expect("it listens");
            std::io::Write::write_all(&mut stream, nonsense).expect("sent");
        }
        let id = face.get(ADMIN, "/v1/scans/18446744073709551616");
        assert!((400..500).contains(&id.status), "{id:?}");
        assert_eq!(face.drive.status()["name"], "test");
        assert!(!face.drive.log().contains("panicked"));
    });
}
