//! Owns the demo's written matter: Nuke scripts, the cut, lists and notes.
//! Refuses to know the disk. Invariant: every number in it follows from the same sizes as the pictures.

use serde_json::json;

use super::plan::{FIRST_FRAME, Renders, SHOTS, Shot, Sizes};

/// Frames per second of everything the studio does.
const RATE: usize = 24;

/// Returns the project's own papers, as path and text.
pub(super) fn of_project(sizes: Sizes) -> Vec<(&'static str, String)> {
    vec![
        ("README.txt", README.to_owned()),
        ("project.json", project_json(sizes)),
        ("editorial/reel_v001.edl", edl(sizes)),
        ("editorial/cut list v001.csv", cut_list(sizes)),
        ("production/bids.csv", BIDS.to_owned()),
        ("production/notes/2025-03-10 dailies.txt", DAILIES.to_owned()),
        ("production/notes/client feedback (round 2).txt", FEEDBACK.to_owned()),
        ("production/notes/Änderungen für Größe & Farbe.txt", CHANGES.to_owned()),
    ]
}

/// Returns a shot's papers, as path below the shot's folder and text.
pub(super) fn of_shot(shot: &Shot, sizes: Sizes) -> Vec<(String, String)> {
    let name = shot.name();
    let mut all = vec![
        ("shot.json".to_owned(), shot_json(shot, sizes)),
        (format!("work/nuke/{name}_comp_v001.nk"), nuke(shot, sizes, "v001")),
    ];
    if shot.renders != Renders::Exr {
        all.push((format!("work/nuke/{name}_comp_v002.nk"), nuke(shot, sizes, "v002")));
    }
    all
}

/// Returns a Nuke script: plate, grade, write. Its paths are relative to the script, so that it opens on any drive.
fn nuke(shot: &Shot, sizes: Sizes, version: &str) -> String {
    let (name, last) = (shot.name(), FIRST_FRAME + sizes.frames - 1);
    let plate = if name == SHOTS[0].name() {
        sizes.hero
    } else {
        sizes.plate
    };
    let format = format!("{0} {1} 0 0 {0} {1} 1 demo_plate", plate.width, plate.height);
    let warmth = if version == "v001" {
        "{1 1 1 1}"
    } else {
        "{1.08 1 0.92 1}"
    };
    let end = if shot.renders == Renders::Exr { "exr" } else { "png" };
    // A publish stands; a script that is run writes the version after the newest.
    let next = if shot.renders == Renders::Exr { "v002" } else { "v003" };
    format!(
        r#"version 15.1 v3
Root {{
 inputs 0
 name {name}_comp_{version}.nk
 project_directory "\[python \{{nuke.script_directory()\}}\]"
 first_frame {FIRST_FRAME}
 last_frame {last}
 fps {RATE}
 format "{format}"
}}
Read {{
 inputs 0
 file_type exr
 file ../../plates/{name}_plate_v001.%04d.exr
 format "{format}"
 first {FIRST_FRAME}
 last {last}
 origfirst {FIRST_FRAME}
 origlast {last}
 origset true
 name Read_plate
 xpos 0
 ypos -160
}}
Grade {{
 white {warmth}
 name Grade_warmth
 xpos 0
 ypos -60
}}
Write {{
 file ../../publish/render/{next}/{name}_render_{next}.%04d.{end}
 file_type {end}
 create_directories true
 name Write_render
 xpos 0
 ypos 40
}}
Viewer {{
 frame_range {FIRST_FRAME}-{last}
 fps {RATE}
 name Viewer1
 xpos 0
 ypos 140
}}
"#
    )
}

/// Returns the cut as events: name, reel, first frame of the source, first frame of the record, length; in frames.
fn events(sizes: Sizes) -> Vec<(String, String, usize, usize, usize)> {
    let hour = 3600 * RATE; // a reel begins at one hour
    let mut all = vec![("slate".to_owned(), "SLATE".to_owned(), 0, hour, sizes.slate)];
    for (index, shot) in SHOTS.iter().enumerate() {
        let record = hour + sizes.slate + index * sizes.frames;
        // Eight characters are all that a reel's name may have.
        let reel = format!("{}{}", shot.sequence, &shot.shot[3..]).to_uppercase();
        all.push((shot.name(), reel, FIRST_FRAME, record, sizes.frames));
    }
    all
}

fn timecode(frame: usize) -> String {
    let seconds = frame / RATE;
    format!(
        "{:02}:{:02}:{:02}:{:02}",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60,
        frame % RATE
    )
}

/// Returns the cut as a CMX 3600 list.
fn edl(sizes: Sizes) -> String {
    let mut out = String::from("TITLE: DEMO REEL V001\nFCM: NON-DROP FRAME\n\n");
    for (index, (name, reel, source, record, length)) in events(sizes).into_iter().enumerate() {
        let [a, b, c, d] = [source, source + length, record, record + length].map(timecode);
        out += &format!("{:03}  {reel:<8} V     C        {a} {b} {c} {d}\n", index + 1);
        out += &format!("* FROM CLIP NAME: {name}\n\n");
    }
    out
}

fn cut_list(sizes: Sizes) -> String {
    let mut out = String::from("event,name,first,last,record in,record out\n");
    for (index, (name, _, source, record, length)) in events(sizes).into_iter().enumerate() {
        let (last, start, end) = (source + length - 1, timecode(record), timecode(record + length));
        out += &format!("{},{name},{source},{last},{start},{end}\n", index + 1);
    }
    out
}

fn project_json(sizes: Sizes) -> String {
    let shots: Vec<String> = SHOTS.iter().map(Shot::name).collect();
    let value = json!({
        "name": "demo",
        "code": "dmo",
        "fps": RATE,
        "first_frame": FIRST_FRAME,
        "last_frame": FIRST_FRAME + sizes.frames - 1,
        "shots": shots,
        "assets": ["prop/crate"],
        "templates": {
            "plate": "shots/{sequence}/{shot}/plates/{sequence}_{shot}_plate_{version}.{frame}.exr",
            "render": "shots/{sequence}/{shot}/publish/render/{version}/{sequence}_{shot}_render_{version}.{frame}.{ext}",
        },
    });
    format!("{value:#}\n")
}

fn shot_json(shot: &Shot, sizes: Sizes) -> String {
    let (version, end) = shot.newest_render();
    let value = json!({
        "name": shot.name(),
        "frames": [FIRST_FRAME, FIRST_FRAME + sizes.frames - 1],
        "plate": format!("plates/{}_plate_v001.%04d.exr", shot.name()),
        "render": format!("publish/render/{version}/{}_render_{version}.%04d.{end}", shot.name()),
        "status": if version == "v002" { "final" } else { "in progress" },
    });
    format!("{value:#}\n")
}

const README: &str = "\
The demo project: two sequences, five shots, one crate.

  assets/      models and textures, published per version
  editorial/   the cut as a movie and as lists
  production/  notes and bids
  shots/       plates, work files and publishes of every shot

Everything in it is made up and painted by a program; do with it what you like.
";

const BIDS: &str = "\
task,shot,days,artist
layout,sq010_sh0010,1.5,Zoë
comp,sq010_sh0010,3,Jürgen
comp,sq010_sh0020,2,Jürgen
comp,sq010_sh0030,2,Åsa
lighting,sq020_sh0010,4,Zoë
comp,sq020_sh0020,2.5,Åsa
stereo,sq020_sh0020,2,Åsa
";

const DAILIES: &str = "\
Dailies, 10 March

sq010_sh0010  crate reads grey against the hills. Warmer, please.
sq010_sh0020  good.
sq010_sh0030  same note as sh0010.
sq020_sh0010  still v001, no comments.
sq020_sh0020  stereo: the crate may come forward a little more.
";

const FEEDBACK: &str = "\
Round 2

v002 is what we had in mind: the warm crate stays.
Could we see the reel with frame numbers?
";

const CHANGES: &str = "\
Änderungen seit v001

- Die Kiste ist wärmer und heller.
- Größe unverändert: ein Meter.
- Schatten weicher (Jürgen).
";
