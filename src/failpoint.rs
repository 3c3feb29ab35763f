//! Named places where a test can make the process die, dawdle or fail. For tests; without the variable nothing happens.
//!
//! `BACKLOT_FAILPOINT="name:action[:n]"`, several separated by commas, is read once. Actions: `kill` (SIGKILL to the
//! process itself), `sleep:MS` (the thread sleeps), `error` (what [`fails`] guards fails). The n-th hit strikes (the first,
//! where no n is given) and no other. A place that is not named costs one relaxed load.

use std::str::FromStr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tracing::{error, warn};

const VARIABLE: &str = "BACKLOT_FAILPOINT";

/// The variable has been read and names nothing.
static UNSET: AtomicBool = AtomicBool::new(false);
static POINTS: OnceLock<Vec<Point>> = OnceLock::new();

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Action {
    Kill,
    Sleep(Duration),
    Error,
}

#[derive(Debug)]
struct Point {
    name: String,
    action: Action,
    nth: u64,
    hits: AtomicU64,
}

impl FromStr for Point {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| text.parse::<u64>().map_err(|e| format!("{text:?} is no number: {e}"));
        let mut words = text.split(':');
        let name = words.next().filter(|name| !name.is_empty()).ok_or("no name")?;
        let action = match words.next() {
            Some("kill") => Action::Kill,
            Some("error") => Action::Error,
            Some("sleep") => Action::Sleep(Duration::from_millis(number(words.next().unwrap_or_default())?)),
            other => return Err(format!("the action {other:?} is none of kill, sleep, error")),
        };
        let nth = words.next().map_or(Ok(1), number)?;
        if nth == 0 || words.next().is_some() {
            return Err(format!("{text:?} is not name:action[:n] with n from 1"));
        }
        Ok(Self {
            name: name.to_owned(),
            action,
            nth,
            hits: AtomicU64::new(0),
        })
    }
}

fn parse(text: &str) -> Result<Vec<Point>, String> {
    text.split(',')
        .filter(|word| !word.is_empty())
        .map(str::parse)
        .collect()
}

/// Returns what strikes at a place now, if anything.
fn strike(points: &[Point], name: &str) -> Option<Action> {
    points
        .iter()
        .filter(|point| point.name == name)
        .find(|point| point.hits.fetch_add(1, Relaxed) + 1 == point.nth)
        .map(|point| point.action)
}

fn points() -> &'static [Point] {
    POINTS.get_or_init(|| {
        let text = std::env::var(VARIABLE).unwrap_or_default();
        let points = parse(&text).unwrap_or_else(|why| {
            error!("{VARIABLE} is not obeyed: {why}");
            Vec::new()
        });
        UNSET.store(points.is_empty(), Relaxed);
        points
    })
}

/// Passes a place where the process may be made to die or dawdle.
pub fn hit(name: &str) {
    let _failed: bool = fails(name);
}

/// Passes a place that may be made to fail, too.
#[must_use]
pub fn fails(name: &str) -> bool {
    if UNSET.load(Relaxed) {
        return false;
    }
    let action = strike(points(), name);
    match action {
        None => return false,
        Some(Action::Kill) => {
            let killed = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
            error!("the failpoint {name} was to kill: {killed:?}");
        }
        Some(Action::Sleep(time)) => {
            warn!("the failpoint {name} makes a thread sleep");
            #[expect(clippy::disallowed_methods, reason = "stopping the thread is what was asked for")]
            std::thread::sleep(time);
        }
        Some(Action::Error) => warn!("the failpoint {name} makes something fail"),
    }
    action == Some(Action::Error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;

    #[test]
    fn the_nth_hit_strikes_and_no_other() {
        let points = parse("upload.part:kill:3,a:sleep:50:2,b:error").unwrap();
        let at = |name, times| (0..times).map(|_| strike(&points, name)).collect::<Vec<_>>();
        assert_eq!(at("upload.part", 4), [None, None, Some(Action::Kill), None]);
        assert_eq!(at("a", 3), [None, Some(Action::Sleep(Duration::from_millis(50))), None]);
        assert_eq!(at("b", 2), [Some(Action::Error), None]);
        assert_eq!(at("c", 1), [None]);
        assert!(parse("").unwrap().is_empty());
    }

    #[test]
    fn what_makes_no_sense_is_said() {
        for text in [
            "a",
            ":kill",
            "a:die",
            "a:sleep",
            "a:sleep:x",
            "a:kill:0",
            "a:kill:1:2",
            "a:sleep:1:x",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    #[ignore = "what the test below runs in a process of its own"]
    fn victim() {
        (0..3).for_each(|_| hit("here"));
        assert!(!fails("there") && fails("there"));
    }

    #[test]
    fn a_process_dies_where_it_is_told_to() {
        let run = |points: &str| {
            let mut command = std::process::Command::new(std::env::current_exe().unwrap());
            command.args(["--exact", "failpoint::tests::victim", "--ignored"]);
            command.env(VARIABLE, points).output().unwrap().status
        };
        assert_eq!(run("here:kill:3").signal(), Some(9));
        assert!(run("here:kill:4,there:error:2").success());
        assert!(!run("there:error").success());
    }

    #[test]
    fn without_the_variable_nothing_happens() {
        hit("anything");
        assert!(!fails("anything"));
    }
}
