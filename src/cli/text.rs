//! Figures as people read them.

/// Returns bytes with a binary unit, as in `1.5 GiB`.
pub(super) fn bytes(n: u64) -> String {
    indicatif::BinaryBytes(n).to_string()
}

/// Returns a count with separators, as in `1,000,000`.
pub(super) fn count(n: u64) -> String {
    indicatif::HumanCount(n).to_string()
}

/// Returns a time given in milliseconds since 1970 as the local clock shows it.
pub(super) fn when(ms: i64) -> String {
    jiff::Timestamp::from_millisecond(ms).map_or_else(
        |_| "at an unknown time".to_owned(),
        |t| t.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%d %H:%M").to_string(),
    )
}

/// Prints a value as JSON, for programs.
pub(super) fn json(value: &impl serde::Serialize) -> Result<(), super::error::CliError> {
    let text = serde_json::to_string_pretty(value).map_err(|e| super::error::CliError::failed("write JSON", &e))?;
    println!("{text}");
    Ok(())
}
