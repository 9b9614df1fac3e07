//! Runs the daemon's tracker over a file of detections and prints tracks, both in MOTChallenge form.
//!
//! `mot-track DETECTIONS --fps N --size WxH [--every N] [--high S] [--low S] [--confirm N] [--lost-ms N]`
//!
//! With `--every N` the tracker is given each N-th frame only, as when the engine cannot keep up.
//! In: lines `frame,-1,x,y,w,h,score` sorted by frame, frames from 1. Out: `frame,id,x,y,w,h,score,-1,-1,-1`
//! for each confirmed track that the frame shows. `tests/mot/score.py` scores it.

use std::collections::BTreeMap;
use std::error::Error;
use std::io::Write;
use std::time::Duration;

use weir::clock::Tick;
use weir::config;
use weir::flow::track::{Change, Tracker};
use weir::frame::{BBox, Detection, Size};

fn main() -> Result<(), Box<dyn Error>> {
    let mut settings =
        config::Track { high_score: 0.5, low_score: 0.1, confirm_frames: 3, lost: Duration::from_secs(1) };
    let (mut file, mut fps, mut size, mut every) = (None, None, None, 1);
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or(format!("{arg} wants a value"));
        match arg.as_str() {
            "--fps" => fps = Some(value()?.parse::<f64>()?),
            "--size" => size = Some(parse_size(&value()?)?),
            "--every" => every = value()?.parse::<usize>()?.max(1),
            "--high" => settings.high_score = value()?.parse()?,
            "--low" => settings.low_score = value()?.parse()?,
            "--confirm" => settings.confirm_frames = value()?.parse()?,
            "--lost-ms" => settings.lost = Duration::from_millis(value()?.parse()?),
            _ => file = Some(arg),
        }
    }
    let file = file.ok_or("which detections? mot-track DETECTIONS --fps N --size WxH")?;
    let (fps, size) = (fps.ok_or("--fps is missing")?, size.ok_or("--size is missing")?);

    let mut frames: BTreeMap<u64, Vec<Detection>> = BTreeMap::new();
    for (number, line) in std::fs::read_to_string(&file)?.lines().enumerate() {
        let (frame, detection) =
            parse_line(line).ok_or(format!("{file}:{}: not frame,-1,x,y,w,h,score", number + 1))?;
        frames.entry(frame).or_default().push(detection);
    }

    let mut out = std::io::stdout().lock();
    let mut tracker = Tracker::new(settings);
    let none = Vec::new();
    for frame in (1..=frames.keys().last().copied().unwrap_or(0)).step_by(every) {
        let at = Tick::from_nanos((frame as f64 / fps * 1e9) as u64);
        for change in tracker.update(at, size, frames.get(&frame).unwrap_or(&none)) {
            let (Change::Started(t) | Change::Updated(t)) = change else { continue };
            let b = t.bbox;
            writeln!(out, "{frame},{},{},{},{},{},{},-1,-1,-1", t.id.0, b.x, b.y, b.w, b.h, t.score)?;
        }
    }
    Ok(())
}

fn parse_size(text: &str) -> Result<Size, Box<dyn Error>> {
    let (width, height) = text.split_once('x').ok_or("--size wants WxH")?;
    Ok(Size { width: width.parse()?, height: height.parse()? })
}

fn parse_line(line: &str) -> Option<(u64, Detection)> {
    let fields: Vec<f32> = line.split(',').map(|f| f.trim().parse().ok()).collect::<Option<_>>()?;
    let [frame, _, x, y, w, h, score, ..] = fields[..] else { return None };
    Some((frame as u64, Detection { bbox: BBox { x, y, w, h }, class: 0, score }))
}
