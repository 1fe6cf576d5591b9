//! What the model was set to, what it was asked and what it did: the ledger tests compare our own accounts with.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    time::Instant,
};

use serde::{Deserialize, Serialize};

use super::script::{Fault, FaultOrder};

/// Conversations counted one by one. Above it (a load test) the rest share an entry.
const MAX_CONVERSATIONS: usize = 100_000;
/// Calls kept one by one; older ones fall out.
const MAX_LEDGER: usize = 10_000;

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Settings {
    /// Before the first chunk.
    pub ttft_ms: u64,
    /// Before each further one.
    pub token_ms: u64,
    /// Words of an answer.
    pub tokens: usize,
    /// Share of calls answered 429 or 503, in turn by chance.
    pub error_rate: f64,
    /// Share of calls whose connection breaks in the middle of the answer.
    pub cut_rate: f64,
    /// Share of calls never answered.
    pub hang_rate: f64,
    /// Share of calls answered 500.
    pub outage_rate: f64,
    /// With a 429 or 503; None: no such header.
    pub retry_after_s: Option<u64>,
    /// Refuse what OpenAI would.
    pub strict: bool,
}

impl Default for Settings {
    fn default() -> Self {
        let (error_rate, cut_rate, hang_rate, outage_rate) = (0.0, 0.0, 0.0, 0.0);
        Self {
            ttft_ms: 0,
            token_ms: 0,
            tokens: 32,
            error_rate,
            cut_rate,
            hang_rate,
            outage_rate,
            retry_after_s: Some(1),
            strict: true,
        }
    }
}

/// Some settings, from flags or from the query of `/ctl`.
#[derive(Debug, Clone, Default, Deserialize, clap::Args)]
#[serde(deny_unknown_fields)]
pub struct SettingsPatch {
    /// Milliseconds before the first chunk of an answer [0]
    #[arg(long)]
    pub ttft_ms: Option<u64>,
    /// Milliseconds before each further chunk [0]
    #[arg(long)]
    pub token_ms: Option<u64>,
    /// Words of a text answer; the last is `done.` [32]
    #[arg(long)]
    pub tokens: Option<usize>,
    /// Share of calls, 0 to 1, that are answered 429 or 503 [0]
    #[arg(long)]
    pub error_rate: Option<f64>,
    /// Share of calls whose connection breaks in the middle [0]
    #[arg(long)]
    pub cut_rate: Option<f64>,
    /// Share of calls that are never answered [0]
    #[arg(long)]
    pub hang_rate: Option<f64>,
    /// Share of calls, 0 to 1, that are answered 500 [0]
    #[arg(long)]
    pub outage_rate: Option<f64>,
    /// Seconds of Retry-After with a 429 or 503; -1 for none [1]
    #[arg(long, allow_negative_numbers = true)]
    pub retry_after_s: Option<i64>,
    /// Refuse histories that OpenAI refuses, true or false [true]
    #[arg(long)]
    pub strict: Option<bool>,
    /// Begin to count, and to draw, from nothing
    #[arg(skip)]
    pub reset: Option<bool>,
}

impl Settings {
    pub fn patched(&self, patch: &SettingsPatch) -> Self {
        let share = |new: Option<f64>, old: f64| new.unwrap_or(old).clamp(0.0, 1.0);
        Self {
            ttft_ms: patch.ttft_ms.unwrap_or(self.ttft_ms),
            token_ms: patch.token_ms.unwrap_or(self.token_ms),
            tokens: patch.tokens.unwrap_or(self.tokens),
            error_rate: share(patch.error_rate, self.error_rate),
            cut_rate: share(patch.cut_rate, self.cut_rate),
            hang_rate: share(patch.hang_rate, self.hang_rate),
            outage_rate: share(patch.outage_rate, self.outage_rate),
            retry_after_s: patch
                .retry_after_s
                .map_or(self.retry_after_s, |s| u64::try_from(s).ok()),
            strict: patch.strict.unwrap_or(self.strict),
        }
    }
}

#[derive(Debug, Clone, Default, Serialize)]
pub struct Stats {
    pub requests: u64,
    /// `tool_call`, `answer`, `error_429` …, `cut`, `hang` and the other faults. Each request has one kind.
    pub by_kind: BTreeMap<String, u64>,
    /// Requests by the text of their last user message.
    pub conversations: HashMap<String, u64>,
    pub in_flight: usize,
    pub max_in_flight: usize,
}

impl Stats {
    pub fn kind(&self, kind: &str) -> u64 {
        self.by_kind.get(kind).copied().unwrap_or(0)
    }

    /// How often the model was called for this user text.
    pub fn calls_for(&self, user_text: &str) -> u64 {
        self.conversations.get(user_text).copied().unwrap_or(0)
    }
}

/// One request, as it came.
#[derive(Debug, Clone, Serialize)]
pub struct CallRecord {
    /// Milliseconds since the server was made.
    pub at_ms: u64,
    pub user_text: String,
    /// The step of the loop it asked for, counted from 1.
    pub step: usize,
    pub model: String,
    pub messages: usize,
    pub kind: &'static str,
}

#[derive(Debug)]
pub(crate) struct State {
    pub settings: Settings,
    pub stats: Stats,
    pub ledger: VecDeque<CallRecord>,
    pub made: Instant,
    draws: u64,
    /// How often each fault order of each text has struck.
    struck: HashMap<(String, usize), u64>,
}

impl State {
    pub fn new(settings: Settings) -> Self {
        let (stats, ledger, struck) = Default::default();
        Self {
            settings,
            stats,
            ledger,
            made: Instant::now(),
            draws: 0,
            struck,
        }
    }

    pub fn reset(&mut self) {
        let in_flight = self.stats.in_flight;
        *self = Self {
            made: self.made,
            ..Self::new(self.settings.clone())
        };
        (self.stats.in_flight, self.stats.max_in_flight) = (in_flight, in_flight);
    }

    pub fn record(&mut self, call: CallRecord) {
        self.stats.requests += 1;
        *self.stats.by_kind.entry(call.kind.into()).or_default() += 1;
        let known = &mut self.stats.conversations;
        let room = known.len() < MAX_CONVERSATIONS || known.contains_key(&call.user_text);
        let key = if room { call.user_text.as_str() } else { "(others)" };
        *known.entry(key.into()).or_default() += 1;
        if self.ledger.len() == MAX_LEDGER {
            self.ledger.pop_front();
        }
        self.ledger.push_back(call);
    }

    /// The fault of this call: the first ordered one that has not struck often enough, else one by chance.
    pub fn fault(&mut self, text: &str, step: usize, orders: &[FaultOrder]) -> Option<(Fault, Option<u64>)> {
        let by_chance = self.draw_fault();
        for (i, order) in orders.iter().enumerate() {
            if order.step.is_some_and(|wanted| wanted != step) {
                continue;
            }
            if let Some(times) = order.times {
                let struck = self.struck.entry((text.to_owned(), i)).or_default();
                if *struck >= times {
                    continue;
                }
                *struck += 1;
            }
            return Some((order.fault, order.retry_after_s.or(self.settings.retry_after_s)));
        }
        by_chance.map(|fault| (fault, self.settings.retry_after_s))
    }

    fn draw_fault(&mut self) -> Option<Fault> {
        let s = &self.settings;
        let (errors, cuts, hangs, outages) = (s.error_rate, s.cut_rate, s.hang_rate, s.outage_rate);
        let draw = self.draw();
        match draw {
            d if d < errors / 2.0 => Some(Fault::Status(429)),
            d if d < errors => Some(Fault::Status(503)),
            d if d < errors + cuts => Some(Fault::Cut),
            d if d < errors + cuts + hangs => Some(Fault::Hang),
            d if d < errors + cuts + hangs + outages => Some(Fault::Status(500)),
            _ => None,
        }
    }

    /// The next of a fixed sequence in 0..1 (splitmix64), so that a test meets the same weather each time.
    fn draw(&mut self) -> f64 {
        self.draws += 1;
        let mut z = self.draws.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_weather_is_the_same_each_time_and_as_bad_as_it_was_set() {
        let settings = Settings {
            error_rate: 0.2,
            cut_rate: 0.1,
            hang_rate: 0.1,
            ..Settings::default()
        };
        let weather = || {
            let mut state = State::new(settings.clone());
            (0..10_000)
                .map(|_| state.fault("x", 1, &[]).map(|(f, _)| f))
                .collect::<Vec<_>>()
        };
        let (one, two) = (weather(), weather());
        assert_eq!(one, two);
        let share = |fault| one.iter().filter(|f| **f == Some(fault)).count();
        for fault in [Fault::Status(429), Fault::Status(503), Fault::Cut, Fault::Hang] {
            assert!((900..1100).contains(&share(fault)), "{fault:?} {}", share(fault));
        }
    }

    #[test]
    fn an_ordered_fault_strikes_as_often_as_ordered_for_each_text() {
        let mut state = State::new(Settings::default());
        let order = |fault, times| FaultOrder {
            fault,
            retry_after_s: None,
            times: Some(times),
            step: None,
        };
        let orders = [order(Fault::Hang, 2), order(Fault::Cut, 1)];
        let mut next = |text| state.fault(text, 1, &orders).map(|(fault, _)| fault);
        assert_eq!([next("a"), next("a"), next("b")], [Some(Fault::Hang); 3]);
        assert_eq!(
            [next("a"), next("a"), next("b")],
            [Some(Fault::Cut), None, Some(Fault::Hang)]
        );
    }
}
