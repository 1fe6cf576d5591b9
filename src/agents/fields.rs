//! Reading one value out of a TOML table: its type, its range, and where it stands.

use std::{
    fmt,
    ops::{Range, RangeInclusive},
    path::Path,
};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

/// One thing that is wrong, and what would put it right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub file: String,
    /// From 1; 0 where the file as a whole is meant.
    pub line: usize,
    pub column: usize,
    /// Such as `limits.steps_max`; empty where the file as a whole is meant.
    pub field: String,
    pub message: String,
}

impl Problem {
    pub(super) fn of_file(path: &Path, message: String) -> Self {
        Self {
            file: path.display().to_string(),
            line: 0,
            column: 0,
            field: String::new(),
            message,
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.line, self.field.as_str()) {
            (0, _) => write!(f, "{}: {}", self.file, self.message),
            (line, "") => write!(f, "{}:{line}:{}: {}", self.file, self.column, self.message),
            (line, field) => write!(f, "{}:{line}:{}: {field}: {}", self.file, self.column, self.message),
        }
    }
}

/// One file under examination: collects what is wrong instead of stopping at the first.
pub(super) struct Checker<'a> {
    file: String,
    text: &'a str,
    pub problems: Vec<Problem>,
}

/// A table and the dotted path that leads to it.
#[derive(Clone, Copy)]
pub(super) struct At<'a, 'i> {
    pub path: &'static str,
    pub table: &'a DeTable<'i>,
}

impl At<'_, '_> {
    pub fn field(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.into()
        } else {
            format!("{}.{key}", self.path)
        }
    }
}

impl<'a> Checker<'a> {
    pub fn new(path: &Path, text: &'a str) -> Self {
        Self {
            file: path.display().to_string(),
            text,
            problems: Vec::new(),
        }
    }

    /// Line and column, from 1, columns in characters.
    pub fn place(&self, offset: usize) -> (usize, usize) {
        let before = self.text.get(..offset).unwrap_or(self.text);
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        (
            before.matches('\n').count() + 1,
            before[line_start..].chars().count() + 1,
        )
    }

    pub fn report(&mut self, span: Range<usize>, field: impl Into<String>, message: impl Into<String>) {
        let problem = self.problem(span, field.into(), message.into());
        self.problems.push(problem);
    }

    pub fn problem(&self, span: Range<usize>, field: String, message: String) -> Problem {
        let (line, column) = self.place(span.start);
        Problem {
            file: self.file.clone(),
            line,
            column,
            field,
            message,
        }
    }

    pub fn unknown_keys(&mut self, at: At<'_, '_>, known: &[&str]) {
        for key in at.table.keys() {
            let name: &str = key.get_ref();
            if !known.contains(&name) {
                let message = format!("is not a key of an agent file; {}", remedy(name, known.iter().copied()));
                self.report(key.span(), at.field(name), message);
            }
        }
    }

    pub fn string(&mut self, at: At<'_, '_>, key: &str) -> Option<Spanned<String>> {
        let value = at.table.get(key)?;
        match value.get_ref() {
            DeValue::String(text) => Some(Spanned::new(value.span(), text.to_string())),
            other => self.wrong_type(at, key, value.span(), "a string in quotes", other),
        }
    }

    pub fn integer(&mut self, at: At<'_, '_>, key: &str, range: RangeInclusive<u64>) -> Option<u64> {
        let value = at.table.get(key)?;
        let DeValue::Integer(integer) = value.get_ref() else {
            return self.wrong_type(at, key, value.span(), "a whole number", value.get_ref());
        };
        let number = u64::from_str_radix(integer.as_str(), integer.radix())
            .ok()
            .filter(|n| range.contains(n));
        if number.is_none() {
            let message = format!("{integer} is out of range; give {} to {}", range.start(), range.end());
            self.report(value.span(), at.field(key), message);
        }
        number
    }

    pub fn number(&mut self, at: At<'_, '_>, key: &str, range: RangeInclusive<f64>) -> Option<f64> {
        let value = at.table.get(key)?;
        let text = match value.get_ref() {
            DeValue::Float(float) => float.as_str(),
            DeValue::Integer(integer) if integer.radix() == 10 => integer.as_str(),
            other => return self.wrong_type(at, key, value.span(), "a number", other),
        };
        let number = text.parse().ok().filter(|n| range.contains(n));
        if number.is_none() {
            let message = format!("{text} is out of range; give {} to {}", range.start(), range.end());
            self.report(value.span(), at.field(key), message);
        }
        number
    }

    pub fn strings(&mut self, at: At<'_, '_>, key: &str) -> Vec<Spanned<String>> {
        let Some(value) = at.table.get(key) else {
            return Vec::new();
        };
        let DeValue::Array(items) = value.get_ref() else {
            let none: Option<Spanned<String>> =
                self.wrong_type(at, key, value.span(), "a list of strings", value.get_ref());
            return none.into_iter().collect();
        };
        let mut texts = Vec::new();
        for (place, item) in items.iter().enumerate() {
            match item.get_ref() {
                DeValue::String(text) => texts.push(Spanned::new(item.span(), text.to_string())),
                other => {
                    let message = format!("must be a string in quotes, not {}", type_name(other));
                    self.report(item.span(), format!("{}[{place}]", at.field(key)), message);
                }
            }
        }
        texts
    }

    pub fn table<'t, 'i>(&mut self, at: At<'t, 'i>, key: &'static str) -> Option<At<'t, 'i>> {
        let value = at.table.get(key)?;
        match value.get_ref() {
            DeValue::Table(table) => Some(At { path: key, table }),
            other => self.wrong_type(at, key, value.span(), "a table", other),
        }
    }

    fn wrong_type<T>(
        &mut self,
        at: At<'_, '_>,
        key: &str,
        span: Range<usize>,
        wanted: &str,
        found: &DeValue<'_>,
    ) -> Option<T> {
        self.report(
            span,
            at.field(key),
            format!("must be {wanted}, not {}", type_name(found)),
        );
        None
    }
}

fn type_name(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// "did you mean …" where something is near, and all there is in any case.
pub(super) fn remedy<'k>(name: &str, known: impl Iterator<Item = &'k str> + Clone) -> String {
    const NEAR_ENOUGH: f64 = 0.8;
    let nearest = (known.clone())
        .map(|candidate| (strsim::jaro_winkler(name, candidate), candidate))
        .filter(|(nearness, _)| *nearness >= NEAR_ENOUGH)
        .max_by(|(a, _), (b, _)| a.total_cmp(b));
    let all: Vec<&str> = known.collect();
    let all = if all.is_empty() {
        "there are none".into()
    } else {
        format!("there are: {}", all.join(", "))
    };
    match nearest {
        Some((_, candidate)) => format!("did you mean {candidate:?}? ({all})"),
        None => all,
    }
}
