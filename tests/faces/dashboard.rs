//! The dashboard in a real Chromium, as its users go about it: log in, browse, pin and see it come, pause a queue, see
//! why something fails and try it again.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::browser::{Browser, chromium_is_missing};
use crate::common::drive::{Builder, drive_test_within, eventually, say};
use crate::face::{ADMIN, Face, VIEWER};

/// The variable that sets how many files the large folder has.
const ROWS: &str = "BACKLOT_TEST_ROWS";
/// The names of files that a page could be fooled with.
const HOSTILE: [&str; 4] = [
    "<img src=x onerror=\"document.title='owned'\">.txt",
    "'\"><script>document.title='owned'</script>.txt",
    "[a-z]*{x,y}?.txt",
    "&lt;b&gt; %2e%2e #x?y.txt",
];
const LIMIT: Duration = Duration::from_secs(400);

fn plates(site: &Path) {
    let folder = site.join("sq010/sh0010/plates");
    fs::create_dir_all(&folder).expect("made");
    for frame in 1001..1041 {
        fs::write(folder.join(format!("plate_v001.{frame}.exr")), vec![1; 400 << 10]).expect("written");
    }
}

#[test]
fn log_in_browse_pin_pause_and_retry() {
    if chromium_is_missing() {
        return;
    }
    drive_test_within(LIMIT, || {
        let site = tempfile::tempdir().expect("a folder");
        plates(site.path());
        fs::create_dir(site.path().join("odd")).expect("made");
        for name in HOSTILE {
            fs::write(site.path().join("odd").join(name.replace('/', "\u{2215}")), "odd").expect("written");
        }
        for name in ["editorial", "lookdev", "sq020", "sq030"] {
            fs::create_dir(site.path().join(name)).expect("made");
            fs::write(site.path().join(name).join("notes.txt"), "notes").expect("written");
        }
        let slow = Builder::local(site.path())
            .site("link-rate", "3MB")
            .site("link-delay", "5ms");
        let face = Face::of(slow.set("drive.name", "projects").set("cache.max-size", "64MiB"));
        let browser = Browser::start();
        let page = format!("http://{}/", face.at);

        browser.open(&page);
        browser.type_in("#token", "not the token, surely not");
        browser.click("button[type=submit]");
        browser.wait("document.querySelector('[role=alert]').textContent.includes('not known')");
        browser.screenshot("login");
        browser.run("document.querySelector('#token').value = ''");
        browser.type_in("#token", ADMIN);
        browser.click("button[type=submit]");
        browser.wait("document.querySelector('#live').textContent === 'live' && document.querySelector('#safe').textContent === 'all at its site'");
        browser.wait("document.body.innerText.includes('Not at its site yet')");

        // Browse by mouse, with the tree's names as they are.
        browser.click("nav a[href='#/browse']");
        browser.wait("document.querySelectorAll('.line').length === 1");
        browser.click(".line .name");
        browser.wait("[...document.querySelectorAll('.line .name')].some((node) => node.textContent === 'odd')");
        browser.open(&format!("{page}#/browse/show/odd"));
        browser.wait("document.querySelectorAll('.line').length === 4");
        let names =
            browser.run("return [...document.querySelectorAll('.line .name')].map((node) => node.textContent).sort()");
        let mut wanted: Vec<String> = HOSTILE.iter().map(|name| name.replace('/', "\u{2215}")).collect();
        wanted.sort();
        let mut names: Vec<String> = serde_json::from_value(names).expect("names");
        names.sort();
        assert_eq!(names, wanted);
        assert!(
            !browser
                .run("return document.title")
                .as_str()
                .expect("a title")
                .contains("owned")
        );
        // Pinned are those files, not what their names would match as patterns.
        browser.run("document.querySelector('.body').focus()");
        browser.run(
            "document.querySelector('.body').dispatchEvent(new KeyboardEvent('keydown', { key: 'a', ctrlKey: true }))",
        );
        browser.keys(&["p"]);
        browser.wait("document.querySelectorAll('.line .state.pinned').length === 4");

        // Pin a folder's files by keyboard alone, and see them come.
        browser.open(&format!("{page}#/browse/show/sq010/sh0010"));
        browser.wait("document.querySelectorAll('.line').length === 1");
        browser.run("document.querySelector('.body').focus()");
        browser.keys(&["p"]);
        browser.wait("document.querySelector('.line .state')?.textContent === 'pinned'");
        browser.keys(&["\u{e007}"]);
        browser.wait("location.hash.endsWith('/plates') && document.querySelectorAll('.line').length > 20");
        browser.wait("document.querySelectorAll('.line progress').length + [...document.querySelectorAll('.line')].filter((row) => row.children[3].textContent === 'all').length > 2");
        browser.keys(&["\u{e015}", "\u{e015}", " ", "\u{e015}", " "]);
        browser.screenshot("browse");
        browser.dark(true);
        browser.screenshot("browse-dark");
        browser.dark(false);
        browser.wait("[...document.querySelectorAll('.line')].every((row) => row.children[3].textContent === 'all')");
        eventually("those out of sight are here as well", || {
            face.drive.status()["pins"]["resident_bytes"].as_u64() >= Some(40 * (400 << 10))
        });

        // A queue is paused, so that what is saved waits; then its site is in the way of it.
        let publish = face.drive.path("sq010/publish");
        fs::create_dir(&publish).expect("made");
        browser.click("nav a[href='#/transfers']");
        browser.click("[data-k='pause-show']");
        browser.wait("document.querySelector('[data-k=\"resume-show\"]')");
        eventually("the queue is paused", || {
            face.drive.status()["publishing"]["queues"][0]["paused"] == true
        });
        fs::write(publish.join("comp_v001.exr"), vec![3; 300 << 10]).expect("written");
        browser.wait("document.querySelector('#tasks .state')?.textContent === 'waiting'");
        browser.wait("document.querySelector('#safe').textContent.includes('not at its site yet')");
        fs::write(site.path().join("sq010/publish"), "a file where a folder is to be").expect("written");
        browser.click("[data-k='resume-show']");
        browser.wait("['blocked', 'retrying'].includes(document.querySelector('#tasks .state')?.textContent)");
        browser.wait("document.body.innerText.includes('Why tasks fail')");
        browser.screenshot("transfers");
        browser.click("nav a[href='#/overview']");
        browser.wait("document.body.innerText.includes('Needs a look') && document.querySelector('.bad')");
        browser.screenshot("overview");
        browser.dark(true);
        browser.screenshot("overview-dark");
        browser.dark(false);
        browser.click("nav a[href='#/transfers']");
        fs::remove_file(site.path().join("sq010/publish")).expect("removed");
        browser.click("#tasks [data-k^='t-']");
        browser.wait("document.body.innerText.includes('No tasks')");
        eventually("it is there", || {
            fs::metadata(site.path().join("sq010/publish/comp_v001.exr")).is_ok()
        });
        browser.wait("document.querySelector('#safe').textContent === 'all at its site'");

        browser.click("nav a[href='#/pins']");
        browser.wait("document.querySelectorAll('#pins tbody tr').length === 5");
        browser.screenshot("pins");
        browser.click("#pins [data-k^='p-']");
        browser.wait("document.querySelectorAll('#pins tbody tr').length === 4");
        browser.click("nav a[href='#/settings']");
        browser.wait("document.body.innerText.includes('api.admin-token')");
        assert!(!browser.text().contains(ADMIN), "a secret shows where it is kept");
        browser.screenshot("settings");
        browser.click("nav a[href='#/log']");
        browser.wait("document.querySelectorAll('.logline').length > 0");

        // Nothing was asked for elsewhere, nothing was forbidden, and no script failed; 401s before the login are in order.
        let foreign = browser.run("return performance.getEntriesByType('resource').map((entry) => entry.name).filter((name) => !name.startsWith(location.origin))");
        assert_eq!(foreign, serde_json::json!([]));
        let complaints: Vec<_> = browser
            .complaints()
            .into_iter()
            .filter(|line| !line.contains("401"))
            .collect();
        assert!(complaints.is_empty(), "{complaints:#?}");
        // Who may only look has no buttons to change things.
        browser.click("#logout");
        browser.type_in("#token", VIEWER);
        browser.click("button[type=submit]");
        browser.wait("document.querySelector('#role').textContent === 'viewer'");
        browser.click("nav a[href='#/transfers']");
        browser.wait("document.querySelector('[data-k=\"pause-show\"]')?.disabled");
    });
}

#[test]
fn a_large_folder_is_on_the_screen_at_once() {
    if chromium_is_missing() {
        return;
    }
    drive_test_within(LIMIT, || {
        let rows: usize = std::env::var(ROWS).map_or(5000, |rows| rows.parse().expect("a number"));
        let site = tempfile::tempdir().expect("a folder");
        let large = site.path().join("large");
        fs::create_dir(&large).expect("made");
        for number in 0..rows {
            fs::write(large.join(format!("cache.{number:06}.vdb")), "").expect("written");
        }
        let face = Face::of_folder(site.path());
        let browser = Browser::start();
        browser.open(&format!("http://{}/", face.at));
        browser.type_in("#token", ADMIN);
        browser.click("button[type=submit]");
        browser.wait("document.querySelector('#live').textContent === 'live'");
        // Measured in the page: from the click to the frame that shows rows.
        browser.run(
            "window.painted = null; const begun = performance.now(); location.hash = '#/browse/show/large'; \
             const look = () => document.querySelectorAll('.line').length > 10 \
               ? requestAnimationFrame(() => { window.painted = performance.now() - begun; }) : requestAnimationFrame(look); look();",
        );
        browser.wait("window.painted !== null");
        let painted = browser.run("return window.painted").as_f64().expect("a time");
        let begun = Instant::now();
        browser.wait(&format!(
            "document.querySelector('.body').getAttribute('aria-rowcount') === '{rows}'"
        ));
        say(&format!(
            "a folder of {rows}: first rows after {painted:.0} ms, all after {:?} more",
            begun.elapsed()
        ));
        assert!(painted < 1000.0, "{painted} ms");
        browser.run("document.querySelector('.body').focus()");
        browser.keys(&["\u{e010}"]);
        let last = format!("cache.{:06}.vdb", rows - 1);
        browser.wait(&format!(
            "[...document.querySelectorAll('.line .name')].some((node) => node.textContent === '{last}')"
        ));
        let elements = browser
            .run("return document.querySelectorAll('.line').length")
            .as_u64()
            .expect("a number");
        assert!(elements < 120, "only what is in sight is there: {elements}");
        browser.screenshot("large-folder");
    });
}
