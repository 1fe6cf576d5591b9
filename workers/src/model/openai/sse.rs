//! Server-sent events, out of bytes as they come. Pure.
//!
//! Our own because of what a general parser costs here: it copies all that is left of a piece for every event in it,
//! and a model's answer is many small events in few pieces.

/// What an event says; its id and its retry time mean nothing here.
#[derive(Debug, PartialEq)]
pub struct Event {
    pub name: String,
    pub data: String,
}

/// A line holds bytes that are not UTF-8.
#[derive(Debug, PartialEq)]
pub struct NotText;

#[derive(Default)]
pub struct Parser {
    bytes: Vec<u8>,
    /// The line that is read next begins here.
    line: usize,
    /// No end of it lies before.
    searched: usize,
    /// The last line ended with CR: an LF right behind belongs to it.
    after_cr: bool,
    begun: bool,
    name: String,
    data: Option<String>,
}

impl Parser {
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.line);
        self.searched -= self.line;
        self.line = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// The next event that is whole.
    pub fn next(&mut self) -> Result<Option<Event>, NotText> {
        while let Some(end) = self.line_end() {
            let (start, first) = (self.line, !self.begun);
            self.after_cr = self.bytes[end] == b'\r';
            (self.line, self.searched, self.begun) = (end + 1, end + 1, true);
            let line = &self.bytes[start..end];
            let line = line
                .strip_prefix("\u{FEFF}".as_bytes())
                .filter(|_| first)
                .unwrap_or(line);
            if line.is_empty() {
                let name = std::mem::take(&mut self.name);
                if let Some(data) = self.data.take().filter(|data| !data.is_empty()) {
                    return Ok(Some(Event { name, data }));
                }
                continue;
            }
            let colon = line.iter().position(|byte| *byte == b':').unwrap_or(line.len());
            let (field, value) = line.split_at(colon);
            let value = value.strip_prefix(b":").unwrap_or(value);
            let text = std::str::from_utf8(value.strip_prefix(b" ").unwrap_or(value)).map_err(|_| NotText)?;
            match (field, &mut self.data) {
                (b"data", Some(data)) => {
                    data.push('\n');
                    data.push_str(text);
                }
                (b"data", data) => *data = Some(text.to_owned()),
                (b"event", _) => text.clone_into(&mut self.name),
                // A comment, or a field that says nothing about the answer.
                _ => {}
            }
        }
        Ok(None)
    }

    fn line_end(&mut self) -> Option<usize> {
        if self.after_cr && self.bytes.get(self.line) == Some(&b'\n') {
            self.line += 1;
            self.searched = self.searched.max(self.line);
        }
        self.after_cr &= self.line == self.bytes.len();
        let found = memchr::memchr2(b'\n', b'\r', &self.bytes[self.searched..]);
        let end = found.map(|at| self.searched + at);
        self.searched = end.unwrap_or(self.bytes.len());
        end
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Event, NotText, Parser};

    fn event(name: &str, data: &str) -> Event {
        Event {
            name: name.into(),
            data: data.into(),
        }
    }

    /// The events of a text that comes in pieces of this size.
    fn read(text: &[u8], piece: usize) -> Result<Vec<Event>, NotText> {
        let mut parser = Parser::default();
        let mut events = Vec::new();
        for bytes in text.chunks(piece) {
            parser.push(bytes);
            while let Some(event) = parser.next()? {
                events.push(event);
            }
        }
        Ok(events)
    }

    #[test]
    fn events_are_read_whatever_the_line_ends_and_wherever_the_pieces_are_cut() {
        let text = "\u{FEFF}: hello\n\ndata: {\"ö\":1}\n\nevent: error\ndata:a\ndata:  b\ndata\n\nid: 7\nretry: 1\n\n\
                    data:\n\nevent: left\n\ndata: x\n\ndata: not whole\n";
        let expected = [event("", "{\"ö\":1}"), event("error", "a\n b\n"), event("", "x")];
        for ends in ["\n", "\r\n", "\r"] {
            let text = text.replace('\n', ends);
            for piece in 1..=text.len() {
                let events = read(text.as_bytes(), piece).expect("text");
                assert_eq!(events, expected, "{ends:?}, pieces of {piece}");
            }
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_the_same_wherever_the_pieces_are_cut(
            // The bytes that mean something come often.
            bytes in prop::collection::vec(
                prop_oneof![any::<u8>(), prop::sample::select(&b"\n\n\r: data:event:\xef\xbb\xbf"[..])], 0..200),
            piece in 1..20usize,
        ) {
            let whole = read(&bytes, bytes.len().max(1));
            prop_assert_eq!(read(&bytes, piece), whole);
        }

        #[test]
        fn events_among_any_lines_are_read(
            junk in prop::collection::vec("[^\\r\\n\u{FEFF}]{0,12}", 0..6), data in "[^ \\r\\n][^\\r\\n]{0,12}",
            piece in 1..20usize,
        ) {
            let text = format!("{}\n\ndata: {data}\n\n", junk.join("\n\n"));
            let events = read(text.as_bytes(), piece).expect("text");
            prop_assert_eq!(events.last(), Some(&event("", &data)));
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_an_error_and_not_a_guess() {
        assert_eq!(read(b"data: \xff\n\n", 3), Err(NotText));
        assert_eq!(read(b"data: a\n\n: \xff\n", 64), Err(NotText));
    }
}
