//! Many answers at once, each written at the speed of a fast model: what arrives, how late, and what it costs.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::FutureExt;
use serde_json::json;
use tokio::task::JoinSet;

use super::{Scenario, growth_of, ours};
use crate::{
    Result,
    bench::{
        Figures, Options,
        costs::Reading,
        figures::{Table, count, number},
        rig::{Rig, Setup, TALKER},
        settled::Ended,
        stream::EventStream,
    },
    system::{DELTA, RESET},
};

pub const SCENARIO: Scenario = Scenario {
    name: "live-streams",
    about: "runs whose answers are streamed at 50 words a second each: words delivered, their delay, CPU of a word",
    size: Some(("streams", 1_000, 2_000)),
    distributed_only: false,
    measure: |options| measure(options).boxed_local(),
};

/// Of each stream.
const WORDS_PER_SECOND: u64 = 50;
/// A timer rounds up to the next millisecond: with 19 a word comes every 20.
const TOKEN_MS: u64 = 19;
/// Shares of the streams, one after the other, to see how the cost grows.
const SHARES: [u64; 3] = [4, 2, 1];
/// Of the model, for each run.
const CALLS_EACH: u64 = 1;
/// For all streams to be under way.
const RAMP_MAX: Duration = Duration::from_secs(60);
/// Words beyond those of the measured time: for the ramp before it.
const RAMP_SECONDS: u64 = 10;

async fn measure(options: &Options) -> Result<Figures> {
    let mut figures = Figures::default();
    let most = SCENARIO.size(options);
    let mut table = None;
    let mut points = vec![];
    let setup = Setup {
        slots: most,
        token_ms: TOKEN_MS,
        ..Setup::default()
    };
    let mut rig = Rig::start(options, setup).await?;
    let watched = rig.watched();
    let (words_each, mut ended) = ((options.seconds + RAMP_SECONDS) * WORDS_PER_SECOND, Ended::default());
    for share in SHARES {
        let streams = (most / share).max(1);
        println!("live-streams: {streams} streams for {} s", options.seconds);
        let seen = Arc::new(Seen::default());
        let mut clients = JoinSet::new();
        for _ in 0..streams {
            clients.spawn(client(rig.address(), words_each, seen.clone()));
        }
        let ramp = async {
            while seen.under_way.load(Ordering::Relaxed) < streams && !clients.is_empty() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(RAMP_MAX, ramp)
            .await
            .map_err(|_| format!("of {streams} streams only {:?} are under way", seen.under_way))?;
        let before = Reading::take(&watched);
        seen.measuring.store(true, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_secs(options.seconds)).await;
        seen.measuring.store(false, Ordering::Relaxed);
        let after = Reading::take(&watched);
        let early = seen.ended.load(Ordering::Relaxed);
        if early > 0 {
            figures.note(format!(
                "of {streams} streams {early} had ended before the measured time had: fewer words were asked for than the \
                 table says"
            ));
        }
        let mut completed = 0_u64;
        while let Some(end) = clients.join_next().await {
            match end? {
                Ok((last, words)) if last == "run.completed" && words == words_each => completed += 1,
                Ok((last, words)) => figures.fault(format!(
                    "a stream ended with {last:?} after {words} of {words_each} words"
                )),
                Err(error) => figures.fault(format!("a stream broke: {error}")),
            }
        }
        figures.require(
            completed == streams,
            format!("{completed} of {streams} streams completed"),
        );
        ended += Ended::completed(streams, CALLS_EACH);
        let (seconds, cpu) = (after.seconds_since(&before), after.cpu_ms_since(&before));
        let words = seen.words() as f64;
        let table = table.get_or_insert_with(|| {
            let columns = [
                "streams",
                "words_per_second",
                "asked_for",
                "delay_ms_p50",
                "delay_ms_p99",
                "cpu_us_a_word",
                "cores",
            ];
            let columns = columns.iter().map(ToString::to_string);
            let processes = watched.iter().map(|process| format!("{}_cores", process.name));
            Table::new(
                "live-streams: from the model's write of a word to its client's read",
                columns.chain(processes),
            )
        });
        let ours_ms = ours(&watched, &cpu);
        let cpu_us = ours_ms * 1e3 / words;
        let mut cells = vec![
            count(streams),
            number(words / seconds, 0),
            count(streams * WORDS_PER_SECOND),
            number(seen.delay_ms(0.50), 1),
            number(seen.delay_ms(0.99), 1),
            number(cpu_us, 1),
            number(ours_ms / 1e3 / seconds, 3),
        ];
        cells.extend(cpu.iter().map(|ms| number(ms / 1e3 / seconds, 3)));
        table.row(cells);
        points.push((streams as f64, cpu_us));
    }
    figures.tables.extend(table);
    let what = "CPU of a word without the model's, microseconds";
    growth_of(&mut figures, SCENARIO.name, what, "streams", points);
    figures
        .note("cores: seconds of CPU a second, first of all but the model; the reading clients are not among the processes and share the machine");
    figures.settings = rig.settings.clone();
    rig.settle(&ended, &mut figures).await;
    Ok(figures)
}

/// What all clients of a level see together.
struct Seen {
    under_way: AtomicU64,
    ended: AtomicU64,
    measuring: AtomicBool,
    /// Words by their delay, in tenths of a millisecond; the last holds all that were later.
    delays: Vec<AtomicU64>,
}

/// Ten seconds.
const DELAYS: usize = 100_000;

impl Default for Seen {
    fn default() -> Self {
        Self {
            under_way: AtomicU64::new(0),
            ended: AtomicU64::new(0),
            measuring: AtomicBool::new(false),
            delays: (0..=DELAYS).map(|_| AtomicU64::new(0)).collect(),
        }
    }
}

impl Seen {
    fn word(&self, delay: Duration) {
        let at = usize::try_from(delay.as_micros() / 100).unwrap_or(DELAYS).min(DELAYS);
        self.delays[at].fetch_add(1, Ordering::Relaxed);
    }

    fn words(&self) -> u64 {
        self.delays.iter().map(|words| words.load(Ordering::Relaxed)).sum()
    }

    /// The delay that this share of the words did not exceed.
    fn delay_ms(&self, share: f64) -> f64 {
        let rank = ((share * self.words() as f64).ceil() as u64).max(1);
        let mut words = 0;
        for (at, these) in self.delays.iter().enumerate() {
            words += these.load(Ordering::Relaxed);
            if words >= rank {
                return (at + 1) as f64 / 10.0;
            }
        }
        f64::NAN
    }
}

/// One run of so many words. Answers its last event, and how many words came.
async fn client(address: String, words: u64, seen: Arc<Seen>) -> Result<(String, u64)> {
    let order = format!("[[times:{words}]]");
    let task = json!({"agent": TALKER, "input": order, "stream": true});
    let mut stream = EventStream::post(&address, &task).await?;
    let (mut last, mut begun, mut came) = (String::new(), false, 0);
    while let Some(line) = stream.line().await? {
        if let Some(name) = line.strip_prefix("event: ") {
            name.clone_into(&mut last);
            if name == RESET {
                came = 0;
            }
        } else if last == DELTA && line.starts_with("data: ") {
            if !begun {
                begun = true;
                seen.under_way.fetch_add(1, Ordering::Relaxed);
            }
            let (now, measuring) = (crate::since_epoch(), seen.measuring.load(Ordering::Relaxed));
            for sent in times(line) {
                came += 1;
                if measuring {
                    seen.word(now.saturating_sub(sent));
                }
            }
        }
    }
    seen.ended.fetch_add(1, Ordering::Relaxed);
    Ok((last, came))
}

/// The times of sending that the words of a delta say.
fn times(line: &str) -> impl Iterator<Item = Duration> {
    const DIGITS: usize = 16;
    let words = line.split([' ', '"']);
    words.filter_map(|word| {
        let digits = word.strip_prefix('t').filter(|digits| digits.len() == DIGITS)?;
        Some(Duration::from_micros(digits.parse().ok()?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_say_when_they_were_sent() {
        let line = r#"data: {"type":"agent.message.delta","data":{"text":"t0000000000000001 t1732503600123456 "}}"#;
        let found: Vec<u128> = times(line).map(|time| time.as_micros()).collect();
        assert_eq!(found, [1, 1_732_503_600_123_456]);
    }

    #[test]
    fn delays_are_kept_to_a_tenth_of_a_millisecond() {
        let seen = Seen::default();
        (1..=99).for_each(|_| seen.word(Duration::from_micros(1_250)));
        seen.word(Duration::from_secs(60));
        assert_eq!((seen.words(), seen.delay_ms(0.5), seen.delay_ms(0.99)), (100, 1.3, 1.3));
        assert!(seen.delay_ms(1.0) > 10_000.0);
    }
}
