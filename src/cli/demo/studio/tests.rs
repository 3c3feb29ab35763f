//! Opens what the studio made, by readers that share nothing with its writers.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::sync::LazyLock;

use super::plan::{Content, Plan, SHOTS};
use super::{PROJECT, Scale, Studio, build};

/// One small studio for every test that only looks.
static SMALL: LazyLock<(tempfile::TempDir, Studio)> = LazyLock::new(|| {
    let root = tempfile::tempdir().unwrap();
    let studio = build(root.path(), Scale::Small).unwrap();
    (root, studio)
});

fn root() -> &'static Path {
    SMALL.0.path()
}

fn with_ending(end: &str) -> Vec<PathBuf> {
    let found: Vec<_> = SMALL
        .1
        .files
        .iter()
        .map(|f| f.path.clone())
        .filter(|p| p.extension().is_some_and(|e| e == end))
        .collect();
    assert!(!found.is_empty(), "no .{end} at all");
    found
}

fn text(path: &Path) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

/// Every name below a folder, with its size and mtime; the link's own, not what it points to.
fn walk(folder: &Path, below: &Path, out: &mut BTreeMap<PathBuf, (u64, i64)>) {
    for entry in fs::read_dir(folder.join(below)).unwrap() {
        let entry = entry.unwrap();
        let (path, meta) = (below.join(entry.file_name()), entry.metadata().unwrap());
        let size = if meta.is_file() { meta.len() } else { 0 };
        out.insert(path.clone(), (size, meta.mtime()));
        if meta.is_dir() {
            walk(folder, &path, out);
        }
    }
}

fn tree(folder: &Path) -> BTreeMap<PathBuf, (u64, i64)> {
    let mut out = BTreeMap::new();
    walk(folder, Path::new(""), &mut out);
    out
}

#[test]
fn the_account_is_what_lies_on_disk() {
    let studio = &SMALL.1;
    let on_disk = tree(root());
    for file in &studio.files {
        assert_eq!(on_disk[&file.path].0, file.bytes, "{}", file.path.display());
    }
    let folders = on_disk
        .keys()
        .filter(|p| root().join(p).symlink_metadata().unwrap().is_dir())
        .count();
    assert_eq!(on_disk.len(), studio.files.len() + studio.links.len() + folders);
    assert!(studio.files.is_sorted());
    assert_eq!(studio.total_bytes, studio.files.iter().map(|f| f.bytes).sum::<u64>());
    assert!(
        (40_000_000..56_000_000).contains(&studio.total_bytes),
        "{}",
        studio.total_bytes
    );
    assert!((130..170).contains(&studio.files.len()), "{}", studio.files.len());
    assert!(studio.highlights.len() >= 5);
    for (path, _) in &studio.highlights {
        assert!(
            studio.files.iter().any(|f| f.path == *path),
            "{} is no file",
            path.display()
        );
    }
}

#[test]
fn awkward_names_are_there() {
    let has = |test: &dyn Fn(&str) -> bool| SMALL.1.files.iter().any(|f| test(f.path.to_str().unwrap()));
    assert!(has(&|p| p.contains(' ')));
    assert!(has(&|p| p.contains("Größe")));
    assert!(has(&|p| p.ends_with("_l.1001.exr")) && has(&|p| p.ends_with("_r.1001.exr")));
    assert!(has(&|p| p.contains("crate_diffuse_v001.1001.png")));
    assert!(SMALL.1.files.iter().any(|f| f.bytes == 0));
    assert_eq!(SMALL.1.links.len(), 4);
    for link in &SMALL.1.links {
        let path = root().join(&link.path);
        assert_eq!(fs::read_link(&path).unwrap(), link.target);
        assert!(path.is_dir(), "{} leads nowhere", path.display());
    }
}

#[test]
fn a_second_studio_is_the_same_and_the_first_is_not_overwritten() {
    let other = tempfile::tempdir().unwrap();
    let again = build(&other.path().join("made/on the way"), Scale::Small).unwrap();
    assert_eq!(again, SMALL.1);
    let other = other.path().join("made/on the way");
    assert_eq!(tree(&other), tree(root()), "names, sizes and mtimes");
    for file in &again.files {
        let (a, b) = (
            fs::read(other.join(&file.path)).unwrap(),
            fs::read(root().join(&file.path)).unwrap(),
        );
        assert!(a == b, "{} differs", file.path.display());
    }
    let newest = tree(root()).values().map(|(_, mtime)| *mtime).max().unwrap();
    assert!(newest < 1_743_500_000, "April 2025 or later: {newest}");

    let marker = other.join(PROJECT).join("README.txt");
    fs::write(&marker, "mine").unwrap();
    assert_eq!(
        build(&other, Scale::Small).unwrap_err().kind(),
        std::io::ErrorKind::AlreadyExists
    );
    assert_eq!(fs::read_to_string(&marker).unwrap(), "mine");
}

#[test]
fn the_full_studio_has_about_four_hundred_files() {
    let plan = Plan::new(Scale::Full);
    let count = |c: &Content| {
        if let Content::Frames(sequence) = c {
            sequence.count
        } else {
            1
        }
    };
    let files: usize = plan.tasks.iter().map(|t| count(&t.content)).sum();
    assert!((380..420).contains(&files), "{files}");
    let reel = plan.sizes.reel;
    let movie = (reel.width * reel.height * 3 / 2 + 6) * (plan.sizes.slate + SHOTS.len() * plan.sizes.frames);
    assert!((95_000_000..105_000_000).contains(&movie), "{movie}");
}

/// An EXR as its bytes say it is.
struct Exr {
    width: usize,
    height: usize,
    attributes: BTreeMap<String, (String, Vec<u8>)>,
    /// By channel B, G, R; rows from the top.
    planes: [Vec<f32>; 3],
}

fn read_exr(bytes: &[u8]) -> Exr {
    struct Reader<'a>(&'a [u8], usize);
    impl<'a> Reader<'a> {
        fn take(&mut self, n: usize) -> &'a [u8] {
            self.1 += n;
            &self.0[self.1 - n..self.1]
        }
        fn int(&mut self) -> i32 {
            i32::from_le_bytes(self.take(4).try_into().unwrap())
        }
        fn name(&mut self) -> String {
            let end = self.0[self.1..].iter().position(|b| *b == 0).unwrap();
            let name = self.take(end).to_vec();
            self.take(1);
            String::from_utf8(name).unwrap()
        }
    }
    let mut r = Reader(bytes, 0);
    assert_eq!((r.take(4), r.int()), (&[0x76, 0x2f, 0x31, 0x01][..], 2));
    let mut attributes = BTreeMap::new();
    loop {
        let name = r.name();
        if name.is_empty() {
            break;
        }
        let (kind, length) = (r.name(), r.int());
        attributes.insert(name, (kind, r.take(length.try_into().unwrap()).to_vec()));
    }
    let window: Vec<i32> = attributes["dataWindow"]
        .1
        .chunks_exact(4)
        .map(|b| i32::from_le_bytes(b.try_into().unwrap()))
        .collect();
    assert_eq!(window[..2], [0, 0]);
    let (width, height) = (
        usize::try_from(window[2]).unwrap() + 1,
        usize::try_from(window[3]).unwrap() + 1,
    );
    let offsets: Vec<u64> = (0..height)
        .map(|_| u64::from_le_bytes(r.take(8).try_into().unwrap()))
        .collect();
    let mut planes = [const { Vec::new() }; 3];
    for (y, offset) in offsets.into_iter().enumerate() {
        assert_eq!(offset, r.1 as u64, "line {y} is where the table says");
        assert_eq!(
            (r.int(), r.int()),
            (i32::try_from(y).unwrap(), i32::try_from(width * 6).unwrap())
        );
        for plane in &mut planes {
            plane.extend((0..width).map(|_| {
                let half = u16::from_le_bytes(r.take(2).try_into().unwrap());
                let (exponent, part) = (i32::from(half >> 10 & 31), f32::from(half & 1023) / 1024.0);
                assert!(half >> 15 == 0 && exponent < 31, "negative or not a number");
                if exponent == 0 {
                    part * 2f32.powi(-14)
                } else {
                    (1.0 + part) * 2f32.powi(exponent - 15)
                }
            }));
        }
    }
    assert_eq!(r.1, bytes.len(), "nothing follows the last line");
    Exr {
        width,
        height,
        attributes,
        planes,
    }
}

#[test]
fn exr_frames_open_and_move() {
    let frames = with_ending("exr");
    assert_eq!(frames.len(), 5 * 8 + 8 + 2 * 2);
    for path in &frames {
        let bytes = fs::read(root().join(path)).unwrap();
        let exr = read_exr(&bytes);
        let stem = path.file_name().unwrap().to_str().unwrap().split('.').next().unwrap();
        let comment = ("string".to_owned(), stem.as_bytes().to_vec());
        assert_eq!(exr.attributes["comments"], comment);
        let hero = stem.starts_with("sq010_sh0010");
        assert_eq!((exr.width, exr.height), if hero { (480, 270) } else { (320, 180) });
        for needed in [
            "channels",
            "compression",
            "displayWindow",
            "lineOrder",
            "pixelAspectRatio",
            "screenWindowWidth",
        ] {
            assert!(exr.attributes.contains_key(needed), "{needed}");
        }
        // The sun is brighter than white, the near hill is dark: a picture, and in light rather than in codes.
        let red = &exr.planes[2];
        assert!(red.iter().any(|v| *v > 1.5), "{} has no sun", path.display());
        assert!(red[exr.width * exr.height * 8 / 10] < 0.2);
    }
    let bytes = |frame: usize| fs::read(root().join(&frames[frame])).unwrap();
    assert!(bytes(0) != bytes(1), "the picture stands still");
}

#[test]
fn png_files_decode() {
    let mut sizes = BTreeMap::new();
    for path in with_ending("png") {
        let file = std::io::BufReader::new(fs::File::open(root().join(&path)).unwrap());
        let mut reader = png::Decoder::new(file).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut pixels).unwrap();
        assert_eq!(
            (info.color_type, info.bit_depth),
            (png::ColorType::Rgb, png::BitDepth::Eight)
        );
        let (dark, light) = (pixels.iter().min().unwrap(), pixels.iter().max().unwrap());
        assert!(light - dark > 100, "{} is flat", path.display());
        *sizes.entry((info.width, info.height)).or_insert(0) += 1;
    }
    assert_eq!(sizes, BTreeMap::from([((480, 270), 4 * 2 * 8), ((256, 256), 6)]));
}

#[test]
fn the_number_is_burnt_into_a_frame() {
    // The digits of 1001 and 1008 differ in the last letter only, which ends a margin of 6 dots before the right edge.
    let pixels = |frame: usize| {
        let path = format!("demo/shots/sq010/sh0010/publish/render/v002/sq010_sh0010_render_v002.{frame}.png");
        let mut reader = png::Decoder::new(std::io::BufReader::new(fs::File::open(root().join(path)).unwrap()))
            .read_info()
            .unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        reader.next_frame(&mut pixels).unwrap();
        pixels
    };
    let (a, b) = (pixels(1001), pixels(1008));
    let (dot, bar) = (2, 270 - 22);
    let differing: Vec<usize> = (bar * 480..270 * 480)
        .filter(|at| a[at * 3..][..3] != b[at * 3..][..3])
        .map(|at| at % 480)
        .collect();
    let letter = 480 - 6 * dot - 5 * dot..480 - 6 * dot;
    assert!(!differing.is_empty());
    assert!(
        differing.iter().all(|x| letter.contains(x)),
        "{differing:?} outside {letter:?}"
    );
}

#[test]
fn the_movie_is_whole_frames() {
    let bytes = fs::read(root().join("demo/editorial/reel_v001.y4m")).unwrap();
    let head = bytes.iter().position(|b| *b == b'\n').unwrap() + 1;
    let text = std::str::from_utf8(&bytes[..head]).unwrap();
    assert!(
        text.starts_with("YUV4MPEG2 W640 H360 F24:1 ") && text.contains("C420jpeg"),
        "{text}"
    );
    let frames: Vec<&[u8]> = bytes[head..].chunks(6 + 640 * 360 * 3 / 2).collect();
    assert_eq!(frames.len(), 30 + 5 * 8);
    for frame in &frames {
        assert!(frame.starts_with(b"FRAME\n") && frame.len() == 6 + 640 * 360 * 3 / 2);
    }
    assert!((20_000_000..28_000_000).contains(&bytes.len()));
    assert!(frames[30] != frames[31] && frames[0] == frames[29]);
    // The third bar of the slate is green: dark, and far from both chroma axes.
    let at = |plane: usize, x: usize, y: usize| match plane {
        0 => frames[0][6 + y * 640 + x],
        n => frames[0][6 + 640 * 360 + (n - 1) * 320 * 180 + y / 2 * 320 + x / 2],
    };
    let (cb, cr) = (at(1, 320, 350), at(2, 320, 350));
    assert!(cb < 110 && cr < 110, "{cb} {cr}");
}

#[test]
fn obj_and_usd_describe_the_same_crate() {
    let obj = text(&with_ending("obj")[0]);
    let lines = |key: &str| {
        obj.lines()
            .filter(|l| l.split(' ').next() == Some(key))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let (points, coordinates, faces) = (lines("v"), lines("vt"), lines("f"));
    assert_eq!((points.len(), coordinates.len(), faces.len()), (13 * 8, 12, 13 * 6));
    for face in faces {
        let corners: Vec<(usize, usize)> = face[2..]
            .split(' ')
            .map(|c| c.split_once('/').unwrap())
            .map(|(v, t)| (v.parse().unwrap(), t.parse().unwrap()))
            .collect();
        assert!(
            corners.len() == 4
                && corners
                    .iter()
                    .all(|(v, t)| (1..=104).contains(v) && (1..=12).contains(t))
        );
    }
    let usd = text(Path::new(
        "demo/assets/prop/crate/publish/model/v001/crate_model_v001.usda",
    ));
    let list = |key: &str| {
        let line = usd.lines().find(|l| l.contains(key)).unwrap();
        line[line.find("= [").unwrap() + 3..line.rfind(']').unwrap()].to_owned()
    };
    let in_usd: Vec<String> = list("] points")
        .split("), ")
        .map(|p| p.replace(['(', ')', ','], ""))
        .collect();
    assert_eq!(in_usd, points.iter().map(|p| p[2..].to_owned()).collect::<Vec<_>>());
    assert_eq!(
        list("faceVertexIndices").split(',').count(),
        4 * list("faceVertexCounts").split(',').count()
    );
    for path in with_ending("usda") {
        let usd = text(&path);
        assert!(usd.starts_with("#usda 1.0\n"));
        for (open, close) in [('{', '}'), ('(', ')'), ('[', ']')] {
            assert_eq!(
                usd.matches(open).count(),
                usd.matches(close).count(),
                "{}",
                path.display()
            );
        }
    }
}

/// Follows `..` by name, as a program would that never leaves the project.
fn resolve(file: &Path, reference: &str) -> PathBuf {
    let mut out = file.parent().unwrap().to_path_buf();
    for part in Path::new(reference).components() {
        match part {
            Component::ParentDir => assert!(out.pop()),
            Component::Normal(name) => out.push(name),
            Component::CurDir => {}
            _ => panic!("{reference} is not relative"),
        }
    }
    out
}

#[test]
fn what_files_refer_to_exists() {
    let mut followed = 0;
    let mut check = |file: &Path, reference: &str| {
        let target = resolve(file, reference);
        assert!(
            SMALL.1.files.iter().any(|f| f.path == target),
            "{}: {reference}",
            file.display()
        );
        followed += 1;
    };
    for path in with_ending("usda") {
        for reference in text(&path).split('@').skip(1).step_by(2) {
            check(&path, &reference.replace("<UDIM>", "1001"));
        }
    }
    for path in with_ending("mtl") {
        text(&path)
            .lines()
            .filter_map(|l| l.strip_prefix("map_Kd "))
            .for_each(|r| check(&path, r));
    }
    for path in with_ending("obj") {
        text(&path)
            .lines()
            .filter_map(|l| l.strip_prefix("mtllib "))
            .for_each(|r| check(&path, r));
    }
    let scripts = with_ending("nk");
    assert_eq!(scripts.len(), 9);
    for path in scripts {
        let script = text(&path);
        assert_eq!(script.matches('{').count(), script.matches('}').count());
        let reads: Vec<&str> = script.lines().filter_map(|l| l.strip_prefix(" file ")).collect();
        assert_eq!(reads.len(), 2, "a plate that is read, a render that is written");
        check(&path, &reads[0].replace("%04d", "1008"));
    }
    for path in with_ending("json") {
        let value: serde_json::Value = serde_json::from_str(&text(&path)).unwrap();
        for key in ["plate", "render"] {
            value[key]
                .as_str()
                .into_iter()
                .for_each(|r| check(&path, &r.replace("%04d", "1008")));
        }
    }
    assert_eq!(followed, 1 + 3 + 3 + 1 + 9 + 10);
}

#[test]
fn the_edit_list_matches_the_movie() {
    let frames = |tc: &str| {
        let parts: Vec<usize> = tc.split(':').map(|n| n.parse().unwrap()).collect();
        ((parts[0] * 60 + parts[1]) * 60 + parts[2]) * 24 + parts[3]
    };
    let edl = text(&with_ending("edl")[0]);
    let mut record = 3600 * 24;
    let events: Vec<Vec<&str>> = edl
        .lines()
        .filter(|l| l.starts_with("00"))
        .map(|l| l.split_whitespace().collect())
        .collect();
    assert_eq!(events.len(), 1 + SHOTS.len());
    for event in events {
        assert!(
            event.len() == 8 && event[1].len() <= 8 && event[2..4] == ["V", "C"],
            "{event:?}"
        );
        let [source_in, source_out, record_in, record_out] = [4, 5, 6, 7].map(|at| frames(event[at]));
        assert_eq!(record_in, record);
        assert_eq!(record_out - record_in, source_out - source_in);
        record = record_out;
    }
    assert_eq!(record - 3600 * 24, 30 + 5 * 8);
}
