//! What the simulated processes share: one clock, one source of chance, one trace.

use std::{
    fmt,
    hash::{DefaultHasher, Hasher},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use chrono::TimeDelta;
use rand::{Rng, SeedableRng, rngs::SmallRng};
use steadfast::run::Time;
use tokio::time::Instant;

use crate::{guard::Guard, plan::Noise};

/// The first moment of every simulation, in seconds since 1970.
const EPOCH_SECONDS: i64 = 1_900_000_000;

/// Who draws. Each has a stream of its own, so that what one needs does not shift what another gets.
#[derive(Debug, Clone, Copy)]
pub enum Draws {
    Network,
    Database,
    Model,
    Process,
    Client,
}

const STREAMS: usize = 5;
/// A request into a cut cable may wait for this long, and whoever was refused waits before it asks again.
const AFTERMATH: Duration = Duration::from_secs(6);

pub struct World {
    started: Instant,
    /// The true time at the start.
    epoch: Time,
    pub broken: Option<Guard>,
    /// Until then faults happen.
    pub calm_from: Duration,
    noise: Noise,
    inner: Mutex<Inner>,
}

struct Inner {
    chance: [SmallRng; STREAMS],
    hash: DefaultHasher,
    line: String,
    lines: u64,
    story: Option<Vec<String>>,
    faults: std::collections::BTreeMap<&'static str, u64>,
    troubles: Vec<Trouble>,
}

/// Something that can cost a process its leases.
struct Trouble {
    /// The process's name; `None` is all of them.
    who: Option<String>,
    from: Duration,
    until: Duration,
}

/// What is left when a simulation is over.
pub struct Trace {
    /// Of every line there was.
    pub hash: u64,
    pub lines: u64,
    /// The lines, where they were asked for.
    pub story: Vec<String>,
    pub faults: std::collections::BTreeMap<&'static str, u64>,
}

impl World {
    pub fn new(seed: u64, noise: Noise, calm_from: Duration, broken: Option<Guard>, tell: bool) -> Self {
        let epoch = Time::UNIX_EPOCH + TimeDelta::seconds(EPOCH_SECONDS);
        Self::beginning_at(epoch, seed, noise, calm_from, broken, tell)
    }

    pub fn beginning_at(
        epoch: Time,
        seed: u64,
        noise: Noise,
        calm_from: Duration,
        broken: Option<Guard>,
        tell: bool,
    ) -> Self {
        let chance = std::array::from_fn(|stream| {
            // Far from each other, and from the plan's own.
            SmallRng::seed_from_u64(seed.wrapping_add((1 + stream as u64) << 56))
        });
        Self {
            started: Instant::now(),
            epoch,
            broken,
            calm_from,
            noise,
            inner: Mutex::new(Inner {
                chance,
                hash: DefaultHasher::new(),
                line: String::new(),
                lines: 0,
                story: tell.then(Vec::new),
                faults: std::collections::BTreeMap::new(),
                troubles: Vec::new(),
            }),
        }
    }

    pub fn is_broken(&self, guard: Guard) -> bool {
        self.broken == Some(guard)
    }

    /// Time since the start.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// The one true time, which the database keeps.
    pub fn now(&self) -> Time {
        let micros = i64::try_from(self.elapsed().as_micros()).unwrap_or(i64::MAX);
        self.epoch + TimeDelta::microseconds(micros)
    }

    pub fn is_calm(&self) -> bool {
        self.elapsed() >= self.calm_from
    }

    /// The disturbances there are now.
    pub fn noise(&self) -> Noise {
        if self.is_calm() { Noise::default() } else { self.noise }
    }

    pub fn draw(&self, draws: Draws) -> u64 {
        self.lock().chance[draws as usize].random()
    }

    /// A number from 0 up to and without `below`.
    pub fn below(&self, draws: Draws, below: u64) -> u64 {
        self.lock().chance[draws as usize].random_range(0..below.max(1))
    }

    /// True in so many of a thousand cases.
    pub fn chance(&self, draws: Draws, permille: u32) -> bool {
        permille > 0 && self.below(draws, 1000) < u64::from(permille)
    }

    pub fn millis(&self, draws: Draws, below: u64) -> Duration {
        Duration::from_millis(self.below(draws, below))
    }

    /// Counts a fault that really happened.
    pub fn fault(&self, kind: &'static str) {
        *self.lock().faults.entry(kind).or_default() += 1;
    }

    /// From now on for so long something is wrong between this process (or all) and the store.
    pub fn trouble(&self, who: Option<&str>, lasts: Duration) {
        let from = self.elapsed();
        self.lock().troubles.push(Trouble {
            who: who.map(ToOwned::to_owned),
            from,
            until: from.saturating_add(lasts).saturating_add(AFTERMATH),
        });
    }

    pub fn was_troubled(&self, who: &str, from: Duration, until: Duration) -> bool {
        let concerns = |trouble: &Trouble| trouble.who.as_deref().is_none_or(|name| name == who);
        let overlaps = |trouble: &Trouble| trouble.from <= until && trouble.until >= from;
        let inner = self.lock();
        inner
            .troubles
            .iter()
            .any(|trouble| concerns(trouble) && overlaps(trouble))
    }

    /// A line of the trace.
    pub fn note(&self, what: fmt::Arguments<'_>) {
        let at = self.elapsed();
        let mut inner = self.lock();
        let mut line = std::mem::take(&mut inner.line);
        line.clear();
        let _ = fmt::write(&mut line, format_args!("{:>9.3} s  {what}", at.as_secs_f64()));
        inner.hash.write(line.as_bytes());
        inner.lines += 1;
        if let Some(story) = &mut inner.story {
            story.push(line.clone());
        }
        inner.line = line;
    }

    pub fn trace(&self) -> Trace {
        let mut inner = self.lock();
        Trace {
            hash: inner.hash.finish(),
            lines: inner.lines,
            story: inner.story.take().unwrap_or_default(),
            faults: std::mem::take(&mut inner.faults),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
