//! Tokens, roles, logins, and what keeps other pages and other names out.

use serde_json::json;

use crate::common::drive::{drive_test, eventually};
use crate::face::{ADMIN, Face, VIEWER, over_socket};

fn site() -> tempfile::TempDir {
    let site = tempfile::tempdir().expect("a folder");
    std::fs::write(site.path().join("a.txt"), "a").expect("written");
    site
}

#[test]
fn without_a_token_there_is_the_page_and_nothing_else() {
    drive_test(|| {
        let site = site();
        let face = Face::of_folder(site.path());
        for path in [
            "/v1/health",
            "/v1/status",
            "/v1/ls",
            "/v1/events",
            "/v1/settings",
            "/v1/log",
            "/metrics",
            "/v1/none",
            "/none",
        ] {
            for lines in [
                &[] as &[&str],
                &["Authorization: Bearer wrong"],
                &["Authorization: Basic YTpi"],
                &["Cookie: backlot-1=x"],
            ] {
                // Tries are few: another test looks at that.
                if lines.iter().any(|line| line.starts_with("Authorization")) && path != "/v1/status" {
                    continue;
                }
                let answer = face.ask("GET", path, lines, "");
                assert_eq!(
                    (answer.status, answer.kind().as_str()),
                    (401, "token"),
                    "{path} {answer:?}"
                );
                assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
            }
        }
        for path in ["/", "/app.js", "/style.css", "/icon.svg"] {
            let answer = face.ask("GET", path, &[], "");
            assert_eq!(answer.status, 200, "{path}");
            let policy = answer.header("content-security-policy").expect("a policy");
            assert!(
                policy.contains("default-src 'none'") && !policy.contains("unsafe"),
                "{policy}"
            );
            assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
            assert!(
                !answer.body.contains("http://") || path == "/icon.svg",
                "{path} asks elsewhere"
            );
        }
        // The page has no script of its own in the markup: the policy would stop it.
        let page = face.ask("GET", "/", &[], "").body;
        assert_eq!(
            page.matches("<script").count(),
            page.matches("<script type=\"module\" src=").count()
        );
        assert!(!page.contains("style=") && !page.contains("onclick"));
        assert_eq!(face.ask("POST", "/", &[], "{}").status, 401);

        let session = |token: &str| {
            face.get(token, "/v1/session").json()["role"]
                .as_str()
                .unwrap()
                .to_owned()
        };
        assert_eq!((session(VIEWER).as_str(), session(ADMIN).as_str()), ("viewer", "admin"));
        assert_eq!(over_socket(&face.drive, "/v1/session").json()["role"], "admin");
        let pause = json!({ "project": "show" });
        let refused = face.post(VIEWER, "/v1/queues/pause", &pause);
        assert_eq!((refused.status, refused.kind().as_str()), (403, "role"));
        for method in ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "X"] {
            let answer = face.ask(method, "/v1/pins", &[&format!("Authorization: Bearer {VIEWER}")], "");
            assert_eq!(answer.status, 403, "{method} {answer:?}");
        }
        assert_eq!(face.drive.status()["publishing"]["queues"][0]["paused"], false);
        assert_eq!(face.post(ADMIN, "/v1/queues/pause", &pause).status, 200);
        assert_eq!(face.drive.status()["publishing"]["queues"][0]["paused"], true);
        // The log of all this holds no token.
        assert!(!face.drive.log().contains(ADMIN) && !face.get(ADMIN, "/v1/settings").body.contains(ADMIN));
    });
}

#[test]
fn other_names_and_other_pages_are_refused() {
    drive_test(|| {
        let site = site();
        let face = Face::of_folder(site.path());
        let (at, port) = (face.at, face.at.port());
        let bearer = format!("Authorization: Bearer {ADMIN}");
        let with_host = |hosts: &str| {
            face.raw(format!("GET /v1/health HTTP/1.1\r\n{hosts}Connection: close\r\n{bearer}\r\n\r\n").as_bytes())
        };
        for fine in [
            at.to_string(),
            format!("localhost:{port}"),
            format!("LOCALHOST:{port}"),
            "backlot.studio.example".to_owned(),
        ] {
            assert_eq!(with_host(&format!("Host: {fine}\r\n")).status, 200, "{fine}");
        }
        for evil in [
            format!("evil.example:{port}"),
            "127.0.0.1".to_owned(),
            format!("127.0.0.1.evil.example:{port}"),
            format!("{at}.evil.example"),
            format!("127.0.0.2:{port}"),
            format!("user@{at}"),
            format!("{at}/"),
            String::new(),
            "localhost".to_owned(),
        ] {
            assert!(
                matches!(with_host(&format!("Host: {evil}\r\n")).status, 400 | 421),
                "{evil}"
            );
        }
        assert!(matches!(with_host("").status, 400 | 421), "no host");
        assert!(
            matches!(
                with_host(&format!("Host: {at}\r\nHost: evil.example\r\n")).status,
                400 | 421
            ),
            "two hosts"
        );
        let absolute = format!(
            "GET http://evil.example/v1/health HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n{bearer}\r\n\r\n"
        );
        assert!(matches!(face.raw(absolute.as_bytes()).status, 400 | 421));

        for evil in [
            "http://evil.example",
            "null",
            "https://127.0.0.1",
            "http://127.0.0.1:1",
            "file://",
            &format!("http://{at}.evil.example"),
        ] {
            for (method, path) in [
                ("GET", "/v1/status"),
                ("POST", "/v1/unmount"),
                ("OPTIONS", "/v1/unmount"),
                ("GET", "/v1/events"),
                ("GET", "/"),
            ] {
                let answer = face.ask(
                    method,
                    path,
                    &[
                        &bearer,
                        &format!("Origin: {evil}"),
                        "Access-Control-Request-Method: POST",
                    ],
                    "",
                );
                assert_eq!(
                    (answer.status, answer.kind().as_str()),
                    (403, "origin"),
                    "{evil} {method} {path}"
                );
                assert!(
                    !answer.head.to_ascii_lowercase().contains("access-control"),
                    "{answer:?}"
                );
            }
        }
        assert_eq!(
            face.ask("GET", "/v1/status", &[&bearer, &format!("Origin: http://{at}")], "")
                .status,
            200
        );
        let fetched = ["Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: no-cors"];
        assert_eq!(
            face.ask("GET", "/v1/status", &[&bearer, fetched[0], fetched[1]], "")
                .status,
            403
        );
        // A link in a mail leads to the page all the same.
        assert_eq!(
            face.ask(
                "GET",
                "/",
                &["Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate"],
                ""
            )
            .status,
            200
        );
        assert_eq!(face.drive.status()["name"], "test", "it was not unmounted");
    });
}

#[test]
fn a_browser_logs_in_for_a_cookie_that_no_other_page_can_use() {
    drive_test(|| {
        let site = site();
        let face = Face::of_folder(site.path());
        let token = |token: &str| json!({ "token": token }).to_string();
        let plain = face.ask("POST", "/v1/login", &[], &token(ADMIN));
        assert_eq!(
            (plain.status, plain.kind().as_str()),
            (403, "csrf"),
            "a form of another page could send this"
        );
        let wrong = face.ask("POST", "/v1/login", &["X-Backlot: 1"], &token("wrong"));
        assert_eq!((wrong.status, wrong.kind().as_str()), (401, "token"));
        for body in ["", "{}", "[]", "{\"token\":1}", "{\"token\":\"x\",\"more\":1}", "\u{0}"] {
            let answer = face.ask("POST", "/v1/login", &["X-Backlot: 1"], body);
            assert!((400..500).contains(&answer.status), "{body}: {answer:?}");
            assert!(answer.header("set-cookie").is_none());
        }
        let cookie_of = |role: &str| {
            let answer = face.ask("POST", "/v1/login", &["X-Backlot: 1"], &token(role));
            assert_eq!(answer.status, 200, "{answer:?}");
            let cookie = answer.header("set-cookie").expect("a cookie").to_owned();
            for attribute in ["HttpOnly", "SameSite=Strict", "Path=/", "Max-Age="] {
                assert!(cookie.contains(attribute), "{cookie}");
            }
            assert!(!cookie.contains(role), "the token itself stays out of it");
            format!("Cookie: other=1; {}", cookie.split(';').next().expect("a pair"))
        };
        let (admin, viewer) = (cookie_of(ADMIN), cookie_of(VIEWER));
        assert_eq!(face.ask("GET", "/v1/session", &[&admin], "").json()["role"], "admin");
        assert_eq!(face.ask("GET", "/v1/session", &[&viewer], "").json()["role"], "viewer");
        let pause = json!({ "project": null }).to_string();
        let meant = face.ask("POST", "/v1/queues/pause", &[&admin, "X-Backlot: 1"], &pause);
        assert_eq!(meant.status, 200, "{meant:?}");
        let not_meant = face.ask("POST", "/v1/queues/resume", &[&admin], &pause);
        assert_eq!((not_meant.status, not_meant.kind().as_str()), (403, "csrf"));
        let looked = face.ask("POST", "/v1/queues/resume", &[&viewer, "X-Backlot: 1"], &pause);
        assert_eq!((looked.status, looked.kind().as_str()), (403, "role"));
        assert_eq!(face.drive.status()["publishing"]["queues"][0]["paused"], true);
        let out = face.ask("POST", "/v1/logout", &[&viewer, "X-Backlot: 1"], "{}");
        assert_eq!(out.status, 200);
        assert_eq!(face.ask("GET", "/v1/session", &[&viewer], "").status, 401);
        assert_eq!(face.ask("GET", "/v1/session", &[&admin], "").status, 200);
    });
}

#[test]
fn wrong_tokens_run_out_of_tries() {
    drive_test(|| {
        let site = site();
        let face = Face::of_folder(site.path());
        let body = json!({ "token": ADMIN }).to_string();
        let login = || face.ask("POST", "/v1/login", &["X-Backlot: 1"], &body);
        let cookie = login()
            .header("set-cookie")
            .expect("a cookie")
            .split(';')
            .next()
            .expect("a pair")
            .to_owned();
        let codes: Vec<u16> = (0..40)
            .map(|n| face.get(&format!("wrong-{n}-0123456789abcdef"), "/v1/status").status)
            .collect();
        let refused = codes.iter().filter(|code| **code == 429).count();
        // Some tries come back while the test runs.
        assert!(
            codes[..10].iter().all(|code| *code == 401) && refused >= 15,
            "{codes:?}"
        );
        let mut right = face.get(ADMIN, "/v1/status");
        // Wherever the time left a try, it is used up first.
        for _ in 0..5 {
            if right.status == 429 {
                break;
            }
            face.get("wrong-again-0123456789abcdef", "/v1/status");
            right = face.get(ADMIN, "/v1/status");
        }
        assert_eq!(
            (right.status, right.kind().as_str()),
            (429, "tries"),
            "not even the right one is looked at"
        );
        assert_eq!(right.header("retry-after"), Some("3"));
        assert_eq!(login().status, 429);
        assert_eq!(
            face.ask("GET", "/v1/session", &[&format!("Cookie: {cookie}")], "")
                .status,
            200,
            "who is in stays in"
        );
        assert_eq!(over_socket(&face.drive, "/v1/health").status, 200);
        eventually("a further try", || face.get(ADMIN, "/v1/status").status == 200);
    });
}
