//! A number that is whole and exact while it can be, and a float from there on.

use std::str::FromStr;

/// Beyond this a float no longer tells neighbouring whole numbers apart.
const WHOLE_REAL_MAX: f64 = 9_007_199_254_740_992.0;
/// A float keeps this many decimal digits through any conversion.
const DIGITS: usize = 15;

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Number {
    Whole(i128),
    Real(f64),
}

impl Default for Number {
    fn default() -> Self {
        Self::Whole(0)
    }
}

impl FromStr for Number {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let real = || {
            text.parse()
                .map(Self::Real)
                .map_err(|_| format!("{text:?} is not a number"))
        };
        text.parse().map(Self::Whole).or_else(|_| real())
    }
}

impl Number {
    pub fn real(self) -> f64 {
        match self {
            Self::Whole(whole) => whole as f64,
            Self::Real(real) => real,
        }
    }

    pub fn map(self, f: fn(f64) -> f64) -> Self {
        Self::Real(f(self.real()))
    }

    /// A rounding: leaves what is whole as it is.
    pub fn to_whole(self, round: fn(f64) -> f64) -> Self {
        match self {
            Self::Whole(_) => self,
            Self::Real(real) => Self::Real(round(real)),
        }
    }

    pub fn neg(self) -> Self {
        self.either(i128::checked_neg, |real| -real)
    }

    pub fn abs(self) -> Self {
        self.either(i128::checked_abs, f64::abs)
    }

    pub fn add(self, other: Self) -> Self {
        self.both(other, i128::checked_add, |a, b| a + b)
    }

    pub fn sub(self, other: Self) -> Self {
        self.both(other, i128::checked_sub, |a, b| a - b)
    }

    pub fn mul(self, other: Self) -> Self {
        self.both(other, i128::checked_mul, |a, b| a * b)
    }

    /// Exact where it comes out even. A division by 0 has no value rather than an infinite one, which a further
    /// division would turn into a 0 that looks like a result.
    pub fn div(self, other: Self) -> Self {
        if other.real() == 0.0 {
            return Self::Real(f64::NAN);
        }
        self.both(
            other,
            |a, b| (a.checked_rem(b)? == 0).then(|| a.checked_div(b)).flatten(),
            |a, b| a / b,
        )
    }

    pub fn rem(self, other: Self) -> Self {
        self.both(other, i128::checked_rem, |a, b| a % b)
    }

    pub fn pow(self, other: Self) -> Self {
        self.both(other, |a, b| a.checked_pow(u32::try_from(b).ok()?), f64::powf)
    }

    /// In decimal digits; an error where there is no such number.
    pub fn shown(self) -> Result<String, &'static str> {
        let real = match self {
            Self::Whole(whole) => return Ok(whole.to_string()),
            Self::Real(real) => real,
        };
        if real.is_nan() {
            return Err("it has no value (a division by 0, or a function outside of its domain)");
        }
        if real.is_infinite() {
            return Err("it is too large a number");
        }
        if real.fract() == 0.0 && real.abs() < WHOLE_REAL_MAX {
            return Ok((real as i64).to_string());
        }
        // 15 digits take away what binary fractions add: 0.1 + 0.2 is 0.3.
        let rounded = format!("{real:.*e}", DIGITS - 1).parse().unwrap_or(real);
        let plain = (1e-6..1e15).contains(&rounded.abs());
        Ok(if plain {
            format!("{rounded}")
        } else {
            format!("about {rounded:e}")
        })
    }

    fn either(self, whole: fn(i128) -> Option<i128>, real: fn(f64) -> f64) -> Self {
        match self {
            Self::Whole(a) => whole(a).map_or_else(|| Self::Real(real(a as f64)), Self::Whole),
            Self::Real(a) => Self::Real(real(a)),
        }
    }

    fn both(self, other: Self, whole: fn(i128, i128) -> Option<i128>, real: fn(f64, f64) -> f64) -> Self {
        let exact = match (self, other) {
            (Self::Whole(a), Self::Whole(b)) => whole(a, b),
            _ => None,
        };
        exact.map_or_else(|| Self::Real(real(self.real(), other.real())), Self::Whole)
    }
}
