//! What the disk must have free for a kind of test.

const GIB: u64 = 1 << 30;
/// The drive lets the kernel write by itself while the disk has 4 GiB beside `publish.min-free`; the rest is for the tests beside.
const TO_WRITE_NATIVELY: u64 = 6 * GIB;

/// Fails, saying so, where the disk has too little free for files to be written past the daemon.
pub fn assert_room_to_write_natively() {
    let dir = std::env::temp_dir();
    let disk = rustix::fs::statvfs(&dir).unwrap();
    let free = disk.f_bavail * disk.f_frsize;
    assert!(
        free >= TO_WRITE_NATIVELY,
        "this test needs {} GiB free in {}, which has {:.1}: with less, the drive does not let the kernel write by itself",
        TO_WRITE_NATIVELY / GIB,
        dir.display(),
        free as f64 / GIB as f64
    );
}
