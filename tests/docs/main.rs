//! The documentation held to the program: the configuration reference is the schema's, the guides' commands run.

#[path = "../common/mod.rs"]
mod common;

mod guides;
mod reference;
