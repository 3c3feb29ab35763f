//! The part of `backlot demo --check` that writes: a work file saved, a sequence published, the daemon killed half way.
//!
//! Owns: what is written and how the remote is looked at. Refuses to know: who serves the drive. Invariant: a frame at the
//! remote is whole whenever it is looked at.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use super::super::text;
use super::Place;
use super::studio::PROJECT;

/// Frames of the sequence, and bytes of each: seconds over the demo's link.
const FRAMES: u32 = 48;
const FRAME_BYTES: usize = 2 << 20;
/// How many frames are up when the daemon is killed.
const UP_AT_KILL: usize = 6;
/// Longest wait for frames to go up.
const PATIENCE: Duration = Duration::from_secs(60);

type Outcome = Result<String, String>;

fn frames_dir() -> PathBuf {
    Path::new(PROJECT).join("publish/turntable_v001")
}

fn frame_name(number: u32) -> String {
    format!("turntable_v001.{:04}.exr", 1001 + number)
}

/// Bytes that tell which frame they belong to, and that no compression shortens.
fn frame_bytes(number: u32) -> Vec<u8> {
    let mut state = u64::from(number).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut bytes = Vec::with_capacity(FRAME_BYTES);
    while bytes.len() < FRAME_BYTES {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes
}

fn said(path: &Path, e: &std::io::Error) -> String {
    format!("{}: {e}", path.display())
}

/// Saves a work file as programs do (a temporary name, then a rename over the old file), twice.
pub(super) fn save_work(place: &Place) -> Outcome {
    let dir = Path::new(PROJECT).join("work/ada");
    let (file, temp) = (dir.join("scene_v001.blend"), dir.join("scene_v001.blend@"));
    let here = |path: &Path| place.mount.join(path);
    fs::create_dir_all(here(&dir)).map_err(|e| said(&dir, &e))?;
    let mut last = Vec::new();
    for save in 0..2 {
        last = frame_bytes(1000 + save);
        let mut open = File::create(here(&temp)).map_err(|e| said(&temp, &e))?;
        open.write_all(&last)
            .and_then(|()| open.sync_all())
            .map_err(|e| said(&temp, &e))?;
        drop(open);
        fs::rename(here(&temp), here(&file)).map_err(|e| said(&file, &e))?;
    }
    if fs::read(here(&file)).map_err(|e| said(&file, &e))? != last {
        return Err(format!("{} is not what was saved", file.display()));
    }
    if place.remote.join(&dir).exists() {
        return Err(format!("{} went to the remote, and is a work folder", dir.display()));
    }
    Ok(format!("{}, saved twice; it stays on this machine", file.display()))
}

/// Writes the frames of a sequence into a publish folder and returns once some of them are at the remote, not all.
pub(super) fn publish_some(place: &Place) -> Outcome {
    let dir = frames_dir();
    fs::create_dir_all(place.mount.join(&dir)).map_err(|e| said(&dir, &e))?;
    for number in 0..FRAMES {
        let path = dir.join(frame_name(number));
        fs::write(place.mount.join(&path), frame_bytes(number)).map_err(|e| said(&path, &e))?;
    }
    let begun = Instant::now();
    loop {
        let up = whole_frames(place)?;
        if up == FRAMES as usize {
            return Err("all frames were at the remote before the daemon could be killed".to_owned());
        }
        if up >= UP_AT_KILL {
            let size = text::bytes(u64::from(FRAMES) * FRAME_BYTES as u64);
            return Ok(format!(
                "{FRAMES} frames, {size}, closed; {up} are at the remote, each whole"
            ));
        }
        if begun.elapsed() > PATIENCE {
            return Err(format!("only {up} frames went up within {PATIENCE:?}"));
        }
        pause();
    }
}

/// Returns once all frames are at the remote, whole, and nothing else.
pub(super) fn all_arrive(place: &Place) -> Outcome {
    let begun = Instant::now();
    while whole_frames(place)? < FRAMES as usize {
        if begun.elapsed() > PATIENCE {
            return Err(format!(
                "{} of {FRAMES} frames are up after {PATIENCE:?}",
                whole_frames(place)?
            ));
        }
        pause();
    }
    let dir = place.remote.join(frames_dir());
    let names = fs::read_dir(&dir).map_err(|e| said(&dir, &e))?.count();
    if names != FRAMES as usize {
        return Err(format!("{names} names are in {}, and {FRAMES} frames", dir.display()));
    }
    Ok(format!(
        "{FRAMES} frames, equal, and nothing beside them, {:.1} s after the start",
        begun.elapsed().as_secs_f64()
    ))
}

/// Counts the frames at the remote; one that is there and not whole is an error.
fn whole_frames(place: &Place) -> Result<usize, String> {
    let dir = place.remote.join(frames_dir());
    let mut whole = 0;
    for number in 0..FRAMES {
        match fs::read(dir.join(frame_name(number))) {
            Ok(bytes) if bytes == frame_bytes(number) => whole += 1,
            Ok(bytes) => {
                return Err(format!(
                    "{} is at the remote with {} bytes that are not its own",
                    frame_name(number),
                    bytes.len()
                ));
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(said(&dir, &e)),
        }
    }
    Ok(whole)
}

fn pause() {
    let (_hold, wait) = sync_channel::<()>(1);
    let _always_elapses = wait.recv_timeout(Duration::from_millis(50));
}
