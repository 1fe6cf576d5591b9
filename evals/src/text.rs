//! Text from outside, made fit for one line of a terminal or a report.

/// At most this many characters of somebody's text in an explanation.
pub const EXCERPT_CHARS_MAX: usize = 200;

/// The text in quotes on one line: control characters escaped (no terminal is steered by an answer), the rest cut off.
pub fn quote(text: &str) -> String {
    format!("\"{}\"", one_line(text))
}

/// The same without the quotes.
pub fn one_line(text: &str) -> String {
    let mut line = String::new();
    for (at, c) in text.trim().chars().enumerate() {
        if at == EXCERPT_CHARS_MAX {
            line.push('…');
            break;
        }
        if is_unprintable(c) {
            line.extend(c.escape_default())
        } else {
            line.push(c)
        }
    }
    line
}

/// Control characters, and the marks that turn the direction of what follows.
pub fn is_unprintable(c: char) -> bool {
    c.is_control() || matches!(c, '\u{200e}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_excerpt_is_one_short_line_without_control_characters() {
        assert_eq!(quote(" a\nb\u{1b}[31m "), r#""a\nb\u{1b}[31m""#);
        assert_eq!(one_line(&"é".repeat(500)).chars().count(), EXCERPT_CHARS_MAX + 1);
        assert_eq!(one_line("it's \"plain\""), "it's \"plain\"");
    }
}
