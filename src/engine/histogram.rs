//! How long things took: the counts that the hosts of the drive use as well.

pub use backlot_platform::histogram::{BOUNDS_US, Distribution, Histogram};
