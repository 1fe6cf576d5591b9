//! The fault suite reaches every crash point there is in the code (`make chaos SCENARIO=crash-points`), and no other.

use steadfast::crash::Point;
use steadfast_tests::chaos::CRASH_POINTS;

#[test]
fn the_suite_knows_every_crash_point_of_the_code() {
    let known: Vec<&str> = CRASH_POINTS.iter().map(|(name, ..)| *name).collect();
    let there: Vec<&str> = Point::ALL.iter().map(|point| point.name()).collect();
    assert_eq!(known, there);
}
