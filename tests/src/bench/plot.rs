//! A line chart as SVG: how a cost changes with how much there is.

use std::fmt::Write;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 360.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 130.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 50.0;
/// Of the series, in turn: dark enough on white, and told apart by people who see few colours.
const COLOURS: [&str; 7] = [
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#444444",
];
/// About so many marks on an axis.
const MARKS: f64 = 5.0;

#[derive(Debug, Clone)]
pub struct Plot {
    /// Of the file, without its ending.
    pub name: String,
    pub title: String,
    /// What the axes measure, with the unit.
    pub x: String,
    pub y: String,
    /// Equal steps along the axis of x are equal factors.
    pub logarithmic: bool,
    pub series: Vec<Series>,
}

#[derive(Debug, Clone)]
pub struct Series {
    pub name: String,
    pub points: Vec<(f64, f64)>,
}

/// From numbers to places along an axis.
struct Scale {
    low: f64,
    high: f64,
    logarithmic: bool,
    from: f64,
    to: f64,
}

impl Scale {
    fn at(&self, value: f64) -> f64 {
        let place = |value: f64| {
            if self.logarithmic {
                value.max(1e-9).log10()
            } else {
                value
            }
        };
        let (low, high) = (place(self.low), place(self.high));
        let share = if high > low {
            (place(value) - low) / (high - low)
        } else {
            0.5
        };
        self.from + share * (self.to - self.from)
    }

    /// Round numbers within the scale.
    fn marks(&self) -> Vec<f64> {
        let within = |mark: &f64| *mark >= self.low * 0.999 && *mark <= self.high * 1.001;
        if self.logarithmic {
            return (0..=12).map(|power| 10_f64.powi(power)).filter(within).collect();
        }
        let step = round_step((self.high - self.low) / MARKS);
        let first = (self.low / step).ceil() as i64;
        let count = ((self.high - self.low) / step) as i64 + 1;
        (first..=first + count)
            .map(|n| n as f64 * step)
            .filter(within)
            .collect()
    }
}

/// The next of 1, 2, 5, 10, 20 … and of their tenths.
fn round_step(least: f64) -> f64 {
    let power = 10_f64.powf(least.max(1e-9).log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|step| step * power);
    steps
        .into_iter()
        .find(|step| *step >= least * 0.999)
        .unwrap_or(10.0 * power)
}

impl Plot {
    /// None without two points to join.
    pub fn svg(&self) -> Option<String> {
        let finite = |point: &&(f64, f64)| point.0.is_finite() && point.1.is_finite();
        let points: Vec<&(f64, f64)> = self
            .series
            .iter()
            .flat_map(|series| &series.points)
            .filter(finite)
            .collect();
        if points.len() < 2 {
            return None;
        }
        let (low, high) = points.iter().fold((f64::MAX, f64::MIN), |(low, high), point| {
            (low.min(point.0), high.max(point.0))
        });
        let top = points.iter().map(|point| point.1).fold(0.0, f64::max);
        let x = Scale {
            low: if self.logarithmic { low } else { 0.0 },
            high,
            logarithmic: self.logarithmic,
            from: LEFT,
            to: WIDTH - RIGHT,
        };
        // From nothing: a cost that doubles must look it.
        let y = Scale {
            low: 0.0,
            high: if top > 0.0 { top * 1.05 } else { 1.0 },
            logarithmic: false,
            from: HEIGHT - BOTTOM,
            to: TOP,
        };
        Some(self.draw(&x, &y))
    }

    fn draw(&self, x: &Scale, y: &Scale) -> String {
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
             font-size=\"12\">\n<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n"
        );
        let mut put = |text: String| svg.push_str(&text);
        let label = |at: (f64, f64), anchor: &str, text: &str| {
            format!(
                "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{}</text>\n",
                at.0,
                at.1,
                escaped(text)
            )
        };
        let line = |from: (f64, f64), to: (f64, f64), colour: &str| {
            let ((x1, y1), (x2, y2)) = (from, to);
            format!("<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"{colour}\"/>\n")
        };
        put(label((LEFT, TOP - 18.0), "start", &self.title));
        put(label(((x.from + x.to) / 2.0, HEIGHT - 12.0), "middle", &self.x));
        put(label((LEFT, TOP - 4.0), "start", &self.y));
        for mark in y.marks() {
            put(line((x.from, y.at(mark)), (x.to, y.at(mark)), "#dddddd"));
            put(label((x.from - 6.0, y.at(mark) + 4.0), "end", &shown(mark)));
        }
        for mark in x.marks() {
            put(line((x.at(mark), y.from), (x.at(mark), y.from + 4.0), "#444444"));
            put(label((x.at(mark), y.from + 18.0), "middle", &shown(mark)));
        }
        put(line((x.from, y.from), (x.to, y.from), "#444444"));
        for (n, series) in self.series.iter().enumerate() {
            let colour = COLOURS[n % COLOURS.len()];
            let mut places = String::new();
            for point in &series.points {
                if point.0.is_finite() && point.1.is_finite() {
                    let _ = write!(places, "{:.1},{:.1} ", x.at(point.0), y.at(point.1));
                }
            }
            put(format!(
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>\n",
                places.trim()
            ));
            let at = TOP + 16.0 * n as f64;
            put(line((x.to + 10.0, at), (x.to + 30.0, at), colour));
            put(label((x.to + 36.0, at + 4.0), "start", &series.name));
        }
        svg + "</svg>\n"
    }
}

/// Short: 10,000 is 10k.
fn shown(value: f64) -> String {
    let (value, unit) = match value.abs() {
        at if at >= 1e6 => (value / 1e6, "M"),
        at if at >= 1e4 => (value / 1e3, "k"),
        _ => (value, ""),
    };
    let text = format!("{value:.3}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    format!("{text}{unit}")
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plot(points: &[(f64, f64)], logarithmic: bool) -> Plot {
        Plot {
            name: "growth".into(),
            title: "cost & size".into(),
            x: "events".into(),
            y: "ms".into(),
            logarithmic,
            series: vec![Series {
                name: "worker".into(),
                points: points.into(),
            }],
        }
    }

    #[test]
    fn a_line_goes_from_corner_to_corner() {
        let svg = plot(&[(1_000.0, 0.0), (f64::NAN, 1.0), (1_000_000.0, 2.0)], true)
            .svg()
            .unwrap();
        assert!(svg.contains("points=\"70.0,310.0 590.0,52.9\""), "{svg}");
        for text in [">1000<", ">10k<", ">1M<", ">0.5<", "cost &amp; size", ">worker<"] {
            assert!(svg.contains(text), "{text} in {svg}");
        }
        assert!(plot(&[(1.0, 1.0)], false).svg().is_none());
    }

    #[test]
    fn marks_are_round_numbers() {
        assert_eq!([0.3, 0.011, 3.0, 7.0].map(round_step), [0.5, 0.02, 5.0, 10.0]);
        let scale = Scale {
            low: 0.0,
            high: 500.0,
            logarithmic: false,
            from: 0.0,
            to: 1.0,
        };
        assert_eq!(scale.marks(), [0.0, 100.0, 200.0, 300.0, 400.0, 500.0]);
    }
}
