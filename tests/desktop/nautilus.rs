//! The extension in a real Nautilus, on a screen that nobody sees.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};

use crate::common::drive::{Builder, drive_test_within, eventually_within, find_program, say};

/// Nautilus takes its time on a machine without a graphics card.
const LIMIT: Duration = Duration::from_secs(150);
const START: Duration = Duration::from_secs(60);

/// Ends everything that was started with it.
struct Desktop(Child);

impl Drop for Desktop {
    fn drop(&mut self) {
        let _gone: Result<(), _> = kill_process_group(Pid::from_child(&self.0), Signal::KILL);
        drop(self.0.wait());
    }
}

fn is_missing() -> bool {
    let lacks = ["nautilus", "Xvfb", "xvfb-run", "dbus-run-session"]
        .into_iter()
        .find(|p| find_program(p).is_none());
    let bridge = fs::read_dir("/usr/lib").into_iter().flatten().flatten().any(|arch| {
        let extensions = arch.path().join("nautilus/extensions-4/libnautilus-python.so");
        extensions.exists()
    });
    let lacks = lacks.or((!bridge).then_some("python3-nautilus"));
    let Some(lacks) = lacks else { return false };
    let is_required = std::env::var_os("BACKLOT_TEST_REQUIRE_DESKTOP").is_some_and(|v| v == "1");
    assert!(
        !is_required,
        "{lacks} is not installed, and BACKLOT_TEST_REQUIRE_DESKTOP=1"
    );
    say(&format!("SKIPPED: desktop (no {lacks})"));
    true
}

#[test]
fn a_real_nautilus_asks_for_states_and_pins_by_its_menu() {
    if is_missing() {
        return;
    }
    drive_test_within(LIMIT, || {
        let (site, home) = (
            tempfile::tempdir().expect("a folder"),
            tempfile::tempdir().expect("a folder"),
        );
        fs::write(site.path().join("the plate.exr"), vec![7; 200_000]).expect("written");
        let drive = Builder::local(site.path()).build().mounted();
        let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
        let extensions = home.path().join(".local/share/nautilus-python/extensions");
        fs::create_dir_all(&extensions).expect("made");
        fs::create_dir_all(home.path().join("run")).expect("made");
        fs::copy(tests.join("tests/desktop/traced.py"), extensions.join("traced.py")).expect("copied");
        let trace = home.path().join("trace");
        let log = fs::File::create(home.path().join("log")).expect("made");
        let child = Command::new("xvfb-run")
            .args(["-a", "dbus-run-session", "--", "nautilus", "--new-window"])
            .arg(drive.project())
            .env("HOME", home.path())
            .env("XDG_RUNTIME_DIR", home.path().join("run"))
            .env("GSK_RENDERER", "cairo")
            .env("LIBGL_ALWAYS_SOFTWARE", "1")
            .env("NO_AT_BRIDGE", "1")
            .env("BACKLOT_EXTENSION", tests.join("packaging/desktop/backlot_files.py"))
            .env("BACKLOT_TRACE", &trace)
            .env("BACKLOT_PROGRAM", env!("CARGO_BIN_EXE_backlot"))
            .env("BACKLOT_CONFIG", drive.settings())
            .env_remove("DISPLAY")
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("shared"))
            .stderr(log)
            .process_group(0)
            .spawn()
            .expect("started");
        let desktop = Desktop(child);
        let said = || {
            let read = |name: &str| fs::read_to_string(home.path().join(name)).unwrap_or_default();
            format!("{}--- {}", read("trace"), read("log"))
        };
        for wanted in [
            "info the plate.exr at the site\n",
            "items Backlot::pin Backlot::hydrate Backlot::evict Backlot::path-linux",
            "columns 1\n",
            "info the plate.exr kept here\n",
        ] {
            let mut seen = String::new();
            let waited = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                eventually_within(START, wanted, || {
                    seen = fs::read_to_string(&trace).unwrap_or_default();
                    seen.contains(wanted)
                })
            }));
            assert!(waited.is_ok(), "never: {wanted}\n{}", said());
        }
        drop(desktop);
        let pins = drive.tell(["pin", "ls"]);
        assert!(
            pins.contains("the plate.exr") && pins.contains("in the file manager"),
            "{pins}"
        );
    });
}
