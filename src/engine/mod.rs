//! The drive: the whole tree out of the store, bytes hydrated when they are opened, what changed at the sites noticed.
//!
//! Owns: [`drive::Drive`], the facade that the daemon's faces use, and [`filesystem::DriveFs`], which hosts mount. Refuses
//! to know: FUSE, HTTP, the command line. Invariant: metadata never waits for a site.

mod awake;
pub mod bandwidth;
pub mod between;
pub mod cached;
mod changes;
mod conflicts;
mod doubt;
pub mod drive;
pub mod filesystem;
mod firewall;
mod first_look;
mod handles;
mod heads;
pub mod histogram;
pub mod hydrate;
pub mod hydrations;
pub mod link;
mod local;
mod lockouts;
mod names;
mod native;
pub mod objects;
mod opening;
mod openvfs;
mod overview;
pub mod ownership;
mod pending;
pub mod pins;
mod places;
mod publish;
pub mod pulse;
pub mod queues;
mod readahead;
mod recovery;
pub mod refusals;
pub mod report;
pub mod rescue;
pub mod scan;
pub mod schedule;
mod scrub;
mod sequence;
pub mod site;
mod site_id;
pub mod sites;
pub mod sync;
pub mod volumes;
mod waiting;
mod words;
pub mod workfile;
mod writing;
mod xattr;
mod zones;
