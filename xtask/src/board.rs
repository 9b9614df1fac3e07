//! What `/api/v1/cameras` says, and the table made of it.

use serde::Deserialize;

#[derive(Debug, Default, Deserialize)]
pub struct Answer {
    pub cameras: Vec<Camera>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Camera {
    pub name: String,
    pub state: String,
    pub frames: Frames,
    pub fps_in: Option<f64>,
    pub latency_ms: Option<Latency>,
    pub tracks: u64,
}

/// Frames that came in, and by their fate.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub struct Frames {
    #[serde(rename = "in")]
    pub came: u64,
    pub in_flight: u64,
    pub inferred: u64,
    pub overrun: u64,
    pub stale: u64,
    pub skipped: u64,
    pub decode_error: u64,
    pub failed: u64,
}

/// From a frame's arrival to its events, over the last seconds.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Latency {
    pub p50: f64,
    pub p95: f64,
}

const HEAD: [&str; 12] = [
    "camera", "state", "fps in", "frames", "inferred", "overrun", "stale", "skipped", "errors", "p50 ms",
    "p95 ms", "tracks",
];

/// One line a camera under a line of names; columns as wide as their widest cell.
pub fn table(cameras: &[Camera]) -> String {
    let mut rows = vec![HEAD.map(str::to_owned)];
    rows.extend(cameras.iter().map(row));
    let mut widths = [0; HEAD.len()];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut out = String::new();
    for row in &rows {
        // Names to the left, numbers to the right.
        let cells = row.iter().zip(widths).enumerate().map(|(i, (cell, width))| match i {
            0 | 1 => format!("{cell:<width$}"),
            _ => format!("{cell:>width$}"),
        });
        out.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        out.push('\n');
    }
    out
}

fn row(camera: &Camera) -> [String; HEAD.len()] {
    let Frames { came, inferred, overrun, stale, skipped, decode_error, failed, .. } = camera.frames;
    let ms = |value: Option<f64>| value.map_or("-".to_owned(), |v| format!("{v:.0}"));
    [
        camera.name.clone(),
        camera.state.clone(),
        camera.fps_in.map_or("-".to_owned(), |fps| format!("{fps:.1}")),
        came.to_string(),
        inferred.to_string(),
        overrun.to_string(),
        stale.to_string(),
        skipped.to_string(),
        (decode_error + failed).to_string(),
        ms(camera.latency_ms.map(|l| l.p50)),
        ms(camera.latency_ms.map(|l| l.p95)),
        camera.tracks.to_string(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    const JSON: &str = r#"{"node":"n","cameras":[
      {"name":"arcade","state":"online","since":"x","reason":null,"video":{"width":768},"fps_in":24.96,
       "frames":{"in":1200,"in_flight":2,"inferred":1100,"overrun":3,"stale":95,"skipped":0,"decode_error":4,"failed":1},
       "latency_ms":{"p50":41.6,"p95":88.2},"tracks":7,"attempts":1},
      {"name":"exit","state":"connecting","fps_in":null,"latency_ms":null,"tracks":0,
       "frames":{"in":0,"in_flight":0,"inferred":0,"overrun":0,"stale":0,"skipped":0,"decode_error":0,"failed":0}}]}"#;

    #[test]
    fn the_table_lines_up() {
        let answer: Answer = serde_json::from_str(JSON).unwrap();
        assert_eq!(
            table(&answer.cameras),
            "camera  state       fps in  frames  inferred  overrun  stale  skipped  errors  p50 ms  p95 ms  tracks\n\
             arcade  online        25.0    1200      1100        3     95        0       5      42      88       7\n\
             exit    connecting       -       0         0        0      0        0       0       -       -       0\n"
        );
    }

    #[test]
    fn a_long_name_widens_its_column_only() {
        let mut answer: Answer = serde_json::from_str(JSON).unwrap();
        answer.cameras[0].name = "überwachung-nord-ost".into();
        let lines: Vec<String> = table(&answer.cameras).lines().map(str::to_owned).collect();
        let widths: Vec<usize> = lines.iter().map(|line| line.chars().count()).collect();
        assert!(lines[1].starts_with("überwachung-nord-ost  online"), "{lines:#?}");
        assert!(widths.iter().all(|w| *w == widths[0]), "{lines:#?}");
    }

    #[test]
    fn no_camera_still_has_a_head() {
        assert_eq!(table(&[]).lines().count(), 1);
    }
}
