//! Figures and names as people read them.

use std::borrow::Cow;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// Returns bytes with a binary unit, as in `1.5 GiB`.
pub(super) fn bytes(n: u64) -> String {
    indicatif::BinaryBytes(n).to_string()
}

/// Returns a count with separators, as in `1,000,000`.
pub(super) fn count(n: u64) -> String {
    indicatif::HumanCount(n).to_string()
}

/// Returns a count with its noun, as in `1 site` and `2 sites`.
pub(super) fn counted(n: usize, one: &str) -> String {
    counted_u64(n as u64, one)
}

/// The same, for a figure of the daemon's.
pub(super) fn counted_u64(n: u64, one: &str) -> String {
    format!("{} {one}{}", count(n), if n == 1 { "" } else { "s" })
}

/// Returns a rate, as in `1.5 MiB/s`.
pub(super) fn rate(bytes_per_second: u64) -> String {
    format!("{}/s", bytes(bytes_per_second))
}

/// Returns a name that can be shown on a terminal: control characters, which could drive it, are spelled out.
pub(super) fn printable(name: &str) -> Cow<'_, str> {
    if !name.contains(char::is_control) {
        return Cow::Borrowed(name);
    }
    let shown = name.chars().map(|c| {
        if c.is_control() {
            c.escape_default().to_string()
        } else {
            c.to_string()
        }
    });
    Cow::Owned(shown.collect())
}

/// Returns a time span as people say it, as in `2 hours`.
pub(super) fn span(seconds: u64) -> String {
    indicatif::HumanDuration(Duration::from_secs(seconds)).to_string()
}

/// Returns a time given in milliseconds since 1970 as the local clock shows it.
pub(super) fn when(ms: i64) -> String {
    jiff::Timestamp::from_millisecond(ms).map_or_else(
        |_| "at an unknown time".to_owned(),
        |t| {
            t.to_zoned(jiff::tz::TimeZone::system())
                .strftime("%Y-%m-%d %H:%M")
                .to_string()
        },
    )
}

/// Says whether a stream is a terminal on which something can move: no pipe, no file, and one that knows how to.
pub(super) fn is_live(stream: &impl std::io::IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("TERM").is_none_or(|kind| kind != "dumb")
}

/// Returns a bar that fills on standard error; one that is not seen where nothing can move there, or is not to.
pub(super) fn bar(shown: bool) -> ProgressBar {
    moving(shown, ProgressBar::new(0), "{bar:30} {msg} [{elapsed}]")
}

/// As [`bar`], for what nobody knows the end of.
pub(super) fn spinner(shown: bool) -> ProgressBar {
    let spinner = moving(shown, ProgressBar::new_spinner(), "{spinner} {msg} [{elapsed}]");
    spinner.enable_steady_tick(Duration::from_millis(100));
    spinner
}

fn moving(shown: bool, bar: ProgressBar, template: &str) -> ProgressBar {
    if !shown || !is_live(&std::io::stderr()) {
        return ProgressBar::hidden();
    }
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}

/// Prints a value as JSON, for programs.
pub(super) fn json(value: &impl serde::Serialize) -> Result<(), super::error::CliError> {
    let text = serde_json::to_string_pretty(value).map_err(|e| super::error::CliError::failed("write JSON", &e))?;
    outln!("{text}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_drive_the_terminal() {
        assert_eq!(printable("plate_v001.exr"), "plate_v001.exr");
        assert_eq!(printable("a\u{1b}[2Jb\nc"), "a\\u{1b}[2Jb\\nc");
    }

    #[test]
    fn counts_agree_with_their_nouns() {
        assert_eq!(
            ["0 sites", "1 site", "1,000 sites"].map(str::to_owned),
            [0, 1, 1000].map(|n| counted(n, "site"))
        );
    }
}
