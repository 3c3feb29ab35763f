//! Owns the movie: the studio's cut as raw video in a YUV4MPEG2 file, which players read without a codec.
//! Refuses to know the disk. Invariant: every frame has the same size, so that any frame's place can be computed.

use std::io::{self, Write};

use super::picture::{Painter, Picture, Size, WHITE, text_width};
use super::plan::{FIRST_FRAME, Plan, SHOTS};

/// What stands before every frame.
const MARK: &[u8] = b"FRAME\n";

/// Returns the head of the stream: 24 frames a second, square pixels, full-range 4:2:0.
pub(super) fn header(size: Size) -> String {
    format!(
        "YUV4MPEG2 W{} H{} F24:1 Ip A1:1 C420jpeg XCOLORRANGE=FULL\n",
        size.width, size.height
    )
}

/// Writes the slate and then every shot of the plan.
pub(super) fn write(out: &mut impl Write, plan: &Plan) -> io::Result<()> {
    let sizes = plan.sizes;
    out.write_all(header(sizes.reel).as_bytes())?;
    let slate = frame(&slate(sizes.reel));
    for _ in 0..sizes.slate {
        out.write_all(&slate)?;
    }
    for shot in &SHOTS {
        let painter = Painter::new(shot.look, sizes.reel);
        for index in 0..sizes.frames {
            let mut picture = painter.render(sizes.time(index), index, shot.newest_crate());
            picture.burn(
                &format!("{}  REEL_V001", shot.name()),
                &(FIRST_FRAME + index).to_string(),
            );
            out.write_all(&frame(&picture))?;
        }
    }
    Ok(())
}

fn slate(size: Size) -> Picture {
    let mut picture = Picture::flat(size, [WHITE / 10; 3]);
    let dot = size.height / 60;
    for (line, text) in ["DEMO REEL V001", "SQ010 - SQ020", "24 FPS"].into_iter().enumerate() {
        let x = (size.width - text_width(text, dot).min(size.width)) / 2;
        picture.text(text, x, size.height / 6 + line * 10 * dot, dot, [WHITE / 8 * 7; 3]);
    }
    // Bars of 75 %, in the usual order: each channel is on or off.
    let level = |on: bool| if on { WHITE / 4 * 3 } else { 0 };
    for (bar, bits) in [7_u8, 6, 3, 2, 5, 4, 1].into_iter().enumerate() {
        let (left, right) = (bar * size.width / 7, (bar + 1) * size.width / 7);
        let colour = [level(bits & 4 != 0), level(bits & 2 != 0), level(bits & 1 != 0)];
        picture.fill(left, size.height * 5 / 6, right - left, size.height, colour);
    }
    picture
}

/// Returns one frame of the stream: its mark, then luma, then both chromas at half width and height.
fn frame(picture: &Picture) -> Vec<u8> {
    let Size { width, height } = picture.size;
    let [red, green, blue] = picture.planes.each_ref().map(Vec::as_slice);
    let mut out = vec![0; MARK.len() + width * height * 3 / 2];
    let (mark, pixels) = out.split_at_mut(MARK.len());
    mark.copy_from_slice(MARK);
    let (luma, chroma) = pixels.split_at_mut(width * height);
    for at in 0..width * height {
        luma[at] = weighed([77, 150, 29], [red[at], green[at], blue[at]], 0);
    }
    for (plane, weights) in chroma
        .chunks_exact_mut(width * height / 4)
        .zip([[-43, -85, 128], [128, -107, -21]])
    {
        for y in 0..height / 2 {
            for x in 0..width / 2 {
                let at = y * 2 * width + x * 2;
                plane[y * (width / 2) + x] = weighed(weights, [red[at], green[at], blue[at]], 128);
            }
        }
    }
    out
}

/// Returns one row of JPEG's matrix (BT.601, weights in 256ths) for codes up to white, as 8 bits.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "each row's weights add up to 256, or to -128 and 128"
)]
fn weighed(weights: [i32; 3], codes: [u16; 3], zero: i32) -> u8 {
    let level = |code: u16| if code < WHITE { code as i32 } else { WHITE as i32 };
    let sum = weights[0] * level(codes[0]) + weights[1] * level(codes[1]) + weights[2] * level(codes[2]);
    ((sum >> 12) + zero) as u8
}
