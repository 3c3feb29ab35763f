//! Owns what stands where in the demo's project, and how large everything is at each scale.
//! Refuses to write: it hands out tasks. Invariant: the order of the tasks is fixed, since mtimes follow from it.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use super::assets::{self, Texture};
use super::picture::{Crate, Look, Painter, Picture, Size, hash};
use super::{Scale, images, papers};

/// Where the studio's shots begin.
pub(super) const FIRST_FRAME: usize = 1001;

/// What a scale means.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    /// The first shot's plate.
    pub(super) hero: Size,
    /// Every other EXR.
    pub(super) plate: Size,
    pub(super) png: Size,
    pub(super) reel: Size,
    /// Sides of a texture, in pixels.
    pub(super) texture: usize,
    /// Frames per shot.
    pub(super) frames: usize,
    /// Frames per eye of the stereo pair.
    pub(super) stereo_frames: usize,
    /// Frames of the slate before the movie's first shot: chosen for the movie's size.
    pub(super) slate: usize,
}

impl Sizes {
    pub(super) fn of(scale: Scale) -> Self {
        let size = |width, height| Size { width, height };
        match scale {
            Scale::Small => Self {
                hero: size(480, 270),
                plate: size(320, 180),
                png: size(480, 270),
                reel: size(640, 360),
                texture: 256,
                frames: 8,
                stereo_frames: 2,
                slate: 30,
            },
            Scale::Full => Self {
                hero: size(960, 540),
                plate: size(480, 270),
                png: size(640, 360),
                reel: size(960, 540),
                texture: 1024,
                frames: 24,
                stereo_frames: 12,
                slate: 8,
            },
        }
    }

    /// Returns how far a shot has got at a frame counted from 0: from 0 to less than 1.
    #[allow(clippy::cast_precision_loss, reason = "frames are few")]
    pub(super) fn time(&self, index: usize) -> f32 {
        index as f32 / self.frames as f32
    }
}

/// What was rendered of a shot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Renders {
    /// v001 and v002 as PNG, and a link to the newest.
    Png,
    /// v001 as EXR.
    Exr,
    /// As [`Renders::Png`], and a pair of EXR sequences, one per eye.
    PngAndStereo,
}

/// One shot of the studio.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shot {
    pub(super) sequence: &'static str,
    pub(super) shot: &'static str,
    pub(super) look: Look,
    pub(super) renders: Renders,
}

impl Shot {
    /// Returns the shot's name across the project.
    pub(super) fn name(&self) -> String {
        format!("{}_{}", self.sequence, self.shot)
    }

    pub(super) fn folder(&self) -> String {
        format!("shots/{}/{}", self.sequence, self.shot)
    }

    /// Returns the newest render's version and how its files end.
    pub(super) fn newest_render(&self) -> (&'static str, &'static str) {
        if self.renders == Renders::Exr {
            ("v001", "exr")
        } else {
            ("v002", "png")
        }
    }

    pub(super) fn newest_crate(&self) -> Crate {
        prop(self.newest_render().0)
    }
}

/// The crate was made warmer and brighter from v001 to v002, as the notes say.
fn prop(version: &str) -> Crate {
    Crate {
        wood: if version == "v001" {
            [2300, 2150, 1900]
        } else {
            [3500, 2450, 1350]
        },
        shift: 0.0,
    }
}

/// The studio's shots, in the order of the cut.
pub(super) const SHOTS: [Shot; 5] = [
    Shot {
        sequence: "sq010",
        shot: "sh0010",
        look: Look {
            seed: 1010,
            sky_top: [420, 700, 1500],
            sky_low: [2900, 1500, 1000],
            sun: (0.7, 0.42),
            hills: [[1250, 880, 1150], [700, 520, 820], [260, 230, 420]],
        },
        renders: Renders::Png,
    },
    Shot {
        sequence: "sq010",
        shot: "sh0020",
        look: Look {
            seed: 1020,
            sky_top: [500, 900, 1700],
            sky_low: [2500, 1800, 1300],
            sun: (0.3, 0.36),
            hills: [[1100, 1050, 1200], [620, 700, 760], [260, 330, 330]],
        },
        renders: Renders::Png,
    },
    Shot {
        sequence: "sq010",
        shot: "sh0030",
        look: Look {
            seed: 1030,
            sky_top: [700, 420, 1200],
            sky_low: [2700, 1100, 1100],
            sun: (0.5, 0.5),
            hills: [[1300, 620, 950], [780, 360, 700], [330, 170, 380]],
        },
        renders: Renders::Png,
    },
    Shot {
        sequence: "sq020",
        shot: "sh0010",
        look: Look {
            seed: 2010,
            sky_top: [900, 1500, 2300],
            sky_low: [2300, 2300, 2000],
            sun: (0.22, 0.2),
            hills: [[1200, 1500, 1500], [700, 1100, 800], [330, 620, 330]],
        },
        renders: Renders::Exr,
    },
    Shot {
        sequence: "sq020",
        shot: "sh0020",
        look: Look {
            seed: 2020,
            sky_top: [120, 260, 620],
            sky_low: [800, 900, 1300],
            sun: (0.82, 0.22),
            hills: [[420, 520, 820], [220, 300, 520], [90, 130, 260]],
        },
        renders: Renders::PngAndStereo,
    },
];

/// What of a shot is painted.
#[derive(Clone, Copy, Debug)]
pub(super) enum Layer {
    Plate,
    Render(Crate),
}

/// The file format of a sequence.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Format {
    Exr,
    Png,
}

/// A numbered sequence of frames, from [`FIRST_FRAME`] on.
#[derive(Clone, Debug)]
pub(super) struct Sequence {
    sizes: Sizes,
    size: Size,
    look: Look,
    layer: Layer,
    format: Format,
    /// What is burnt in: the sequence's name.
    label: String,
    pub(super) count: usize,
}

impl Sequence {
    pub(super) fn painter(&self) -> Painter {
        Painter::new(self.look, self.size)
    }

    /// Returns where a frame, counted from 0, is when the sequence's own path is `stem`.
    pub(super) fn path(&self, stem: &str, index: usize) -> String {
        let end = if self.format == Format::Exr { "exr" } else { "png" };
        format!("{stem}.{}.{end}", FIRST_FRAME + index)
    }

    /// Paints a frame, counted from 0, and returns it as a file.
    pub(super) fn encode(&self, painter: &Painter, index: usize) -> io::Result<Vec<u8>> {
        let time = self.sizes.time(index);
        let mut picture = match self.layer {
            Layer::Plate => painter.plate(time),
            Layer::Render(prop) => painter.render(time, index, prop),
        };
        let frame = FIRST_FRAME + index;
        if matches!(self.layer, Layer::Plate) {
            picture.grain(u32::try_from(frame).map_err(io::Error::other)? ^ hash(self.look.seed));
        }
        picture.burn(&self.label, &frame.to_string());
        self.file(&picture)
    }

    fn file(&self, picture: &Picture) -> io::Result<Vec<u8>> {
        match self.format {
            Format::Exr => images::exr(picture, &self.label),
            Format::Png => images::png(picture),
        }
    }
}

/// What a task writes.
#[derive(Clone, Debug)]
pub(super) enum Content {
    Bytes(Vec<u8>),
    Texture(Texture),
    /// The whole cut as a movie.
    Reel,
    /// The task's path is then the sequence's, without number and ending.
    Frames(Sequence),
}

/// One file or one sequence of files.
#[derive(Clone, Debug)]
pub(super) struct Task {
    /// Relative to the project's folder.
    pub(super) path: String,
    pub(super) content: Content,
}

/// All of the studio.
pub(super) struct Plan {
    pub(super) sizes: Sizes,
    pub(super) tasks: Vec<Task>,
    /// Symbolic links: where, and what they say.
    pub(super) links: Vec<(String, &'static str)>,
}

impl Plan {
    pub(super) fn new(scale: Scale) -> Self {
        let sizes = Sizes::of(scale);
        let mut plan = Self {
            sizes,
            tasks: Vec::new(),
            links: Vec::new(),
        };
        plan.add("editorial/reel_v001.y4m", Content::Reel); // first, as it takes the longest
        for (path, text) in papers::of_project(sizes) {
            plan.add(path, Content::Bytes(text.into_bytes()));
        }
        plan.add_asset();
        for shot in &SHOTS {
            plan.add_shot(shot);
        }
        let layout = SHOTS[0];
        let path = format!(
            "{}/publish/layout/v001/{}_layout_v001.usda",
            layout.folder(),
            layout.name()
        );
        plan.add(&path, Content::Bytes(assets::layout_usda(&layout, sizes).into_bytes()));
        plan
    }

    fn add(&mut self, path: &str, content: Content) {
        self.tasks.push(Task {
            path: path.to_owned(),
            content,
        });
    }

    fn add_asset(&mut self) {
        let folder = "assets/prop/crate/publish";
        for (end, text) in [("mtl", assets::mtl()), ("obj", assets::obj()), ("usda", assets::usda())] {
            self.add(
                &format!("{folder}/model/v001/crate_model_v001.{end}"),
                Content::Bytes(text.into_bytes()),
            );
        }
        for texture in Texture::all(self.sizes.texture) {
            let path = format!("{folder}/texture/v001/{}", texture.file_name());
            self.add(&path, Content::Texture(texture));
        }
    }

    fn add_shot(&mut self, shot: &Shot) {
        let (folder, name, sizes) = (shot.folder(), shot.name(), self.sizes);
        let exr_size = if shot.name() == SHOTS[0].name() {
            sizes.hero
        } else {
            sizes.plate
        };
        let mut frames = |path: String, size: Size, layer: Layer, format: Format, count: usize| {
            let label = path.rsplit('/').next().unwrap_or_default().to_owned();
            let sequence = Sequence {
                sizes,
                size,
                look: shot.look,
                layer,
                format,
                label,
                count,
            };
            self.add(&path, Content::Frames(sequence));
        };
        frames(
            format!("{folder}/plates/{name}_plate_v001"),
            exr_size,
            Layer::Plate,
            Format::Exr,
            sizes.frames,
        );

        let render = |version: &str| format!("{folder}/publish/render/{version}/{name}_render_{version}");
        if shot.renders == Renders::Exr {
            let layer = Layer::Render(prop("v001"));
            frames(render("v001"), exr_size, layer, Format::Exr, sizes.frames);
        } else {
            for version in ["v001", "v002"] {
                frames(
                    render(version),
                    sizes.png,
                    Layer::Render(prop(version)),
                    Format::Png,
                    sizes.frames,
                );
            }
        }
        if shot.renders == Renders::PngAndStereo {
            for (eye, shift) in [("l", 0.012), ("r", -0.012)] {
                let path = format!("{folder}/publish/stereo/v001/{name}_stereo_v001_{eye}");
                let layer = Layer::Render(Crate { shift, ..prop("v002") });
                frames(path, exr_size, layer, Format::Exr, sizes.stereo_frames);
            }
        }

        if shot.renders != Renders::Exr {
            self.links.push((format!("{folder}/publish/render/latest"), "v002"));
            // An empty file, as farms leave them to say that a render is whole.
            self.add(
                &format!("{folder}/publish/render/v002/render.done"),
                Content::Bytes(Vec::new()),
            );
        }
        for (path, text) in papers::of_shot(shot, sizes) {
            self.add(&format!("{folder}/{path}"), Content::Bytes(text.into_bytes()));
        }
    }

    /// Returns every folder of the project and the project itself (the empty path), parents first.
    pub(super) fn folders(&self) -> Vec<PathBuf> {
        let all: BTreeSet<PathBuf> = self
            .tasks
            .iter()
            .flat_map(|t| Path::new(&t.path).ancestors().skip(1))
            .map(Path::to_path_buf)
            .collect();
        all.into_iter().collect()
    }

    /// Returns the paths worth opening first, with the reason.
    pub(super) fn highlights(&self) -> Vec<(String, &'static str)> {
        let (hero, stereo) = (SHOTS[0], SHOTS[4]);
        let (folder, name) = (hero.folder(), hero.name());
        vec![
            (
                format!("{folder}/plates/{name}_plate_v001.{FIRST_FRAME}.exr"),
                "a frame of a plate: open it twice, and the second time it is read from this machine",
            ),
            (
                "editorial/reel_v001.y4m".to_owned(),
                "the cut as one large movie: jump about in it, and only those parts come over",
            ),
            (
                format!("{folder}/publish/render/v002/{name}_render_v002.{FIRST_FRAME}.png"),
                "a published render, its number burnt in: look at it in any viewer",
            ),
            (
                format!("{folder}/publish/layout/v001/{name}_layout_v001.usda"),
                "a USD shot that refers to the crate, which refers to its textures: one open brings all three",
            ),
            (
                format!("{folder}/work/nuke/{name}_comp_v001.nk"),
                "a Nuke script that reads the plate and writes a publish, by paths relative to itself",
            ),
            (
                format!(
                    "{0}/publish/stereo/v001/{1}_stereo_v001_l.{FIRST_FRAME}.exr",
                    stereo.folder(),
                    stereo.name()
                ),
                "the left eye of a stereo pair; the right one lies beside it",
            ),
            (
                "assets/prop/crate/publish/texture/v001/crate_diffuse_v001.1001.png".to_owned(),
                "a UDIM texture: numbered like a frame, but it is a tile",
            ),
        ]
    }
}
