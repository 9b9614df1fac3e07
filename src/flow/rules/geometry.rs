//! Points, polygons and lines in pixels of the picture; y grows downwards.

/// x, y.
pub(super) type Point = [f32; 2];

/// How far inside or outside a polygon `p` is: 0 inside and on the border, else the distance to it.
pub(super) fn outside_by(p: Point, polygon: &[Point]) -> f32 {
    let mut inside = false;
    let mut distance = f32::INFINITY;
    for (a, b) in edges(polygon) {
        // Even-odd rule: count the edges that a ray to the right meets. Half open, so that a corner counts once.
        if (a[1] > p[1]) != (b[1] > p[1]) && p[0] < a[0] + (p[1] - a[1]) / (b[1] - a[1]) * (b[0] - a[0]) {
            inside = !inside;
        }
        distance = distance.min(distance_to_segment(p, a, b));
    }
    if inside { 0.0 } else { distance }
}

fn edges(polygon: &[Point]) -> impl Iterator<Item = (Point, Point)> {
    polygon.iter().copied().zip(polygon.iter().copied().cycle().skip(1))
}

fn distance_to_segment(p: Point, a: Point, b: Point) -> f32 {
    let (ab, ap) = (sub(b, a), sub(p, a));
    let length2 = dot(ab, ab);
    let along = if length2 > 0.0 { (dot(ap, ab) / length2).clamp(0.0, 1.0) } else { 0.0 };
    let off = sub(ap, [ab[0] * along, ab[1] * along]);
    dot(off, off).sqrt()
}

/// Signed distance of `p` from the endless line through `a` and `b`: negative on the left for one who
/// looks from `a` to `b` at the picture. 0 when the line has no length.
pub(super) fn side_of(p: Point, [a, b]: [Point; 2]) -> f32 {
    let ab = sub(b, a);
    let length = dot(ab, ab).sqrt();
    if length > 0.0 { cross(ab, sub(p, a)) / length } else { 0.0 }
}

/// Whether the way from `p` to `q`, which lie on different sides of the line, passes between its ends.
/// The ends belong to the line.
pub(super) fn passes_between(p: Point, q: Point, [a, b]: [Point; 2]) -> bool {
    let way = sub(q, p);
    let (to_a, to_b) = (cross(way, sub(a, p)), cross(way, sub(b, p)));
    (to_a <= 0.0 && to_b >= 0.0) || (to_a >= 0.0 && to_b <= 0.0)
}

fn sub(p: Point, q: Point) -> Point {
    [p[0] - q[0], p[1] - q[1]]
}

fn dot(p: Point, q: Point) -> f32 {
    p[0] * q[0] + p[1] * q[1]
}

fn cross(p: Point, q: Point) -> f32 {
    p[0] * q[1] - p[1] * q[0]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SQUARE: [Point; 4] = [[10.0, 10.0], [30.0, 10.0], [30.0, 30.0], [10.0, 30.0]];

    #[test]
    fn the_border_belongs_to_the_polygon() {
        for p in [[10.0, 10.0], [20.0, 10.0], [30.0, 30.0], [10.0, 20.0], [20.0, 20.0]] {
            assert_eq!(outside_by(p, &SQUARE), 0.0, "{p:?}");
        }
        assert_eq!(outside_by([5.0, 20.0], &SQUARE), 5.0);
        assert_eq!(outside_by([33.0, 34.0], &SQUARE), 5.0);
    }

    #[test]
    fn left_is_up_for_a_line_that_runs_to_the_right() {
        let line = [[0.0, 10.0], [20.0, 10.0]];
        assert_eq!(side_of([5.0, 4.0], line), -6.0);
        assert_eq!(side_of([5.0, 12.0], line), 2.0);
    }

    proptest! {
        /// For a convex polygon, inside is what lies on the same side of all edges.
        #[test]
        fn inside_agrees_with_half_planes(
            angles in prop::collection::btree_set(0u16..360, 3..9),
            x in -1.5f32..1.5,
            y in -1.5f32..1.5,
        ) {
            let circle: Vec<Point> =
                angles.iter().map(|a| f32::from(*a).to_radians()).map(|a| [a.cos(), a.sin()]).collect();
            let least = edges(&circle).map(|(a, b)| side_of([x, y], [a, b])).fold(f32::INFINITY, f32::min);
            prop_assume!(least.abs() > 1e-3);
            prop_assert_eq!(outside_by([x, y], &circle) == 0.0, least > 0.0);
        }

        /// A way through a known point of the line passes between its ends exactly when the point is between them.
        #[test]
        fn passing_is_decided_by_where_the_line_is_met(
            at in -1.0f32..2.0,
            from in (-50.0f32..50.0, 1.0f32..50.0),
            beyond in 0.1f32..2.0,
        ) {
            let line = [[100.0, 100.0], [200.0, 100.0]];
            prop_assume!((at - 0.0).abs() > 1e-2 && (at - 1.0).abs() > 1e-2);
            let met = [100.0 + 100.0 * at, 100.0];
            let p = [met[0] + from.0, met[1] - from.1];
            let q = [met[0] - from.0 * beyond, met[1] + from.1 * beyond];
            prop_assert_eq!(passes_between(p, q, line), (0.0..=1.0).contains(&at));
        }
    }
}
