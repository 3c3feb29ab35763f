//! Owns the demo's moving picture: dusk over hills, a crate that bounces through it, a burnt-in frame number.
//! Refuses to know file formats: it hands out integer codes, and the encoders make of them what they need.
//! Invariant: only exact arithmetic (no sine, no power), so that a pixel is the same on every machine.
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "pixels: every value is clamped to its range, and `as` from float to integer saturates"
)]

/// The code of diffuse white; codes go on to [`MAX_CODE`] for what is brighter, as the sun.
pub(super) const WHITE: u16 = 4095;
/// The largest code a picture holds: 13 bits, with some room below it so that grain cannot leave it.
pub(super) const MAX_CODE: u16 = 8191;

/// Width and height in pixels; both even, as the movie halves them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Size {
    pub(super) width: usize,
    pub(super) height: usize,
}

/// Red, green and blue, in codes.
pub(super) type Colour = [u16; 3];

/// Three planes of codes, rows from the top. Display-referred: light is the square of `code / WHITE`.
#[derive(Clone)]
pub(super) struct Picture {
    pub(super) size: Size,
    pub(super) planes: [Vec<u16>; 3],
}

/// What sets one shot apart from another.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    pub(super) seed: u32,
    pub(super) sky_top: Colour,
    pub(super) sky_low: Colour,
    /// Where the sun stands, in parts of the width and of the height.
    pub(super) sun: (f32, f32),
    /// From the farthest to the nearest.
    pub(super) hills: [Colour; 3],
}

/// The crate that is added to a plate.
#[derive(Clone, Copy, Debug)]
pub(super) struct Crate {
    pub(super) wood: Colour,
    /// How far it is moved to the right, in parts of the width: a stereo pair sees it from two sides.
    pub(super) shift: f32,
}

/// Ridge lines: height of the base, height of the waves, waves per width, how far they travel in a shot.
const RIDGES: [(f32, f32, f32, f32); 3] = [(0.62, 0.16, 3.0, 0.15), (0.74, 0.13, 4.0, 0.5), (0.86, 0.07, 5.0, 1.4)];

/// Paints frames of one shot at one size; holds what does not move.
pub(super) struct Painter {
    look: Look,
    sky: Picture,
    /// Each hill as if it filled the picture; the ridges cut it out.
    hills: [Picture; 3],
}

impl Painter {
    pub(super) fn new(look: Look, size: Size) -> Self {
        let mut sky = Picture::flat(size, [0; 3]);
        let (w, h) = (size.width as f32, size.height as f32);
        let (sun_x, sun_y, radius) = (look.sun.0 * w, look.sun.1 * h, 0.06 * h);
        for y in 0..size.height {
            let down = (y as f32 / (0.8 * h)).min(1.0);
            let base: [f32; 3] =
                std::array::from_fn(|c| mix(f32::from(look.sky_top[c]), f32::from(look.sky_low[c]), down));
            for x in 0..size.width {
                let (dx, dy) = ((x as f32 - sun_x) / radius, (y as f32 - sun_y) / radius);
                let far = dx * dx + dy * dy;
                // The disc has a soft edge of a tenth of its radius; the glow falls with the square of the distance.
                let disc = ((1.1 - far) * 5.0).clamp(0.0, 1.0);
                let glow = 1.0 / (1.0 + far * 0.12);
                let light = [
                    disc * 5200.0 + glow * 1900.0,
                    disc * 4300.0 + glow * 1050.0,
                    disc * 2700.0 + glow * 350.0,
                ];
                sky.set(x, y, std::array::from_fn(|c| code(base[c] + light[c])));
            }
        }
        let hills = [0, 1, 2].map(|layer| {
            let mut hill = Picture::flat(size, look.hills[layer]);
            for y in 0..size.height {
                // Darker from the highest place of the ridge down.
                let depth = (y as f32 / h - RIDGES[layer].0 + RIDGES[layer].1).max(0.0);
                hill.fill(
                    0,
                    y,
                    size.width,
                    1,
                    look.hills[layer].map(|c| code(f32::from(c) * (1.0 - 1.5 * depth))),
                );
            }
            hill
        });
        Self { look, sky, hills }
    }

    /// Paints the sky and the hills at `time`, from 0 at the shot's first frame to 1 at its end.
    pub(super) fn plate(&self, time: f32) -> Picture {
        let mut picture = self.sky.clone();
        let Size { width, height } = picture.size;
        for ((layer, hill), (base, wave, count, travel)) in (0..).zip(&self.hills).zip(RIDGES) {
            let ridge = |x: usize| {
                let along = x as f32 / width as f32 * count + travel * time;
                ((base - wave * rolling(self.look.seed.wrapping_add(layer * 7919), along)) * height as f32) as usize
            };
            // Where each row enters the hill and leaves it again: whole runs are copied, not single pixels.
            let mut marks = vec![Vec::new(); height];
            let mut before = height;
            for x in 0..=width {
                let here = if x < width { ridge(x).min(height) } else { height };
                for row in &mut marks[before.min(here)..before.max(here)] {
                    row.push(x);
                }
                before = here;
            }
            for (y, row) in marks.iter().enumerate() {
                for run in row.chunks_exact(2) {
                    let run = y * width + run[0]..y * width + run[1];
                    for (plane, hill) in picture.planes.iter_mut().zip(&hill.planes) {
                        plane[run.clone()].copy_from_slice(&hill[run.clone()]);
                    }
                }
            }
        }
        picture
    }

    /// Paints the plate with the crate in it; `index` is the frame's number counted from 0.
    pub(super) fn render(&self, time: f32, index: usize, prop: Crate) -> Picture {
        let mut picture = self.plate(time);
        let (w, h) = (picture.size.width as f32, picture.size.height as f32);
        let hop = (time * 2.0).fract();
        let lift = 4.0 * hop * (1.0 - hop) * 0.3;
        let centre = (w * (0.18 + 0.64 * time + prop.shift), h * (0.68 - lift));
        picture.shadow((centre.0, h * 0.85), h * (0.2 - 0.2 * lift));
        picture.cube(centre, h * 0.105, index, prop.wood);
        picture
    }
}

impl Picture {
    pub(super) fn flat(size: Size, colour: Colour) -> Self {
        Self {
            size,
            planes: colour.map(|c| vec![c; size.width * size.height]),
        }
    }

    fn set(&mut self, x: usize, y: usize, colour: Colour) {
        let at = y * self.size.width + x;
        for (plane, code) in self.planes.iter_mut().zip(colour) {
            plane[at] = code;
        }
    }

    /// Fills a rectangle; what lies outside the picture is left out.
    pub(super) fn fill(&mut self, x: usize, y: usize, width: usize, height: usize, colour: Colour) {
        let columns = x.min(self.size.width)..(x + width).min(self.size.width);
        for y in y.min(self.size.height)..(y + height).min(self.size.height) {
            let row = y * self.size.width;
            for (plane, code) in self.planes.iter_mut().zip(colour) {
                plane[row + columns.start..row + columns.end].fill(code);
            }
        }
    }

    /// Adds the camera's grain: up to 32 codes either way, another for every seed.
    pub(super) fn grain(&mut self, seed: u32) {
        let mut state = hash(seed) | 1;
        for plane in &mut self.planes {
            for code in plane {
                state ^= state << 13;
                state ^= state >> 17;
                state ^= state << 5;
                let brighter = *code + (state >> 26) as u16;
                *code = brighter.saturating_sub(32);
            }
        }
    }

    /// Burns a label and the frame's number into a bar along the lower edge.
    pub(super) fn burn(&mut self, label: &str, frame: &str) {
        let dot = (self.size.height / 135).max(1);
        let (bar, margin) = (self.size.height - 11 * dot, 6 * dot);
        self.fill(0, bar, self.size.width, 11 * dot, [WHITE / 16; 3]);
        self.text(label, margin, bar + 2 * dot, dot, [WHITE / 8 * 7; 3]);
        let x = self.size.width.saturating_sub(margin + text_width(frame, dot));
        self.text(frame, x, bar + 2 * dot, dot, [WHITE, WHITE / 8 * 7, WHITE / 3]);
    }

    /// Writes upper-case text; one dot of a letter is `dot` pixels wide and high. What has no letter here stays blank.
    pub(super) fn text(&mut self, text: &str, x: usize, y: usize, dot: usize, colour: Colour) {
        for (index, letter) in text.bytes().enumerate() {
            for (column, bits) in glyph(letter.to_ascii_uppercase()).into_iter().enumerate() {
                for row in (0..7).filter(|row| bits >> row & 1 == 1) {
                    self.fill(x + (index * 6 + column) * dot, y + row * dot, dot, dot, colour);
                }
            }
        }
    }

    /// Darkens a soft, flat ellipse around `centre`.
    fn shadow(&mut self, centre: (f32, f32), radius: f32) {
        let flat = radius * 0.22;
        for y in span(centre.1, flat, self.size.height) {
            for x in span(centre.0, radius, self.size.width) {
                let (dx, dy) = ((x as f32 - centre.0) / radius, (y as f32 - centre.1) / flat);
                let keep = 1.0 - 0.7 * (1.0 - dx * dx - dy * dy).max(0.0);
                let at = y * self.size.width + x;
                for plane in &mut self.planes {
                    plane[at] = (f32::from(plane[at]) * keep) as u16;
                }
            }
        }
    }

    /// Draws a wooden cube of half-width `half`, turned by `steps` and seen from a little above, without perspective.
    fn cube(&mut self, centre: (f32, f32), half: f32, steps: usize, wood: Colour) {
        // Both turns are Pythagorean (20² + 99² = 101², 5² + 12² = 13²): exact without a sine. A step is 11.4°.
        let (mut cos, mut sin) = (0.8_f32, 0.6_f32);
        for _ in 0..steps {
            (cos, sin) = ((99.0 * cos - 20.0 * sin) / 101.0, (20.0 * cos + 99.0 * sin) / 101.0);
        }
        let turned = |[x, y, z]: [f32; 3]| {
            let (x, z) = (cos * x + sin * z, cos * z - sin * x);
            [x, (12.0 * y - 5.0 * z) / 13.0, (5.0 * y + 12.0 * z) / 13.0]
        };
        let axes = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]].map(turned);
        for axis in 0..3 {
            for side in [1.0, -1.0] {
                let [nx, ny, nz] = axes[axis].map(|v| v * side);
                if nz <= 0.0 {
                    continue; // looks away
                }
                // The light comes from the upper left, behind the viewer's shoulder.
                let light = (0.35 - 0.35 * nx + 0.45 * ny + 0.3 * nz).clamp(0.2, 1.2);
                let (a, b) = (axes[(axis + 1) % 3], axes[(axis + 2) % 3]);
                let area = a[0] * b[1] - a[1] * b[0];
                let reach = half * 1.8; // more than half the cube's diagonal
                for y in span(centre.1, reach, self.size.height) {
                    for x in span(centre.0, reach, self.size.width) {
                        let px = (x as f32 - centre.0) / half - nx;
                        let py = (centre.1 - y as f32) / half - ny;
                        let (u, v) = ((px * b[1] - py * b[0]) / area, (a[0] * py - a[1] * px) / area);
                        if u.abs() <= 1.0 && v.abs() <= 1.0 {
                            let tone = light * grain_of_wood(u, v);
                            self.set(x, y, wood.map(|c| code(f32::from(c) * tone)));
                        }
                    }
                }
            }
        }
    }
}

/// Returns how bright a crate's face is at `u`, `v`, each from -1 to 1: beams around, a brace across, planks between.
pub(super) fn grain_of_wood(u: f32, v: f32) -> f32 {
    let edge = u.abs().max(v.abs());
    let across = (u - v).abs();
    if edge > 0.78 || across < 0.2 {
        if edge > 0.97 { 0.8 } else { 1.15 }
    } else if edge > 0.72 || across < 0.28 {
        0.45 // in the shade of a beam
    } else {
        let plank = (u + 1.0) * 3.0;
        if plank.fract() < 0.07 {
            0.4
        } else {
            0.78 + 0.06 * (plank as u32 % 3) as f32
        }
    }
}

/// Returns the width in pixels of a text, without the gap behind its last letter.
pub(super) fn text_width(text: &str, dot: usize) -> usize {
    (text.len() * 6).saturating_sub(1) * dot
}

fn span(centre: f32, reach: f32, limit: usize) -> std::ops::Range<usize> {
    let end = ((centre + reach) as usize + 1).min(limit);
    ((centre - reach) as usize).min(end)..end
}

fn mix(from: f32, to: f32, part: f32) -> f32 {
    from + (to - from) * part
}

fn code(value: f32) -> u16 {
    value.clamp(0.0, f32::from(MAX_CODE - 32)) as u16
}

/// Returns smooth hills between 0 and 1: three octaves of value noise.
fn rolling(seed: u32, along: f32) -> f32 {
    let octave = |scale: f32, seed: u32| {
        let at = along * scale;
        let (cell, part) = (at as u32, at.fract());
        let smooth = part * part * (3.0 - 2.0 * part);
        let height = |cell: u32| hash(seed ^ cell.wrapping_mul(0x9E37_79B1)) as f32 / u32::MAX as f32;
        mix(height(cell), height(cell + 1), smooth)
    };
    octave(1.0, seed) * 0.65 + octave(2.7, seed ^ 0x55) * 0.25 + octave(9.0, seed ^ 0xAA) * 0.1
}

/// Scatters 32 bits (the finisher of MurmurHash3).
pub(super) fn hash(value: u32) -> u32 {
    let value = (value ^ (value >> 16)).wrapping_mul(0x85EB_CA6B);
    let value = (value ^ (value >> 13)).wrapping_mul(0xC2B2_AE35);
    value ^ (value >> 16)
}

/// Returns the five columns of a letter, the lowest bit on top: the usual 5 by 7 dot matrix.
fn glyph(letter: u8) -> [u8; 5] {
    const DIGITS: [[u8; 5]; 10] = [
        [0x3E, 0x51, 0x49, 0x45, 0x3E],
        [0x00, 0x42, 0x7F, 0x40, 0x00],
        [0x42, 0x61, 0x51, 0x49, 0x46],
        [0x21, 0x41, 0x45, 0x4B, 0x31],
        [0x18, 0x14, 0x12, 0x7F, 0x10],
        [0x27, 0x45, 0x45, 0x45, 0x39],
        [0x3C, 0x4A, 0x49, 0x49, 0x30],
        [0x01, 0x71, 0x09, 0x05, 0x03],
        [0x36, 0x49, 0x49, 0x49, 0x36],
        [0x06, 0x49, 0x49, 0x29, 0x1E],
    ];
    const LETTERS: [[u8; 5]; 26] = [
        [0x7E, 0x11, 0x11, 0x11, 0x7E],
        [0x7F, 0x49, 0x49, 0x49, 0x36],
        [0x3E, 0x41, 0x41, 0x41, 0x22],
        [0x7F, 0x41, 0x41, 0x22, 0x1C],
        [0x7F, 0x49, 0x49, 0x49, 0x41],
        [0x7F, 0x09, 0x09, 0x09, 0x01],
        [0x3E, 0x41, 0x49, 0x49, 0x7A],
        [0x7F, 0x08, 0x08, 0x08, 0x7F],
        [0x00, 0x41, 0x7F, 0x41, 0x00],
        [0x20, 0x40, 0x41, 0x3F, 0x01],
        [0x7F, 0x08, 0x14, 0x22, 0x41],
        [0x7F, 0x40, 0x40, 0x40, 0x40],
        [0x7F, 0x02, 0x0C, 0x02, 0x7F],
        [0x7F, 0x04, 0x08, 0x10, 0x7F],
        [0x3E, 0x41, 0x41, 0x41, 0x3E],
        [0x7F, 0x09, 0x09, 0x09, 0x06],
        [0x3E, 0x41, 0x51, 0x21, 0x5E],
        [0x7F, 0x09, 0x19, 0x29, 0x46],
        [0x46, 0x49, 0x49, 0x49, 0x31],
        [0x01, 0x01, 0x7F, 0x01, 0x01],
        [0x3F, 0x40, 0x40, 0x40, 0x3F],
        [0x1F, 0x20, 0x40, 0x20, 0x1F],
        [0x3F, 0x40, 0x38, 0x40, 0x3F],
        [0x63, 0x14, 0x08, 0x14, 0x63],
        [0x07, 0x08, 0x70, 0x08, 0x07],
        [0x61, 0x51, 0x49, 0x45, 0x43],
    ];
    match letter {
        b'0'..=b'9' => DIGITS[usize::from(letter - b'0')],
        b'A'..=b'Z' => LETTERS[usize::from(letter - b'A')],
        b'_' => [0x40; 5],
        b'-' => [0x08; 5],
        b'.' => [0x00, 0x60, 0x60, 0x00, 0x00],
        _ => [0; 5],
    }
}
