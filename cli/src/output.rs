//! Results go to stdout; everything about how they come about goes to stderr.

use std::io::{self, ErrorKind, IsTerminal, Write};

use crate::error::Failure;

/// Writes to stdout and flushes, so that whoever waits sees it now.
pub fn write(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
        .map_err(|error| match error.kind() {
            ErrorKind::BrokenPipe => Failure::OutputClosed,
            _ => Failure::new(format!("cannot write the output: {error}")),
        })
}

pub fn line(text: &str) -> Result<(), Failure> {
    write(&format!("{text}\n"))
}

/// A result for programs: indented JSON.
pub fn json(value: &impl serde::Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).map_err(|error| Failure::new(format!("no JSON: {error}")))?;
    line(&text)
}

/// A remark on stderr, dim where that is a terminal. Who closed stderr does not want to hear it.
pub fn note(text: &str) {
    let mut stderr = io::stderr().lock();
    let dim = stderr.is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let _ = if dim {
        writeln!(stderr, "\x1b[2m{text}\x1b[0m")
    } else {
        writeln!(stderr, "{text}")
    };
}

/// Text from elsewhere (a model, a tool, a client), with all that could steer a terminal taken out.
pub fn clean(text: &str) -> String {
    let steers = |c: char| {
        (c.is_control() && c != '\n' && c != '\t') || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars().map(|c| if steers(c) { '\u{fffd}' } else { c }).collect()
}

/// The same in one line of at most so many characters.
pub fn excerpt(text: &str, chars_max: usize) -> String {
    let line = clean(text).split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(chars_max) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

/// Rows under headings, each column as wide as its widest cell; the last is not padded.
pub fn table(headings: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows
            .iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count());
        cells.max().unwrap_or(0).max(headings[column].chars().count())
    };
    let widths: Vec<usize> = (0..headings.len()).map(width).collect();
    let render = |cells: Vec<&str>| {
        let padded: Vec<String> = (cells.iter().zip(&widths))
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        padded.join("  ").trim_end().to_owned() + "\n"
    };
    let mut text = render(headings.to_vec());
    for row in rows {
        text += &render(row.iter().map(String::as_str).collect());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_model_says_cannot_steer_the_terminal() {
        assert_eq!(clean("a\x1b[2Jb\u{202e}\n\tc"), "a\u{fffd}[2Jb\u{fffd}\n\tc");
        assert_eq!(excerpt("one\n two  three", 7), "one two…");
    }

    #[test]
    fn a_table_is_as_wide_as_its_cells() {
        let rows = vec![vec!["run_1".to_owned(), "done".to_owned()]];
        assert_eq!(table(&["id", "status"], &rows), "id     status\nrun_1  done\n");
    }
}
