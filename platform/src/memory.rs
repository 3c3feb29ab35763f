//! How the C library hands out memory to many threads.
//!
//! Owns: one call at the start of the program. Refuses to know: what memory is used for.

/// Places that threads take memory from.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const ARENAS: i32 = 4;

/// Has all threads take memory from a few places. By itself glibc makes eight for each core, and what one of them has given
/// out once it seldom gives back: a daemon whose hundred threads move buffers of a megabyte keeps several times what it
/// ever uses. To be called before other threads are started; does nothing elsewhere.
#[cfg_attr(
    all(target_os = "linux", target_env = "gnu"),
    expect(unsafe_code, reason = "the C library has no other interface for this")
)]
pub fn few_arenas() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: sets a number, before any other thread runs.
    let done = unsafe { libc::mallopt(libc::M_ARENA_MAX, ARENAS) };
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    if done == 0 {
        tracing::debug!("the C library takes no advice about memory");
    }
}
