//! Events whose bytes were changed on the way: read as something, or refused, and never a panic.

use std::sync::LazyLock;

use proptest::{prelude::*, sample::Index};

use crate::run::{Event, Run, next};

/// Every event of the recorded logs, log by log: name, schema, payload.
static LOGS: LazyLock<Vec<Vec<(String, u16, String)>>> = LazyLock::new(|| {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/logs");
    let mut paths: Vec<_> = (std::fs::read_dir(folder).expect("the logs are there"))
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|kind| kind == "jsonl"))
        .collect();
    paths.sort();
    let event = |line: &str| {
        let line: serde_json::Value = serde_json::from_str(line).expect("a line of a log");
        let text = |field: &str| line[field].as_str().expect("a text").to_owned();
        let schema = line["schema"].as_u64().expect("a schema") as u16;
        (text("type"), schema, text("payload"))
    };
    let log = |path| {
        let text = std::fs::read_to_string(path).expect("a log");
        text.lines().skip(1).map(event).collect()
    };
    paths.into_iter().map(log).collect()
});

#[derive(Debug, Clone)]
enum Change {
    Byte(Index, u8),
    Cut(Index),
    Insert(Index, Vec<u8>),
    /// Instead of one of its numbers.
    Number(Index, &'static str),
}

const NUMBERS: [&str; 6] = [
    "-1",
    "0",
    "4294967295",
    "9223372036854775807",
    "18446744073709551615",
    "1e308",
];

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Change::Byte(at, byte)),
        any::<Index>().prop_map(Change::Cut),
        (any::<Index>(), prop::collection::vec(any::<u8>(), 1..8)).prop_map(|(at, bytes)| Change::Insert(at, bytes)),
        (any::<Index>(), prop::sample::select(&NUMBERS[..])).prop_map(|(at, number)| Change::Number(at, number)),
    ]
}

fn changed(payload: &str, change: &Change) -> String {
    let mut bytes = payload.as_bytes().to_vec();
    match change {
        Change::Byte(at, byte) => {
            let at = at.index(bytes.len());
            bytes[at] = *byte;
        }
        Change::Cut(at) => bytes.truncate(at.index(bytes.len())),
        Change::Insert(at, more) => {
            let at = at.index(bytes.len());
            bytes.splice(at..at, more.iter().copied());
        }
        Change::Number(at, number) => {
            let digit = |at: usize| bytes[at].is_ascii_digit();
            let starts: Vec<usize> = (0..bytes.len())
                .filter(|at| digit(*at) && (*at == 0 || !digit(at - 1)))
                .collect();
            if !starts.is_empty() {
                let start = *at.get(&starts);
                let end = (start..bytes.len()).find(|at| !digit(*at)).unwrap_or(bytes.len());
                bytes.splice(start..end, number.bytes());
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn a_changed_payload_reads_as_what_it_says_or_is_refused_and_the_log_with_it_folds(
        log in any::<Index>(), at in any::<Index>(), change in change(),
    ) {
        let log = log.get(&LOGS);
        let at = at.index(log.len());
        let mut events = Vec::new();
        for (number, (name, schema, payload)) in log.iter().enumerate() {
            if number != at {
                events.push(Event::from_stored(name, *schema, payload).expect("as it was recorded"));
            } else if let Ok(event) = Event::from_stored(name, *schema, &changed(payload, &change)) {
                let again = Event::from_stored(event.name(), event.schema(), &event.payload()).ok();
                prop_assert_eq!(again.as_ref(), Some(&event), "what was read is not what is written");
                events.push(event);
            }
        }
        let run = Run::fold(&events);
        prop_assert_eq!(run.version, events.len() as u64);
        let _ = (run.status(), next(&run));
    }
}
