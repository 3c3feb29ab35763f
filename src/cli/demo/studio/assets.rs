//! Owns the demo's one asset, a wooden crate, as OBJ and USD, its UDIM textures, and a USD shot that uses it.
//! Refuses to know the disk. Invariant: OBJ and USD come from the same boxes, and every path inside is relative.

use std::fmt::Write as _;
use std::io;

use super::images;
use super::picture::{Picture, Size, WHITE, grain_of_wood, hash, text_width};
use super::plan::{FIRST_FRAME, Shot, Sizes};

/// Two opposite corners, in centimetres.
type Block = ([i32; 3], [i32; 3]);

/// The crate: a body, and a beam along each of its edges. It stands on the ground, a metre wide.
fn boxes() -> Vec<Block> {
    let mut all = vec![([-46, 4, -46], [46, 96, 46])];
    let beams = [(-50, -40), (40, 50)];
    for (a0, a1) in beams {
        for (b0, b1) in beams {
            all.push(([a0, 0, b0], [a1, 100, b1]));
            all.push(([-40, a0 + 50, b0], [40, a1 + 50, b1]));
            all.push(([a0, b0 + 50, -40], [a1, b1 + 50, 40]));
        }
    }
    all
}

/// Corners of a box's faces, seen counter-clockwise from outside; corner `x + 2y + 4z`. With the axis they face.
const FACES: [([usize; 4], usize); 6] = [
    ([1, 3, 7, 5], 0),
    ([0, 4, 6, 2], 0),
    ([2, 6, 7, 3], 1),
    ([0, 1, 5, 4], 1),
    ([4, 5, 7, 6], 2),
    ([0, 2, 3, 1], 2),
];

/// The UDIM tiles, one per axis that a face looks along.
pub(super) const TILES: [usize; 3] = [1001, 1002, 1003];

struct Mesh {
    points: Vec<[i32; 3]>,
    /// Four indices into `points`, from 0, and the axis.
    faces: Vec<([usize; 4], usize)>,
}

fn mesh() -> Mesh {
    let mut mesh = Mesh {
        points: Vec::new(),
        faces: Vec::new(),
    };
    for (low, high) in boxes() {
        let first = mesh.points.len();
        for corner in 0..8 {
            mesh.points
                .push([0, 1, 2].map(|axis| if corner >> axis & 1 == 1 { high[axis] } else { low[axis] }));
        }
        mesh.faces
            .extend(FACES.map(|(corners, axis)| (corners.map(|c| first + c), axis)));
    }
    mesh
}

/// Returns a face's four texture coordinates in its tile, a little inside the border.
fn coordinates(axis: usize) -> [String; 4] {
    [("02", "0.02"), ("98", "0.02"), ("98", "0.98"), ("02", "0.98")].map(|(u, v)| format!("{axis}.{u} {v}"))
}

/// Returns the model as Wavefront OBJ.
pub(super) fn obj() -> String {
    let mesh = mesh();
    let mut out = String::from("# crate, one unit is a centimetre\nmtllib crate_model_v001.mtl\no crate\n");
    for [x, y, z] in &mesh.points {
        let _ = writeln!(out, "v {x} {y} {z}"); // a string takes every write
    }
    for axis in 0..3 {
        for pair in coordinates(axis) {
            let _ = writeln!(out, "vt {pair}");
        }
    }
    for (axis, tile) in TILES.into_iter().enumerate() {
        let _ = writeln!(out, "usemtl wood_{tile}");
        for (corners, _) in mesh.faces.iter().filter(|(_, facing)| *facing == axis) {
            out.push('f');
            for (at, corner) in corners.iter().enumerate() {
                let _ = write!(out, " {}/{}", corner + 1, axis * 4 + at + 1);
            }
            out.push('\n');
        }
    }
    out
}

/// Returns the OBJ's materials: one per tile, as OBJ knows no UDIM.
pub(super) fn mtl() -> String {
    let mut out = String::from("# crate\n");
    for tile in TILES {
        let _ = write!(
            out,
            "newmtl wood_{tile}\nKa 0 0 0\nKd 0.8 0.6 0.35\nKs 0.05 0.05 0.05\nNs 20\nillum 2\n\
             map_Kd ../../texture/v001/crate_diffuse_v001.{tile}.png\n\n"
        );
    }
    out
}

/// Returns the model as a USD layer with a preview material.
pub(super) fn usda() -> String {
    let mesh = mesh();
    let list = |items: Vec<String>| items.join(", ");
    let points = list(mesh.points.iter().map(|[x, y, z]| format!("({x}, {y}, {z})")).collect());
    let counts = list(mesh.faces.iter().map(|_| "4".to_owned()).collect());
    let corners = list(
        mesh.faces
            .iter()
            .flat_map(|(corners, _)| corners.map(|c| c.to_string()))
            .collect(),
    );
    let st = list(
        mesh.faces
            .iter()
            .flat_map(|(_, axis)| coordinates(*axis).map(|pair| format!("({})", pair.replace(' ', ", "))))
            .collect(),
    );
    let texture = |name: &str, channel: &str, space: &str| {
        format!(
            r#"            def Shader "{name}"
            {{
                uniform token info:id = "UsdUVTexture"
                asset inputs:file = @../../texture/v001/crate_{name}_v001.<UDIM>.png@
                token inputs:sourceColorSpace = "{space}"
                float2 inputs:st.connect = </crate/mtl/wood/st.outputs:result>
                token inputs:wrapS = "repeat"
                token inputs:wrapT = "repeat"
                {channel}
            }}
"#
        )
    };
    let diffuse = texture("diffuse", "float3 outputs:rgb", "sRGB");
    let roughness = texture("roughness", "float outputs:r", "raw");
    format!(
        r#"#usda 1.0
(
    defaultPrim = "crate"
    doc = "The crate, published as model v001."
    metersPerUnit = 0.01
    upAxis = "Y"
)

def Xform "crate" (
    assetInfo = {{
        asset identifier = @./crate_model_v001.usda@
        string name = "crate"
        string version = "v001"
    }}
    kind = "component"
)
{{
    def Mesh "geo" (
        prepend apiSchemas = ["MaterialBindingAPI"]
    )
    {{
        float3[] extent = [(-50, 0, -50), (50, 100, 50)]
        int[] faceVertexCounts = [{counts}]
        int[] faceVertexIndices = [{corners}]
        rel material:binding = </crate/mtl/wood>
        point3f[] points = [{points}]
        texCoord2f[] primvars:st = [{st}] (
            interpolation = "faceVarying"
        )
        uniform token subdivisionScheme = "none"
    }}

    def Scope "mtl"
    {{
        def Material "wood"
        {{
            token outputs:surface.connect = </crate/mtl/wood/surface.outputs:surface>

            def Shader "surface"
            {{
                uniform token info:id = "UsdPreviewSurface"
                color3f inputs:diffuseColor.connect = </crate/mtl/wood/diffuse.outputs:rgb>
                float inputs:roughness.connect = </crate/mtl/wood/roughness.outputs:r>
                token outputs:surface
            }}

            def Shader "st"
            {{
                uniform token info:id = "UsdPrimvarReader_float2"
                string inputs:varname = "st"
                float2 outputs:result
            }}

{diffuse}
{roughness}        }}
    }}
}}
"#
    )
}

/// Returns a shot's layout: the crate on its hops, and a camera.
pub(super) fn layout_usda(shot: &Shot, sizes: Sizes) -> String {
    let mut hops = String::new();
    let mut turns = String::new();
    for index in 0..sizes.frames {
        let (frame, time) = (FIRST_FRAME + index, sizes.time(index));
        let hop = (time * 2.0).fract();
        let _ = writeln!(
            hops,
            "            {frame}: ({:.3}, {:.3}, 0),",
            (time - 0.5) * 600.0,
            4.0 * hop * (1.0 - hop) * 160.0
        );
        let _ = writeln!(turns, "            {frame}: {:.1},", time * 274.0);
    }
    let (name, last) = (shot.name(), FIRST_FRAME + sizes.frames - 1);
    format!(
        r#"#usda 1.0
(
    defaultPrim = "{name}"
    endTimeCode = {last}
    framesPerSecond = 24
    metersPerUnit = 0.01
    startTimeCode = {FIRST_FRAME}
    timeCodesPerSecond = 24
    upAxis = "Y"
)

def Xform "{name}" (
    kind = "assembly"
)
{{
    def Xform "crate" (
        prepend references = @../../../../../../assets/prop/crate/publish/model/v001/crate_model_v001.usda@
    )
    {{
        float xformOp:rotateY.timeSamples = {{
{turns}        }}
        double3 xformOp:translate.timeSamples = {{
{hops}        }}
        uniform token[] xformOpOrder = ["xformOp:translate", "xformOp:rotateY"]
    }}

    def Camera "camera"
    {{
        float2 clippingRange = (1, 100000)
        float focalLength = 35
        float horizontalAperture = 24.892
        float verticalAperture = 14.002
        double3 xformOp:translate = (0, 120, 1200)
        uniform token[] xformOpOrder = ["xformOp:translate"]
    }}
}}
"#
    )
}

/// One tile of one of the crate's textures.
#[derive(Clone, Debug)]
pub(super) struct Texture {
    /// `diffuse` or `roughness`.
    kind: &'static str,
    tile: usize,
    side: usize,
}

impl Texture {
    /// Returns every tile of every texture; `side` is in pixels.
    pub(super) fn all(side: usize) -> Vec<Self> {
        let tiles = |kind| TILES.into_iter().map(move |tile| Self { kind, tile, side });
        tiles("diffuse").chain(tiles("roughness")).collect()
    }

    pub(super) fn file_name(&self) -> String {
        format!("crate_{}_v001.{}.png", self.kind, self.tile)
    }

    /// Paints the tile and returns it as a PNG file.
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "pixels: tones stay below 1.3 times white, which a code can hold"
    )]
    pub(super) fn paint(&self) -> io::Result<Vec<u8>> {
        let mut picture = Picture::flat(
            Size {
                width: self.side,
                height: self.side,
            },
            [0; 3],
        );
        let base = if self.kind == "diffuse" {
            [3100, 2300, 1400]
        } else {
            [2500; 3]
        };
        for y in 0..self.side {
            for x in 0..self.side {
                let place = |n: usize| (n as f32 + 0.5) / self.side as f32 * 2.0 - 1.0;
                // Streaks along the planks: one value for every eight pixels of a column.
                let streak = hash((self.tile * self.side + x) as u32 ^ ((y / 8) as u32) << 20) % 100;
                let tone = grain_of_wood(place(x), place(y)) * (0.92 + streak as f32 / 800.0);
                for (plane, code) in picture.planes.iter_mut().zip(base) {
                    plane[y * self.side + x] = (code as f32 * tone) as u16;
                }
            }
        }
        let (dot, tile) = (self.side / 64, self.tile.to_string());
        picture.text(
            &tile,
            (self.side - text_width(&tile, dot)) / 2,
            self.side / 2 - 3 * dot,
            dot,
            [WHITE; 3],
        );
        images::png(&picture)
    }
}
