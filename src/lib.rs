//! (being written)
pub mod model;
pub mod providers;
