//! Whether a polygon encloses something.

type Point = [f32; 2];

/// Smaller regions hold no foot point of anything: a hundredth of a percent of the picture.
const MIN_AREA: f64 = 1e-4;

/// What is wrong with a polygon of at least three corners, if anything.
pub(super) fn wrong(polygon: &[Point]) -> Option<&'static str> {
    let n = polygon.len();
    if (0..n).any(|i| (i + 1..n).any(|j| polygon[i] == polygon[j])) {
        return Some("a corner stands twice (the last one joins the first by itself)");
    }
    for i in 0..n {
        // Neighbours share a corner; all other pairs of sides must not meet.
        for j in i + 2..n {
            let neighbours = i == 0 && j == n - 1;
            if !neighbours && cross(side(polygon, i), side(polygon, j)) {
                return Some("two of its sides cross");
            }
        }
    }
    (area(polygon) < MIN_AREA).then_some("its corners are nearly on one line")
}

fn side(polygon: &[Point], i: usize) -> (Point, Point) {
    (polygon[i], polygon[(i + 1) % polygon.len()])
}

/// The shoelace formula.
fn area(polygon: &[Point]) -> f64 {
    let twice: f64 =
        (0..polygon.len()).map(|i| turn([0.0, 0.0], side(polygon, i).0, side(polygon, i).1)).sum();
    twice.abs() / 2.0
}

/// Twice the signed area of the triangle: which side of `ab` is `c` on?
fn turn(a: Point, b: Point, c: Point) -> f64 {
    let [a, b, c] = [a, b, c].map(|p| p.map(f64::from));
    (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
}

fn cross((a, b): (Point, Point), (c, d): (Point, Point)) -> bool {
    let differ = |x: f64, y: f64| (x > 0.0 && y < 0.0) || (x < 0.0 && y > 0.0);
    differ(turn(a, b, c), turn(a, b, d)) && differ(turn(c, d, a), turn(c, d, b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_is_good_and_an_hourglass_is_not() {
        assert_eq!(wrong(&[[0.1, 0.1], [0.5, 0.1], [0.5, 0.5], [0.1, 0.5]]), None);
        assert_eq!(wrong(&[[0.1, 0.1], [0.9, 0.1], [0.5, 0.3], [0.9, 0.9]]), None, "concave is good");
        let crossed = [[0.1, 0.1], [0.5, 0.5], [0.5, 0.1], [0.1, 0.5]];
        assert_eq!(wrong(&crossed), Some("two of its sides cross"));
        let flat = [[0.1, 0.1], [0.5, 0.5], [0.9, 0.9]];
        assert_eq!(wrong(&flat), Some("its corners are nearly on one line"));
        assert!(
            wrong(&[[0.1, 0.1], [0.5, 0.1], [0.5, 0.5], [0.1, 0.1]]).is_some_and(|w| w.contains("twice"))
        );
    }
}
