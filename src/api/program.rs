//! Whether the daemon's program is still the one that is installed.

/// Says whether the file of the program that runs here was replaced or removed, as by an upgrade of its package.
#[must_use]
pub fn is_replaced() -> bool {
    // The kernel's own mark for a file that has no name any more.
    let program = std::fs::read_link("/proc/self/exe");
    program.is_ok_and(|program| program.as_os_str().as_encoded_bytes().ends_with(b" (deleted)"))
}
