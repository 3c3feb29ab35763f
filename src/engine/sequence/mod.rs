//! Playing a sequence of frames: the next ones come before they are opened (docs/design/0006-sequences.md).
//!
//! `names` reads frame numbers, `play` says where one reader goes next, `window` how many frames ahead are worth having,
//! `follow` puts sequences together, `folder` does the same for folders that are read file by file, by `uses` both know who
//! only looks into files; all are pure. `prefetch` tells them what happens and does what they say.
//! Invariants: nothing here is waited for by an open or a read; a demand never waits behind what is fetched here.

mod folder;
mod follow;
mod names;
mod play;
mod prefetch;
mod uses;
mod window;

pub(super) use prefetch::Sequences;
