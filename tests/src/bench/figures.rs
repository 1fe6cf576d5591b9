//! What a measurement found: tables for people and, from the same cells, JSON for programs.

use std::fmt::{self, Write};

use serde_json::{Map, Value, json};

use super::plot::Plot;

#[derive(Debug, Default)]
pub struct Figures {
    pub tables: Vec<Table>,
    pub plots: Vec<Plot>,
    /// How the system was set up.
    pub settings: Map<String, Value>,
    /// What the tables do not say by themselves.
    pub notes: Vec<String>,
    /// What broke or was lost: a measurement with one of these is none.
    pub faults: Vec<String>,
}

#[derive(Debug)]
pub struct Table {
    title: String,
    /// Names as in JSON, with their unit.
    columns: Vec<String>,
    rows: Vec<Vec<Cell>>,
    /// People are shown every so many rows.
    shown_every: usize,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Cell {
    Text(String),
    Number { value: f64, decimals: usize },
}

/// A number, shown with so many decimals.
pub fn number(value: f64, decimals: usize) -> Cell {
    Cell::Number { value, decimals }
}

/// A whole number.
pub fn count(value: impl TryInto<u64>) -> Cell {
    let value: u64 = value.try_into().unwrap_or(u64::MAX);
    number(value as f64, 0)
}

pub fn text(text: impl Into<String>) -> Cell {
    Cell::Text(text.into())
}

impl Table {
    pub fn new<C: Into<String>>(title: impl Into<String>, columns: impl IntoIterator<Item = C>) -> Self {
        Self {
            title: title.into(),
            columns: columns.into_iter().map(Into::into).collect(),
            rows: vec![],
            shown_every: 1,
        }
    }

    /// People are shown the first row and every n-th; JSON has all.
    pub fn shown_every(self, n: usize) -> Self {
        Self {
            shown_every: n.max(1),
            ..self
        }
    }

    pub fn row(&mut self, cells: impl IntoIterator<Item = Cell>) {
        self.rows.push(cells.into_iter().collect());
    }

    fn json(&self) -> Value {
        let row = |row: &Vec<Cell>| {
            let cells = self.columns.iter().cloned().zip(row.iter().map(Cell::json));
            Value::Object(cells.collect())
        };
        json!({"title": self.title, "rows": self.rows.iter().map(row).collect::<Vec<_>>()})
    }
}

impl Cell {
    fn json(&self) -> Value {
        match self {
            Self::Text(text) => text.as_str().into(),
            // What is no number (a level without a single run) is null.
            Self::Number { value, .. } => json!(value),
        }
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Number { value, .. } if !value.is_finite() => f.write_str("–"),
            Self::Number { value, decimals } => f.write_str(&grouped(*value, *decimals)),
        }
    }
}

/// With a comma before every three digits.
fn grouped(value: f64, decimals: usize) -> String {
    let plain = format!("{value:.decimals$}");
    let (sign, rest) = plain.strip_prefix('-').map_or(("", plain.as_str()), |rest| ("-", rest));
    let (whole, fraction) = rest.split_at(rest.find('.').unwrap_or(rest.len()));
    let mut text = sign.to_owned();
    for (at, digit) in whole.char_indices() {
        if at > 0 && (whole.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text + fraction
}

impl fmt::Display for Table {
    /// Markdown, aligned.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.rows.iter().enumerate();
        let shown = shown.filter(|(at, _)| *at == 0 || (at + 1).is_multiple_of(self.shown_every));
        let mut lines: Vec<Vec<String>> = vec![self.columns.iter().map(|name| name.replace('_', " ")).collect()];
        lines.extend(shown.map(|(_, row)| row.iter().map(Cell::to_string).collect()));
        let width = |column: usize| {
            let cells = lines.iter().filter_map(|line| line.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.columns.len()).map(width).collect();
        writeln!(f, "{}\n", self.title)?;
        for (at, line) in lines.iter().enumerate() {
            let cells = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:>width$}"));
            writeln!(f, "| {} |", cells.collect::<Vec<_>>().join(" | "))?;
            if at == 0 {
                let rules: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
                writeln!(f, "| {} |", rules.join(" | "))?;
            }
        }
        Ok(())
    }
}

impl Figures {
    pub fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    pub fn fault(&mut self, fault: impl Into<String>) {
        self.faults.push(fault.into());
    }

    /// A fault, unless this holds.
    pub fn require(&mut self, holds: bool, otherwise: impl Into<String>) {
        if !holds {
            self.fault(otherwise);
        }
    }

    pub fn ok(&self) -> bool {
        self.faults.is_empty()
    }

    pub fn json(&self) -> Value {
        json!({
            "ok": self.ok(),
            "settings": self.settings,
            "tables": self.tables.iter().map(Table::json).collect::<Vec<_>>(),
            "notes": self.notes,
            "faults": self.faults,
        })
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for table in &self.tables {
            writeln!(f, "\n{table}")?;
        }
        for note in &self.notes {
            writeln!(f, "- {note}")?;
        }
        let mut settings = String::new();
        for (name, value) in &self.settings {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            write!(
                settings,
                "{} {name} {value}",
                if settings.is_empty() { "" } else { "," }
            )?;
        }
        if !settings.is_empty() {
            writeln!(f, "- settings:{settings}")?;
        }
        for fault in &self.faults {
            writeln!(f, "- FAULT {fault}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_and_programs_get_the_same_cells() {
        let mut table = Table::new("levels", ["clients", "runs_per_second"]);
        table.row([count(1_usize), number(12_345.678, 1)]);
        table.row([count(16_usize), number(f64::NAN, 1)]);
        let shown = table.to_string();
        assert!(shown.contains("| clients | runs per second |"), "{shown}");
        assert!(shown.contains("|       1 |        12,345.7 |"), "{shown}");
        assert!(shown.contains("|      16 |               – |"), "{shown}");
        let rows = &table.json()["rows"];
        assert_eq!(rows[0], json!({"clients": 1.0, "runs_per_second": 12_345.678}));
        assert_eq!(rows[1]["runs_per_second"], Value::Null);
    }

    #[test]
    fn numbers_are_grouped_by_thousands() {
        assert_eq!(grouped(-1_234_567.25, 2), "-1,234,567.25");
        assert_eq!(grouped(999.0, 0), "999");
    }

    #[test]
    fn of_many_rows_people_see_some() {
        let mut table = Table::new("", ["step"]).shown_every(5);
        (1..=10_usize).for_each(|n| table.row([count(n)]));
        let rows = table.to_string().lines().filter(|line| line.starts_with('|')).count();
        assert_eq!((rows, table.rows.len()), (2 + 3, 10));
    }

    #[test]
    fn a_measurement_in_which_something_broke_is_none() {
        let mut figures = Figures::default();
        figures.require(true, "all is well");
        assert!(figures.ok());
        figures.require(false, "3 runs were lost");
        assert!(!figures.ok() && figures.to_string().contains("FAULT 3 runs were lost"));
    }
}
