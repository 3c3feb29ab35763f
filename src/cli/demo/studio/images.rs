//! Owns the still formats: OpenEXR (half floats, scan lines, no compression) and PNG (8 bits).
//! Refuses to know what is painted. Invariant: an EXR's size follows from its width and height alone.
//!
//! EXR is written by hand: without compression it is a header and a table of offsets, while the library for it brings
//! fifteen crates. The layout is that of the "OpenEXR File Layout" page of openexr.com. PNG comes from `png`.

use std::io;
use std::sync::LazyLock;

use super::picture::{MAX_CODE, Picture, WHITE};

/// Half floats of every code: light is the square of `code / WHITE`, so that the sun is about four times white.
static HALVES: LazyLock<Vec<u16>> = LazyLock::new(|| {
    let linear = |code: u16| (f32::from(code) / f32::from(WHITE)) * (f32::from(code) / f32::from(WHITE));
    (0..=MAX_CODE).map(|code| half(linear(code))).collect()
});

/// Returns the picture as an OpenEXR file with three half-float channels, in light.
pub(super) fn exr(picture: &Picture, comment: &str) -> io::Result<Vec<u8>> {
    let (width, height) = (int(picture.size.width)?, int(picture.size.height)?);
    let mut out = Vec::new();
    out.extend(20_000_630_i32.to_le_bytes()); // the format's magic number
    out.extend(2_i32.to_le_bytes()); // version 2, one part of scan lines

    // Channels, by name: 1 = half float, 0 = not perceptually linear, sampled at every pixel.
    let mut channels = Vec::new();
    for name in ["B", "G", "R"] {
        channels.extend(name.bytes());
        channels.push(0);
        for value in [1_i32, 0, 1, 1] {
            channels.extend(value.to_le_bytes());
        }
    }
    channels.push(0);
    let window: Vec<u8> = [0, 0, width - 1, height - 1]
        .into_iter()
        .flat_map(i32::to_le_bytes)
        .collect();
    let rate: Vec<u8> = [24_i32, 1].into_iter().flat_map(i32::to_le_bytes).collect();
    let one = 1.0_f32.to_le_bytes();
    for (name, kind, value) in [
        ("channels", "chlist", &channels[..]),
        ("comments", "string", comment.as_bytes()),
        ("compression", "compression", &[0]),
        ("dataWindow", "box2i", &window),
        ("displayWindow", "box2i", &window),
        ("framesPerSecond", "rational", &rate),
        ("lineOrder", "lineOrder", &[0]),
        ("pixelAspectRatio", "float", &one),
        ("screenWindowCenter", "v2f", &[0; 8]),
        ("screenWindowWidth", "float", &one),
    ] {
        for text in [name, kind] {
            out.extend(text.bytes());
            out.push(0);
        }
        out.extend(int(value.len())?.to_le_bytes());
        out.extend(value);
    }
    out.push(0);

    let line_bytes = picture.size.width * 6;
    let first = out.len() + picture.size.height * 8;
    for y in 0..picture.size.height {
        out.extend(((first + y * (line_bytes + 8)) as u64).to_le_bytes());
    }
    out.reserve_exact(picture.size.height * (line_bytes + 8));
    let halves = &HALVES[..];
    let mut samples = vec![0; picture.size.width * 2];
    for y in 0..picture.size.height {
        out.extend(int(y)?.to_le_bytes());
        out.extend(int(line_bytes)?.to_le_bytes());
        for plane in picture.planes.iter().rev() {
            let row = &plane[y * picture.size.width..(y + 1) * picture.size.width];
            for (sample, code) in samples.chunks_exact_mut(2).zip(row) {
                sample.copy_from_slice(&halves[*code as usize].to_le_bytes());
            }
            out.extend_from_slice(&samples);
        }
    }
    Ok(out)
}

/// Returns the picture as a PNG file of 8 bits per channel.
pub(super) fn png(picture: &Picture) -> io::Result<Vec<u8>> {
    let mut pixels = vec![0; picture.size.width * picture.size.height * 3];
    for (channel, plane) in picture.planes.iter().enumerate() {
        for (at, code) in plane.iter().enumerate() {
            pixels[at * 3 + channel] = byte(*code);
        }
    }
    let wide = |n: usize| u32::try_from(n).map_err(io::Error::other);
    let mut out = Vec::new();
    let mut encoder = png::Encoder::new(&mut out, wide(picture.size.width)?, wide(picture.size.height)?);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_source_srgb(png::SrgbRenderingIntent::Perceptual);
    encoder.set_compression(png::Compression::Balanced);
    encoder.set_filter(png::Filter::Up); // the quickest, and the sky is made of rows
    let mut writer = encoder.write_header()?;
    writer.write_image_data(&pixels)?;
    writer.finish()?;
    Ok(out)
}

/// Returns a code as 8 bits; what is brighter than white is white.
#[allow(clippy::cast_possible_truncation, reason = "the smaller of it and 255")]
fn byte(code: u16) -> u8 {
    let bits = code >> 4;
    if bits < 255 { bits as u8 } else { 255 }
}

fn int(value: usize) -> io::Result<i32> {
    i32::try_from(value).map_err(io::Error::other)
}

/// Rounds a number from 0 to 65504 to a half float.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "below 2^-14 the product is under 1024; above, the exponent is taken down to five bits"
)]
fn half(value: f32) -> u16 {
    const SMALLEST_NORMAL: f32 = 1.0 / 16384.0;
    if value < SMALLEST_NORMAL {
        return (value * 16_777_216.0).round() as u16; // subnormal: in steps of 2^-24
    }
    let bits = value.to_bits() + 0x1000; // half a step, then cut: a carry rightly moves into the exponent
    ((bits - (112 << 23)) >> 13) as u16 // exponents are biased by 127 there and by 15 here
}
