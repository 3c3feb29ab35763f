//! ffmpeg writing a .mov whose index it moves to the front when it is done: it reads again what it wrote, and shifts it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::stage::{Stage, TOOL, Zone, or_skip, program, runs, staged};

const FRAMES: usize = 240;

/// Writes the same film wherever it is told to, to the byte.
fn film(ffmpeg: &Path, to: &Path) {
    let mut command = Command::new(ffmpeg);
    command
        .args(["-v", "error", "-nostdin", "-y", "-threads", "1"])
        .args(["-f", "lavfi", "-i", "testsrc2=size=640x360:rate=24"])
        .args(["-f", "lavfi", "-i", "sine=frequency=440:sample_rate=48000"])
        .args(["-frames:v", &FRAMES.to_string(), "-shortest"])
        .args(["-c:v", "mpeg4", "-q:v", "3", "-c:a", "pcm_s16le"])
        .args(["-fflags", "+bitexact", "-flags:v", "+bitexact", "-flags:a", "+bitexact"])
        .args(["-movflags", "+faststart"])
        .arg(to);
    assert_eq!(runs(TOOL, &mut command), "");
}

/// The boxes at the top of a .mov, in order.
fn boxes(file: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(header) = file.get(at..at + 8) {
        let len = u32::from_be_bytes(header[..4].try_into().unwrap());
        found.push(String::from_utf8_lossy(&header[4..]).into_owned());
        assert!(len >= 8, "a box of {len} bytes");
        at += usize::try_from(len).unwrap();
    }
    found
}

fn check((ffmpeg, ffprobe): &(PathBuf, PathBuf), stage: &mut Stage) {
    let right = stage.scratch().join("right.mov");
    film(ffmpeg, &right);
    let right = fs::read(&right).unwrap();
    let ours = stage.folder().join("review_v001.mov");
    // The second one over the first, as a person does who renders again.
    for _ in 0..2 {
        film(ffmpeg, &ours);
        let read = fs::read(&ours).unwrap();
        let order = boxes(&read);
        let index = order.iter().position(|b| b == "moov");
        assert!(index < order.iter().position(|b| b == "mdat"), "{order:?}");
        assert!(read == right, "it differs from the one written elsewhere");
    }
    let mut probe = Command::new(ffprobe);
    probe
        .args(["-v", "error", "-count_frames", "-select_streams", "v:0"])
        .args(["-show_entries", "stream=nb_read_frames", "-of", "csv=p=0"])
        .arg(&ours);
    let counted = runs(TOOL, &mut probe);
    assert_eq!(counted.trim().trim_end_matches(','), FRAMES.to_string());
    let mut decode = Command::new(ffmpeg);
    decode.args(["-v", "error", "-xerror", "-nostdin", "-i"]).arg(&ours);
    let out = crate::common::drive::run_within(TOOL, decode.args(["-f", "null", "-"]));
    assert!(out.status.success() && out.stderr.is_empty(), "{out:?}");
}

fn tools() -> Result<(PathBuf, PathBuf), String> {
    let ffmpeg = program("BACKLOT_TEST_FFMPEG", "ffmpeg")?;
    Ok((ffmpeg, program("BACKLOT_TEST_FFPROBE", "ffprobe")?))
}

fn ffmpeg_in(zone: Zone) {
    if let Some(tools) = or_skip("ffmpeg", tools()) {
        staged(zone, TOOL, move |stage| check(&tools, stage));
    }
}

#[test]
fn ffmpeg_in_a_work_folder() {
    ffmpeg_in(Zone::Work);
}

#[test]
fn ffmpeg_in_a_publish_folder() {
    ffmpeg_in(Zone::Publish);
}
