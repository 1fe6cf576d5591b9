//! The little statistics that figures need.

use std::fmt;

/// By nearest rank; of nothing it is not a number.
pub fn percentile(values: &[f64], percent: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (percent / 100.0 * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied().unwrap_or(f64::NAN)
}

pub fn median(values: &[f64]) -> f64 {
    percentile(values, 50.0)
}

pub fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// How much larger the second of each pair is, with what chance leaves open.
#[derive(Debug, Clone, Copy)]
pub struct Ratio {
    pub ratio: f64,
    /// The interval in which the true ratio lies, at 95 %. Without at least two pairs it is everything.
    pub low: f64,
    pub high: f64,
}

impl Ratio {
    /// From pairs measured right after each other, by Student's t on the logarithms of their ratios: what disturbed both
    /// of a pair falls out.
    pub fn of(pairs: &[(f64, f64)]) -> Self {
        let logs: Vec<f64> = pairs.iter().map(|(one, other)| (other / one).ln()).collect();
        let (n, centre) = (logs.len() as f64, mean(&logs));
        let spread = if logs.len() < 2 {
            f64::INFINITY
        } else {
            let variance = logs.iter().map(|log| (log - centre).powi(2)).sum::<f64>() / (n - 1.0);
            student_t(logs.len() - 1) * (variance / n).sqrt()
        };
        Self {
            ratio: centre.exp(),
            low: (centre - spread).exp(),
            high: (centre + spread).exp(),
        }
    }

    /// Whether chance alone hardly explains it.
    pub fn is_a_difference(&self) -> bool {
        self.low > 1.0 || self.high < 1.0
    }
}

/// Two-sided, 95 %.
fn student_t(freedom: usize) -> f64 {
    const TABLE: [f64; 30] = [
        12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
        2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
    ];
    match freedom {
        0 => f64::INFINITY,
        n => TABLE.get(n - 1).copied().unwrap_or(1.98),
    }
}

/// How the cost of one more (step, turn, event, stream) changes with how many there are already.
#[derive(Debug, Clone, Copy)]
pub struct Growth {
    /// The mean cost of one among the first third, and among the last.
    pub first: f64,
    pub last: f64,
    /// Of n in the total: 1 is linear, 2 the square.
    pub exponent: f64,
}

/// What noise may add to the exponent.
const NOISE: f64 = 0.1;

impl Growth {
    /// From how many there were and what one more cost then. None with fewer than three points, or costs that are none.
    pub fn of(points: &[(f64, f64)]) -> Option<Self> {
        let usable = |(n, cost): &&(f64, f64)| *n > 0.0 && *cost > 0.0 && cost.is_finite();
        let points: Vec<(f64, f64)> = points.iter().filter(usable).copied().collect();
        if points.len() < 3 {
            return None;
        }
        let logs: Vec<(f64, f64)> = points.iter().map(|(n, cost)| (n.ln(), cost.ln())).collect();
        let x = mean(&logs.iter().map(|log| log.0).collect::<Vec<_>>());
        let y = mean(&logs.iter().map(|log| log.1).collect::<Vec<_>>());
        let slope = logs.iter().map(|log| (log.0 - x) * (log.1 - y)).sum::<f64>()
            / logs.iter().map(|log| (log.0 - x).powi(2)).sum::<f64>();
        let third = points.len() / 3;
        let cost = |points: &[(f64, f64)]| mean(&points.iter().map(|point| point.1).collect::<Vec<_>>());
        Some(Self {
            first: cost(&points[..third]),
            last: cost(&points[points.len() - third..]),
            exponent: 1.0 + slope,
        })
    }

    pub fn is_worse_than_linear(&self) -> bool {
        self.exponent > 1.0 + NOISE
    }
}

impl fmt::Display for Growth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.is_worse_than_linear() {
            "WORSE THAN LINEAR"
        } else {
            "not worse than linear"
        };
        let Self { first, last, exponent } = self;
        write!(
            f,
            "{first:.3} in the first third, {last:.3} in the last; the total grows as n^{exponent:.2}: {verdict}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let values: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        assert_eq!(
            (percentile(&values, 50.0), percentile(&values, 99.0), median(&[7.0])),
            (100.0, 198.0, 7.0)
        );
        assert!(percentile(&[], 50.0).is_nan());
    }

    #[test]
    fn a_ratio_comes_with_what_chance_leaves_open() {
        // Both of a pair twice as slow the second time: the ratio does not care.
        let steady = Ratio::of(&[(100.0, 110.0), (50.0, 55.0), (80.0, 88.0)]);
        assert!((steady.ratio - 1.1).abs() < 1e-9 && steady.is_a_difference());
        assert!((steady.low - 1.1).abs() < 1e-6 && (steady.high - 1.1).abs() < 1e-6);
        // Logarithms 0.1 and -0.1: their mean 0, standard error 0.1, t 12.706.
        let noise = Ratio::of(&[(1.0, 0.1_f64.exp()), (1.0, (-0.1_f64).exp())]);
        assert!((noise.ratio - 1.0).abs() < 1e-9 && (noise.high.ln() - 1.2706).abs() < 1e-3);
        assert!(!noise.is_a_difference());
        let one = Ratio::of(&[(1.0, 2.0)]);
        assert!(one.ratio == 2.0 && one.low == 0.0 && one.high.is_infinite());
    }

    #[test]
    fn growth_is_told_from_the_cost_of_one_more() {
        let of = |cost: fn(f64) -> f64| {
            let points: Vec<(f64, f64)> = (1..=50).map(|n| (f64::from(n), cost(f64::from(n)))).collect();
            Growth::of(&points).unwrap()
        };
        let constant = of(|_| 3.0);
        assert!((constant.exponent - 1.0).abs() < 1e-9 && !constant.is_worse_than_linear());
        assert_eq!((constant.first, constant.last), (3.0, 3.0));
        let square = of(|n| 0.5 * n);
        assert!((square.exponent - 2.0).abs() < 1e-9 && square.is_worse_than_linear());
        assert!(!of(|n| 3.0 / n).is_worse_than_linear());
        assert!(Growth::of(&[(1.0, 2.0), (2.0, 0.0), (3.0, f64::NAN)]).is_none());
    }
}
